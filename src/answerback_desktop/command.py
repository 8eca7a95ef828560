"""`answerback desktop`: open the desktop app."""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from answerback.cli.options import CaFile, trust
from answerback.cli.output import CliError, ExitCode, extra_needed, missing_extra, note, usage_error

if TYPE_CHECKING:
    from answerback_desktop.settings import Preset

_DEBIAN_PACKAGES: Final = (
    "libegl1 libgl1 libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 "
    "libxcb-keysyms1 libxcb-render-util0 libxcb-shape0 libxcb-xkb1 libxkbcommon-x11-0"
)
"""What Qt loads besides what it brings, on a system that has no desktop yet."""


class LanguageName(StrEnum):
    """The languages of --language."""

    ENGLISH = "en"
    KOREAN = "ko"


def desktop(
    *,
    profile: Annotated[str, typer.Option(help="Settings, data and window of their own.")] = "default",
    url: Annotated[
        str | None, typer.Option(envvar="ANSWERBACK_URL", help="Where the gateway listens.", show_default=False)
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(envvar="ANSWERBACK_USER", help="Who asks, where no token is needed.", show_default=False),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where profiles are kept.", show_default=False)
    ] = None,
    ca_file: CaFile = None,
    language: Annotated[
        LanguageName | None, typer.Option(help="Of the window.  [default: the system's]", show_default=False)
    ] = None,
) -> int:
    """Open the desktop app.

    The address, name and language given here become settings of the profile. Profiles run side by side; a second
    start of the same one shows the window that is open.

    With no gateway on this machine the app offers to start one.
    """
    from answerback.client import is_id  # noqa: PLC0415
    from answerback_desktop.profile import Profile, ProfileInUse  # noqa: PLC0415
    from answerback_desktop.settings import AuthMode, Language, is_server_url, server_url_of  # noqa: PLC0415

    trust(ca_file)
    url = None if url is None else server_url_of(url)
    if url is not None and not is_server_url(url):
        raise usage_error(f"{url!r} is not a gateway's address", "for example wss://chat.example.com")
    chosen_language = None if language is None else Language(language)
    all_given = {"server_url": url, "user": user, "language": chosen_language}
    given = {name: value for name, value in all_given.items() if value is not None}
    preset = _preset(given)
    if user is not None and not is_id(user):
        raise usage_error(f"{user!r} cannot be a user's name", "use 1 to 128 characters, no spaces")
    if user is not None:
        given["auth"] = AuthMode.NONE
    try:
        chosen = Profile.named(profile, root=data_dir)
    except ValueError as exc:
        raise usage_error(f"{profile!r} cannot be a profile", str(exc)) from exc
    _check_qt()
    try:
        with extra_needed("the desktop app", "desktop"):
            from answerback_desktop.app import run  # noqa: PLC0415 - Qt is an extra, slow to import
    except ImportError as exc:
        raise _missing_library(str(exc)) from exc
    try:
        has_run = run(chosen, preset, given)
    except ProfileInUse as exc:
        raise CliError(
            f"the profile {exc.name!r} is open in an app that does not answer", "end that one first"
        ) from exc
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise CliError(f"{chosen.folder} cannot be used ({why})", "give another folder: --data-dir") from exc
    if not has_run:
        note(f"answerback: the profile {profile!r} is open already; its window is in front now")
    return ExitCode.OK


def _preset(given: Iterable[str]) -> "Preset":
    """The administrator's preset, as far as it can be used. Raises: CliError: it decides what was given, too."""
    from answerback_desktop.profile import preset_path  # noqa: PLC0415
    from answerback_desktop.settings import Preset, PresetError  # noqa: PLC0415

    try:
        preset = Preset.load(preset_path())
    except PresetError:
        return Preset()  # the window tells
    for name in given:
        if name in preset.locked:
            option = "--url" if name == "server_url" else f"--{name}"
            raise usage_error(f"{option} is decided by the preset {preset_path()}", "leave it out")
    return preset


def _check_qt() -> None:
    """Name a missing system library before Qt ends the whole process. Raises: CliError."""
    found = importlib.util.find_spec("PySide6")
    if found is None or found.origin is None:
        raise missing_extra("the desktop app", "desktop")
    platform = os.environ.get("QT_QPA_PLATFORM", "").partition(":")[0]
    if not sys.platform.startswith("linux") or platform not in ("", "xcb"):
        return
    if os.environ.get("WAYLAND_DISPLAY") and not platform:
        return
    if not os.environ.get("DISPLAY"):
        raise CliError(
            "there is no display to open a window on",
            "start it in a desktop session, or over SSH with ssh -X; without one use `answerback chat`",
        )
    plugin = Path(found.origin).parent / "Qt" / "plugins" / "platforms" / "libqxcb.so"
    try:
        if plugin.exists():
            ctypes.CDLL(str(plugin))
    except OSError as exc:
        raise _missing_library(str(exc)) from exc
    _check_display(os.environ["DISPLAY"])


def _check_display(display: str) -> None:
    """Raises: CliError: nobody answers there."""
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError as exc:
        raise _missing_library(str(exc)) from exc
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    has_failed = xcb.xcb_connection_has_error(connection)
    xcb.xcb_disconnect(connection)
    if has_failed:
        raise CliError(
            f"the display {display} cannot be opened",
            "check DISPLAY and the permission for it (xauth), or use `answerback chat`",
        )


def _missing_library(detail: str) -> CliError:
    """Of `libEGL.so.1: cannot open shared object file: ...` the name is enough."""
    return CliError(
        f"Qt needs a system library that is not installed ({detail.partition(':')[0]})",
        f"on Debian or Ubuntu: apt-get install {_DEBIAN_PACKAGES}",
    )
