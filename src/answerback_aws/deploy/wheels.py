"""The wheels of a package for Lambda: chosen for its machine, fetched by pip, checked against their hashes."""

import hashlib
import importlib.util
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

_PLATFORMS: Final = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""Lambda's Amazon Linux 2023 has glibc 2.34; wheels for any older one run there."""

_MACHINES: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
_PIP_TIMEOUT_S: Final = 600
_RUNTIME_HAS: Final = frozenset(
    {"boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3", "simplejson"}
)


@dataclass(frozen=True, slots=True)
class _Pin:
    version: str
    sha256: frozenset[str]


class PackageError(Exception):
    """The functions cannot be packaged like this; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the package runs. `python`: `3.13`. `architecture`: Lambda's `arm64` or `x86_64`; None: this machine."""

    python: str = "3.13"
    architecture: str | None = "arm64"

    @classmethod
    def here(cls, *, python: str | None = None) -> "Target":
        """This machine and, if no other is named, this Python."""
        return cls(python=python or f"{sys.version_info[0]}.{sys.version_info[1]}", architecture=None)

    @property
    def is_this_python(self) -> bool:
        """Whether this process can import the package."""
        return self == Target.here()

    @property
    def name(self) -> str:
        """Names a folder for it."""
        return f"python{self.python}-{self.architecture or sysconfig.get_platform()}"


def fetch_pinned(target: Target, folder: Path) -> tuple[Path, ...]:
    """Our own pinned wheels, by name, from `folder` if they were fetched before.

    Raises: PackageError: pip is not there, or failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("answerback_aws") / "requirements" / "functions.txt") as pins:
        options = ["--no-deps", "--require-hashes", "--requirement", str(pins)]
        wanted = _pins(pins)
        if (found := _chosen(wanted, folder)) is None:
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                _download(target, Path(fresh), options)
                for wheel in Path(fresh).glob("*.whl"):
                    wheel.replace(folder / wheel.name)  # whole, for a process that packages at the same time
            found = _chosen(wanted, folder)
    if found is None:
        raise PackageError(f"pip did not fetch all of the pinned packages into {folder}. Empty that folder and repeat.")
    return found


def fetch_required(target: Target, requirements: Path, folder: Path) -> tuple[Path, ...]:
    """The wheels of the user's requirements and of what those need, without what Lambda's runtime or the pins have.

    Raises: PackageError: as `fetch_pinned`, or the file cannot be read.
    """
    try:
        named = {_normal(name) for name in re.findall(r"^([A-Za-z0-9][\w.-]*)", requirements.read_text("utf-8"), re.M)}
    except (OSError, UnicodeDecodeError) as exc:
        raise PackageError(f"Cannot read {requirements} ({exc}). Name a requirements file of pip.") from exc
    with (
        tempfile.TemporaryDirectory() as temporary,
        resources.as_file(resources.files("answerback_aws") / "requirements" / "functions.txt") as pins,
    ):
        pinned = _pins(pins)
        constraints = Path(temporary) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={pin.version}\n" for name, pin in pinned.items()), "utf-8")
        into = folder / "required"
        into.mkdir(parents=True, exist_ok=True)
        for old in into.glob("*.whl"):
            old.unlink()
        _download(target, into, ["--requirement", str(requirements), "--constraint", str(constraints)])
    skipped = (_RUNTIME_HAS - named) | set(pinned)
    return tuple(wheel for wheel in sorted(into.glob("*.whl")) if _wheel_name(wheel) not in skipped)


def _download(target: Target, folder: Path, options: Sequence[str]) -> None:
    if importlib.util.find_spec("pip") is None:
        raise PackageError(
            "The package's wheels are fetched by pip, which this Python has not. Run: python -m ensurepip"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--only-binary=:all:"]
    command += ["--dest", str(folder), "--implementation", "cp", "--python-version", target.python]
    if target.architecture is not None:
        machine = _MACHINES[target.architecture]
        for platform in _PLATFORMS:
            command += ["--platform", f"{platform}_{machine}"]
    try:
        done = subprocess.run(  # noqa: S603 - our own words and paths
            [*command, *options], capture_output=True, text=True, check=False, timeout=_PIP_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise PackageError("pip did not fetch the wheels within 10 minutes. Check the network and repeat.") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = " ".join(errors or done.stderr.splitlines()[-3:])
        raise PackageError(f"pip cannot fetch the wheels for {target.name}: {why}")


def _pins(path: Path) -> dict[str, _Pin]:
    """The pins by name."""
    pinned = re.finditer(r"^([A-Za-z0-9][\w.-]*)==(\S+)(.*(?:\n .*)*)", path.read_text("utf-8"), re.M)
    return {
        _normal(match[1]): _Pin(match[2], frozenset(re.findall(r"--hash=sha256:(\w+)", match[3]))) for match in pinned
    }


def _chosen(wanted: Mapping[str, _Pin], folder: Path) -> tuple[Path, ...] | None:
    """The wheels of the pins, if all are in the folder and as they were when they were pinned."""
    found = {(_wheel_name(path), path.name.split("-")[1]): path for path in sorted(folder.glob("*.whl"))}
    wheels = []
    for name, pin in wanted.items():
        wheel = found.get((name, pin.version))
        if wheel is None or hashlib.sha256(wheel.read_bytes()).hexdigest() not in pin.sha256:
            return None
        wheels.append(wheel)
    return tuple(wheels)


def _wheel_name(path: Path) -> str:
    return _normal(path.name.split("-")[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
