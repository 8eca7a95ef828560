"""Profiles and their settings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from answerback_desktop.gateway import address_of
from answerback_desktop.profile import Profile, ProfileInUse, ProfileLock
from answerback_desktop.settings import (
    AuthMode,
    Field,
    Language,
    Preset,
    PresetError,
    Settings,
    SettingsFile,
    Theme,
    problems,
    server_url_of,
)

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from pathlib import Path
from answerback_desktop.profile import Profile, ProfileLock
lock = ProfileLock(Profile.named("one", root=Path(sys.argv[1])))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_a_profile_until_it_ends_however_it_ends(tmp_path):
    profile = Profile.named("one", root=tmp_path)
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ProfileInUse, match="--profile"):
            ProfileLock(profile).acquire()
        ProfileLock(Profile.named("two", root=tmp_path)).acquire()
        other.kill()
    lock = ProfileLock(profile)
    lock.acquire()
    lock.release()
    lock.release()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "-x", "x" * 65, "한", "a b", "a\n"])
def test_names_that_are_no_folder(tmp_path, name):
    with pytest.raises(ValueError, match="letters"):
        Profile.named(name, root=tmp_path)


def test_settings_come_back(tmp_path):
    file = SettingsFile(tmp_path / "settings.json")
    assert file.load() == Settings()
    chosen = Settings(
        server_url="wss://h/screen", theme=Theme.DARK, language=Language.KOREAN, system="짧게", max_tokens=9
    )
    file.save(chosen)
    assert file.load() == chosen
    assert (tmp_path / "settings.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"theme":"pink"}', b'{"font_size":1}', b"\xff", b'{"max_tokens":0}']
)
def test_settings_that_cannot_be_read_are_moved_aside(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    file = SettingsFile(path)
    assert file.load() == Settings()
    assert file.moved_aside.read_bytes() == content
    assert SettingsFile(path).load() == Settings()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("wss://chat.example.com/stage", "wss://chat.example.com/stage"),
        ("ws://127.0.0.1:8765/", "ws://127.0.0.1:8765/"),
        ("https://chat.example.com", "wss://chat.example.com"),
        ("https://chat.example.com/", "wss://chat.example.com"),
        (" HTTPS://Chat.example.com:8443/x?y=1 ", "wss://Chat.example.com:8443/x?y=1"),
        ("http://10.0.0.7:8765", "ws://10.0.0.7:8765"),
        ("WSS://h", "wss://h"),
        ("chat.example.com", "wss://chat.example.com"),
        ("chat.example.com:8443", "wss://chat.example.com:8443"),
        ("chat.example.com/stage", "wss://chat.example.com/stage"),
        ("채팅.example", "wss://채팅.example"),
        ("localhost:9000", "ws://localhost:9000"),
        ("localhost", "ws://localhost:8765"),
        ("127.0.0.1", "ws://127.0.0.1:8765"),
        ("[::1]:9000", "ws://[::1]:9000"),
        ("ftp://h", "ftp://h"),
        ("h:99999", "h:99999"),
        ("", ""),
    ],
)
def test_an_address_is_taken_as_it_is_meant(typed: str, meant: str):
    assert server_url_of(typed) == meant


def preset(tmp_path: Path, content: object) -> Preset:
    path = tmp_path / "desktop.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode("utf-8-sig"))
    return Preset.load(path)


def test_a_preset_comes_before_the_apps_defaults_and_a_locked_one_before_the_persons(tmp_path):
    ours = preset(
        tmp_path,
        {
            "settings": {"server_url": "https://chat.example.com", "language": "ko", "theme": "dark"},
            "locked": ["server_url"],
            "models": ["fast", "wise"],
        },
    )
    path = tmp_path / "settings.json"
    path.write_text('{"server_url":"ws://mine:1","theme":"light"}')
    file = SettingsFile(path, ours)
    loaded = file.load()
    assert (loaded.server_url, loaded.language, loaded.theme) == (
        "wss://chat.example.com",
        Language.KOREAN,
        Theme.LIGHT,
    )
    assert loaded.model == "fast"
    chosen = replace(loaded, language=Language.SYSTEM, theme=Theme.DARK, model="wise")
    file.save(chosen)
    assert file.load() == chosen
    assert json.loads(path.read_text()) == {"model": "wise", "language": "system"}
    assert ours.enforced(replace(chosen, server_url="ws://other", model="dear")).server_url == loaded.server_url
    assert ours.enforced(replace(chosen, model="dear")).model == "fast"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "truncated"),
        (b"\xff\xfe{", "JSON"),
        ({"setings": {}}, "setings"),
        ({"settings": {"server": "wss://h"}}, "server"),
        ({"settings": {"token": "x"}}, "token"),
        ({"settings": {"theme": "pink"}}, "pink"),
        ({"settings": {"server_url": "no sense"}}, "server_url"),
        ({"locked": ["everything"]}, "everything"),
    ],
)
def test_a_wrong_preset_says_what_is_wrong(tmp_path, content: object, says: str):
    with pytest.raises(PresetError, match=says):
        preset(tmp_path, content)


def test_no_preset_presets_nothing(tmp_path):
    assert Preset.load(tmp_path / "none.json") == Preset()


def test_what_a_later_version_adds_is_no_reason_to_lose_the_rest(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"user":"ada","not_yet":true}')
    assert SettingsFile(path).load().user == "ada"


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (Settings(), ()),
        (Settings(server_url="http://h"), (Field.SERVER_URL,)),
        (Settings(server_url="ws://h:99999"), (Field.SERVER_URL,)),
        (Settings(server_url="ws://h h"), (Field.SERVER_URL,)),
        (Settings(user="two words"), (Field.USER,)),
        (Settings(auth=AuthMode.OIDC), (Field.OIDC_ISSUER, Field.OIDC_CLIENT_ID)),
        (Settings(auth=AuthMode.OIDC, oidc_issuer="http://h", oidc_client_id="c"), (Field.OIDC_ISSUER,)),
        (Settings(auth=AuthMode.OIDC, oidc_issuer="https://h", oidc_client_id="c"), ()),
        (Settings(system="\0", max_tokens=0, font_size=99), (Field.SYSTEM, Field.MAX_TOKENS, Field.FONT_SIZE)),
        (Settings(token="a\nb"), (Field.TOKEN,)),
    ],
)
def test_problems(settings, wrong, tmp_path):
    assert problems(settings) == wrong
    if wrong:
        with pytest.raises(ValueError, match="problems"):
            SettingsFile(tmp_path / "s").save(settings)


@given(st.text())
def test_no_text_breaks_the_check_of_a_url(text):
    problems(Settings(server_url=text, oidc_issuer=text, auth=AuthMode.OIDC))
    address_of(text)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://127.0.0.1:8765", ("127.0.0.1", 8765)),
        ("ws://localhost", ("localhost", 80)),
        ("ws://[::1]:1/path", ("::1", 1)),
        ("wss://127.0.0.1:8765", None),
        ("ws://example.com:8765", None),
        ("ws://h:x", None),
    ],
)
def test_where_a_local_gateway_could_serve(url, address):
    assert address_of(url) == address
