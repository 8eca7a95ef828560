"""Case files as typed records, and where they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

DEFAULT_WITHIN_MS: Final = 10_000
"""How long a step waits for what it expects."""


class BrokenCase(Exception):
    """A case file that cannot be used; the text says what is wrong."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A JSON object of a case file."""


class _Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", tag_field="do"):
    """One step of a case; `do` says which."""


class _OnConnection(_Step, frozen=True, kw_only=True):
    """A step of the connection that has this name in the case."""

    on: str = "a"


# --- steps of both kinds of case ----------------------------------------------------------------------------


class Send(_OnConnection, frozen=True, kw_only=True, tag="send"):
    """Send one message; exactly one of `frame` (as JSON), `text`, `fragments`, `utf8` (hex of text), `binary` (hex)."""

    frame: Any = None
    text: Any = None
    fragments: Sequence[Any] | None = None
    utf8: str | None = None
    binary: str | None = None


class Expect(_OnConnection, frozen=True, kw_only=True, tag="expect"):
    """Take the next frame and match it; if the pattern names a request or a `hello`, the next frame about that.

    `anywhere`: take the first frame that matches, whatever came before it. `exact`: the frame and all in it have no
    field besides those of the pattern.
    """

    frame: Any
    anywhere: bool = False
    exact: bool = False
    within_ms: int = DEFAULT_WITHIN_MS


class Silent(_OnConnection, frozen=True, kw_only=True, tag="silent"):
    """No frame comes for so long, and none is unread."""

    for_ms: int = 300


class Close(_OnConnection, frozen=True, kw_only=True, tag="close"):
    """Close gracefully."""

    code: int = 1000


class Drop(_OnConnection, frozen=True, kw_only=True, tag="drop"):
    """Cut the connection without a close frame."""


class Closed(_OnConnection, frozen=True, kw_only=True, tag="closed"):
    """The other side closes; `code` is a pattern."""

    code: Any = None
    within_ms: int = DEFAULT_WITHIN_MS


class Wait(_Step, frozen=True, kw_only=True, tag="wait"):
    """Do nothing for so long."""

    ms: int


# --- steps of server cases ----------------------------------------------------------------------------------


class Open(_OnConnection, frozen=True, kw_only=True, tag="open"):
    """Open a connection. Unless `bare`, the runner adds `userId`, or the header with the token where there is one."""

    query: Mapping[str, Any] = {}
    headers: Mapping[str, Any] = {}
    subprotocols: Sequence[str] = ()
    subprotocol: str | None = None
    bare: bool = False


class Http(_Step, frozen=True, kw_only=True, tag="http"):
    """Send an upgrade request, its headers replaced (or left out, where null), that must be answered with `status`."""

    method: str = "GET"
    path: str | None = None
    query: Mapping[str, Any] = {}
    headers: Mapping[str, Any] = {}
    status: Any


class Raw(_OnConnection, frozen=True, kw_only=True, tag="raw"):
    """Write these bytes (hex) on the socket, past all framing."""

    hex: str


class Read(_OnConnection, frozen=True, kw_only=True, tag="read"):
    """Take the frames of a streamed answer until at least so many code points are there; keep them as `capture`."""

    request_id: Any
    at_least: int = 1
    capture: str
    within_ms: int = DEFAULT_WITHIN_MS


class Answer(_OnConnection, frozen=True, kw_only=True, tag="answer"):
    """Take every frame of a request up to its ending, put its text together, and match text, parts and ending.

    `after`: what is there already, `{attempt, text}`, as `read` captures it. `starts_at`: the offset that the first new
    piece must have.
    """

    request_id: Any
    text: Any = None
    parts: Any = None
    frame: Any = None
    after: Any = None
    starts_at: Any = None
    within_ms: int = DEFAULT_WITHIN_MS


class Skip(_OnConnection, frozen=True, kw_only=True, tag="skip"):
    """Forget the unread frames."""


ServerStep: TypeAlias = Open | Http | Send | Raw | Expect | Read | Answer | Silent | Skip | Close | Drop | Closed | Wait

# --- steps of client cases ----------------------------------------------------------------------------------


class Ask(_Step, frozen=True, kw_only=True, tag="ask"):
    """The app asks a question, under a name of the case."""

    name: str = "q"
    message: Any
    conversation_id: Any = None
    stream: bool = False


class Cancel(_Step, frozen=True, kw_only=True, tag="cancel"):
    """The app cancels a question."""

    name: str = "q"


