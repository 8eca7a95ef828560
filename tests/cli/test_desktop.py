"""`answerback desktop` where it cannot open a window: one line that says what to do."""

import importlib.util
import sys

import pytest

from answerback.cli.main import run
from answerback_desktop import command as desktop


@pytest.fixture
def bare(monkeypatch):
    """A Linux system with nothing set."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


def test_without_qt_it_says_what_to_install(bare, capsys):
    found = importlib.util.find_spec
    bare.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "PySide6" else found(name, *rest))
    assert run(["desktop"]) == 1
    assert "pip install '.[desktop]'" in capsys.readouterr().err


def test_without_a_display_it_names_the_way_out(bare, capsys):
    assert run(["desktop"]) == 1
    assert "no display" in (said := capsys.readouterr().err)
    assert "answerback chat" in said


def test_a_missing_library_is_named_with_the_packages_that_bring_it(bare, capsys):
    def load(path: str) -> None:
        raise OSError("libxcb-cursor.so.0: cannot open shared object file: No such file or directory")

    bare.setenv("DISPLAY", ":0")
    bare.setattr(desktop.ctypes, "CDLL", load)
    assert run(["desktop"]) == 1
    assert "(libxcb-cursor.so.0)" in (said := capsys.readouterr().err)
    assert "apt-get install" in said
    assert "libxcb-cursor0" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "a b"], "cannot be a profile"),
        (["--url", "ftp://example.com"], "for example wss://chat.example.com"),
        (["--user", "a b"], "no spaces"),
        (["--language", "fr"], "'en', 'ko'"),
    ],
)
def test_wrong_options_are_refused_before_anything_opens(bare, capsys, arguments, said):
    assert run(["desktop", *arguments]) == 2
    assert said in capsys.readouterr().err
