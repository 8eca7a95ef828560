"""Figures: percentiles, reports, and what /proc says."""

import os

import pytest

from answerback.protocol.frames import MessageResponse, Status
from answerback_proof.load.figures import distribution, report_of
from answerback_proof.load.load import Plan, Run
from answerback_proof.load.process import Usage, usage_of
from answerback_proof.workload import question


def test_percentiles_are_values_that_occurred() -> None:
    found = distribution(number / 1000 for number in range(1, 1001))
    assert found is not None
    assert (found.p50, found.p90, found.p99, found.p999, found.max) == (500, 900, 990, 999, 1000)
    one = distribution([0.002])
    assert one is not None
    assert (one.p50, one.max) == (2, 2)
    assert distribution([]) is None


def run_of_one(*, text: str) -> Run:
    run = Run(Plan(url="ws://127.0.0.1", apps=1, requests=1))
    run.seconds, run.client_cpu_s, exchanges = 2.0, 0.5, run.exchanges
    exchanges.asked(0, "r", expected="hello", due_at=1.0)
    ending = MessageResponse(request_id="r", status=Status.COMPLETED, response=text, attempt=1, length=len(text))
    exchanges.received(0, ending, now=1.25)
    exchanges.close()
    return run


def test_a_report() -> None:
    run = run_of_one(text="hello")
    report = report_of(run, before=Usage(cpu_s=1.0, rss_bytes=10), after=Usage(cpu_s=1.001, rss_bytes=20))
    assert report.is_clean
    assert report.cpu_us_per_request == pytest.approx(1000)
    json = report.as_json()
    assert json["latency"]["p50"] == 250
    assert json["requestsPerS"] == 0.5
    assert json["clientCpuShare"] == 0.25
    assert ("checked", "0 misrouted, 0 lost, 0 repeated") in report.rows()


def test_a_wrong_text_makes_a_report_unclean() -> None:
    run = run_of_one(text="hell")
    report = report_of(run)
    assert not report.is_clean
    assert report.cpu_us_per_request is None
    assert any(name == "example" for name, _ in report.rows())


def test_questions_are_all_different_and_as_long_as_asked() -> None:
    texts = {question(f"{app}.{number}", 3) for app in range(20) for number in range(20)}
    assert len(texts) == 400
    assert all(len(text.split()) == 3 for text in texts)
    assert len(question("1.1", 2, min_bytes=500)) == 500


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_usage_of_a_process() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    assert usage.cpu_s > 0
    assert usage.rss_bytes > 1_000_000
    assert usage_of(2**22 + 1) is None
