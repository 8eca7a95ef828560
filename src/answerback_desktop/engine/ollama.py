"""Finds the models of an Ollama on this machine, for a gateway of the app's own."""

import asyncio
import logging
from importlib.util import find_spec
from typing import Final

import msgspec
from msgspec import Struct

from answerback import outbound

log = logging.getLogger("answerback.desktop")

OLLAMA_URL: Final = "http://127.0.0.1:11434"
_TIMEOUT_S: Final = 2.0
_MAX_BYTES: Final = 1 << 20


class _Model(Struct):
    name: str


class _Tags(Struct):
    models: list[_Model] = []


async def models_at(url: str) -> tuple[str, ...]:
    """Names of the models that can answer, last used first; none: nothing answers there as Ollama does."""
    if find_spec("aiohttp") is None:  # a gateway could not use them
        return ()
    try:
        status, body = await asyncio.to_thread(
            outbound.fetch, f"{url}/api/tags", timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES
        )
        found = msgspec.json.decode(body, type=_Tags).models if status == 200 else []
    except (OSError, ValueError) as exc:
        log.debug("no Ollama at %s: %s", url, exc)
        return ()
    return tuple(model.name for model in found if "embed" not in model.name and _is_name(model.name))


def spec_of(url: str, name: str) -> str:
    """How a gateway is told to use a model of it."""
    return f"openai:{url}/v1#{name}"


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 128 and name.isprintable() and not any(character.isspace() for character in name)
