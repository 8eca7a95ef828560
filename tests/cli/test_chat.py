"""`answerback chat` against a real gateway process, in a pipe and on a terminal."""

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import forked
from answerback.cli.chat import run_chat
from answerback.cli.options import ClientOptions, PromptOptions
from chat_terminal import Screen, terminal
from cli_process import STOP_TIMEOUT_S, Result, Serve, start_gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("chat")
    models = ("--model", "echo", "--model", "context=echo:context=1", "--model", "slow=echo:delay_ms=100")
    gateway = start_gateway(*models, "--rate-limit", "0", data_dir=folder / "data", log=folder / "log")
    yield gateway.url
    gateway.stop(signal.SIGKILL)
    assert gateway.process.stdout is not None
    gateway.process.stdout.close()


def chat(url: str, *lines: str, arguments: tuple[str, ...] = (), user: str, cwd: Path | None = None) -> Result:
    typed = "".join(line + "\n" for line in lines)
    command = ["chat", "--url", url, "--user", user, *arguments]
    done = forked.run(command, input=typed, text=True, timeout=STOP_TIMEOUT_S, cwd=cwd)
    return Result(done.returncode, done.stdout, done.stderr)


def test_lines_in_answers_out(url: str) -> None:
    result = chat(url, "hello", "", "안녕하세요 👋", user="lines")
    assert (result.code, result.out, result.err) == (0, "hello\n안녕하세요 👋\n", "")


def test_it_remembers_within_a_conversation_and_forgets_in_a_new_one(url: str) -> None:
    result = chat(url, "first", "second", "/new", "third", arguments=("--model", "context"), user="memory")
    assert result.out.splitlines() == [
        "user: first",
        "user: first",
        "assistant: user: first",
        "user: second",
        "user: third",
    ]


def test_a_conversation_goes_on_at_the_next_start(url: str) -> None:
    chat(url, "first", arguments=("--conversation", "trip"), user="again")
    by_id = chat(url, "second", arguments=("--conversation", "trip", "--model", "context"), user="again")
    assert by_id.out.splitlines()[0] == "user: first"
    last = chat(url, "third", arguments=("--last", "--model", "context"), user="again")
    assert last.out.splitlines()[0] == "user: first"
    assert chat(url, "x", arguments=("--last", "--conversation", "trip"), user="again").code == 2


def test_history_and_list_and_open(url: str) -> None:
    chat(url, "one", "two", arguments=("--conversation", "numbers"), user="lists")
    result = chat(url, "else", "/list", "/open 2", "/history", "/open numbers", user="lists")
    history = ["> one", "one", "> two", "two"]
    lines = result.out.splitlines()
    assert lines[0] == "else"
    assert "else" in lines[1]
    assert lines[1].startswith("*")
    assert "numbers" in lines[2]
    assert lines[3:] == history * 3


def test_files_of_a_conversation_are_listed_and_saved(url: str, tmp_path: Path) -> None:
    note = tmp_path / "메모.txt"
    note.write_text("안녕\n" * 20_000)
    there = tmp_path / "there"
    there.mkdir()
    asked = ["ask", "?", "--attach", str(note), "--conversation", "files", "--url", url, "--user", "files"]
    assert forked.run(asked, text=True, cwd=tmp_path).returncode == 0

    def save(*lines: str, user: str = "files") -> Result:
        return chat(url, *lines, arguments=("--conversation", "files"), user=user, cwd=there)

    listed = save("/history", "/save", "/save 메모.txt", "/save 1")
    assert listed.out.splitlines()[:3] == ["> ?", "> [메모.txt]", "?"]
    assert listed.out.splitlines()[3:] == ["  1  메모.txt", "(saved as 메모.txt)", "(saved as 메모 (2).txt)"]
    assert {file.name for file in there.iterdir()} == {"메모.txt", "메모 (2).txt"}
    assert all(file.read_bytes() == note.read_bytes() for file in there.iterdir())
    for result in (save("/save 2"), save("/save x.txt"), save("/save 1", user="other")):
        assert (result.code, result.out) == (1, "")
        assert "/save lists them" in result.err
    assert "no file was sent" in save("/save", user="other").err


def test_retry_replaces_the_last_answer(url: str) -> None:
    result = chat(url, "/retry", "again", "/retry", "/history", user="retry")
    assert result.out.splitlines() == ["again", "again", "> again", "again"]
    assert "nothing was asked" in result.err


