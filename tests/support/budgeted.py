"""Budgets in the store of a gateway that is yet to start."""

import asyncio
from pathlib import Path

from answerback.core.budget import Budget
from answerback.stores.sqlite import SqliteStore


async def give(folder: Path, user: str, budget: Budget) -> None:
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    store = SqliteStore(folder / "answerback.db")
    await store.open()
    await store.set_budget(user, budget.period, budget, now_ms=0)
    await store.close()
