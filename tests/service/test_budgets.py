"""Budgets from the outside: what an app is told, and what the model is asked."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from answerback.core.budget import MESSAGE_TOKENS, Budget, Period, Price, Tariff, Terms, Unit
from answerback.core.request import Record
from answerback.ports import FinalModelError, Finish, ModelError, ModelFault, ModelLimits, Piece, Prompt, Quota
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Budget as BudgetFrame
from answerback.protocol.frames import (
    BudgetInfo,
    CancelMessage,
    GetBudget,
    Hello,
    MessageResponse,
    SendMessage,
    Status,
    Welcome,
)
from answerback.service.observer import Observer
from answerback.testing import Backend, ScriptedModel, run_virtual
from answerback.testing.backend import Peer

MODEL = "scripted"
ONE = len("What is it?") + MESSAGE_TOKENS + 10
DOLLAR = Price(1_000_000, 1_000_000, 0)


class Overruns(Observer):
    """Counts them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def overran(self, record: Record) -> None:
        self.seen.append(record.request_id)


async def backend(
    pieces: Sequence[Any] = ("yes", Finish(input_tokens=20, output_tokens=3)),
    *,
    limit: int = 3 * ONE,
    unit: Unit = Unit.TOKENS,
    price: Price | None = DOLLAR,
    observer: Observer | None = None,
    context_tokens: int = 0,
) -> Backend:
    tariff = Tariff(models={MODEL: Terms(max_tokens=10, context_tokens=context_tokens, price=price)})
    model = ScriptedModel(lambda _: list(pieces))
    assert model.name == MODEL
    made = Backend(model=model, quota=Quota(per_minute=0, max_pending=99, tariff=tariff), observer=observer)
    await made.store.set_budget("ann", Period.DAY, Budget(limit, unit, Period.DAY), now_ms=made.clock())
    return made


async def ask(made: Backend, request_id: str = "r1", **more: Any) -> MessageResponse:
    peer = await made.connect(f"c-{request_id}", user="ann", session=f"s-{request_id}")
    await peer.say(SendMessage(request_id=request_id, message="What is it?", **more))
    return await response(peer, request_id)


async def response(peer: Peer, request_id: str) -> MessageResponse:
    """The ending, when it has come."""
    while True:
        for frame in peer.frames:
            if isinstance(frame, MessageResponse) and frame.request_id == request_id:
                return frame
        await asyncio.sleep(0.05)


async def used(made: Backend) -> tuple[int, int]:
    (state,) = await made.store.budgets("ann", now_ms=made.clock())
    return tuple(state.counter)


def test_an_app_is_told_what_an_answer_cost_and_what_is_left() -> None:
    async def main() -> None:
        made = await backend(unit=Unit.MICRO_USD)
        answer = await ask(made)
        assert answer.cost is not None
        assert answer.cost.micro_usd == 23
        peer = await made.connect("c", user="ann")
        await peer.say(Hello(hello_id="h"))
        await peer.say(GetBudget(request_id="b"))
        welcome = next(frame for frame in peer.frames if isinstance(frame, Welcome))
        told = BudgetInfo(
            unit="microUsd", limit=3 * ONE, used=23, reserved=0, resets_at=welcome.budget.resets_at  # type: ignore[union-attr]
        )  # fmt: skip
        assert "budgets" in welcome.features
        assert welcome.budget == told
        assert peer.frames[-1] == BudgetFrame(request_id="b", budget=told)

    run_virtual(main())


def test_who_has_no_budget_is_told_of_none() -> None:
    async def main() -> None:
        made = await backend()
        peer = await made.connect("c", user="bob")
        await peer.say(Hello(hello_id="h"))
        await peer.say(GetBudget(request_id="b"))
        await peer.say(SendMessage(request_id="r", message="What is it?"))
        assert (await response(peer, "r")).cost is None
        assert [f.budget for f in peer.frames if isinstance(f, Welcome | BudgetFrame)] == [None, None]

    run_virtual(main())


def test_a_refusal_says_why_and_when_it_opens_and_the_same_to_a_repeat() -> None:
    async def main() -> None:
        made = await backend(limit=ONE + 5)
        assert (await ask(made)).status is Status.COMPLETED
        for _ in range(2):
            refused = await ask(made, "r2")
            assert refused.error is not None
            assert (refused.error.code, refused.error.reason) == (ErrorCode.RATE_LIMITED, "budget")
            assert refused.error.resets_at is not None
            assert "needs 37 tokens" in refused.error.message
            assert refused.error.retryable
        assert await used(made) == (23, 0)

    run_virtual(main())


@pytest.mark.parametrize(("limit", "price"), [(ONE - 1, DOLLAR), (3 * ONE, None)])
def test_what_can_never_be_paid_is_forbidden(limit: int, price: Price | None) -> None:
    async def main() -> None:
        made = await backend(limit=limit, unit=Unit.MICRO_USD, price=price)
        refused = await ask(made)
        assert refused.error is not None
        assert (refused.error.code, refused.error.reason, refused.error.retryable) == (
            ErrorCode.FORBIDDEN, "budget", False,
        )  # fmt: skip
        assert await used(made) == (0, 0)

    run_virtual(main())


@pytest.mark.parametrize(
    ("pieces", "charged"),
    [
        (["yes"], len("What is it?") + MESSAGE_TOKENS + 3),  # no count: the bytes that went and came
        ([ModelError(ErrorCode.MODEL_FAILED)], ONE),
        (["yes", ModelError(ErrorCode.MODEL_UNAVAILABLE)], ONE),
        ([ModelError(ErrorCode.MODEL_UNAVAILABLE)], 0),
        ([ModelError(ErrorCode.MODEL_THROTTLED)], 0),
        ([FinalModelError(ErrorCode.MODEL_FAILED, "", ModelFault.REFUSED)], 0),
        (["yes", Finish(input_tokens=30, output_tokens=90)], 120),  # more than it was allowed
    ],
)
def test_an_attempt_costs_what_is_known_of_it_or_all(pieces: list[Piece], charged: int) -> None:
    async def main() -> None:
        overruns = Overruns()
        made = await backend(pieces, observer=overruns)
        await ask(made)
        assert await used(made) == (charged, 0)
        assert overruns.seen == (["r1"] if charged > ONE else [])

    run_virtual(main())


@pytest.mark.parametrize(("stops_billing", "charged"), [(False, ONE), (True, ONE - 10 + 3)])
def test_an_answer_that_is_given_up_costs_all_unless_its_model_stops_billing(stops_billing: bool, charged: int) -> None:
    async def main() -> None:
        made = await backend(["yes", 60.0])
        made.worker._tools.limits[MODEL] = ModelLimits(stops_billing=stops_billing)  # type: ignore[index]
        peer = await made.connect("c", user="ann")
        await peer.say(SendMessage(request_id="r", message="What is it?", stream=True))
        await asyncio.sleep(1)
        await peer.say(CancelMessage(request_id="r"))
        assert (await response(peer, "r")).status is Status.CANCELLED
        assert await used(made) == (charged, 0)

    run_virtual(main())


def test_earlier_turns_are_cut_to_what_is_reserved() -> None:
    async def main() -> None:
        made = await backend(["x" * 40], limit=10**6, context_tokens=250)
        asked: list[Prompt] = made.model.prompts
        for number in range(5):
            await ask(made, f"r{number}", conversation_id="c")
        sizes = [sum(len(message.text) + MESSAGE_TOKENS for message in prompt.messages[:-1]) for prompt in asked]
        assert sizes == [0, 83, 166, 249, 249]
        assert all(prompt.max_tokens == 10 for prompt in asked)

    run_virtual(main())
