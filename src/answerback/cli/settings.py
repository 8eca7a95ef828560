"""The gateway's settings as they hold: a flag wins over an `ANSWERBACK_*` variable, that over the TOML file."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import platformdirs

from answerback.cli.options import StoreOptions
from answerback.cli.output import usage_error, warn
from answerback.cli.reading import decode, typed
from answerback.gateway.settings import GatewaySettings
from answerback.settings import FOLDER, PATH, Setting, changed, declared, toml

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: a key for HS256 has at least the size of the hash."""

SETTINGS: Final = declared(GatewaySettings)
_BY_KEY: Final[Mapping[str, Setting]] = {setting.key: setting for setting in SETTINGS}
_OTHER_VARIABLES: Final = (
    "ANSWERBACK_CONFIG",
    "ANSWERBACK_DEBUG",
    "ANSWERBACK_TOKEN",
    "ANSWERBACK_URL",
    "ANSWERBACK_USER",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings that hold. `sources`: by key where each came from, if it is not the default."""

    gateway: GatewaySettings
    file: Path | None
    sources: Mapping[str, str]

    def as_toml(self) -> str:
        """The settings as a TOML file that means the same, with secrets hidden."""
        lines = [f"# read from {self.file}" if self.file else "# no file was read"]
        panel = ""
        for setting in SETTINGS:
            if setting.panel != panel:
                panel = setting.panel
                lines += ["", f"# {panel}"]
            lines.append(self._line(setting))
        return "\n".join(lines)

    def _line(self, setting: Setting) -> str:
        value, source = setting.value_in(self.gateway), self.sources.get(setting.key)
        if value is None and setting.key != "admin_port":
            return f"# {setting.key} is not set"
        if setting.is_secret:
            value = "(hidden)"
        elif setting.key == "database":
            value = without_password(str(value))
        line = f"{setting.key} = {toml(value, setting.kind)}"
        if setting.is_secret:
            line = f"# {line}"
        return f"{line}  # {source}" if source else line


def default_data_dir() -> Path:
    """Where the data is kept if nothing says otherwise."""
    return platformdirs.user_data_path("answerback", appauthor=False)


def default_file() -> Path:
    """The TOML file that is read if it is there."""
    return platformdirs.user_config_path("answerback", appauthor=False) / "answerback.toml"


def defaults() -> GatewaySettings:
    """The settings that hold if nobody sets any."""
    return GatewaySettings(data_dir=default_data_dir())


def load(
    flags: Mapping[str, object], *, file: Path | None = None, environment: Mapping[str, str] | None = None
) -> Configuration:
    """Join the four places. `flags`: by key, None for those not given. `file`: of `--config`; then it must exist.

    Raises: CliError: a value, key or file cannot be used; the text says what to do.
    """
    variables = os.environ if environment is None else environment
    chosen = file or (Path(variables["ANSWERBACK_CONFIG"]) if variables.get("ANSWERBACK_CONFIG") else None)
    path = chosen or default_file()
    document = _read_file(path, must_exist=chosen is not None)
    _warn_of_variables(variables)

    given: dict[str, object] = {}
    sources: dict[str, str] = {}
    base = path.resolve().parent
    for key, raw in document.items():
        if isinstance(raw, dict):
            raise usage_error(f"{path} has a section [{key}]", "settings stand at the top level: leave that line out")
        value = _read(_known(key, path), raw, f"{key} in {path}")
        given[key] = base / value if isinstance(value, Path) else value
        sources[key] = "file"
    for setting in SETTINGS:
        if variables.get(setting.variable):
            given[setting.key] = _read(setting, variables[setting.variable], setting.variable)
            sources[setting.key] = "environment"
        if flags.get(setting.key) is not None:
            given[setting.key] = _read(setting, flags[setting.key], setting.flag)
            sources[setting.key] = "flag"
    _settle_secret(given, sources)
    gateway = defaults()
    for setting in SETTINGS:
        if setting.key in given:
            gateway = changed(gateway, setting.path, given[setting.key])
    kept = {key: source for key, source in sources.items() if key in given}
    return Configuration(gateway=gateway, file=path if document or chosen else None, sources=kept)


def load_store(place: StoreOptions) -> Configuration:
    """The settings of the gateway whose store these options name. Raises: as `load`."""
    given = {"data_dir": place.data_dir, "database": place.database, "admin_port": place.admin_port}
    return load(given, file=place.config)


def read_secret(path: Path) -> str:
    """The secret in a file. Raises: CliError: no such file, or too short a secret."""
    try:
        secret = decode(path.read_bytes(), str(path)).strip()
        mode = path.stat().st_mode
    except OSError as exc:
        raise usage_error(
            f"the secret file {path} cannot be read ({_why(exc)})",
            f"make one with: answerback token --new-secret {path}",
        ) from exc
    if os.name == "posix" and mode & 0o077:
        warn(f"others can read {path} — chmod 600 {path}")
    return _long_enough(secret, str(path))


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    try:
        parts = urlsplit(url)
        hidden = parts.password is not None
    except ValueError:
        return "(unreadable URL)"
    if not hidden:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(decode(path.read_bytes(), str(path)))
    except FileNotFoundError:
        if must_exist:
            raise usage_error(
                f"there is no file {path}", f"make one with: answerback serve --show-config > {path}"
            ) from None
        return {}
    except OSError as exc:
        raise usage_error(f"{path} cannot be read ({_why(exc)})", "correct its path or permissions") from exc
    except (ValueError, RecursionError) as exc:
        raise usage_error(f"{path} is not valid TOML ({exc})", "correct that line") from exc


def _known(key: str, path: Path) -> Setting:
    if key in _BY_KEY:
        return _BY_KEY[key]
    near = difflib.get_close_matches(key.replace("-", "_"), _BY_KEY, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "all keys: answerback serve --show-config"
    raise usage_error(f"{path} has an unknown key {key}", hint)


def _typed(raw: object, where: str) -> object:
    """Text as it was typed. Raises: CliError: it is in another encoding."""
    if isinstance(raw, list | tuple):
        return [_typed(one, where) for one in raw]
    return typed(raw, where) if isinstance(raw, str) else raw


def _read(setting: Setting, raw: object, where: str) -> object:
    is_name = setting.kind in {PATH, FOLDER}  # which may be any bytes
    try:
        return setting.kind.read(raw if is_name else _typed(raw, where))
    except ValueError:
        shown = "" if setting.is_secret else f", not {raw!r}"
        raise usage_error(f"{where} must be {setting.kind.rule}{shown}", "correct it") from None


def _warn_of_variables(variables: Mapping[str, str]) -> None:
    """A mistyped variable would silently do nothing; one that looks like none of ours may be somebody else's."""
    known = {*_OTHER_VARIABLES, *(setting.variable for setting in SETTINGS)}
    for name in sorted(variables):
        if name.startswith("ANSWERBACK_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if near:
                warn(f"the variable {name} means nothing here — did you mean {near[0]}?")


def _settle_secret(given: dict[str, object], sources: Mapping[str, str]) -> None:
    """Of the secret and the file that holds it, the one from the stronger place counts."""
    strength = {"file": 1, "environment": 2, "flag": 3}
    if "auth_secret" in given and "auth_secret_file" in given:
        direct, by_file = strength[sources["auth_secret"]], strength[sources["auth_secret_file"]]
        if direct == by_file:
            raise usage_error("auth_secret and auth_secret_file are both set", "keep one of them")
        del given["auth_secret" if direct < by_file else "auth_secret_file"]
    if "auth_secret_file" in given:
        given["auth_secret"] = read_secret(Path(str(given["auth_secret_file"])))
    elif "auth_secret" in given:
        _long_enough(str(given["auth_secret"]), "auth_secret")
        if sources["auth_secret"] == "flag":  # noqa: S105 - the name of a place
            warn("everyone on this machine can see --auth-secret — use --auth-secret-file or ANSWERBACK_AUTH_SECRET")


def _long_enough(secret: str, name: str) -> str:
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise usage_error(
            f"the secret in {name} is shorter than {MIN_SECRET_BYTES} bytes",
            "make a good one with: answerback token --new-secret FILE",
        )
    return secret


def _why(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__
