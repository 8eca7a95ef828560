"""What a terminal, a pipe or nothing at all does to the commands: closed and full streams, escapes, other encodings."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

import forked
from answerback import __version__
from answerback.cli.reading import text_file
from cli_process import STOP_TIMEOUT_S, Run, start_gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

COMMAND = [sys.executable, "-m", "answerback"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("terminal")
    gateway = start_gateway("--rate-limit", "0", data_dir=folder / "data", log=folder / "log")
    yield gateway.url
    gateway.process.kill()
    gateway.process.wait(STOP_TIMEOUT_S)
    assert gateway.process.stdout is not None
    gateway.process.stdout.close()


def ran(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return forked.run(arguments, timeout=STOP_TIMEOUT_S, **options)


def in_an_interpreter(*arguments: bytes | str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A new one, which reads the environment as it starts."""
    env = {**os.environ, **environment}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=STOP_TIMEOUT_S, check=False, env=env)


# --- streams that are closed or full


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    line = line.replace("answerback", f"{sys.executable} -m answerback", 1)
    return subprocess.run(["sh", "-c", line], capture_output=True, timeout=STOP_TIMEOUT_S, check=False)


def with_streams(line: str, streams: str) -> subprocess.CompletedProcess[bytes]:
    """A command with standard streams as the shell writes them."""
    full = {
        name: "/dev/full" for name, sign in (("stdout", ">/dev/full"), ("stderr", "2>/dev/full")) if sign == streams
    }
    closed = [number for number, sign in enumerate(("<&-", ">&-", "2>&-")) if sign in streams.split()]
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open(path, "wb")) for name, path in full.items()}
        return ran(*line.split(), closed=closed, stdin=subprocess.DEVNULL, **opened)


COMMANDS = ["--help", "ask hi --url URL", "ask hi --json --url URL", "ask - --url URL", "chat --url URL",
            "serve --show-config", "doctor --url URL", "users list --data-dir /nowhere"]  # fmt: skip
STREAMS = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"]


def assert_no_defect(done: subprocess.CompletedProcess[bytes], stream: str, *, has_result: bool) -> None:
    said = (done.stderr or b"").decode()
    assert "should not" not in said, said
    assert "Traceback" not in said, said
    assert done.returncode in {0, 1, 2, 3}, said
    if stream == ">/dev/full" and has_result:
        assert (done.returncode, said.count("\n")) == (1, 1), said
        assert "the output cannot be written: No space left on device" in said


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("line", COMMANDS)
def test_a_stream_that_is_closed_or_full_is_no_defect(url: str, line: str, stream: str) -> None:
    has_result = not re.search("/nowhere| - |chat", line)
    assert_no_defect(with_streams(line.replace("URL", url), stream), stream, has_result=has_result)


@pytest.mark.parametrize("stream", STREAMS)
def test_the_same_holds_from_the_start_of_the_interpreter(url: str, stream: str) -> None:
    feed = "" if "<" in stream else "</dev/null"
    assert_no_defect(shell(f"answerback ask hi --url {url} {feed} {stream}"), stream, has_result=True)


def test_an_answer_that_has_no_place_to_go_is_not_asked_for(url: str) -> None:
    done = with_streams(f"ask hi --user nowhere --url {url}", ">&-")
    assert done.returncode == 1
    assert b"the output cannot be written: Bad file descriptor" in done.stderr


@pytest.mark.parametrize("stream", [">&-", ">/dev/full", "<&- >&- 2>&-"])
def test_a_gateway_runs_without_stdout(tmp_path: Path, stream: str, unused_tcp_port: int) -> None:
    command = f"{sys.executable} -m answerback serve --model echo --port {unused_tcp_port} --admin-port off"
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command} --data-dir {tmp_path} {stream}"], stderr=subprocess.DEVNULL
    )
    try:
        asked = ["ask", "hello", "--url", f"ws://127.0.0.1:{unused_tcp_port}"]
        while (done := ran(*asked, stdin=subprocess.DEVNULL)).returncode == 3:
            assert process.poll() is None
        assert done.stdout == b"hello\n"
    finally:
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0


# --- escapes of a hostile server

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\x85"
MARKED = ("\x1b", "\x07", "\x9b", "\u202e", "\x85")


