"""Where one profile of the app keeps its files, and the lock that lets only one process use them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from filelock import Timeout

from answerback.file_lock import process_lock

DEFAULT_PROFILE: Final = "default"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


def preset_path() -> Path:
    """Where an administrator presets settings for everybody on this computer."""
    return platformdirs.site_config_path("answerback", appauthor=False) / "desktop.json"


class ProfileInUse(Exception):
    """Another process has this profile open."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"The profile {self.name!r} is open in another window. Use that one, or start with --profile NAME."


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One profile's files, all in `folder`."""

    name: str
    folder: Path

    @classmethod
    def named(cls, name: str = DEFAULT_PROFILE, *, root: Path | None = None) -> "Profile":
        """The profile in the person's data folder. Raises: ValueError: no such name is possible."""
        if not re.fullmatch(_NAME, name):
            raise ValueError("a profile's name has 1 to 64 letters, digits, - and _")
        base = root or Path(platformdirs.user_data_dir("answerback", appauthor=False)) / "desktop"
        return cls(name=name, folder=base / name)

    @property
    def settings_path(self) -> Path:
        """The settings, as JSON."""
        return self.folder / "settings.json"

    @property
    def accounts_folder(self) -> Path:
        """One database for each account."""
        return self.folder / "accounts"

    @property
    def log_path(self) -> Path:
        """The app's one log file."""
        return self.folder / "desktop.log"

    @property
    def gateway_folder(self) -> Path:
        """The data of a gateway that this app starts."""
        return self.folder / "gateway"

    @property
    def gateway_log_path(self) -> Path:
        """What that gateway prints."""
        return self.folder / "gateway.log"


class ProfileLock:
    """Held while the app runs; the operating system gives it back when the process ends, however it ends."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._lock = process_lock(profile.folder / "lock")

    def acquire(self) -> None:
        """Make the folder and take the lock. Raises: ProfileInUse, OSError."""
        self._profile.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as exc:
            raise ProfileInUse(self._profile.name) from exc

    def release(self) -> None:
        """Give it back; doing so twice is harmless."""
        self._lock.release()
