"""What the commands for AWS share: the stack that they are about, the package to build, errors, and progress.

An error is one line. A long operation is one moving line on a terminal, plain lines in a pipe.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer

from answerback.cli.options import AwsOptions
from answerback.cli.output import CliError, ExitCode, extra_needed, note, usage_error
from answerback_aws.deploy.package import ImportFailed, PackageError, Target

if TYPE_CHECKING:
    from rich.status import Status

    from answerback_aws.deploy.account import Account
    from answerback_aws.deploy.stack import Progress, StackEvent


@dataclass(frozen=True, kw_only=True)
class StackOptions(AwsOptions):
    """A stack by its name, and where it is."""

    stack: Annotated[str, typer.Option(envvar="ANSWERBACK_STACK", metavar="NAME", help="The stack's name.")] = (
        "answerback"
    )

    def account(self) -> "Account":
        """The account that the stack is in. Every command asks for it first.

        Raises: CliError: there is no such profile, or the packages for AWS are not installed.
        """
        with extra_needed("AWS", "aws"):
            from answerback_aws.deploy.account import Account  # noqa: PLC0415 - help needs no boto3, which is an extra
        with explained():
            return Account(region=self.region, profile=self.profile, endpoint=self.endpoint_url)

    @property
    def flags(self) -> str:
        """What another command must be given to be about the same stack."""
        given = (("--region", self.region), ("--profile", self.profile), ("--endpoint-url", self.endpoint_url))
        return f"--stack {self.stack}" + "".join(f" {name} {value}" for name, value in given if value is not None)


@dataclass(frozen=True, kw_only=True)
class PackageOptions:
    """What goes into the functions' package, and what it is built for."""

    include: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A module or package of yours for python: models; repeatable."),
    ] = None
    requirements: Annotated[Path | None, typer.Option(metavar="FILE", help="What those need, in pip's format.")] = None
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="X.Y", help="Python of the functions.  [at first: 3.13]")
    ] = None
    architecture: Annotated[
        str | None, typer.Option(metavar="arm64|x86_64|here", help="Processor of the functions.  [at first: arm64]")
    ] = None

    def check(self) -> None:
        """Raises: CliError: the options do not name anything to build for."""
        if self.runtime is not None and (not self.runtime.startswith("3.") or not self.runtime[2:].isdigit()):
            raise usage_error(f"--runtime must be a version of Python such as 3.13, not {self.runtime!r}")
        if self.architecture not in {None, "arm64", "x86_64", "here"}:
            raise usage_error(f"--architecture must be arm64, x86_64 or here, not {self.architecture!r}")

    def target(self) -> Target:
        """What the package is built for. Raises: CliError: as `check`."""
        self.check()
        if self.architecture == "here":
            return Target.here(python=self.runtime)
        return Target(python=self.runtime or "3.13", architecture=self.architecture or "arm64")


@contextmanager
def explained() -> Iterator[None]:
    """Errors of AWS as one line, with what to do. Enter it after `StackOptions.account`."""
    from answerback_aws.deploy.errors import CannotConnect, DeployError, UsageError  # noqa: PLC0415 - boto3 is an extra

    codes = {UsageError: ExitCode.USAGE, CannotConnect: ExitCode.CANNOT_CONNECT}
    try:
        with explained_package():
            yield
    except DeployError as exc:
        raise CliError(exc.message, exc.hint, exit_code=codes.get(type(exc), ExitCode.FAILED)) from exc


@contextmanager
def explained_package() -> Iterator[None]:
    """Errors of the functions' package as one line."""
    try:
        yield
    except (PackageError, ImportFailed) as exc:
        raise CliError(str(exc).rstrip(".")) from exc


def wheel_cache() -> Path:
    """Where the wheels of packages are kept."""
    return platformdirs.user_cache_path("answerback") / "wheels"


def pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    """The values of a repeatable `NAME=VALUE` option by name. Raises: CliError."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise usage_error(f"{option} must be NAME=VALUE, not {text!r}")
        found[name] = value
    return found


class PlainProgress:
    """`Progress` as a line for each step and for each resource that is done."""

    def step(self, text: str) -> None:
        note(f"{text} ...")

    def event(self, event: "StackEvent") -> None:
        if not event.status.endswith("_IN_PROGRESS"):
            note(f"  {_text(event)}")


class TerminalProgress:
    """`Progress` as one line that is rewritten; what failed stays above it."""

    def __init__(self, status: "Status") -> None:
        self._status = status
        self._begun = time.monotonic()
        self._done: set[str] = set()
        self._step = ""
        self._working: dict[str, None] = {}

    def step(self, text: str) -> None:
        self._step = text
        self._status.update(f"{text} ...")

    def event(self, event: "StackEvent") -> None:
        if event.status.endswith("_FAILED"):
            self._status.console.print(f"  {_text(event)}", style="red", markup=False, highlight=False)
        if event.is_stack:
            return
        if event.status.endswith("_IN_PROGRESS"):
            self._working[event.resource] = None
        else:
            self._working.pop(event.resource, None)
            self._done.add(event.resource)
        working = ", ".join(list(self._working)[-3:])
        spent = int(time.monotonic() - self._begun)
        self._status.update(f"{self._step}: {len(self._done)} done, {spent // 60}:{spent % 60:02} {working}")


@contextmanager
def shown_progress() -> Iterator["Progress"]:
    """The progress that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import, and a pipe does not need it

    with Console(stderr=True).status("") as status:
        yield TerminalProgress(status)


def _text(event: "StackEvent") -> str:
    reason = f": {event.reason}" if event.reason and event.is_failure else ""
    return f"{event.resource} {event.status}{reason}"
