"""What the engine needs from outside; the defaults are the real ones."""

import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field

from answerback.client import Timing
from answerback.clock import epoch_ms
from answerback_desktop.engine.answers import SILENCE_S, WAIT_S
from answerback_desktop.profile import Profile
from answerback_desktop.signin.vault import KeyringVault, Vault


def app_timing() -> Timing:
    """The client's durations for an app that stays open: a question waits as long as the server remembers it."""
    return Timing(queue_wait_s=WAIT_S, stream_silence_s=SILENCE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`open_browser` shows a URL and says whether it could. `gateway_command` runs the `answerback` program;
    `gateway_arguments` are added to its `serve`.
    """

    profile: Profile
    vault: Vault = field(default_factory=KeyringVault)
    open_browser: Callable[[str], bool] = webbrowser.open
    clock: Callable[[], int] = epoch_ms
    timing: Timing = field(default_factory=app_timing)
    gateway_command: tuple[str, ...] = (sys.executable, "-m", "answerback")
    gateway_arguments: tuple[str, ...] = ()
