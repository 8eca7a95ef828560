"""A user with a budget: what is left of it, and a question that has no room."""

from answerback.core.budget import Budget, Period, Unit
from answerback_desktop.records import FailureCode, TurnStatus
from budgeted import give
from wall import set_clock

ONE_QUESTION = Budget(17_480, Unit.TOKENS, Period.MONTH)
"""What a short question reserves, and a little more."""


async def test_what_is_left_follows_the_questions_until_one_has_no_room(
    start_gateway, open_app, tmp_path, model, monkeypatch
):
    clock = set_clock(monkeypatch)
    await give(tmp_path / "with-budget", "ada", ONE_QUESTION)
    gateway = await start_gateway(data_dir=tmp_path / "with-budget")
    app = await open_app(url=gateway.url, clock=clock)
    other = await open_app("two", url=gateway.url, user="bob", clock=clock)
    connection = app.model.connection
    await app.until(lambda: connection.budget is not None)
    assert (connection.budget.limit, connection.budget.used, connection.budget.reserved) == (17_480, 0, 0)
    model.end("one", "1")
    answered = await app.ask("one")
    await app.until(lambda: answered.status is TurnStatus.COMPLETED and connection.budget.used == 8)
    asked = [answered]
    while asked[-1].status is TurnStatus.COMPLETED:
        model.end(text := f"question {len(asked)}", "1")
        asked.append(await app.ask(text))
        await app.until(lambda: asked[-1].status.is_over)
    refused = asked[-1]
    assert refused.record.failure.code is FailureCode.OVER_BUDGET
    assert refused.record.failure.opens_at_ms >= refused.record.failure.retry_at_ms - 1_000
    assert refused.retry_in_s > 0
    assert (connection.budget.used, connection.budget.reserved) == (8 * len(asked[:-1]), 0)
    await other.until(lambda: other.model.connection.round_trip_ms is not None)
    assert other.model.connection.budget is None
