"""The console: a page on the admin port for operators, and what it shows beside requests and users.

The page is one file without a key in it. Its script asks for the admin key, and reads what curl would read.
"""

import hashlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

import answerback
from answerback.core.instants import iso
from answerback.gateway.metrics import Counts
from answerback.gateway.queue import InProcessQueue
from answerback.protocol.frames import Status
from answerback.texts import words_of


class NodeBody(msgspec.Struct, rename="camel", kw_only=True):
    """A gateway. `name` None: the only one. `facts`: how many sockets it has, and requests that run and wait."""

    name: str | None
    state: str
    version: str
    started_at: str
    age_ms: int
    facts: Mapping[str, int]


@dataclass(eq=False, kw_only=True)
class Console:
    """Makes the overview. `nodes`: the gateways of the fleet, this one first. `rate_limit`: of who has no own one."""

    counts: Counts
    queue: InProcessQueue
    nodes: Callable[[], Sequence[NodeBody]]
    rate_limit: int
    clock: Callable[[], int]

    def overview(self, *, is_healthy: bool) -> dict[str, Any]:
        """What `GET /overview` answers. Counts are of this gateway, since its start."""
        refused = self.counts.refusals
        failed: Counter[str] = Counter()
        for (_, _, code), number in self.counts.endings.items():
            if code:
                failed[code] += number
        return {
            "now": iso(self.clock()),
            "version": answerback.__version__,
            "healthy": is_healthy,
            "rateLimit": self.rate_limit,
            "nodes": self.nodes(),
            "models": self._models(),
            # How often an answer failed with the code, and how often something was refused with it.
            "errors": [
                {"code": code, "failed": failed[code], "refused": refused[code]} for code in sorted({*failed, *refused})
            ],
        }

    def _models(self) -> list[dict[str, Any]]:
        ended: Counter[tuple[str, str]] = Counter()
        for (model, status, _), number in self.counts.endings.items():
            ended[model, status] += number
        tokens = self.counts.tokens
        return [
            {
                "model": model,
                "slots": load.slots,
                "running": load.running,
                "waiting": load.waiting,
                "completed": ended[model, Status.COMPLETED.value],
                "failed": ended[model, Status.FAILED.value],
                "cancelled": ended[model, Status.CANCELLED.value],
                "inputTokens": tokens[model, "input"],
                "outputTokens": tokens[model, "output"],
            }
            for model, load in self.queue.loads.items()
        ]


def page_response() -> web.Response:
    """The page with its Korean. Its headers let nothing run in it but its own script and style."""
    text = files("answerback.gateway").joinpath("console.html").read_text(encoding="utf-8")
    korean = json.dumps(words_of("ko")["console"], ensure_ascii=False).replace("<", "\\u003c")
    policy = [
        "default-src 'none'",
        f"script-src {_hash_of('script', text)}",
        f"style-src {_hash_of('style', text)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(text=text.replace("KOREAN", korean, 1), content_type="text/html", headers=headers)


def _hash_of(element: str, page: str) -> str:
    """The source expression for the one element of that name without attributes."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
