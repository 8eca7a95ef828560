"""`answerback chat --watch` against a real gateway process, in a pipe and on a terminal, while another device asks."""

import io
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

import forked
from answerback.cli.options import ClientOptions
from answerback.cli.talk import Interruptions
from answerback.cli.watch import follow
from answerback.client import BlockingClient, RequestCancelled
from chat_terminal import Screen, terminal
from cli_process import STOP_TIMEOUT_S, GatewayProcess, Run, Serve, start_gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

KOREAN = "봄에 어디로 갈까요? 😀"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("watch")
    models = ("--model", "echo", "--model", "slow=echo:delay_ms=100", "--model", "broken=echo:fail=midstream")
    parts = ("--model", "parts=echo:parts=1")
    started = start_gateway(*models, *parts, "--rate-limit", "0", data_dir=folder / "data", log=folder / "log")
    yield started
    started.stop(signal.SIGKILL)
    assert started.process.stdout is not None
    started.process.stdout.close()


def watching(url: str, *arguments: str, user: str) -> "subprocess.Popen[str]":
    """The command in a pipe, when it watches."""
    command = ["chat", "--watch", "--url", url, "--user", user, *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process: subprocess.Popen[str] = forked.Command(command, text=True, encoding="utf-8", **streams)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("(watching ")
    return process


def ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Ctrl+C; what it had printed."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=STOP_TIMEOUT_S)
    assert process.returncode == 0
    return out, err


def lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_a_pipe_gets_what_another_device_asks_and_is_answered(gateway: GatewayProcess) -> None:
    with BlockingClient(gateway.url, user="pipe") as desktop:
        desktop.ask("before", conversation="trip")
        process = watching(gateway.url, "--show", "reasoning", user="pipe")
        desktop.ask(KOREAN, conversation="trip")
        desktop.ask("elsewhere", conversation="other")
        with pytest.raises(Exception, match="model"):
            desktop.ask("fails", conversation="trip", model="broken")
        said = desktop.stream("one", conversation="trip", model="parts", parts=["reasoning", "tool"]).answer
        first, second, *others = lines(process, 6)
        assert (first, second) == (f"> {KOREAN}", KOREAN)
        # An answer that is not streamed and fails is read in the history, perhaps after the next one.
        assert others in (["> fails", "fails", "> one", "one"], ["> one", "one", "> fails", "fails"])
        out, err = ended(process)
    assert out == ""
    failure, thoughts = sorted(err.splitlines())
    assert failure.startswith("(")
    assert "model" in failure
    assert thoughts == f"reasoning: {said.parts[0].text}"


def test_an_answer_grows_on_a_terminal_and_control_c_stops_it(gateway: GatewayProcess) -> None:
    with BlockingClient(gateway.url, user="tty") as desktop:
        desktop.ask("before", conversation="trip")
        with terminal(gateway.url, "--watch", "--conversation", "trip", "--user", "tty") as chat:
            shown = chat.until("watching trip")
            assert "> before" in shown
            stream = desktop.stream(f"{KOREAN} " + "tick " * 100, conversation="trip", model="slow")
            chat.until(r"\n봄에 어디로 갈까요\? 😀 (tick ){3}")
            chat.type("\x03")
            with pytest.raises(RequestCancelled):
                _ = stream.answer
            chat.until("stopped")
            desktop.ask("after", conversation="trip")
            chat.until(r"> after\r\nafter\r\n")
            chat.type("\x03")
            assert chat.process.wait(STOP_TIMEOUT_S) == 0


def test_control_c_while_something_is_shown_loses_nothing_of_it(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, notes = Screen("tick tick", "> after\nafter\n"), io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", notes)
    with BlockingClient(gateway.url, user="shown") as desktop:

        def ask() -> None:
            while "watching" not in notes.getvalue():
                time.sleep(0.01)
            with pytest.raises(RequestCancelled):
                _ = desktop.stream("tick " * 100, conversation="trip", model="slow").answer
            desktop.ask("after", conversation="trip")

        asking = threading.Thread(target=ask)
        asking.start()
        options = ClientOptions(url=gateway.url, token=None, user="shown", session=None)
        assert follow(options, "trip", kinds=()) == 0
        asking.join()
    assert "stopping" in notes.getvalue()
    assert "(stopped)" in notes.getvalue()
    assert screen.getvalue().endswith("> after\nafter\n\n")


def test_control_c_acts_between_steps_or_after_one_and_twice_in_one_is_raised() -> None:
    acted: list[None] = []

    def control_c(times: int = 1) -> None:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)

    with Interruptions(lambda: acted.append(None)) as interruptions:
        control_c()
        assert len(acted) == 1
        with interruptions.step():
            control_c()
            assert len(acted) == 1
        assert len(acted) == 2
        with interruptions.step():
            pass
        assert len(acted) == 2
        with pytest.raises(KeyboardInterrupt), interruptions.step():
            control_c(2)
        control_c()
        assert len(acted) == 3
    with pytest.raises(KeyboardInterrupt):
        control_c()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruptions(lambda: acted.append(None)):
            control_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(acted) == 3


def test_control_c_twice_leaves_although_the_gateway_says_nothing(serve: Serve) -> None:
    gateway = serve("--model", "echo:fail=hang")
    with terminal(gateway.url, "--watch", "-c", "trip", "--user", "tty") as chat:
        chat.until("watching trip")
        with BlockingClient(gateway.url, user="tty") as desktop:
            desktop.stream("never ends", conversation="trip")
            chat.until("> never ends")
        gateway.process.send_signal(signal.SIGSTOP)
        chat.type("\x03")
        chat.until("again leaves")
        chat.type("\x03")
        assert chat.process.wait(STOP_TIMEOUT_S) == 0


def test_what_cannot_be_watched(gateway: GatewayProcess, serve: Serve, run: Run) -> None:
    nothing = run("chat", "--watch", "--url", gateway.url, "--user", "nobody")
    assert (nothing.code, nothing.out) == (1, "")
    assert "no conversation yet" in nothing.err
    asks = run("chat", "--watch", "--url", gateway.url, "--user", "nobody", "--model", "echo")
    assert asks.code == 2
    old = serve("--model", "echo", "--max-watchers", "0").url
    refused = run("chat", "--watch", "-c", "t", "--url", old, "--user", "kim")
    assert (refused.code, refused.out) == (1, "")
    assert "does not show answers to other devices" in refused.err


def test_one_device_too_many_is_told(serve: Serve) -> None:
    url = serve("--model", "echo", "--max-watchers", "1").url
    with BlockingClient(url, user="kim") as desktop, desktop.watch("t"):
        process = watching(url, "-c", "t", user="kim")
        assert process.stderr is not None
        assert "too many devices" in process.stderr.readline()
        assert ended(process) == ("", "")
