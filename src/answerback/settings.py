"""Settings, declared once: a field of a settings class says its name, type, bounds, default and help.

A settings class is a frozen dataclass. A field that may be set from outside is a `setting`. `declared` finds them all,
also those of inner settings classes. The setting `idle_timeout` is the flag `--idle-timeout`, the
variable `ANSWERBACK_IDLE_TIMEOUT` and the TOML key `idle_timeout`.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

_SETTINGS: Final = "settings"
"""In a field's metadata: its settings by the name inside of its class, '' for its own."""

_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value. `read` takes text or a TOML value and raises ValueError if it breaks `rule`."""

    metavar: str
    rule: str
    read: Callable[[object], object]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a field may be set from outside. `key` '': by the field's own name. `path`: field names from the settings
    class to the value. `declared` fills both in.
    """

    panel: str
    kind: Kind
    help: str
    key: str = ""
    is_secret: bool = False
    path: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return f"--{self.key.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return f"ANSWERBACK_{self.key.upper()}"

    @property
    def repeats(self) -> bool:
        """Whether its flag may be given several times."""
        return self.kind in (TEXTS, NETWORKS)

    def value_in(self, settings: object) -> object:
        """The value that `settings` has for it."""
        for name in self.path:
            settings = getattr(settings, name)
        return settings


def setting(
    panel: str,
    kind: Kind,
    help: str,
    default: T = MISSING,  # type: ignore[assignment]
    *,
    key: str = "",
    is_secret: bool = False,
) -> T:
    """A field that may be set from outside. Without `default` it has to be given."""
    own = Setting(panel, kind, help, key, is_secret)
    made: T = dataclasses.field(default=default, metadata={_SETTINGS: {"": own}})
    return made


def inner(kind: type[T], **settings: Setting) -> T:
    """A field whose class does not know that it can be set: `Setting` by that class's field name."""
    made: T = dataclasses.field(default_factory=kind, metadata={_SETTINGS: settings})
    return made


def declared(kind: type) -> tuple[Setting, ...]:
    """Every setting of a settings class, panel by panel in the order in which the panels first appear."""
    found = tuple(_declared(kind, ()))
    panels = tuple(dict.fromkeys(setting.panel for setting in found))
    return tuple(sorted(found, key=lambda setting: panels.index(setting.panel)))


def _declared(kind: Any, path: tuple[str, ...]) -> Iterator[Setting]:
    for field in fields(kind):
        at, factory = (*path, field.name), cast("Any", field.default_factory)
        for name, setting in field.metadata.get(_SETTINGS, {}).items():
            yield replace(setting, key=setting.key or name or field.name, path=(*at, name) if name else at)
        if not field.metadata and is_dataclass(factory):
            yield from _declared(factory, at)


def changed(settings: T, path: Sequence[str], value: object) -> T:
    """The settings with another value at `path`."""
    name, *rest = path
    if rest:
        value = changed(getattr(settings, name), rest, value)
    return replace(settings, **{name: value})  # type: ignore[type-var]


def duration_ms(value: object) -> int:
    """Milliseconds of `90` (seconds), `"250ms"`, `"90s"`, `"10m"`, `"1h"` or `"2d"`. Raises: ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(value)
    return round(float(match[1]) * _UNITS_MS[match[2] or "s"])


def _above_0_ms(value: object) -> int:
    if not (milliseconds := duration_ms(value)):
        raise ValueError(value)
    return milliseconds


def duration_text(milliseconds: float) -> str:
    """The shortest exact way to write a duration, for example `1h` for 3,600,000."""
    for unit, size in reversed(_UNITS_MS.items()):
        if milliseconds and milliseconds % size == 0:
            return f"{int(milliseconds // size)}{unit}"
    return "0s" if not milliseconds else f"{milliseconds:g}ms"


def whole(low: int, high: int, *, metavar: str = "N") -> Kind:
    """A whole number in a range."""

    def read(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value.strip()):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(value)
        return value

    return Kind(metavar, f"a whole number from {low} to {high}", read)


def choice(*words: str) -> Kind:
    """One of a few words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in words:
            raise ValueError(value)
        return value.lower()

    return Kind("|".join(words), f"one of {', '.join(words)}", read)


