"""Runs the emulator, with the patches, on the interpreter of the emulator's environment: `python -P launch.py`.

`emulator.py` starts it. It ends when its standard input closes, which is when the process that started it is gone.

Emulated as on AWS: DynamoDB (conditions, transactions), SQS FIFO, dead letters, the authorizer, EventBridge, roles
(with AUTH=true), change sets, custom resources, rules of the template, the 51,200 bytes of a template in a call.
Put right by the patches: concurrency, failures and limits of the API, the Data API on a real PostgreSQL with
typed parameters, managed secrets, ConverseStream's permission, metrics in logs.
Not emulated: the account's throttles, the permission of API Gateway and EventBridge to call a function, that of a
mapping to read its queue (tests/aws/test_template.py reads those from the template), alarms on sums. Posts come out of
order and twice only if it is asked for.
"""

import json
import os
import shutil
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any


def _patch(temporary: Path) -> None:
    """Apply the patches. The emulator's own variables must not reach the functions, which inherit the environment."""
    from answerback_aws.emulator.patches import (  # noqa: PLC0415
        bedrock,
        data_api,
        functions,
        metrics,
        replace,
        sockets,
    )

    options = json.loads(os.environ.pop("EMULATED"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Says that this very process serves, to the one that started it and knows its secret."""
        if scope["type"] != "http" or scope["path"] != f"/{options['secret']}":
            await app_was(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app_was = replace("app", "app", app)
    data_api.patch_clusters()
    functions.patch(f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}/_aws/execute-api", temporary)
    metrics.patch()
    sockets.patch_frames()
    sockets.patch(sockets.Limits(**options["limits"]))
    if url := options["bedrock_url"]:
        bedrock.patch(url)
    if postgres := options["postgres"]:
        idle_s = options["transaction_idle_s"]
        data_api.patch(postgres, temporary / "database-paused", transaction_idle_s=idle_s)


def _end_with_parent(temporary: Path) -> None:
    """Wait for the end of standard input, then end this process group and remove what it wrote."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(temporary, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Patch the emulator and run it until it has to stop."""
    temporary = Path(os.environ["TMPDIR"])
    ours = str(Path(__file__).resolve().parents[2])
    sys.path.append(ours)
    _patch(temporary)
    sys.path.remove(ours)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a package is unpacked once, and may be compiled once
    sys.argv[1:] = []  # the emulator reads its own options
    threading.Thread(target=_end_with_parent, args=(temporary,), daemon=True).start()
    import_module("ministack.app").main()


if __name__ == "__main__":
    main()
