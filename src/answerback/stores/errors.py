"""Errors of opening a store. Errors of using it are `ports.Unavailable`."""


class StoreError(Exception):
    """The store cannot be opened, or holds what this program cannot read. The text says what the operator has to do."""


class StoreInUse(StoreError):
    """Another process has the store; it alone may write."""
