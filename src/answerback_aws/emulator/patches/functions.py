"""Lambda: calls through the API run beside each other, are logged and can fail; many workers read a FIFO queue.

A package is unpacked once: the processes of its functions read it from the same folder. The log of an invocation is
whole when the invocation ends, however busy the machine is.
"""

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from queue import Empty
from threading import Lock
from types import SimpleNamespace
from typing import Any, Final

from answerback_aws.emulator.patches import Moved, private, replace

BROKEN: Final[Mapping[str, Any]] = {"statusCode": 502}
"""What API Gateway makes of a function that failed, was throttled, or answered with something else than a response."""

_LAMBDA: Final = "services.lambda_svc"
_PROVISIONERS: Final = "services.cloudformation.provisioners"
_RUNTIME: Final = "core.lambda_runtime"
_CALL: Final = "handler_fn(event, context)"
_LOGGED: Final = "answerback: that was the log"
_LOGGING: Final = f"""
def _logged(handler, event, context):
    import sys
    try:
        return handler(event, context)
    finally:
        sys.stderr.write("{_LOGGED}\\n")
        sys.stderr.flush()
"""
_POLL_EVERY_S: Final = 0.05
_TIMESTAMP: Final = re.compile(r'"timestamp": ?"([-\d]+T[:.\d]+[+-][:\d]+)"')
_STAGE_URL: Final = re.compile(r"https://([a-z0-9]+)\.execute-api\.[a-z0-9-]+\.amazonaws\.com/")


class _Called:
    """Takes the place of the one worker that all calls through a WebSocket API share and wait for.

    It calls as `Invoke` does: with a worker of its own, with the log and the concurrency limits.
    """

    def __init__(self, arn: str) -> None:
        self._arn = arn

    def invoke(self, event: Any, _request_id: str) -> Any:
        done = called(self._arn, event)
        body = done.get("body")
        failed = done.get("error") or done.get("throttle") or not isinstance(body, dict) or "statusCode" not in body
        return {"status": "ok", "result": BROKEN if failed else body}


def called(arn: str, event: Any) -> Any:
    """Call a function as `Invoke` does, and wait: `body`, and `error` or `throttle` if it failed."""
    record, config, _ = private(_LAMBDA, "_get_func_record_for_ref")(arn)
    return private(_LAMBDA, "_execute_function")(
        private(_LAMBDA, "_execution_record_for_config")(record, config), event
    )


def unpacked_once(folder: Path) -> type[zipfile.ZipFile]:
    """A ZipFile whose contents are extracted into `folder`, and linked to from wherever they are wanted again.

    The emulator unpacks 700 files for each process of a function, which is more than half of a cold start.
    """
    lock = Lock()

    class Unpacked(zipfile.ZipFile):
        def extractall(self, path: Any = None, members: Any = None, pwd: bytes | None = None) -> None:
            shared = folder / f"package-{hashlib.sha256(Path(str(self.filename)).read_bytes()).hexdigest()[:16]}"
            with lock:
                if not shared.exists():
                    super().extractall(shared, members, pwd)
            Path(path).rmdir()
            Path(path).symlink_to(shared)

    return Unpacked


def logged(worker: Any) -> str:
    """What a process wrote in the invocation that has ended, or until the process did."""
    lines: list[str] = []
    while True:
        is_reading = worker._stderr_thread.is_alive()
        try:
            line = worker._stderr_queue.get(timeout=_POLL_EVERY_S)
        except Empty:
            if is_reading:
                continue
            break
        if line == _LOGGED:
            break
        lines.append(line)
    return "\n".join(lines)


def timed(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events with the time that their line names; all of one invocation come with that of its end.

    A line without a time, such as START, has that of the next line.
    """
    at_ms: int | None = None
    found = []
    for event in reversed(events):
        named = _TIMESTAMP.search(event["message"])
        if named is not None:
            at_ms = round(datetime.fromisoformat(named[1]).timestamp() * 1000)
        found.append(event if at_ms is None else {**event, "timestamp": at_ms})
    return found[::-1]


def patch(stage_url: str, folder: Path) -> None:
    """Apply. `stage_url`: where the emulator serves stages; functions get it instead of AWS's host name.

    `folder`: for the unpacked packages. Raises: Moved.
    """

    def worker(_name: str, config: Any, _code: bytes, **_qualifier: Any) -> _Called:
        return _Called(config["FunctionArn"])

    def concurrency(mapping: Any, record: Any, config: Any, _queue: Any = None) -> int:
        """FIFO queues too: the template takes one message a batch, and a message group is locked while one is out."""
        limit = (mapping.get("ScalingConfig") or {}).get("MaximumConcurrency") or default
        reserved = private(_LAMBDA, "_reserved_concurrency")(record, config)
        return min(int(limit), int(limit if reserved is None else reserved))

    def here(properties: Any) -> Any:
        variables = (properties.get("Environment") or {}).get("Variables") or {}
        environment = {name: _STAGE_URL.sub(rf"{stage_url}/\1/", str(value)) for name, value in variables.items()}
        return {**properties, "Environment": {"Variables": environment}}

    def create(logical_id: str, properties: Any, stack_name: str) -> Any:
        return create_was(logical_id, here(properties), stack_name)

    def update(physical_id: str, old: Any, new: Any, *more: Any, **named: Any) -> Any:
        return update_was(physical_id, here(old), here(new), *more, **named)

    for name in ("_get_func_record_for_ref", "_execution_record_for_config", "_execute_function"):
        private(_LAMBDA, name)
    private(_LAMBDA, "_reserved_concurrency")
    default = private(_LAMBDA, "_ESM_SQS_DEFAULT_CONCURRENCY")
    replace(_RUNTIME, "zipfile", SimpleNamespace(**{**vars(zipfile), "ZipFile": unpacked_once(folder)}))
    replace(_RUNTIME, "get_or_create_worker", worker)
    _log_to_the_end()
    replace(_LAMBDA, "_sqs_esm_concurrency", concurrency)

    def append(stream: Any, events: Any) -> Any:
        return append_was(stream, timed(events))

    append_was = replace("services.cloudwatch_logs", "_append_log_events", append)
    handlers = private(_PROVISIONERS, "_RESOURCE_HANDLERS")["AWS::Lambda::Function"]
    create_was, update_was = handlers["create"], handlers["update"]
    handlers.update(create=create, update=update)


def _log_to_the_end() -> None:
    """The emulator stops reading a log when nothing came for five milliseconds, and gives the rest to the next call."""
    script = private(_RUNTIME, "_PYTHON_WORKER_SCRIPT")
    if script.count(_CALL) != 1:
        raise Moved(f"ministack.{_RUNTIME}", _CALL)
    script = script.replace(_CALL, _CALL.replace("handler_fn(", "_logged(handler_fn, "))
    replace(_RUNTIME, "_PYTHON_WORKER_SCRIPT", _LOGGING + script)
    runs = private(_RUNTIME, "Worker")
    if not hasattr(runs, "_drain_stderr_bounded"):
        raise Moved(f"ministack.{_RUNTIME}.Worker", "_drain_stderr_bounded")
    runs._drain_stderr_bounded = logged
