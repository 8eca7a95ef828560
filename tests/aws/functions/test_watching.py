"""Several devices on one answer: the functions show it to every session that watches, and any of them may stop it."""

import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest

from answerback.core.request import RequestKey
from answerback.core.transitions import State
from answerback.core.watching import KEPT_MS
from answerback.ports import Finish, Prompt, Watcher
from answerback.testing import ScriptedModel
from answerback.testing.backend import Line
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.composition import epoch_ms
from lambda_functions import Functions

KEY = RequestKey("kim", "q")
WHOLE = ["messageAsked", "messageStarted", "messageDelta", "messageResponse"]
Make = Callable[..., Functions]


def connect(functions: Functions, *names: str, user: str = "kim") -> None:
    """Each is a session of its own."""
    for name in names:
        functions.connect(name, query={"sessionId": name, "userId": user})
        functions.say(name, {"action": "hello", "helloId": "h"})
        functions.management.posted.clear()


def ask(functions: Functions, name: str = "desk", request_id: str = "q", message: str = "one two") -> None:
    functions.say(
        name,
        {
            "action": "sendMessage",
            "requestId": request_id,
            "conversationId": "k",
            "message": message,
            "stream": True,
        },
    )


def watch(functions: Functions, name: str = "phone", number: int = 1, **more: Any) -> dict[str, Any]:
    """The last frame that answers it."""
    frame = {"action": "watch", "requestId": f"w{number}", "conversationId": "k", "number": number, **more}
    functions.say(name, {key: value for key, value in frame.items() if value is not None})
    return functions.management.to(name)[-1]


def shown(functions: Functions, name: str = "phone", request_id: str = "q") -> list[str]:
    return [frame["action"] for frame in functions.management.to(name) if frame.get("requestId") == request_id]


def text_of(functions: Functions, name: str = "phone") -> str:
    return "".join(frame["delta"] for frame in functions.management.to(name) if frame["action"] == "messageDelta")


