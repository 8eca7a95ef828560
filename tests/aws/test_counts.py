"""counts.toml says what one of each thing takes: held here to what the functions do on the emulator."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator

import pytest

from answerback.core.budget import Budget, Period, Unit
from answerback.ports import Finish, Piece
from answerback.protocol.limits import PIECE_BYTES
from answerback_aws.cost.bill import METRICS, deployed
from answerback_aws.cost.workload import BYTES_A_TOKEN, FRAME_BYTES, UnitCounts, Workload, answer_use, deltas
from answerback_aws.emulator.bedrock import Asked, Script
from measuring import Measured, Measuring
from stack import Stack

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(180)]

COUNTS = UnitCounts.load()
A_FIFTH = 5


def model(tokens: int, *, tokens_per_second: float, first_token_s: float) -> Script:
    """A model that says so many words of five letters, at this pace."""

    async def script(_asked: Asked) -> AsyncGenerator[Piece, None]:
        await asyncio.sleep(first_token_s)
        for _ in range(tokens):
            yield "word "
            await asyncio.sleep(1 / tokens_per_second)
        yield Finish(input_tokens=600, output_tokens=tokens)

    return script


@pytest.fixture(scope="module")
def warm(stack: Stack) -> Iterator[Measuring]:
    """Every function has run once, no turn waits, and the janitor has done what it does once an hour."""

    async def warm_up(measuring: Measuring) -> None:
        await measuring.answer("hello", stream=True)
        await measuring.round()
        await measuring.round()

    with Measuring.on(stack.emulator, stack.outputs) as measuring:
        asyncio.run(warm_up(measuring))
        yield measuring


def on_the_record(measured: Measured, operation: str) -> int:
    """Calls that were not refused."""
    return sum(
        "Requests" in call.table and call.operation == operation and call.status < 400 for call in measured.calls
    )


def polls(measured: Measured) -> int:
    """Reads of the record while the model answers."""
    return on_the_record(measured, "GetItem") - 2  # one as it is asked, one as it is claimed


def renewals(measured: Measured) -> int:
    """Of the lease: there are some if the answer took longer than a third of it, as on a busy machine."""
    return on_the_record(measured, "UpdateItem") - 1  # claimed


def looks(measured: Measured) -> int:
    """Who watches, as the lease is renewed. The last one is not looked for if the answer ends in the middle of it."""
    return sum("Sessions" in call.table and call.operation == "Query" for call in measured.calls) - 2  # claimed, ended


def beats(measured: Measured) -> int:
    """How often the message was hidden again."""
    return measured.sqs - 2  # sent, and hidden for the first time


async def test_a_connection(warm: Measuring) -> None:
    measured = await warm.connection()
    expected = COUNTS.connection
    assert measured.write_units == expected["write_units"]
    assert measured.read_units == expected["read_units"]
    assert measured.invocations + 1 == expected["invocations"]  # this stack has no authorizer, which writes nothing
    assert measured.sent_frames + len(measured.posts) == expected["messages"]
    assert measured.log_bytes == pytest.approx(expected["log_bytes"], rel=0.15)


async def test_a_ping(warm: Measuring) -> None:
    measured = await warm.ping()
    assert measured.write_units == COUNTS.ping["write_units"]
    assert measured.read_units == COUNTS.ping["read_units"]
    assert measured.invocations == COUNTS.ping["invocations"]
    assert measured.sent_frames + len(measured.posts) == COUNTS.ping["messages"]
    assert measured.log_bytes == pytest.approx(COUNTS.ping["log_bytes"], rel=0.15)


@pytest.mark.parametrize("in_conversation", [False, True])
async def test_an_answer_that_is_not_streamed(warm: Measuring, stack: Stack, in_conversation: bool) -> None:
    conversation = stack.name("conversation") if in_conversation else None
    measured = await warm.answer("a short question", stream=False, conversation=conversation)
    expected = COUNTS.answer
    # The whole text has five words: one more unit writes it, and one reads a context of nothing.
    assert measured.write_units - measured.refused_units == expected["write_units"] + 1
    assert measured.read_units == expected["read_units"] + in_conversation * (expected["context_read_units"] + 1)
    assert measured.refused_units <= 1
    assert measured.invocations == expected["invocations"]
    assert measured.sent_frames + len(measured.posts) == expected["messages"]
    assert measured.sqs + 2 == expected["sqs_requests"]
    assert measured.log_bytes == pytest.approx(expected["log_bytes"], rel=0.15)
    assert not [call for call in measured.calls if call.service in {"RDSData", "other"}]


@pytest.mark.parametrize("periods", [[Period.MONTH], list(Period)])
async def test_an_answer_under_budgets(warm: Measuring, stack: Stack, periods: list[Period]) -> None:
    user = stack.name("user")
    warm.give_budgets(user, *(Budget(10**9, Unit.TOKENS, period) for period in periods))
    measured = await warm.answer("a short question", stream=False, user=user)
    more = len(periods) * COUNTS.budget["write_units"]
    assert measured.write_units - measured.refused_units == COUNTS.answer["write_units"] + 1 + more
    assert measured.read_units == COUNTS.answer["read_units"]


async def test_a_watch_and_its_renewals(warm: Measuring) -> None:
    measured = await warm.watch()
    expected = COUNTS.watch
    assert measured.invocations == expected["invocations"]
    assert measured.sent_frames + len(measured.posts) == expected["messages"]
    assert (measured.write_units, measured.read_units) == (expected["write_units"], expected["read_units"])
    assert measured.data_api == 0, "or Aurora could never sleep"
    assert measured.log_bytes == pytest.approx(expected["log_bytes"], rel=0.15)


async def test_an_answer_that_another_device_watches(warm: Measuring) -> None:
    measured = await warm.watched("a short question")
    answer, watcher = COUNTS.answer, COUNTS.watcher
    assert measured.write_units - measured.refused_units == answer["write_units"] + 1
    assert measured.read_units == answer["read_units"] + answer["context_read_units"] + 1 + watcher["read_units"]
    assert measured.sent_frames + len(measured.posts) == answer["messages"] + watcher["messages"]
    assert measured.invocations == answer["invocations"]
    assert measured.data_api == 0


async def test_a_file_and_its_pieces(warm: Measuring) -> None:
    """By two files of which one has a piece more, each with a question."""
    answer = await warm.answer("a short question", stream=False)
    one, two = await warm.file(b"a" * 1_000), await warm.file(b"b" * (PIECE_BYTES + 1))
    piece, file = COUNTS.piece, COUNTS.file

    def written(measured: Measured) -> float:
        """Without the texts: this model says in its answer what stands in the file."""
        return sum(call.write_units for call in measured.calls if call.operation != "PutItem" and call.status < 400)

    assert {
        "invocations": two.invocations - one.invocations,
        "write_units": written(two) - written(one),
        "read_units": two.read_units - one.read_units,
        "s3_puts": two.s3["PUT"] - one.s3["PUT"],
        "s3_gets": two.s3["GET"] - one.s3["GET"],
    } == {name: piece[name] for name in ("invocations", "write_units", "read_units", "s3_puts", "s3_gets")}
    assert {
        "invocations": one.invocations - piece["invocations"] - answer.invocations,
        "write_units": written(one) - piece["write_units"] - written(answer),
        "read_units": one.read_units - piece["read_units"] - answer.read_units,
        "s3_puts": one.s3["PUT"] - piece["s3_puts"],
        "s3_gets": one.s3["GET"] - piece["s3_gets"],
    } == {name: file[name] for name in ("invocations", "write_units", "read_units", "s3_puts", "s3_gets")}
    assert not answer.s3


async def test_bytes_of_a_file_that_is_read_back(warm: Measuring) -> None:
    measured = await warm.returned(b"c" * PIECE_BYTES)
    expected = COUNTS.returned
    assert measured.invocations == expected["invocations"]
    assert measured.sent_frames + len(measured.posts) == expected["messages"]
    assert (measured.write_units, measured.read_units) == (expected["write_units"], expected["read_units"])
    assert (measured.s3["PUT"], measured.s3["GET"]) == (expected["s3_puts"], expected["s3_gets"])
    assert measured.log_bytes == pytest.approx(expected["log_bytes"], rel=0.15)


async def test_the_model_of_the_cost_predicts_a_streamed_answer(warm: Measuring, stack: Stack) -> None:
    question = stack.name("question")
    workload = Workload(tokens_in=0, tokens_out=400, tokens_per_second=80, first_token_s=0.6)
    stack.scripts[question] = model(400, tokens_per_second=80, first_token_s=0.6)
    measured = await warm.answer(question, stream=True)
    predicted = answer_use(workload, deployed(), COUNTS)
    text_bytes = len("word ") * 400
    posted = len(measured.posts)

    # Exact, but for what depends on how fast this machine is: looks at the record, and a longer word.
    waited = polls(measured) * COUNTS.poll["read_units"] + looks(measured) * COUNTS.renewal["read_units"]
    assert 0 <= renewals(measured) - looks(measured) <= 1
    expected_polls = int(workload.model_s / COUNTS.poll["every_s"])
    assert expected_polls <= polls(measured) + renewals(measured)
    assert polls(measured) <= measured.seconds / COUNTS.poll["every_s"] + 1  # one that was late, and the next in time
    written = COUNTS.write_behind
    assert measured.read_units - waited == (
        predicted.read_units
        - written["read_units"]
        - COUNTS.answer["context_read_units"]
        - expected_polls * COUNTS.poll["read_units"]
    )
    longer = -(-(text_bytes + 200) // 1024) - -(-(int(BYTES_A_TOKEN * 400) + 200) // 1024)
    assert measured.write_units - measured.refused_units - longer - renewals(measured) == (
        predicted.write_units - written["write_units"]
    )
    assert measured.invocations == predicted.invocations
    assert measured.sqs + 2 - beats(measured) == predicted.sqs_requests

    assert posted == pytest.approx(predicted.frames, rel=0.25)
    assert posted <= 400 / A_FIFTH
    assert sum(call.sent_bytes for call in measured.posts) == pytest.approx(text_bytes + posted * FRAME_BYTES, rel=0.1)
    assert "".join(json.loads(frame)["delta"] for frame in measured.actions("messageDelta")) == "word " * 400


@pytest.mark.proof
async def test_a_long_answer_renews_its_lease_seldom_and_polls_every_second(warm: Measuring, stack: Stack) -> None:
    question = stack.name("question")
    stack.scripts[question] = model(1, tokens_per_second=1, first_token_s=COUNTS.renewal["every_s"])
    measured = await warm.answer(question, stream=False)
    most = measured.seconds / COUNTS.renewal["every_s"]
    assert 1 <= renewals(measured) <= most
    assert 1 <= beats(measured) <= most
    assert (
        measured.write_units - measured.refused_units
        == COUNTS.answer["write_units"] + 1 + renewals(measured) * COUNTS.renewal["write_units"]
    )
    # A renewal reads the record, too, and the next poll comes a second after it.
    assert COUNTS.renewal["every_s"] / 2 <= polls(measured) <= measured.seconds / COUNTS.poll["every_s"] + most


async def test_turns_are_written_behind_in_batches(warm: Measuring) -> None:
    turns = 20
    await warm.round()  # what other tests left
    idle = await warm.round()
    await warm.turns(turns)
    measured = await warm.round()
    expected = COUNTS.write_behind
    assert measured.data_api == expected["batch_data_api_requests"]
    assert measured.write_units == turns * expected["write_units"]
    # Besides each turn with its texts, the index that says which turns wait.
    assert measured.read_units - idle.read_units == pytest.approx(turns * expected["read_units"], abs=2.5)


async def test_a_round_of_the_janitor_with_nothing_to_do(warm: Measuring) -> None:
    await warm.round()  # what other tests left
    measured = await warm.round()
    expected = COUNTS.minute
    assert measured.write_units == expected["write_units"]
    assert measured.read_units == pytest.approx(expected["read_units"], abs=1)  # a round reads other tests' connections
    assert measured.invocations == expected["invocations"]
    assert measured.data_api == 0
    assert measured.log_bytes == pytest.approx(expected["log_bytes"], rel=0.15)


async def test_so_many_metrics_are_billed_where_nothing_goes_wrong(warm: Measuring) -> None:
    await warm.turns(1)
    counted = [
        await warm.connection(),
        await warm.ping(),
        await warm.answer("a question", stream=True),
        await warm.round(),
    ]
    names = frozenset[str]().union(*(measured.metrics for measured in counted))
    assert 10 <= len(names) <= METRICS, sorted(names)


def test_the_frames_of_a_streamed_answer_are_at_most_a_fifth_of_its_tokens() -> None:
    assert deltas(Workload(), deployed().interval) + 3 <= Workload().tokens_out / A_FIFTH
