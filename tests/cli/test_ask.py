"""`answerback ask` against a real gateway process."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import forked
from answerback.cli.output import ExitCode
from answerback.cli.talk import explain, printable
from answerback.client import CannotConnect, Obstacle, RequestTimeout
from cli_process import STOP_TIMEOUT_S, Run, Serve, start_gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def echo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ask")
    gateway = start_gateway("--rate-limit", "0", data_dir=folder / "data", log=folder / "log")
    yield gateway.url
    gateway.stop(signal.SIGKILL)
    assert gateway.process.stdout is not None
    gateway.process.stdout.close()


def test_in_a_pipe_there_is_the_answer_and_nothing_else(echo_url: str, run: Run) -> None:
    result = run("ask", "What is a WebSocket?", "--url", echo_url)
    assert (result.code, result.out, result.err) == (0, "What is a WebSocket?\n", "")


def test_words_without_quotes_are_one_question(echo_url: str, run: Run) -> None:
    assert run("ask", "what", "is", "this", "--url", echo_url).out == "what is this\n"


@pytest.mark.parametrize(
    ("options", "shown"), [((), "caf\xe9 ??"), (("--json",), r'"response": "caf\u00e9 \uc548\ub155"')]
)
def test_an_output_that_cannot_have_every_character_still_has_the_answer(
    echo_url: str, options: tuple[str, ...], shown: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "answerback", "ask", "café 안녕", "--url", echo_url, *options],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0
    assert shown in done.stdout.decode("cp1252")


def test_the_question_from_stdin_with_every_character(echo_url: str) -> None:
    question = "첫 줄\n  second line\twith a tab 👋\n"
    done = forked.run(["ask", "-", "--url", echo_url], input=question.encode())
    assert (done.returncode, done.stdout.decode()) == (0, question)


def test_an_outage_is_not_explained_as_a_slow_model() -> None:
    error = explain(RequestTimeout("r1", 30.0, cause_code="unavailable"))
    assert str(error) == "the gateway cannot store requests now (unavailable) — ask its operator"
    assert error.exit_code is ExitCode.TIMED_OUT
    assert "longer --timeout" in str(explain(RequestTimeout("r1", 30.0)))


def test_the_url_from_the_environment(echo_url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSWERBACK_URL", echo_url)
    assert run("ask", "hello").out == "hello\n"


def test_json_has_everything(echo_url: str, run: Run) -> None:
    result = run("ask", "one two three", "--json", "--url", echo_url, "--conversation", "trip")
    answer = json.loads(result.out)
    assert result.code == 0
    assert answer["response"] == "one two three"
    assert answer["conversationId"] == "trip"
    assert answer["status"] == "completed"
    assert answer["usage"] == {"inputTokens": 3, "outputTokens": 3}
    assert answer["timing"].keys() >= {"queuedMs", "firstTextMs", "totalMs"}
    assert answer["clientTiming"]["totalMs"] >= 0


def test_what_the_model_says_besides_its_answer_goes_to_stderr(serve: Serve, run: Run) -> None:
    url = serve("--model", "echo:parts=1").url
    shown = run("ask", "one two", "--show", "tool,reasoning", "--url", url)
    assert (shown.code, shown.out) == (0, "one two\n")
    assert shown.err == 'reasoning: one two\ntool count: {"text": "one two"}\n'
    document = json.loads(run("ask", "one two", "--show", "citation", "--json", "--url", url).out)
    assert document["response"] == "one two"
    assert document["parts"][0] == {"kind": "citation", "name": None, "text": '{"title": "one two"}'}
    assert "parts" not in json.loads(run("ask", "one two", "--json", "--url", url).out)
    wrong = run("ask", "one two", "--show", "thoughts", "--url", url)
    assert wrong.code == ExitCode.USAGE
    assert "citation, reasoning" in wrong.err


def test_a_conversation_remembers(serve: Serve, run: Run) -> None:
    url = serve("--model", "echo:context=1").url
    run("ask", "first", "--conversation", "trip", "--user", "alice", "--url", url)
    result = run("ask", "second", "--conversation", "trip", "--user", "alice", "--url", url)
    assert result.out.splitlines() == ["user: first", "assistant: user: first", "user: second"]


def test_a_cut_answer_is_reported_on_stderr(echo_url: str, run: Run) -> None:
    result = run("ask", "one two three", "--max-tokens", "2", "--url", echo_url)
    assert (result.code, result.out.strip()) == (0, "one two")
    assert "--max-tokens" in result.err


@pytest.mark.parametrize("obstacle", Obstacle)
def test_who_is_told_to_start_a_gateway(obstacle: Obstacle) -> None:
    hint = explain(CannotConnect("ws://h", "some reason", obstacle)).hint
    nobody_there = {Obstacle.REFUSED, Obstacle.NAME, Obstacle.TIMEOUT, Obstacle.NETWORK}
    assert hint == ("start one with `answerback serve`, or check --url" if obstacle in nobody_there else "")
    assert not explain(CannotConnect("ws://h", "some reason; do this", obstacle)).hint


def test_nobody_listens(run: Run) -> None:
    result = run("ask", "hello", "--url", "ws://127.0.0.1:9")
    assert (result.code, result.out) == (3, "")
    assert "answerback serve" in result.err


@pytest.mark.parametrize("arguments", [(), ("",), ("x", "--timeout", "soon"), ("x", "--url", "http://127.0.0.1:1")])
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    result = run("ask", *arguments)
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1


def test_a_model_that_fails(serve: Serve, run: Run) -> None:
    result = run("ask", "one two", "--url", serve("--model", "echo:fail=midstream").url)
    assert (result.code, result.out) == (1, "")
    assert "model_failed" in result.err


def test_failures_as_json_keep_what_there_was(serve: Serve, run: Run) -> None:
    result = run("ask", "one two", "--json", "--url", serve("--model", "echo:fail=midstream").url)
    failed = json.loads(result.out)
    assert result.code == 1
    assert failed["error"]["code"] == "model_failed"
    assert failed["response"] == "one "


def test_the_time_is_up(serve: Serve, run: Run) -> None:
    result = run("ask", "one two", "--timeout", "300ms", "--url", serve("--model", "echo:fail=hang").url)
    assert (result.code, result.out) == (4, "")
    assert "Request timeout" in result.err


def test_the_limit_is_used_up(serve: Serve, run: Run) -> None:
    url = serve("--rate-limit", "1").url
    run("ask", "first", "--url", url)
    limited = [run("ask", "again", "--url", url) for _ in range(2)]  # the minute may end between the first two
    assert 5 in {result.code for result in limited}
    assert any("try again in" in result.err for result in limited)


def test_a_token_is_needed(serve: Serve, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "a secret of thirty-two characters"
    monkeypatch.setenv("ANSWERBACK_AUTH_SECRET", secret)
    token = run("token", "--user", "alice").out.strip()
    url = serve("--auth-secret", secret).url
    refused = run("ask", "hello", "--url", url)
    assert refused.code == 1
    assert "token" in refused.err
    assert run("ask", "hello", "--url", url, "--token", token).out == "hello\n"


def test_several_at_once_each_get_their_own(echo_url: str) -> None:
    questions = [f"question {number}" for number in range(6)]

    def ask(question: str) -> str:
        return str(forked.run(["ask", question, "--url", echo_url], text=True).stdout)

    with ThreadPoolExecutor(len(questions)) as pool:
        assert list(pool.map(ask, questions)) == [f"{question}\n" for question in questions]


def test_on_a_terminal_the_answer_grows_and_control_c_stops_it_at_the_gateway(serve: Serve, run: Run) -> None:
    url = serve("--model", "echo:delay_ms=100").url
    ours, theirs = pty.openpty()
    asked = ["ask", "tick " * 1000, "--conversation", "clock", "--url", url]
    process = forked.Command(asked, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    watchdog = threading.Timer(STOP_TIMEOUT_S, process.kill)
    watchdog.start()
    shown = b""
    while shown.count(b"tick") < 3:
        shown += os.read(ours, 1024)
    process.send_signal(signal.SIGINT)
    assert process.wait(STOP_TIMEOUT_S) == 130
    watchdog.cancel()
    os.close(ours)
    # The next question of the conversation would wait 100 s behind a running one.
    after = run("ask", "after", "--conversation", "clock", "--url", url, "--json")
    assert json.loads(after.out)["timing"]["queuedMs"] < 30_000


def test_an_answer_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\u202ec\r\n\td") == "a\ufffd]0;title\ufffdb\ufffdc\ufffd\n\td"
