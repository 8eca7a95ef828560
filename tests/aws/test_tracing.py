"""Traces from the package itself, in an interpreter that sees nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from answerback_aws.deploy.package import Target, build_package, unpack
from collector import Collector

CHILD = """
import os, sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
from answerback_aws.runtime.composition import Composition
from answerback.core.request import Record


class Context:
    aws_request_id = "invocation"

    def get_remaining_time_in_millis(self):
        return 1_000


plain = Composition("front", {}, stream=open(os.devnull, "w"))
assert plain.traces is None and plain.observer is plain.observing.counts
assert "opentelemetry" not in sys.modules
from answerback_aws.runtime import span_exporter

span_exporter.endpoint_in = lambda _: sys.argv[3]
composition = Composition("front", {"ANSWERBACK_TRACE_RATIO": "1"}, stream=open(os.devnull, "w"))
with composition.observing.invocation(Context()):
    composition.observer.accepted(
        Record(
            user_id="kim", request_id="r-1", session_id="s", conversation_id="c", ordering_key="k", fingerprint="f",
            model="echo", accepted_at_ms=1_731_324_930_000,
        )
    )
"""


@pytest.mark.timeout(180)
def test_an_invocation_exports_its_spans_before_it_ends(tmp_path: Path) -> None:
    cache = Path(__file__).resolve().parents[2] / ".cache" / "wheels"
    task, runtime = unpack(build_package(Target.here(), cache=cache).data, tmp_path)
    named = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "eu-central-1"}
    with Collector() as collector:
        command = [sys.executable, "-I", "-S", "-B", "-c", CHILD, task, runtime, f"{collector.url}/v1/traces"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **named}
        )
    assert done.returncode == 0, done.stderr
    assert [span.name for span in collector.spans] == ["accept"]
