"""The functions joined: from a handshake to the answer, as AWS calls them."""

import json
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from answerback.auth import make_token
from answerback.core.request import RequestKey
from answerback.core.transitions import State
from answerback.ports import Finish, ModelError, Prompt, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.testing import ScriptedModel
from answerback_aws.runtime.composition import epoch_ms
from lambda_functions import (
    DEAD_LETTERS_URL,
    QUEUE_URL,
    Context,
    Functions,
    client_error,
    disconnect_event,
    message_event,
    sqs_event,
)

TWO_FRAME_QUESTION = {
    "action": "sendMessage",
    "requestId": "6a1f6b3e-9f0e-4d3a-8f58-0b6f2a4c1d11",
    "userId": "user_001",
    "message": "What is it?",
    "timestamp": "2025-01-01T00:00:00Z",
}


def test_two_frames_are_a_whole_exchange(functions: Functions) -> None:
    functions.connect("c-1")
    assert functions.say("c-1", TWO_FRAME_QUESTION) == {"statusCode": 200}
    assert functions.work() == [{"batchItemFailures": []}]
    accepted, response = functions.management.to("c-1")
    assert accepted["action"] == "messageAccepted"
    assert response["action"] == "messageResponse"
    assert response["requestId"] == TWO_FRAME_QUESTION["requestId"]
    assert response["response"] == "What is it?"
    assert response["status"] == "completed"
    assert functions.sqs.sent == {}


def test_a_message_of_the_queue_has_no_text_and_one_group_a_key(functions: Functions) -> None:
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    functions.say("c-1", {**TWO_FRAME_QUESTION, "requestId": "r-2"})
    functions.say("c-1", {**TWO_FRAME_QUESTION, "requestId": "r-3", "conversationId": "k"})
    messages = list(functions.sqs.sent.values())
    assert len({message["MessageGroupId"] for message in messages}) == 2
    assert all(TWO_FRAME_QUESTION["message"] not in json.dumps(message) for message in messages)
    assert messages[0]["QueueUrl"].endswith("requests.fifo")
    assert messages[0]["MessageAttributes"]["correlationId"]["StringValue"] == "BFHPhFe3IAMF95g="


def test_a_repeated_question_is_queued_once(functions: Functions) -> None:
    functions.connect("c-1")
    for _ in range(3):
        functions.say("c-1", TWO_FRAME_QUESTION)
    assert len(functions.sqs.sent) == 1
    functions.work()
    functions.say("c-1", TWO_FRAME_QUESTION)
    assert functions.sqs.sent == {}
    assert [frame["action"] for frame in functions.management.to("c-1")].count("messageResponse") == 2


def test_the_answer_finds_the_session_on_its_new_connection(make_functions: Callable[..., Functions]) -> None:
    functions = make_functions()
    functions.connect("c-1", query={"sessionId": "s", "userId": "kim"})
    functions.say("c-1", {"action": "sendMessage", "requestId": "r", "message": "hello", "stream": True})
    functions.management.open.discard("c-1")
    functions.connect("c-2", query={"sessionId": "s", "userId": "kim"}, connected_at_ms=1_731_324_999_999)
    points = [{"requestId": "r", "attempt": 0, "offset": 0}]
    functions.say("c-2", {"action": "hello", "helloId": "h", "resume": points})
    functions.invoke("connections", disconnect_event("c-1"))
    assert functions.work() == [{"batchItemFailures": []}]
    kinds = [frame["action"] for frame in functions.management.to("c-2")]
    assert kinds == ["welcome", "messageStarted", "messageDelta", "messageResponse"]


def test_a_connection_that_is_gone_is_removed_and_the_answer_kept(functions: Functions) -> None:
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    functions.management.open.clear()
    assert functions.work() == [{"batchItemFailures": []}]
    assert functions.run(functions.connections.get("c-1")) is None
    record = functions.store.records[RequestKey("user_001", TWO_FRAME_QUESTION["requestId"])]
    assert record.state is State.COMPLETED


def test_what_was_done_and_is_redelivered_is_sent_again(functions: Functions) -> None:
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    (event,) = functions.sqs.events()
    functions.work()
    before = functions.management.to("c-1")
    assert functions.invoke("worker", event, remaining_ms=180_000) == {"batchItemFailures": []}
    assert functions.management.to("c-1") == [*before, before[-1]]