class ReadHistory(_Step, frozen=True, kw_only=True, tag="history"):
    """The app reads a conversation's history; `shows` then has how the newest turn ended, its answer and its code."""

    name: str = "q"
    conversation_id: Any


class Accept(_OnConnection, frozen=True, kw_only=True, tag="accept"):
    """The client connects; `query` is a pattern for the parameters of its URL. `refuse`: with this HTTP status."""

    query: Any = None
    refuse: int | None = None
    within_ms: int = 20_000


class Alone(_Step, frozen=True, kw_only=True, tag="alone"):
    """The client does not connect for so long."""

    for_ms: int = 1_500


class Welcome(_OnConnection, frozen=True, kw_only=True, tag="welcome"):
    """Answer every `hello` on this connection with `welcome`, unless `resume` (a pattern) does not match.

    `frame`: fields that this `welcome` has besides those that are required.
    """

    resume: Any = None
    frame: Mapping[str, Any] = {}


class Shows(_Step, frozen=True, kw_only=True, tag="shows"):
    """The app has got the ending of a question: `completed`, `cancelled`, or `failed` with a `code`."""

    name: str = "q"
    status: Literal["completed", "failed", "cancelled"] = "completed"
    text: Any = None
    code: Any = None
    within_ms: int = DEFAULT_WITHIN_MS


class Pending(_Step, frozen=True, kw_only=True, tag="pending"):
    """The app has got no ending of a question yet."""

    name: str = "q"


ClientStep: TypeAlias = (
    Ask
    | Cancel
    | ReadHistory
    | Accept
    | Alone
    | Welcome
    | Send
    | Expect
    | Silent
    | Shows
    | Pending
    | Close
    | Drop
    | Closed
    | Wait
)

# --- cases --------------------------------------------------------------------------------------------------


class Needs(_Record, frozen=True, kw_only=True):
    """What a server must have for a case: models by name, tokens (true, false, or either), a pattern of its limits.

    `features`: of those that `welcome` names. `budget`: a pattern of the one that is told there.
    `deployment`: where PROTOCOL.md section 17 tells the two apart; None: either.
    """

    models: Sequence[str] = ()
    features: Sequence[str] = ()
    tokens: bool | None = None
    limits: Any = None
    budget: Any = None
    deployment: Literal["gateway", "aws"] | None = None


class _Case(_Record, frozen=True, kw_only=True):
    name: str
    section: str
    needs: Needs = Needs()
    fresh: Sequence[str] = ()


class ServerCase(_Case, frozen=True, kw_only=True):
    """One case of a server. `section`: of PROTOCOL.md. `fresh`: variables with a new id each."""

    steps: Sequence[ServerStep]


class ClientCase(_Case, frozen=True, kw_only=True):
    """One case of a client."""

    steps: Sequence[ClientStep]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A case with its name in full: `file/name`."""

    name: str
    case: ServerCase | ClientCase


class ModelNeed(_Record, frozen=True, kw_only=True):
    """A model that cases ask for by name: how it behaves, and the spec that makes `answerback serve` have it."""

    behaves: str
    spec: str


class _ServerFile(_Record, frozen=True, kw_only=True):
    about: str
    cases: Sequence[ServerCase]


class _ClientFile(_Record, frozen=True, kw_only=True):
    about: str
    cases: Sequence[ClientCase]


def folder() -> Path:
    """Where the case files are: in the installed package, else in the work tree. Raises: BrokenCase: nowhere."""
    package = Path(__file__).parent
    for place in (package / "data", package.parents[2] / "conformance"):
        if (place / "models.json").is_file():
            return place
    raise BrokenCase("the case files are not installed")


def load_cases(kind: Literal["server", "client"], place: Path | None = None) -> Sequence[Case]:
    """Every case of a kind, by file and then in the file's order.

    Raises: BrokenCase: a file does not hold cases, or a name is there twice.
    """
    found: dict[str, Case] = {}
    for path in sorted((place or folder()).joinpath(kind).glob("*.json")):
        file = _ServerFile if kind == "server" else _ClientFile
        for case in _read(path, file).cases:
            name = f"{path.stem}/{case.name}"
            if name in found:
                raise BrokenCase(f"{name} is there twice")
            found[name] = Case(name=name, case=case)
    return tuple(found.values())


def load_models(place: Path | None = None) -> Mapping[str, ModelNeed]:
    """The models that cases ask for. Raises: BrokenCase."""
    models: dict[str, ModelNeed] = _read((place or folder()) / "models.json", dict[str, ModelNeed])
    return models


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as exc:
        raise BrokenCase(f"{path.name}: {exc}") from exc
