"""The environment of the emulator: made on first use in the user's cache folder, pinned and hashed."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from answerback_aws.emulator.emulator import LocalFailed

__all__ = ["emulator_python"]

_INSTALL_S: Final = 900
_SHOWN_LINES: Final = 5


def emulator_python(cache: Path, say: Callable[[str], None], *, pins: Traversable | None = None) -> Path:
    """The interpreter of the emulator's environment, in a folder of `cache` that is named by what it holds.

    The first time it installs what `pins` names: by default 220 MB, about a minute and a half. Raises: LocalFailed.
    """
    pins = pins or resources.files("answerback_aws") / "requirements" / "emulator.txt"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    name = hashlib.sha256(f"{version} {sys.executable} ".encode() + pins.read_bytes()).hexdigest()[:16]
    folder = cache / "emulator" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)  # of an installation that was interrupted
    say("Installing the AWS emulator, once (220 MB, about a minute)")
    _run([sys.executable, "-m", "venv", str(folder)], "make an environment for the emulator")
    with resources.as_file(pins) as path:
        options = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(path)]
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        _run([*pip, *options], "install the emulator")
    stamp.touch()
    return python


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=_INSTALL_S,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LocalFailed(
            f"cannot {what}: {type(exc).__name__}", "check the network and the disk, and try again"
        ) from exc
    if done.returncode:
        output = "\n".join(done.stdout.strip().splitlines()[-_SHOWN_LINES:])
        hint = "check the network, and that Python has venv and pip (Debian: apt-get install python3-venv)"
        raise LocalFailed(f"cannot {what}:\n{output}", hint)