def test_an_app_that_reads_nothing_holds_its_conversation_for_half_a_minute(functions: Functions) -> None:
    """A frozen app, its socket open. It was held until the message had been received 60 times, some 20 minutes."""
    functions.connect("c-1", query={"sessionId": "s", "userId": "kim"})
    functions.say("c-1", {"action": "sendMessage", "requestId": "r", "message": "hello"})
    key = RequestKey("kim", "r")
    (event,) = functions.sqs.events()
    functions.work()
    ending = functions.store.records[key].ending
    assert ending is not None
    functions.management.errors += [client_error("LimitExceededException", status=429)] * 1_000
    for ago_ms, is_held in ((29_000, True), (31_000, False)):
        functions.alter(key, ending=replace(ending, ended_at_ms=epoch_ms() - ago_ms))
        answer = functions.invoke("worker", event, remaining_ms=180_000)
        assert bool(answer["batchItemFailures"]) is is_held
    functions.management.errors.clear()
    points = [{"requestId": "r", "attempt": 1, "offset": 0}]
    functions.say("c-1", {"action": "hello", "helloId": "h", "resume": points})
    assert [frame["action"] for frame in functions.management.to("c-1")][-2:] == ["messageResponse", "welcome"]


def test_a_request_that_kills_its_workers_ends_as_failed(make_functions: Callable[..., Functions]) -> None:
    """The record counts its attempts: here as after two crashes, each with a lease that ran out."""
    functions = make_functions(MAX_ATTEMPTS="1")
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    occupy(functions, for_ms=-1)
    assert functions.work() == [{"batchItemFailures": []}]
    response = functions.management.to("c-1")[-1]
    assert (response["status"], response["error"]["code"]) == ("failed", "internal")


def test_a_dead_letter_ends_as_failed_and_its_app_gets_the_error(functions: Functions) -> None:
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    (event,) = functions.sqs.events()
    assert functions.invoke("dead_letters", event) == {"batchItemFailures": []}
    response = functions.management.to("c-1")[-1]
    assert (response["status"], response["error"]["code"]) == ("failed", "internal")
    assert functions.work() == [{"batchItemFailures": []}], "the queue's own copy finds it ended"


def test_a_dead_letter_with_a_live_lease_goes_back_for_as_long(functions: Functions) -> None:
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    key = RequestKey("user_001", TWO_FRAME_QUESTION["requestId"])
    occupy(functions, for_ms=17_500)
    (event,) = functions.sqs.events()
    answer = functions.invoke("dead_letters", event)
    assert [item["itemIdentifier"] for item in answer["batchItemFailures"]] == [event["Records"][0]["messageId"]]
    assert 16 <= functions.sqs.hidden[-1][1] <= 18
    assert functions.store.records[key].state is State.RUNNING


def test_a_model_that_fails_is_reported_and_not_repeated(make_functions: Callable[..., Functions]) -> None:
    def script(prompt: Prompt) -> list[Any]:
        return ["half ", ModelError(ErrorCode.MODEL_THROTTLED, "the quota is used up")]

    functions = make_functions(models={"echo": ScriptedModel(script, name="echo")})
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    assert functions.work() == [{"batchItemFailures": []}]
    response = functions.management.to("c-1")[-1]
    assert response["error"]["code"] == "model_throttled"
    assert "quota" not in json.dumps(response)


def test_a_worker_near_its_limit_ends_the_answer_in_time(make_functions: Callable[..., Functions]) -> None:
    """Lambda leaves it a moment more than the margin of a run: it does not wait for the model."""

    def script(prompt: Prompt) -> list[Any]:
        return ["so far", 3600.0, Finish()]

    functions = make_functions(models={"echo": ScriptedModel(script, name="echo")})
    functions.connect("c-1")
    functions.say("c-1", {**TWO_FRAME_QUESTION, "stream": True})
    assert functions.work(remaining_ms=7_100) == [{"batchItemFailures": []}]
    *_, delta, response = functions.management.to("c-1")
    assert delta["delta"] == "so far"
    assert (response["status"], response["error"]["code"]) == ("failed", "timeout")


def test_a_front_that_fails_says_so_in_the_protocol_s_words(functions: Functions) -> None:
    functions.connect("c-1", query={"userId": "kim"})

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret detail")

    functions.store.accept = broken  # type: ignore[method-assign]
    assert functions.say("c-1", {"action": "sendMessage", "requestId": "r", "message": "hello"}) == {"statusCode": 200}
    (error,) = functions.management.to("c-1")
    assert (error["action"], error["code"], error["requestId"]) == ("error", "internal", "r")
    assert "secret" not in json.dumps(error)


def test_a_queue_that_takes_nothing_is_reported_as_unavailable_and_repaired_by_the_repeat(functions: Functions) -> None:
    functions.connect("c-1")
    functions.sqs.error = Unavailable("planted")
    functions.say("c-1", TWO_FRAME_QUESTION)
    assert functions.management.to("c-1")[-1]["code"] == "unavailable"
    functions.sqs.error = None
    functions.say("c-1", TWO_FRAME_QUESTION)
    assert functions.management.to("c-1")[-1]["action"] == "messageAccepted"
    functions.work()
    assert functions.management.to("c-1")[-1]["status"] == "completed"


