"""Lambda: as many workers as there are calls, and FIFO queues read by more than one of them."""

from typing import Any

from answerback.aws.local.patches import private, replace

__all__ = ["patch"]


class _Leased:
    """A worker of the function's pool for one call. The emulator shares one, so that calls wait for each other."""

    def __init__(self, name: str, config: Any, code: bytes, qualifier: str) -> None:
        self._wanted = (name, config, code, qualifier)

    def invoke(self, event: Any, request_id: str) -> Any:
        worker, _ = private("core.lambda_runtime", "acquire_worker")(*self._wanted)
        try:
            return worker.invoke(event, request_id)
        finally:
            private("core.lambda_runtime", "release_worker")(worker)


def patch() -> None:
    """Apply. Raises: Moved."""

    def leased(name: str, config: Any, code: bytes, qualifier: str = "$LATEST") -> _Leased:
        return _Leased(name, config, code, qualifier)

    def concurrency(mapping: Any, record: Any, config: Any, queue: Any = None) -> int:
        """FIFO queues too: the template takes one message a batch, and a message group is locked while one is out."""
        told = (mapping.get("ScalingConfig") or {}).get("MaximumConcurrency") or default
        reserved = private("services.lambda_svc", "_reserved_concurrency")(record, config)
        return min(int(told), int(told if reserved is None else reserved))

    for name in ("acquire_worker", "release_worker"):
        private("core.lambda_runtime", name)
    private("services.lambda_svc", "_reserved_concurrency")
    default = private("services.lambda_svc", "_ESM_SQS_DEFAULT_CONCURRENCY")
    replace("core.lambda_runtime", "get_or_create_worker", leased)
    replace("services.lambda_svc", "_sqs_esm_concurrency", concurrency)
