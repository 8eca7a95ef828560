"""What the commands for AWS share: the stack that they are about, the package to build, and errors as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer

from answerback.cli.options import AwsOptions
from answerback.cli.output import CliError, ExitCode, extra_needed, usage_error
from answerback_aws.deploy.package import ImportFailed, PackageError, Target

if TYPE_CHECKING:
    from answerback_aws.deploy.account import Account


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
    requirements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What those need, in pip's format.", show_default=False)
    ] = None
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="X.Y", help="Python of the functions.  [at first: 3.13]")
    ] = None
    architecture: Annotated[
        str | None,
        typer.Option(metavar="arm64|x86_64|here", help="Processor of the functions.  [at first: arm64]"),
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