def _read_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(value)
    return value.strip()


def _read_texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    return tuple(map(_read_text, value))


def _read_networks(value: object) -> tuple[str, ...]:
    found = _read_texts(value)
    for text in found:
        ip_network(text)
    return found


def _read_version(value: object) -> str:
    text = _read_text(value)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}", text):
        raise ValueError(value)
    return text


def _read_path(value: object) -> Path:
    path = (value if isinstance(value, Path) else Path(_read_text(value))).expanduser()
    if "\0" in str(path):
        raise ValueError(value)
    return path


def _read_yes_no(value: object) -> bool:
    if isinstance(value, str):
        value = _WORDS.get(value.strip().lower())
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _read_port_or_off(value: object) -> int | None:
    if value is False or (isinstance(value, str) and value.strip().lower() in {"off", "none", "no"}):
        return None
    number = PORT.read(value)
    assert isinstance(number, int)
    return number


def _read_days_or_forever(value: object) -> int | None:
    if isinstance(value, str):
        if value.strip().lower() == "forever":
            return None
        value = value.strip().removesuffix("d")
    number = _DAYS.read(value)
    assert isinstance(number, int)
    return number


_DAYS: Final = whole(1, 36_500)
_DURATION_RULE: Final = "a duration such as 90s, 10m or 1h"
_DURATION_RULE_ABOVE_0: Final = "a duration above 0 such as 90s, 10m or 1h"
TEXT: Final = Kind("TEXT", "a text that is not empty", _read_text)
TEXTS: Final = Kind("TEXT", "a list of texts", _read_texts)
NETWORKS: Final = Kind("ADDRESS", "a list of IP addresses and networks such as 10.0.0.0/8", _read_networks)
VERSION: Final = Kind("VERSION", "a version such as 1.2.0", _read_version)
PATH: Final = Kind("FILE", "a path", _read_path)
FOLDER: Final = Kind("FOLDER", "a path", PATH.read)
YES_NO: Final = Kind("", "true or false", _read_yes_no)
PORT: Final = whole(0, 65535, metavar="PORT")
PORT_OR_OFF: Final = Kind("PORT|off", "a port from 0 to 65535, or off", _read_port_or_off)
DAYS_OR_FOREVER: Final = Kind("DAYS|forever", f"{_DAYS.rule}, or forever", _read_days_or_forever)
SECONDS: Final = Kind("DURATION", _DURATION_RULE, lambda value: duration_ms(value) / 1000)
WHOLE_SECONDS: Final = Kind("DURATION", _DURATION_RULE, lambda value: duration_ms(value) // 1000)
MILLISECONDS: Final = Kind("DURATION", _DURATION_RULE, duration_ms)
SECONDS_ABOVE_0: Final = Kind("DURATION", _DURATION_RULE_ABOVE_0, lambda value: _above_0_ms(value) / 1000)
MILLISECONDS_ABOVE_0: Final = Kind("DURATION", _DURATION_RULE_ABOVE_0, _above_0_ms)


def toml(value: object, kind: Kind) -> str:
    """The value as TOML, in the form that reads best."""
    if kind.metavar == "DURATION":
        assert isinstance(value, int | float)
        is_ms = kind in {MILLISECONDS, MILLISECONDS_ABOVE_0}
        return json.dumps(duration_text(value if is_ms else value * 1000))
    if value is None:
        return '"forever"' if kind is DAYS_OR_FOREVER else '"off"'
    if isinstance(value, tuple):
        return f"[{', '.join(json.dumps(item, ensure_ascii=False) for item in value)}]"
    if isinstance(value, bool | int):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False)
