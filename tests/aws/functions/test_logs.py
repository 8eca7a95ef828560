"""What the functions write: every line one JSON object, with what is known of the request, and nothing anybody said."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from answerback.auth import make_token
from answerback.ports import Finish, ModelError, Prompt
from answerback.protocol.errors import ErrorCode
from answerback.testing import ScriptedModel
from answerback_aws.runtime.functions.authorizer import Unauthorized
from lambda_functions import (
    Context,
    Functions,
    authorizer_event,
    client_error,
    disconnect_event,
    message_event,
    sqs_event,
)

KEY = "0123456789abcdef0123456789abcdef"
QUESTION = "swordfish: what is it?"
ANSWER = "marmalade, it is"
SYSTEM = "pelican prompt"


def everything(functions: Functions, token: str) -> None:
    """Each function, with texts, tokens and a query, where all goes well and where it does not."""
    query = {"sessionId": "s-1", "token": token, "secretParameter": "walnut"}
    functions.invoke("authorizer", authorizer_event("c-1", query=query))
    for bad in ("kumquat-token", token + "kumquat"):
        with pytest.raises(Unauthorized):
            functions.invoke("authorizer", authorizer_event("c-1", query={"token": bad}))
    functions.connect("c-1", query=query, authorizer={"userId": "kim", "expiresAtMs": "9999999999999"})
    functions.connect("c-9", query={"sessionId": "walnut\n"})
    say = {"action": "sendMessage", "message": QUESTION, "system": SYSTEM, "conversationId": "k", "stream": True}
    for number in range(3):
        functions.say("c-1", {**say, "requestId": f"r-{number}"})
        functions.work()
    functions.say("c-1", {"action": "renewToken", "requestId": "t-1", "token": token})
    functions.say("c-1", {"action": "renewToken", "requestId": "t-2", "token": "kumquat-token"})
    functions.say("c-1", {"action": "updateConversation", "requestId": "u", "conversationId": "k", "title": QUESTION})
    functions.say("c-1", {"action": "getHistory", "requestId": "h", "conversationId": "k"})
    functions.say("c-1", f"{{{QUESTION}")
    functions.say("c-1", {"action": QUESTION, "message": QUESTION})
    functions.invoke("front", message_event("c-1", "c3dvcmRmaXNo", base64=True))
    real = functions.store.accept

    async def broken(record: Any, question: Any, *_: Any, **__: Any) -> Any:
        raise ValueError(f"cannot store {question.message}")

    functions.store.accept = broken  # type: ignore[method-assign]
    functions.say("c-1", {**say, "requestId": "r-9"})
    functions.store.accept = real  # type: ignore[method-assign]
    functions.say("c-1", {**say, "requestId": "r-10"})
    (event,) = functions.sqs.events()
    functions.management.errors = [client_error("ForbiddenException", status=403)]
    functions.invoke("dead_letters", event)
    functions.invoke("worker", sqs_event(json.dumps({"user": "kim", "text": QUESTION})))
    functions.invoke("connections", disconnect_event("c-1"))


def test_nothing_that_anybody_said_is_in_the_log(make_functions: Callable[..., Functions]) -> None:
    def script(prompt: Prompt) -> list[Any]:
        match prompt.request_id:
            case "r-0":
                return [ANSWER, Finish()]
            case "r-1":
                return [ANSWER, ModelError(ErrorCode.MODEL_FAILED, "broke off")]
            case _:
                return [ANSWER, RuntimeError(f"no answer to {prompt.messages[-1].text}")]

    functions = make_functions(JWT_SECRET=KEY, models={"echo": ScriptedModel(script, name="echo")})
    token = make_token("kim", secret=KEY, ttl_s=60)
    logging.getLogger("answerback").setLevel(logging.DEBUG)
    everything(functions, token)
    text = functions.log.getvalue()
    assert [frame["action"] for _, frame in functions.management.posted].count("messageResponse") >= 3
    for secret in ("swordfish", ANSWER, SYSTEM, token, token.split(".")[2], "kumquat", "walnut", KEY, "c3dvcmRm"):
        assert secret not in text, secret
    assert len(functions.lines) > 20


def test_a_request_is_followed_through_every_function(make_functions: Callable[..., Functions]) -> None:
    functions = make_functions()
    functions.connect("c-1")
    functions.say("c-1", {"action": "sendMessage", "requestId": "r-1", "userId": "kim", "message": "hello"})
    functions.work()
    lines = [line for line in functions.lines if line.get("requestId") == "r-1"]
    assert [(line["function"], line["message"]) for line in lines] == [
        ("front", "a request was accepted"),
        ("worker", "an attempt runs"),
        ("worker", "a request ended"),
    ]
    assert {line["userId"] for line in lines} == {"kim"}
    assert {line["correlationId"] for line in lines} == {"BFHPhFe3IAMF95g="}
    assert lines[0]["connectionId"] == "c-1"
    assert [line.get("attempt") for line in lines] == [None, 1, 1]
    assert lines[2]["status"] == "completed"


def test_debug_has_each_frame_that_was_posted_and_info_none(make_functions: Callable[..., Functions]) -> None:
    for level, posts in (("INFO", 0), ("DEBUG", 2)):
        functions = make_functions(POWERTOOLS_LOG_LEVEL=level)
        functions.connect("c-1")
        functions.say("c-1", {"action": "sendMessage", "requestId": "r-1", "userId": "kim", "message": "hello"})
        functions.work()
        lines = [line for line in functions.lines if line.get("message") == "a frame was posted"]
        assert len(lines) == posts
        assert all(line["level"] == "DEBUG" and line["requestId"] == "r-1" and line["bytes"] > 0 for line in lines)


def test_what_is_known_is_forgotten_with_the_invocation(functions: Functions) -> None:
    functions.connect("c-1")
    functions.say("c-1", {"action": "sendMessage", "requestId": "r-1", "userId": "kim", "message": "hello"})
    functions.say("c-1", {"action": "nonsense"})
    front = functions.compositions["front"].observing
    with front.invocation(Context()):
        logging.getLogger("answerback.front").warning("planted")
    line = functions.lines[-1]
    assert line["message"] == "planted"
    assert {"requestId", "userId", "connectionId", "correlationId"}.isdisjoint(line)
    assert line["cold_start"] is False


def test_a_line_of_the_service_comes_out_with_its_fields(functions: Functions) -> None:
    with functions.compositions["worker"].observing.invocation(Context()):
        logging.getLogger("answerback.worker").warning("it is %s", "so", extra={"requestId": "r-7", "attempt": 2})
    line = functions.lines[-1]
    assert (line["message"], line["requestId"], line["attempt"], line["level"]) == ("it is so", "r-7", 2, "WARNING")


def test_an_exception_is_reported_by_its_place_and_its_kind(functions: Functions) -> None:
    def fail() -> None:
        try:
            raise KeyError("walnut")
        except KeyError as exc:
            raise client_error("AccessDeniedException") from exc

    with functions.compositions["front"].observing.invocation(Context()):
        try:
            fail()
        except Exception:
            logging.getLogger("answerback.front").exception("planted")
    told = functions.lines[-1]["exception"]
    assert "in fail" in told
    assert "builtins.KeyError" in told
    assert "AccessDeniedException" in told
    assert "walnut" not in json.dumps(functions.lines[-1]["exception_name"])
    assert "'walnut'" not in told


def test_metrics_are_in_cloudwatch_s_format(functions: Functions) -> None:
    functions.connect("c-1")
    for name in ("r-1", "r-2"):
        functions.say("c-1", {"action": "sendMessage", "requestId": name, "userId": "kim", "message": "hello"})
    functions.work()
    metrics = [line for line in functions.lines if "_aws" in line]
    values: dict[str, float] = {}
    for line in metrics:
        (definition,) = line["_aws"]["CloudWatchMetrics"]
        assert definition["Namespace"] == "Answerback"
        for metric in definition["Metrics"]:
            values[metric["Name"]] = values.get(metric["Name"], 0) + sum(line[metric["Name"]])
    assert values["Accepted"] == values["Attempts"] == values["Ended"] == 2
    assert values["Posts"] == 4
    assert {"FirstTextMs", "TotalMs", "QueuedMs", "PostedBytes"} <= values.keys()
    ended = [line for line in metrics if "Ended" in line]
    assert all(line["status"] == "completed" for line in ended)


def test_more_values_than_the_format_takes(functions: Functions) -> None:
    with functions.compositions["worker"].observing.invocation(Context()) as counts:
        for _ in range(250):
            counts.count("Posts")
            counts.sample("PostedBytes", 7, unit="Bytes")
    line = functions.lines[-1]
    assert line["Posts"] == [250]
    assert len(line["PostedBytes"]) == 100


def test_other_libraries_are_logged_when_they_warn(functions: Functions) -> None:
    with functions.compositions["front"].observing.invocation(Context()):
        logging.getLogger("botocore.endpoint").info("Making request with body walnut")
        logging.getLogger("botocore.endpoint").warning("a warning")
    assert [line["message"] for line in functions.lines] == ["a warning"]


def test_a_line_names_the_trace_of_lambda(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0")
    with functions.compositions["front"].observing.invocation(Context()):
        logging.getLogger("answerback.front").warning("planted")
    assert functions.lines[-1]["xray_trace_id"] == "1-5759e988-bd862e3fe1be46a994272793"