def hostile(text: str) -> dict[str, Any]:
    """Frames by the action that they answer, with escapes in every member that takes any text."""
    usage = {"inputTokens": 1, "outputTokens": 1}
    turn = {"requestId": "t", "question": text, "answer": text, "status": "completed", "askedAt": text}
    turn |= {"answeredAt": text, "model": text}
    row = {"conversationId": "c\u202e", "title": text, "turns": 1, "createdAt": text, "updatedAt": text}
    return {
        "listConversations": {"action": "conversations", "conversations": [row]},
        "getHistory": {"action": "history", "conversationId": "c", "turns": [turn]},
        "failed": {
            "action": "messageResponse", "status": "failed", "attempt": 1, "length": 0, "response": None,
            "error": {"code": "model_failed", "message": text, "retryable": True},
        },
        "completed": {
            "action": "messageResponse", "status": "completed", "attempt": 1, "length": len(text), "response": text,
            "finishReason": "length", "model": "m", "usage": usage, "conversationId": "c",
        },
        "error": {"action": "error", "code": "forbidden", "message": text},
    }  # fmt: skip


@contextmanager
def hostile_server(ending: str) -> Iterator[str]:
    """A server that answers questions in this way; its URL."""
    frames = hostile(ESCAPES)
    limits = dict.fromkeys(
        ("maxMessageBytes", "maxFrameBytes", "maxAnswerBytes", "requestsPerMinute", "maxPending", "maxTokens"), 100_000
    ) | dict.fromkeys(("idleTimeoutMs", "answerTimeoutMs", "queueTimeoutMs"), 100_000)

    async def handle(socket: ServerConnection) -> None:
        async for message in socket:
            frame = json.loads(message)
            if frame["action"] == "hello":
                names = {"connectionId": ESCAPES, "sessionId": ESCAPES, "userId": ESCAPES, "protocol": 1}
                models = ["echo", f"evil{ESCAPES}"]
                welcome = {
                    "action": "welcome",
                    "helloId": frame["helloId"],
                    "limits": limits,
                    "models": models,
                    "modelInfo": {"echo": {"languages": ["en"], "demo": True}},
                    "server": {"version": ESCAPES, "leastClient": f"999.1{ESCAPES}"},
                    **names,
                }
                await socket.send(json.dumps(welcome))
            else:
                reply = frames[ending] if frame["action"] == "sendMessage" else frames.get(frame["action"])
                if reply is not None:
                    await socket.send(json.dumps({**reply, "requestId": frame["requestId"]}))

    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    found: list[str] = []

    async def run() -> None:
        async with serve_websocket(handle, "127.0.0.1", 0) as server:
            found.append(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    ready.wait()
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def on_terminal(*arguments: str, typed: str = "") -> str:
    """All that a command shows on a terminal, stderr as well."""
    ours, theirs = pty.openpty()
    with forked.Command(arguments, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        process.wait(STOP_TIMEOUT_S)
    os.close(ours)
    return shown.decode("utf-8", "replace")


@pytest.mark.parametrize("ending", ["failed", "completed", "error"])
def test_nothing_of_a_server_steers_the_terminal(ending: str) -> None:
    with hostile_server(ending) as url:
        for arguments, typed in (
            (("ask", "hi"), ""),
            (("ask", "hi", "--json"), ""),
            (("chat",), "hi\n/list\n/open 1\n/history\n/model\n/model x\n/retry\n/quit\n"),
            (("doctor",), ""),
        ):
            shown = on_terminal(*arguments, "--url", url, typed=typed)
            ours = shown.replace("\x1b[?2004h", "").replace("\x1b[?2004l", "").replace("\x1b[K", "")
            assert "gnp.exe" in ours or arguments[0] == "doctor", ours
            for mark in MARKED:
                if arguments[0] == "doctor" and mark == "\x1b":
                    continue  # colours of its own
                assert mark not in ours.replace("\x1b[A", ""), (arguments, ours)
            piped = ran(*arguments, "--url", url, input=typed.encode())
            is_exact = ending == "completed" and arguments in {("ask", "hi"), ("chat",)}  # an answer in a pipe
            assert is_exact or not any(mark.encode() in piped.stdout + piped.stderr for mark in MARKED), piped


def test_an_answer_in_a_pipe_is_exact_and_json_is_the_same_text() -> None:
    with hostile_server("completed") as url:
        assert ran("ask", "hi", "--url", url).stdout.decode() == ESCAPES + "\n"
        assert json.loads(ran("ask", "hi", "--json", "--url", url).stdout)["response"] == ESCAPES


# --- text in another encoding

KOREAN = "안녕하세요, 한글입니다"


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (KOREAN.encode(), ()),
        (b"\xef\xbb\xbf" + KOREAN.encode(), ()),
        (KOREAN.encode("utf-16"), ()),
        (b"\xfe\xff" + KOREAN.encode("utf-16-be"), ()),
        (KOREAN.encode("utf-32"), ()),
        (KOREAN.encode("cp949"), ("--encoding", "cp949")),
        (KOREAN.encode("utf-16-le"), ("--encoding", "utf-16-le")),
    ],
)
def test_text_of_a_known_encoding_is_read(url: str, data: bytes, options: tuple[str, ...]) -> None:
    for arguments in (("ask", "-"), ("ask",), ("chat",)):
        done = ran(*arguments, *options, "--url", url, input=data)
        assert (done.returncode, done.stdout.decode()) == (0, KOREAN + "\n"), done.stderr
    argument = data.rstrip(b"\0")
    if b"\0" not in argument:
        assert ran("ask", argument, *options, "--url", url).stdout.decode() == KOREAN + "\n"


