"""Options that several commands share: where a gateway is, who asks, and how."""

from typing import Annotated, Final, TypeAlias

import typer

DEFAULT_URL: Final = "ws://127.0.0.1:8765"

Url: TypeAlias = Annotated[str, typer.Option(envvar="ANSWERBACK_URL", help="Where the gateway listens.")]
TokenText: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="ANSWERBACK_TOKEN", metavar="TOKEN", help="Bearer token.", show_default=False),
]
User: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="ANSWERBACK_USER", help="Who asks, where no token is needed.", show_default=False),
]
SessionId: TypeAlias = Annotated[str | None, typer.Option(help="Session id.  [default: a new one]", show_default=False)]
ModelName: TypeAlias = Annotated[
    str | None, typer.Option("--model", "-m", help="One of the gateway's models.", show_default=False)
]
SystemText: TypeAlias = Annotated[str | None, typer.Option("--system", "-s", help="System prompt.", show_default=False)]
MaxTokens: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Longest answer.", show_default=False)
]
AwsRegion: TypeAlias = Annotated[
    str | None, typer.Option(metavar="REGION", help="AWS region.  [default: of the environment]", show_default=False)
]
AwsProfile: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="AWS profile.  [default: of the environment]", show_default=False)
]
AwsEndpoint: TypeAlias = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="Of an emulator of AWS, instead of AWS.", show_default=False),
]
