"""The events of the engine for the user interface: immutable, in order, drained by `Engine.drain`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from answerback.client import BudgetInfo, File, ModelInfo, Obstacle, ServerLimits
from answerback_desktop.records import Account, Conversation, KeptHistory, SearchHit, Traits, Turn
from answerback_desktop.settings import Settings


class ConnectionStatus(StrEnum):
    """How the app stands with the server."""

    CONNECTING = "connecting"
    ONLINE = "online"
    OFFLINE = "offline"
    SIGNED_OUT = "signed-out"
    STOPPED = "stopped"


class ConnectionReason(StrEnum):
    """Why the app is not online."""

    NONE = "none"
    UNREACHABLE = "unreachable"
    """What answers at the URL is no Answerback server, or nobody knows why not; tried again, like all that follow."""
    REFUSED = "refused"
    NAME = "name"
    NETWORK = "network"
    TIMEOUT = "timeout"
    CERTIFICATE = "certificate"
    CERTIFICATE_UNFIT = "certificate-unfit"
    NO_TLS = "no-tls"
    TLS_WANTED = "tls-wanted"
    TLS = "tls"
    NOT_WEBSOCKET = "not-websocket"
    UPGRADE = "upgrade"
    PROXY = "proxy"
    PROXY_LOGIN = "proxy-login"
    SETUP = "setup"
    REDIRECT = "redirect"
    SERVER = "server"
    LOST = "lost"
    """The connection broke; tried again."""
    SIGN_IN_NEEDED = "sign-in-needed"
    """The server wants a token, and there is none."""
    TOKEN_REFUSED = "token-refused"  # noqa: S105 - a reason
    """The server does not accept the token."""
    SIGN_IN_UNREACHABLE = "sign-in-unreachable"
    """The sign-in service does not answer; tried again."""
    FORBIDDEN = "forbidden"
    """The server does not let this app or user in."""
    SESSION_REPLACED = "session-replaced"
    """Another app took this session; `Engine.reconnect` takes it back."""
    USER_MISMATCH = "user-mismatch"
    """The server takes us for another user than the one whose data is shown."""
    BAD_URL = "bad-url"
    """The server URL of the settings is none."""
    KEPT = "kept"
    """Conversations that are kept of another server are shown: nothing is asked in them."""
    CLOSED = "closed"
    """The app is ending, or the client failed."""

    @property
    def is_nowhere(self) -> bool:
        """Whether no server of ours was found at the address."""
        return self in _NOWHERE


OBSTACLES: Final = {
    **{obstacle: ConnectionReason(obstacle) for obstacle in set(Obstacle) - {Obstacle.TOKEN, Obstacle.OTHER}},
    Obstacle.TOKEN: ConnectionReason.SIGN_IN_UNREACHABLE,
    Obstacle.OTHER: ConnectionReason.UNREACHABLE,
}
"""Why the app is not online, by what the client says was in the way."""
_NOWHERE: Final = {ConnectionReason.BAD_URL, *OBSTACLES.values()} - {ConnectionReason.SIGN_IN_UNREACHABLE}


class NoticeCode(StrEnum):
    """A message for the person, shown once. The facts that belong to each stand beside it."""

    MESSAGE_TOO_LARGE = "message-too-large"
    """size_bytes, limit_bytes: the question was not sent and is back in the draft."""
    FILE_GONE = "file-gone"
    """name: the same, because a file that an earlier question went with is not on this computer."""
    FILE_LOST = "file-lost"
    """name: the server does not keep that file of an earlier question any more."""
    FILE_UNREACHABLE = "file-unreachable"
    """name: it could not be fetched from the server now."""
    CONVERSATION_GONE = "conversation-gone"
    """conversation_id: the server has no such conversation any more."""
    DELETED_ELSEWHERE = "deleted-elsewhere"
    """conversation_id, title: another device has deleted the conversation that is open."""
    OTHER_STORE = "other-store"
    """url, count: another server, or an emptied one, answers there; so many conversations from before are kept."""
    IMPORTED = "imported"
    """count, turns: so many conversations of a file were read, and so many questions in them were not here before."""
    IMPORT_FAILED = "import-failed"
    """name: the file is no export of this app, or cannot be read."""
    UPDATE_FAILED = "update-failed"
    """conversation_id: a rename or delete was refused."""
    STORE_MOVED_ASIDE = "store-moved-aside"
    """path: the local data was broken, is kept there, and was replaced by an empty store."""
    STORE_FULL = "store-full"
    """The disk is full, so that the local data cannot be written: what is typed now may be lost."""
    STORE_LOCKED = "store-locked"
    """The same, because another program holds the file."""
    STORE_FAILED = "store-failed"
    """The same, for another reason."""
    SETTINGS_MOVED_ASIDE = "settings-moved-aside"
    """path: the settings could not be read, are kept there; defaults hold."""
    PRESET_WRONG = "preset-wrong"
    """path, reason: the administrator's preset cannot be used, and is not."""
    UPDATE_NEEDED = "update-needed"
    """version, least: the server wants apps of a higher version."""
    NO_KEYRING = "no-keyring"
    """This system has no keyring: signed in until the app ends."""
    SIGN_IN_FAILED = "sign-in-failed"
    """reason: a `SignInFailure`."""
    GATEWAY_FAILED = "gateway-failed"
    """log: the local gateway did not start, or ended; its log file."""
    PROTOCOL_VIOLATION = "protocol-violation"
    """The server sent what it must not; nothing of it was shown."""