@pytest.mark.parametrize(
    ("data", "guess"),
    [
        (KOREAN.encode("cp949"), "cp949"),
        ("日本語のテキストです".encode("cp932"), "cp932"),
        ("こんにちは".encode("cp932"), "cp932"),  # in cp949 it would be rare syllables
        ("Grüße aus Köln".encode("cp1252"), "cp1252"),
        (KOREAN.encode("utf-16-le"), "utf-16le"),
        ("plain".encode("utf-16-be"), "utf-16be"),
        (b"\xff\xff\xff", None),
        (KOREAN.encode()[:-1], None),
    ],
)
def test_text_of_an_unknown_encoding_is_refused_and_nothing_is_asked(url: str, data: bytes, guess: str | None) -> None:
    for arguments in (("ask", "-"), ("ask",), ("chat",)):
        done = ran(*arguments, "--url", url, input=data)
        assert (done.returncode, done.stdout) == (2, b""), (arguments, done)
        assert b"stdin is not text in UTF-8" in done.stderr
        if guess:
            assert f"(it looks like {guess})".encode() in done.stderr
            assert f"--encoding {guess}".encode() in done.stderr
    if b"\0" not in data:
        for arguments in ((data,), (b"hi", b"--system", data), (b"hi", b"--user", data), (b"hi", b"--model", data)):
            done = ran("ask", *arguments, "--url", url, stdin=subprocess.DEVNULL)
            assert (done.returncode, done.stdout) == (2, b""), (arguments, done)
            assert b"is not text in UTF-8" in done.stderr


def test_an_argument_of_another_encoding_is_told_by_every_command(url: str, tmp_path: Path) -> None:
    foreign = KOREAN.encode("cp949")
    options = ("--data-dir", str(tmp_path), "--port", "0", "--admin-port", "off")
    for arguments in (
        ("ask", "hi", "--url", url, "--conversation", foreign),
        ("serve", *options, "--system", foreign),
        ("serve", *options, "--model", foreign),
        ("users", "show", foreign, "--data-dir", str(tmp_path)),
        ("users", "delete", foreign, "--yes", "--data-dir", str(tmp_path)),
    ):
        if "users" in arguments:
            (tmp_path / "answerback.db").touch()
        done = ran(*arguments, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stdout) == (2, b""), (arguments, done)
        assert b"is not text in UTF-8 (it looks like cp949)" in done.stderr


def test_a_text_file_is_sent_in_utf_8_or_refused(url: str, tmp_path: Path) -> None:
    file = tmp_path / "메모.txt"
    for encoding, named in (("utf-16", None), ("utf-8", None), ("cp949", "cp949")):
        file.write_bytes(data := KOREAN.encode(encoding))
        options = ("--encoding", named) if named else ()
        assert ran("ask", "hi", "--url", url, "--attach", str(file), *options).stdout == b"hi\n"
        assert text_file(data, "it", encoding=named).decode() == KOREAN
    file.write_bytes(KOREAN.encode("cp949"))
    done = ran("ask", "hi", "--url", url, "--attach", str(file))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"is not text in UTF-8 (it looks like cp949)" in done.stderr


def test_a_locale_without_utf_8_spoils_no_argument(url: str) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    done = in_an_interpreter("ask", KOREAN.encode(), "--url", url, **ascii_only)
    assert done.stdout.decode() == KOREAN + "\n", done.stderr


