"""Where one profile of the app keeps its files, and the lock that lets only one process use them."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


DEFAULT_PROFILE: Final = "default"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


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
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make the folder and take the lock. Raises: ProfileInUse, OSError."""
        self._profile.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._profile.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
        except OSError as exc:
            os.close(descriptor)
            raise ProfileInUse(self._profile.name) from exc
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
