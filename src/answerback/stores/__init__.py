"""Where requests, conversations and users are kept: memory, one SQLite file, or PostgreSQL."""

from answerback.stores.errors import StoreError, StoreInUse
from answerback.stores.opening import open_store
from answerback.stores.store import SqlStore

__all__ = ["SqlStore", "StoreError", "StoreInUse", "open_store"]
