"""What the engine needs from outside; the defaults are the real ones."""

import asyncio
import logging
import os
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from answerback import outbound
from answerback.client import Timing
from answerback.clock import epoch_ms
from answerback.outbound import CA_VARIABLE, PROXY_VARIABLE
from answerback_desktop.engine.answers import SILENCE_S, WAIT_S
from answerback_desktop.profile import Profile, preset_path
from answerback_desktop.settings import Settings
from answerback_desktop.signin.vault import KeyringVault, Vault

log = logging.getLogger("answerback.desktop")

TIMING: Final = Timing(queue_wait_s=WAIT_S, stream_silence_s=SILENCE_S)
"""The client's durations for an app that stays open: a question waits as long as the server remembers it."""
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


class OutboundChoice:
    """Puts the CA file and the proxy of the settings where all clients of this process, and its gateway, look."""

    def __init__(self) -> None:
        self._outside = {name: os.environ.get(name) for name in (CA_VARIABLE, PROXY_VARIABLE)}

    def apply(self, settings: Settings) -> None:
        """Let them hold; an empty one is what the app was started with."""
        for name, chosen in {CA_VARIABLE: settings.ca_file, PROXY_VARIABLE: settings.proxy}.items():
            value = chosen or self._outside[name]
            if value:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)

    def restore(self) -> None:
        """Leave the process as it was."""
        self.apply(Settings())


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`open_browser` shows a URL and says whether it could. `gateway_command` runs the `answerback` program;
    `gateway_arguments` are added to its `serve`.
    """

    profile: Profile
    preset_path: Path = field(default_factory=preset_path)
    vault: Vault = field(default_factory=KeyringVault)
    open_browser: Callable[[str], bool] = webbrowser.open
    clock: Callable[[], int] = epoch_ms
    timing: Timing = TIMING
    gateway_command: tuple[str, ...] = (sys.executable, "-m", "answerback")
    gateway_arguments: tuple[str, ...] = ()
    ollama_url: str = OLLAMA_URL
