"""Budgets of a real gateway: over the SDK, over a restart, and what its log says of prices."""

import logging
from pathlib import Path

import pytest

from answerback.client import Client, RateLimited
from answerback.core.budget import Budget, Period, Unit
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from budgeted import give
from wall import set_clock

CENT = Budget(10_000, Unit.MICRO_USD, Period.MONTH)


def settings(folder: Path, *models: str) -> GatewaySettings:
    return GatewaySettings(port=0, admin_port=None, data_dir=folder, models=models, rate_limit=0)


async def test_an_app_is_told_what_it_costs_and_when_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch)
    await give(tmp_path, "ann", CENT)
    priced = settings(tmp_path, "echo:price=1/5")
    async with Gateway(priced) as gateway, Client(gateway.url, user="ann") as app:
        assert (await app.ask("one two three")).cost_micro_usd == 3 + 3 * 5
        told = await app.budget()
        assert told is not None
        assert (told.unit, told.limit, told.used, told.reserved) == ("microUsd", 10_000, 18, 0)
    async with Gateway(priced) as gateway, Client(gateway.url, user="ann") as app:
        assert (await app.budget()).used == 18  # type: ignore[union-attr] # it survives
        await app.ask("word " * 900)
        with pytest.raises(RateLimited) as refused:
            await app.ask("word " * 900)
        assert refused.value.reason == "budget"
        assert refused.value.resets_at is not None
    async with Gateway(priced) as gateway, Client(gateway.url, user="bob") as app:
        assert await app.budget() is None
        assert (await app.ask("one")).cost_micro_usd is None


@pytest.mark.parametrize("has_budget", [True, False])
async def test_models_without_a_price_are_named_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_budget: bool
) -> None:
    if has_budget:
        await give(tmp_path, "ann", CENT)
    caplog.set_level(logging.WARNING, "answerback")
    unknown = "own=openai:http://127.0.0.1:9/v1#own"
    async with Gateway(settings(tmp_path, "echo", unknown)) as gateway, Client(gateway.url, user="ann") as app:
        await app.ask("one")
    assert ("no price is known of own" in caplog.text) is has_budget
