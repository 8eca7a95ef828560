"""Traces from the package itself, in an interpreter that sees nothing else: what X-Ray's daemon is sent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from answerback_aws.deploy.package import Target, build_package, unpack

CHILD = """
import json, logging, os, socket, sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
daemon = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
daemon.bind(("127.0.0.1", 0))
daemon.settimeout(30)
os.environ["AWS_XRAY_DAEMON_ADDRESS"] = f"127.0.0.1:{daemon.getsockname()[1]}"
os.environ["LAMBDA_TASK_ROOT"] = sys.argv[1]

from answerback_aws.runtime.telemetry import Observing


class Context:
    aws_request_id = "invocation"

    def get_remaining_time_in_millis(self):
        return 1_000


observing = Observing(function="worker", environment={}, stream=open(os.devnull, "w"))
for sampled in ("0", "1"):
    root = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8"
    os.environ["_X_AMZN_TRACE_ID"] = f"{root};Sampled={sampled}"
    with observing.invocation(Context(), connectionId="c-1") as counts:
        counts.note(requestId="r-1", userId="kim", attempt=2)
    if sampled == "0":
        assert "aws_xray_sdk" not in sys.modules
print(daemon.recv(65_536).decode().splitlines()[-1])
daemon.setblocking(False)
try:
    raise SystemExit(f"more: {daemon.recv(65_536)!r}")
except BlockingIOError:
    pass
"""


@pytest.mark.timeout(180)
def test_a_sampled_invocation_is_a_subsegment_with_what_is_known(tmp_path: Path) -> None:
    cache = Path(__file__).resolve().parents[2] / ".cache" / "wheels"
    task, runtime = unpack(build_package(Target.here(), cache=cache).data, tmp_path)
    command = [sys.executable, "-I", "-S", "-B", "-c", CHILD, str(task), str(runtime)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    subsegment = json.loads(done.stdout)
    assert subsegment["name"] == "## worker"
    assert subsegment["trace_id"] == "1-5759e988-bd862e3fe1be46a994272793"
    assert subsegment["parent_id"] == "53995c3f42cd8ad8"
    assert subsegment["annotations"] == {"connectionId": "c-1", "requestId": "r-1", "userId": "kim", "attempt": "2"}
