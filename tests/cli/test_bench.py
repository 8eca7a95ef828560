"""`answerback bench` as a command; what it measures is tested with the load tool."""

import json
import os

import pytest

from cli_process import Run, Serve

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

SMALL = ("--apps", "3", "--requests", "4", "--words", "5")


def test_a_gateway_of_its_own(run: Run) -> None:
    result = run("bench", *SMALL, "--json")
    report = json.loads(result.out)
    assert result.code == 0, result.err
    assert (report["requests"], report["misrouted"], report["lost"], report["repeated"]) == (12, 0, 0, 0)
    assert report["latency"]["p50"] > 0
    assert report["frames"] == 2 * 12  # messageAccepted and messageResponse


def test_streamed_in_words(run: Run) -> None:
    result = run("bench", *SMALL, "--stream", "--delay-ms", "2", "--coalesce-ms", "0")
    assert result.code == 0, result.err
    assert "0 misrouted, 0 lost, 0 repeated" in result.out
    assert "first words" in result.out


def test_a_running_gateway_twice(serve: Serve, run: Run) -> None:
    gateway = serve("--rate-limit", "0")
    flags = (*SMALL, "--url", gateway.url, "--pid", str(gateway.process.pid), "--rate", "200", "--json")
    first, second = run("bench", *flags), run("bench", *flags)
    assert (first.code, second.code) == (0, 0)
    # Answers of the first run are not served again: each question is accepted again.
    assert json.loads(second.out)["frames"] == json.loads(first.out)["frames"] == 2 * 12


def test_a_rate_limit_is_a_failure(serve: Serve, run: Run) -> None:
    result = run("bench", *SMALL, "--url", serve("--rate-limit", "1").url)
    assert result.code == 1
    assert "rate_limited" in result.out


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--pid", str(os.getpid())), 2),
        (("--url", "ws://127.0.0.1:9", "--delay-ms", "5"), 2),
        (("--url", "ws://127.0.0.1:9", "--idle", "5"), 2),
        (("--url", "ws://127.0.0.1:9"), 3),
    ],
)
def test_what_cannot_be_measured(run: Run, flags: tuple[str, ...], code: int) -> None:
    result = run("bench", *flags)
    assert (result.code, result.out) == (code, "")
    assert len(result.err.splitlines()) == 1


def test_idle_connections(run: Run) -> None:
    result = run("bench", "--idle", "50")
    assert result.code == 0, result.err
    assert "a connection" in result.out
