"""Profiles and their settings."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback_desktop.gateway import address_of
from answerback_desktop.profile import Profile, ProfileInUse, ProfileLock
from answerback_desktop.settings import AuthMode, Field, Language, Settings, SettingsFile, Theme, problems

HOLD_THE_LOCK = """
import sys
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
