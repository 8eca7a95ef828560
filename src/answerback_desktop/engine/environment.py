"""What the engine needs from outside; the defaults are the real ones."""

import os
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from answerback.client import Timing
from answerback.clock import epoch_ms
from answerback.outbound import CA_VARIABLE, PROXY_VARIABLE
from answerback_desktop.engine.answers import SILENCE_S, WAIT_S
from answerback_desktop.engine.ollama import OLLAMA_URL
from answerback_desktop.profile import Profile, preset_path
from answerback_desktop.settings import Settings
from answerback_desktop.signin.vault import KeyringVault, Vault


def app_timing() -> Timing:
    """The client's durations for an app that stays open: a question waits as long as the server remembers it."""
    return Timing(queue_wait_s=WAIT_S, stream_silence_s=SILENCE_S)


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
    timing: Timing = field(default_factory=app_timing)
    gateway_command: tuple[str, ...] = (sys.executable, "-m", "answerback")
    gateway_arguments: tuple[str, ...] = ()
    ollama_url: str = OLLAMA_URL
