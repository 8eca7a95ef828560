"""Options that several commands share, and how a command takes a group of them.

A group is a frozen dataclass with one field per flag. A command names it as the type of one parameter, and
`with_options` gives the command a flag for each field. So a flag is declared once.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_type_hints

import typer

from answerback import outbound
from answerback.cli.output import usage_error
from answerback.cli.reading import typed
from answerback.core.parts import KINDS

R = TypeVar("R")

DEFAULT_URL: Final = "ws://127.0.0.1:8765"

_Text: TypeAlias = str | None
TokenText: TypeAlias = Annotated[_Text, typer.Option(envvar="ANSWERBACK_TOKEN", metavar="TOKEN", help="Bearer token.")]
ModelName: TypeAlias = Annotated[_Text, typer.Option("--model", "-m", help="One of the gateway's models.")]
MaxTokens: TypeAlias = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Longest answer.")]
ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TOML file with the gateway's settings.")
]
DataDir: TypeAlias = Annotated[_Text, typer.Option(metavar="FOLDER", help="The gateway's data folder.")]
DatabaseUrl: TypeAlias = Annotated[_Text, typer.Option(metavar="URL", help="The gateway's postgresql:// URL.")]
Encoding: TypeAlias = Annotated[_Text, typer.Option(metavar="NAME", help="Of text that is not UTF-8, as in cp949.")]
CaFile: TypeAlias = Annotated[
    Path | None, typer.Option(envvar=outbound.CA_VARIABLE, metavar="FILE", help="PEM file with more authorities.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Where a gateway is, and who asks it."""

    url: Annotated[str, typer.Option(envvar="ANSWERBACK_URL", help="Where the gateway listens.")] = DEFAULT_URL
    token: TokenText = None
    user: Annotated[_Text, typer.Option(envvar="ANSWERBACK_USER", help="Who asks, where no token is needed.")] = None
    session: Annotated[_Text, typer.Option(help="Session id.  [default: a new one]")] = None
    ca_file: CaFile = None

    def __post_init__(self) -> None:
        trust(self.ca_file)
        for name in ("user", "session"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, typed(given, f"--{name}"))


def trust(ca_file: Path | None) -> None:
    """Trust the authorities of `--ca-file`, in this process and those that it starts. Raises: CliError."""
    try:
        outbound.trust(ca_file)
    except outbound.CaFileError as exc:
        raise usage_error(str(exc)) from exc


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How a question is asked."""

    model: ModelName = None
    system: Annotated[_Text, typer.Option("--system", "-s", help="System prompt.")] = None
    max_tokens: MaxTokens = None
    show: Annotated[
        str,
        typer.Option(metavar="KIND,...", help=f"Besides the answer: {', '.join(sorted(KINDS))}.", show_default=False),
    ] = ""

    def __post_init__(self) -> None:
        for name in ("model", "system"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, typed(given, f"--{name}"))
        if not KINDS.issuperset(self.parts):
            raise usage_error(f"--show does not know {self.show!r}", f"it takes {', '.join(sorted(KINDS))}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The kinds of parts to show."""
        return tuple(filter(None, self.show.split(",")))

    @property
    def asked(self) -> dict[str, Any]:
        """As the client has them."""
        return {"model": self.model, "system": self.system, "max_tokens": self.max_tokens, "parts": self.parts}


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """The store of a gateway, by its settings. None: as the settings say."""

    config: ConfigFile = None
    data_dir: DataDir = None
    database: DatabaseUrl = None
    admin_port: Annotated[_Text, typer.Option(metavar="PORT", help="Admin port of a running gateway.")] = None


@dataclass(frozen=True, kw_only=True)
class AwsOptions:
    """Where on AWS, and as whom. None: as the environment says."""

    region: Annotated[_Text, typer.Option(metavar="REGION", help="AWS region.  [default: of the environment]")] = None
    profile: Annotated[_Text, typer.Option(metavar="NAME", help="AWS profile.  [default: of the environment]")] = None
    endpoint_url: Annotated[_Text, typer.Option(metavar="URL", help="Of an emulator of AWS, instead of AWS.")] = None


def with_options(command: Callable[..., R]) -> Callable[..., R]:
    """The command with a flag for each field of its parameters that are groups of options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    @wraps(command)
    def run(**given: Any) -> R:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        return command(**given)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _flags(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))
    vars(run)["__signature__"] = inspect.Signature(parameters)
    return run


def _flags(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(group)
    ]