def test_of_two_workers_with_one_message_one_writes(make_functions: Callable[..., Functions]) -> None:
    """The second has it while the first runs: it hides it until the lease of the first is over."""
    model = ScriptedModel(lambda prompt: ["the answer", Finish()], name="echo")
    functions = make_functions(models={"echo": model})
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    (event,) = functions.sqs.events()
    key = RequestKey("user_001", TWO_FRAME_QUESTION["requestId"])
    occupy(functions, for_ms=20_000)
    answer = functions.invoke("worker", event, remaining_ms=180_000)
    assert len(answer["batchItemFailures"]) == 1
    assert 19 <= functions.sqs.hidden[-1][1] <= 20
    assert model.prompts == []
    assert functions.store.records[key].owner == "another"


def test_garbage_is_dropped_and_counted(functions: Functions) -> None:
    for body in ("", "no json", "[]", '{"user": 1, "request": "r"}', '{"user": "kim"}', "[" * 100_000):
        assert functions.invoke("worker", sqs_event(body)) == {"batchItemFailures": []}
        assert functions.invoke("dead_letters", sqs_event(body)) == {"batchItemFailures": []}
    assert sum(sum(line.get("Garbled", [])) for line in functions.lines) == 12


def test_an_expired_token_is_refused_in_mid_connection_and_renewed_in_band(
    make_functions: Callable[..., Functions],
) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    functions = make_functions(JWT_SECRET=secret)
    functions.connect("c-1", authorizer={"userId": "kim", "expiresAtMs": "1000"})
    question = {"action": "sendMessage", "requestId": "r-1", "message": "hello"}
    functions.say("c-1", question)
    assert functions.management.to("c-1")[-1]["error"]["code"] == "unauthorized"
    token = make_token("kim", secret=secret, ttl_s=60)
    functions.say("c-1", {"action": "renewToken", "requestId": "t", "token": token})
    assert functions.management.to("c-1")[-1]["action"] == "tokenRenewed"
    functions.say("c-1", {**question, "requestId": "r-2"})
    assert functions.management.to("c-1")[-1]["action"] == "messageAccepted"


def test_a_frame_of_a_connection_that_is_not_known_is_nothing(functions: Functions) -> None:
    assert functions.say("nobody", TWO_FRAME_QUESTION) == {"statusCode": 200}
    assert functions.management.posted == []


def test_what_is_no_frame_is_refused_in_words(functions: Functions) -> None:
    functions.connect("c-1", query={"userId": "kim"})
    for body, base64, code in (
        ("x" * (128 * 1024 + 1), False, "message_too_large"),
        ("no json", False, "invalid_frame"),
        ("", False, "invalid_frame"),
        ("AAEC/w==", True, "invalid_frame"),
        ("not base64 either!", True, "invalid_frame"),
        ('{"action": "$connect"}', False, "invalid_frame"),
    ):
        answer = functions.invoke("front", message_event("c-1", body, base64=base64))
        assert answer == {"statusCode": 200}
        assert functions.management.to("c-1")[-1]["code"] == code


def test_a_reader_that_takes_nothing_does_not_hold_the_front(functions: Functions) -> None:
    functions.connect("c-1", query={"userId": "kim"})
    functions.management.errors = [client_error("LimitExceededException", status=429)] * 1_000
    event = message_event("c-1", {"action": "ping"})
    assert functions.modules["front"].handler(event, Context(remaining_ms=1_100)) == {"statusCode": 200}


def test_urls_of_the_queues_are_not_mixed_up(functions: Functions, monkeypatch: Any) -> None:
    urls: list[str] = []
    monkeypatch.setattr(functions.sqs, "change_message_visibility", lambda **change: urls.append(change["QueueUrl"]))
    functions.connect("c-1")
    functions.say("c-1", TWO_FRAME_QUESTION)
    occupy(functions, for_ms=10_000)
    (event,) = functions.sqs.events()
    functions.invoke("dead_letters", event)
    assert set(urls) == {DEAD_LETTERS_URL}
    urls.clear()
    functions.invoke("worker", event, remaining_ms=180_000)
    assert set(urls) == {QUEUE_URL}


def occupy(functions: Functions, *, for_ms: int) -> None:
    """Another worker runs the request."""
    key = RequestKey("user_001", str(TWO_FRAME_QUESTION["requestId"]))
    functions.alter(key, state=State.RUNNING, attempt=1, owner="another", lease_until_ms=epoch_ms() + for_ms)