class SignInStatus(StrEnum):
    """Whether somebody is signed in (OIDC)."""

    NOT_NEEDED = "not-needed"
    SIGNED_OUT = "signed-out"
    WAITING_FOR_BROWSER = "waiting-for-browser"
    SIGNED_IN = "signed-in"


class GatewayStatus(StrEnum):
    """The gateway that this app runs itself."""

    UNKNOWN = "unknown"
    OFFERED = "offered"
    """Nobody answers at the (local) server URL: `Engine.start_gateway` would start one there."""
    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    NOT_OURS = "not-ours"
    """Somebody else's gateway answers, or the URL is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionChanged:
    """The whole state of the connection. `retry_at_ms`: epoch instant of the next try.

    `detail`: what the client says about the reason, for those who look after the network.
    """

    status: ConnectionStatus
    reason: ConnectionReason = ConnectionReason.NONE
    detail: str = ""
    retry_at_ms: int | None = None
    user: str | None = None
    models: tuple[str, ...] = ()
    model_info: Mapping[str, ModelInfo] = field(default_factory=lambda: MappingProxyType({}))
    limits: ServerLimits | None = None


@dataclass(frozen=True, slots=True)
class RoundTripMeasured:
    """To the server and back."""

    round_trip_ms: float


@dataclass(frozen=True, slots=True)
class BudgetRead:
    """How the user's budget stands; None: there is none."""

    budget: BudgetInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOpened:
    """Forget everything shown: this account's data follows. `pending`: the turns that are not over.

    `drafts`: text by conversation id; an id that is in no conversation is one that was begun and not asked in yet.
    `edits`: conversation id, request id and text of each question that was changed and not asked again.
    """

    account: Account
    conversations: tuple[Conversation, ...]
    pending: tuple[Turn, ...]
    drafts: Mapping[str, str]
    edits: tuple[tuple[str, str, str], ...] = ()
    traits: Mapping[str, Traits] = field(default_factory=lambda: MappingProxyType({}))
    kept: tuple[KeptHistory, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountClosed:
    """Forget everything shown; nobody is signed in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationsChanged:
    """New or changed conversations, and ids that are gone."""

    changed: tuple[Conversation, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitsChanged:
    """What a person has said of a conversation, which may be one that nothing was asked in yet."""

    conversation_id: str
    traits: Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsLoaded:
    """A page of a conversation, answer to `open_conversation` and `load_more`, with the turns that those superseded.

    `has_more`: there are older ones.
    """

    conversation_id: str
    turns: tuple[Turn, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class TurnChanged:
    """A new turn, or a new state of one. `turn.answer` is all the text there is now."""

    turn: Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAppended:
    """New text of a streaming answer at code point `offset`."""

    conversation_id: str
    request_id: str
    attempt: int
    offset: int
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsRemoved:
    """Gone at the server, or forgotten here."""

    conversation_id: str
    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftReturned:
    """A question could not be taken: its text and its files belong back in the input box."""

    conversation_id: str
    text: str
    files: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFound:
    """Answer to `search`, for the same `query`."""

    query: str
    hits: tuple[SearchHit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Answer to `export` and `export_all`: the text, and a name for its file. `conversation_id` None: it has all."""

    conversation_id: str | None
    text: str
    file_name: str


@dataclass(frozen=True, slots=True)
class FileFetched:
    """Answer to `fetch_file`: a file of an earlier question."""

    file: File


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The settings that hold now. `locked`: names of those that the administrator decides; `models`: all he offers."""

    settings: Settings
    locked: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInChanged:
    """`url`: what was opened in the browser, for a person whose browser did not open."""

    status: SignInStatus
    user: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayChanged:
    """The local gateway. `log`: its log file."""

    status: GatewayStatus
    url: str | None = None
    log: str | None = None


@dataclass(frozen=True, slots=True)
class LocalModelsFound:
    """The models of an Ollama on this machine, which a gateway of the app's own can use."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRaised:
    """A message to show; the language tables make its text."""

    code: NoticeCode
    facts: Mapping[str, str | int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class EngineStopped:
    """The last event: everything is stored and closed."""


Event: TypeAlias = (
    ConnectionChanged
    | RoundTripMeasured
    | BudgetRead
    | AccountOpened
    | AccountClosed
    | ConversationsChanged
    | TraitsChanged
    | TurnsLoaded
    | TurnChanged
    | TextAppended
    | TurnsRemoved
    | DraftReturned
    | SearchFound
    | Exported
    | FileFetched
    | SettingsChanged
    | SignInChanged
    | GatewayChanged
    | LocalModelsFound
    | NoticeRaised
    | EngineStopped
)