def test_files_of_powershell_are_read(run: Run, tmp_path: Path) -> None:
    """`>` of Windows PowerShell writes UTF-16 with a byte order mark."""
    file = tmp_path / "answerback.toml"
    for encoding in ("utf-16", "utf-8-sig"):
        file.write_text("max_tokens = 77\n", encoding=encoding)
        assert "max_tokens = 77" in run("serve", "--show-config", "--config", str(file)).out
    file.write_bytes('system = "한글입니다"\n'.encode("cp949"))
    refused = run("serve", "--show-config", "--config", str(file))
    assert refused.code == 2
    assert "is not text in UTF-8 (it looks like cp949) — save it as UTF-8" in refused.err


def test_no_such_encoding(run: Run) -> None:
    assert "there is no encoding 'klingon'" in run("ask", "é", "--encoding", "klingon").err


# --- what is asked, and how it is spoken of


def test_who_asks_in_a_language_that_the_model_does_not_know_is_told_at_once() -> None:
    said = "(echo는 영어만 알아요. 한국어로 답하는 모델을 쓰려면: answerback serve --model openai:BASE_URL#MODEL)\n"
    with hostile_server("failed") as url:
        assert said in ran("ask", "안녕?", "--url", url).stderr.decode()  # in Korean, whatever the locale
        assert "영어만" not in ran("ask", "hello?", "--url", url).stderr.decode()
        chat = ran("chat", "--url", url, input="안녕?\n뭐 해?\nhello\n".encode()).stderr.decode()
        assert chat.count(said) == 1
        assert "(echo knows English only; another:" in ran("ask", "こんにちは", "--url", url).stderr.decode()


def test_who_has_a_lower_version_than_the_gateway_wants_is_told() -> None:
    korean = {**os.environ, "LC_ALL": "ko_KR.UTF-8"}
    with hostile_server("completed") as url:
        asked = ran("ask", "hello", "--url", url).stderr.decode()
        assert asked.startswith("answerback: this gateway wants version 999.1")
        assert asked.splitlines()[0].endswith(f"or a later one, this is {__version__}; update it")
        assert "answerback 999.1" in ran("ask", "hello", "--url", url, env=korean).stderr.decode()
        chat = ran("chat", "--url", url, input=b"hello\nhello\n").stderr.decode()
        assert chat.count("(this gateway wants version 999.1") == 1


def test_a_question_that_begins_with_a_dash_gets_the_hint(run: Run, url: str) -> None:
    assert "put --, as in: answerback ask -- -1 or 1?" in run("ask", "-1 or 1?").err
    assert run("ask", "--url", url, "--", "-1 or 1?").out == "-1 or 1?\n"


def test_an_empty_stdin_is_not_told_to_be_read(url: str) -> None:
    done = ran("ask", "-", "--url", url, input=b"")
    assert (done.returncode, done.stderr) == (2, b"answerback: there is no question: stdin is empty\n")


@pytest.mark.parametrize(
    "arguments",
    [("hi", "--timeout", "soon"), ("hi", "--no-such-flag"), ("hi", "--max-tokens", "x"), ("hi", "--url", "x:y")],
)
def test_json_says_what_is_wrong_with_the_usage(run: Run, arguments: tuple[str, ...]) -> None:
    done = run("ask", "--json", *arguments)
    assert done.code == 2
    assert json.loads(done.out)["error"]["code"] == "usage"
    assert run("ask", *arguments, "--", "--json").out == "", "that is a question"


def test_korean_where_the_locale_is_korean(url: str) -> None:
    korean = {**os.environ, "LC_ALL": "ko_KR.UTF-8"}
    refused = ran("ask", "hi", "--url", "ws://127.0.0.1:1", env=korean)
    assert "연결할 수 없어요" in refused.stderr.decode()
    as_json = ran("ask", "hi", "--json", "--url", "ws://127.0.0.1:1", env=korean)
    assert "nothing listens there" in json.loads(as_json.stdout)["error"]["message"]
    assert ran("--help", env=korean).stdout == ran("--help").stdout
    chat = ran("chat", "--url", url, input=b"/nothing\n/history\n", env=korean)
    assert chat.stderr.decode() == "(/nothing 명령이 없어요. /help를 보세요)\n(아직 나눈 대화가 없어요)\n"
