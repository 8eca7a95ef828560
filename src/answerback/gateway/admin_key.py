"""The keys and the number of the admin port, in files of the data folder, for the commands of this machine.

Only the owner can read a key. The port's file is there while a gateway listens.
"""

import base64
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from answerback.gateway.settings import SettingsError

KEY_FILE: Final = "admin.key"
METRICS_KEY_FILE: Final = "metrics.key"
"""Opens `/metrics` alone, for a Prometheus that must not be able to cancel or erase anything."""

PORT_FILE: Final = "admin.port"
_CREDENTIAL: Final = re.compile(r"\bCredential=([A-Za-z0-9_-]+)/")


def load_key(path: Path) -> str:
    """The key in the file, made if there is none.

    Raises: SettingsError: the file is damaged or others may read it. OSError: the folder cannot be used.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        key = secrets.token_urlsafe(32)
        file.write(key + "\n")
    return key


def read_key(path: Path) -> str:
    """The key in the file. Raises: SettingsError: it is damaged or others may read it. OSError: it cannot be read."""
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SettingsError(f"Others may read {path}. Delete the file, a new key is made at the next start.")
    key = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{32,}", key):
        raise SettingsError(f"{path} is damaged. Delete the file, a new key is made at the next start.")
    return key


def save_admin_port(data_dir: Path, port: int) -> None:
    """Write the port. Raises: OSError: the folder cannot be written."""
    (data_dir / PORT_FILE).write_text(f"{port}\n", encoding="ascii")


def remove_admin_port(data_dir: Path) -> None:
    """Remove what this process, or one that was killed, has written. Raises: OSError: the file cannot be removed."""
    (data_dir / PORT_FILE).unlink(missing_ok=True)


class AdminKey:
    """A key, and whether a request shows it (compared in constant time)."""

    def __init__(self, key: str) -> None:
        self.change(key)

    def change(self, key: str) -> None:
        """From now on this is the key. Raises: ValueError: it is empty, so that no key would be one."""
        if not key:
            raise ValueError("the key is empty")
        self._key = key.encode()

    def opens(self, authorization: str | None) -> bool:
        """Whether this `Authorization` header has the key: as bearer token, as basic password, or as the access key id
        of an AWS signature (whose secret is not used: the port is on loopback).
        """
        shown = _shown(authorization or "")
        return hmac.compare_digest(shown.encode(errors="replace"), self._key)


def _shown(authorization: str) -> str:
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
            except ValueError:  # not base64, not ASCII, or not UTF-8
                return ""
        case "aws4-hmac-sha256":
            found = _CREDENTIAL.search(rest)
            return found.group(1) if found else ""
        case _:
            return ""