def test_model_and_system(url: str) -> None:
    result = chat(url, "/model", "/model nope", "/model context", "/system be kind", "hi", "/system off", user="model")
    assert result.out.splitlines() == [
        "echo (others: context, slow)",
        "context (others: echo, slow)",
        "be kind",
        "system: be kind",
        "user: hi",
        "(no system prompt)",
    ]
    assert "there is no model nope" in result.err


def test_help_quit_and_what_is_unknown(url: str) -> None:
    result = chat(
        url, "/help", "/nonsense", "/cancel", "/open", "/history", "/list", "/quit", "never asked", user="help"
    )
    assert result.code == 0
    assert "/retry" in result.out
    assert "never asked" not in result.out
    assert len(result.err.splitlines()) == 5


def test_a_failure_is_one_line_and_the_conversation_goes_on(serve: Serve) -> None:
    result = chat(serve("--model", "echo:fail=midstream&fail_every=2").url, "one", "two", "three", user="fail")
    assert (result.code, result.out) == (1, "one\nthree\n")
    assert len(result.err.splitlines()) == 1


def test_nobody_listens() -> None:
    result = chat("ws://127.0.0.1:9", "hello", user="nobody")
    assert (result.code, result.out) == (3, "")
    assert "answerback serve" in result.err


@pytest.mark.parametrize(
    ("question", "pressed_at", "noted"), [("tick " * 100, "tick tick", "stopped"), ("one", "one\n", "")]
)
def test_control_c_while_something_is_shown_stops_the_answer_if_it_is_not_over(
    url: str, monkeypatch: pytest.MonkeyPatch, question: str, pressed_at: str, noted: str
) -> None:
    screen, notes = Screen(pressed_at), io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{question}\nafter\n"))
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", notes)
    prompt = PromptOptions(model="slow")
    assert run_chat(ClientOptions(url=url, token=None, user="shown"), prompt, None, use_last=False) == 0
    assert noted in notes.getvalue()
    assert screen.getvalue().endswith("\nafter\n")


def test_control_c_stops_the_answer_and_twice_leaves(url: str) -> None:
    with terminal(url, "--model", "slow", "--user", "tty") as chat:
        chat.until("Connected to the model slow")
        chat.prompt()
        chat.type("tick " * 100 + "\n")
        chat.until(r"\n(tick ){3}")
        chat.type("\x03")
        chat.until("stopped")
        chat.prompt()
        chat.type("after\n")
        chat.until(r"\nafter")
        chat.prompt()
        chat.type("\x03")
        chat.until("again leaves")
        chat.prompt()
        chat.type("\x03")
        chat.until(f"To go on: answerback chat --url {url} --user tty --conversation chat-")
        assert chat.process.wait(STOP_TIMEOUT_S) == 0


def test_control_c_twice_leaves_although_the_gateway_says_nothing(serve: Serve) -> None:
    gateway = serve("--model", "echo:delay_ms=50")
    with terminal(gateway.url, "--user", "tty") as chat:
        chat.prompt()
        chat.type("tick " * 100 + "\n")
        chat.until(r"\n(tick ){3}")
        gateway.process.send_signal(signal.SIGSTOP)
        chat.type("\x03")
        chat.until("again leaves")
        chat.type("\x03")
        chat.until("To go on")
        assert chat.process.wait(STOP_TIMEOUT_S) == 0


def test_a_restart_of_the_gateway_is_two_quiet_lines(serve: Serve, tmp_path: Path) -> None:
    gateway = serve("--model", "echo:delay_ms=50", "--port", "0")
    port = gateway.url.rpartition(":")[2]
    words = [f"word{number}" for number in range(40)]
    with terminal(gateway.url, "--user", "tty") as chat:
        chat.prompt()
        chat.type(" ".join(words) + "\n")
        shown = chat.until(r"\nword0 word1 word2 ")
        gateway.process.kill()
        shown += chat.until("connection is lost")
        serve("--model", "echo:delay_ms=50", "--port", port, data_dir=gateway.data_dir)
        shown += chat.until("connected again")
        shown += chat.until("word39")
        assert "restarted the answer" not in shown
        chat.prompt()
        chat.type("\x04")
        assert chat.process.wait(STOP_TIMEOUT_S) == 0