def now(work: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of what waits for nothing."""
    with pytest.raises(StopIteration) as outcome:
        work.send(None)
    return outcome.value.value


def watch_unseen(functions: Functions, name: str = "phone") -> None:
    """As if the front's process died before it could note it in what runs, or the index showed nothing."""
    generation = functions.connections._connections[name].generation or 0
    watcher = Watcher(
        session_id=name, connection_id=name, generation=generation, number=1, until_ms=epoch_ms() + KEPT_MS
    )
    now(functions.connections.watch("kim", "k", watcher, now_ms=epoch_ms(), most=8))


def test_who_watches_is_shown_the_answer_from_its_beginning(functions: Functions) -> None:
    connect(functions, "desk", "phone")
    assert watch(functions) == {"action": "watching", "requestId": "w1", "conversationId": "k", "number": 1}
    ask(functions)
    assert functions.work() == [{"batchItemFailures": []}]
    assert shown(functions) == WHOLE
    asked = next(frame for frame in functions.management.to("phone") if frame["action"] == "messageAsked")
    assert (asked["question"], asked["model"]) == ("one two", "echo")
    assert text_of(functions) == text_of(functions, "desk") == "one two"
    assert functions.management.to("phone")[-1] == functions.management.to("desk")[-1]
    assert "messageAsked" not in shown(functions, "desk")
    assert watch(functions, number=2)["turn"] == "q"


def test_who_begins_to_watch_while_it_waits_is_shown_it_all(functions: Functions) -> None:
    connect(functions, "desk", "phone")
    ask(functions)
    assert watch(functions)["action"] == "watching"
    assert functions.store.records[KEY].schema == 1, "the worker reads who watches when its turn has come"
    functions.work()
    assert shown(functions) == WHOLE


def test_who_begins_to_watch_while_it_runs_and_is_noted_nowhere_is_found_behind_the_end(make_functions: Make) -> None:
    made: list[Functions] = []

    def script(prompt: Prompt) -> Iterable[Line]:
        yield "one "
        watch_unseen(made[0])
        yield "two"
        yield Finish(input_tokens=1, output_tokens=1)

    functions = make_functions(models={"echo": ScriptedModel(script, name="echo")})
    made.append(functions)
    connect(functions, "desk", "phone")
    ask(functions)
    functions.work()
    assert shown(functions) == WHOLE
    assert text_of(functions) == "one two"


def test_one_too_many_is_told_and_shown_nothing(make_functions: Make) -> None:
    functions = make_functions(MAX_WATCHERS="2")
    connect(functions, "desk", "one", "two", "three")
    assert [watch(functions, name)["action"] for name in ("one", "two")] == ["watching"] * 2
    refused = watch(functions, "three")
    assert (refused["action"], refused["code"], refused["requestId"]) == ("error", "overloaded", "w1")
    ask(functions)
    functions.work()
    assert (shown(functions, "one"), shown(functions, "three")) == (WHOLE, [])


def test_a_stack_that_lets_nobody_watch_says_so_and_reads_nothing(make_functions: Make) -> None:
    functions = make_functions(MAX_WATCHERS="0")
    reads: list[Any] = []
    functions.connections.watchers = lambda *asked, **_: reads.append(asked)  # type: ignore[method-assign]
    connect(functions, "desk", "phone")
    functions.say("phone", {"action": "hello", "helloId": "h"})
    assert "watch" not in functions.management.to("phone")[-1]["features"]
    assert watch(functions)["code"] == "forbidden"
    ask(functions)
    assert functions.work() == [{"batchItemFailures": []}]
    assert (shown(functions), reads) == ([], [])


def test_another_user_sees_an_empty_conversation_of_its_own(functions: Functions) -> None:
    connect(functions, "desk", "phone")
    connect(functions, "stranger", user="lee")
    ask(functions)
    alike = [watch(functions, "stranger"), watch(functions, "stranger", number=2, conversationId="nothing")]
    assert [frame["action"] for frame in alike] == ["watching"] * 2
    functions.say("stranger", {"action": "cancelMessage", "requestId": "q", "conversationId": "k"})
    assert functions.management.to("stranger")[-1]["code"] == "unknown_request"
    functions.work()
    assert [frame["action"] for frame in functions.management.to("stranger")] == ["watching", "watching", "error"]
    assert shown(functions, "desk")[-1] == "messageResponse"


def test_off_and_on_that_arrive_swapped_leave_it_on(functions: Functions) -> None:
    connect(functions, "desk", "phone")
    watch(functions, number=1)
    watch(functions, number=3)
    assert watch(functions, number=2, off=True)["number"] == 2
    ask(functions)
    functions.work()
    assert shown(functions) == WHOLE
    watch(functions, number=5, off=True)
    watch(functions, number=4)
    ask(functions, request_id="q2")
    functions.work()
    assert shown(functions, request_id="q2") == []


def test_any_device_may_stop_an_answer_and_the_record_says_which(functions: Functions) -> None:
    connect(functions, "desk", "phone", "tablet")
    watch(functions, "phone")
    watch(functions, "tablet")
    ask(functions)
    functions.say("phone", {"action": "cancelMessage", "requestId": "q", "conversationId": "k"})
    for name in ("desk", "phone", "tablet"):
        assert functions.management.to(name)[-1]["status"] == "cancelled"
    assert functions.store.records[KEY].cancelled_by == "phone"


def test_a_stop_of_what_is_not_there_yet_leaves_no_trace(functions: Functions) -> None:
    connect(functions, "desk", "phone")
    functions.say("phone", {"action": "cancelMessage", "requestId": "q", "conversationId": "k"})
    assert functions.management.to("phone")[-1]["code"] == "unknown_request"
    assert KEY not in functions.store.records
    ask(functions)
    functions.work()
    assert functions.management.to("desk")[-1]["status"] == "completed"


def test_a_post_that_stalls_holds_neither_the_others_nor_the_queue(
    make_functions: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("answerback.service.delivery_sender.WATCHERS_S", 0.3)
    functions = make_functions()
    connect(functions, "desk", "frozen", "phone")
    for name in ("frozen", "phone"):
        watch(functions, name)
    ask(functions)
    functions.compositions["worker"].__dict__["calls"] = calls = Calls(threads=8)
    functions.management.stalled["frozen"] = over = threading.Event()
    assert functions.work() == [{"batchItemFailures": []}]
    assert not over.is_set()
    assert shown(functions, "desk") == ["messageAccepted", *WHOLE[1:]]
    assert (shown(functions), shown(functions, "frozen")) == (WHOLE, [])
    over.set()
    calls.close()


def test_the_next_attempt_goes_on_for_everybody(functions: Functions) -> None:
    connect(functions, "desk", "phone")
    watch(functions)
    ask(functions)
    functions.alter(KEY, state=State.RUNNING, attempt=1, owner="dead", lease_until_ms=epoch_ms() - 1)
    functions.work()
    assert shown(functions) == WHOLE
    started = [frame["attempt"] for frame in functions.management.to("phone") if frame["action"] == "messageStarted"]
    assert started == [2]


@pytest.mark.parametrize("function", ["janitor", "dead_letters"])
def test_who_ends_a_request_tells_those_who_watch(functions: Functions, function: str) -> None:
    connect(functions, "desk", "phone")
    watch(functions)
    ask(functions)
    if function == "janitor":
        functions.alter(KEY, accepted_at_ms=epoch_ms() - 601_000)
        functions.invoke("janitor", {})
    else:
        (event,) = functions.sqs.events()
        functions.invoke("dead_letters", event)
    assert shown(functions) == ["messageAsked", "messageResponse"]
    assert functions.management.to("phone")[-1] == functions.management.to("desk")[-1]


@pytest.mark.parametrize("is_watched", [False, True])
def test_an_ending_that_is_found_again_is_read_for_those_who_watch_only_if_there_are_any(
    functions: Functions, is_watched: bool
) -> None:
    connect(functions, "desk", "phone")
    ask(functions)
    (event,) = functions.sqs.events()
    functions.work()
    if is_watched:
        watch(functions)
    reads: list[RequestKey] = []
    functions.compositions["worker"].__dict__["watchers"]._told.clear()  # as in another process
    read = functions.store.answer

    async def answer(key: RequestKey) -> Any:
        reads.append(key)
        return await read(key)

    functions.store.answer = answer  # type: ignore[method-assign]
    assert functions.invoke("worker", event, remaining_ms=180_000) == {"batchItemFailures": []}
    assert len(reads) == 1 + is_watched
    assert bool(shown(functions)) is is_watched


def test_changes_of_the_list_are_hinted_without_a_look_at_the_history(functions: Functions) -> None:
    connect(functions, "desk", "phone")
    assert watch(functions, conversationId=None) == {"action": "watching", "requestId": "w1", "number": 1}
    ask(functions)
    functions.compositions["worker"].__dict__["history"] = None
    functions.work()
    hint = functions.management.to("phone")[-1]
    ending = functions.store.records[KEY].ending
    assert ending is not None
    assert set(hint) == {"action", "conversationId", "updatedAt"}
    assert (hint["action"], hint["conversationId"]) == ("conversationChanged", "k")
    functions.say("desk", {"action": "updateConversation", "requestId": "u", "conversationId": "k", "title": "Numbers"})
    assert functions.management.to("phone")[-1]["title"] == "Numbers"
    assert "conversationChanged" not in [frame["action"] for frame in functions.management.to("desk")]
