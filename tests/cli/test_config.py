"""Where settings come from, which place wins, and what is said about a wrong one."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.cli.admin import admin_of, find_port
from answerback.cli.output import CliError, ExitCode
from answerback.cli.settings import SETTINGS, defaults, load, without_password
from answerback.core.request import Policy
from answerback.gateway.settings import AuthSettings, Caps, GatewaySettings, LogSettings
from answerback.settings import duration_ms, duration_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answerback.toml"


def test_flag_wins_over_variable_over_file_over_default(file: Path) -> None:
    file.write_text('rate_limit = 1\nport = 2\nhost = "127.0.0.3"\n')
    variables = {"ANSWERBACK_RATE_LIMIT": "11", "ANSWERBACK_PORT": "12"}
    found = load({"rate_limit": "21", "host": None}, file=file, environment=variables)
    assert (found.gateway.rate_limit, found.gateway.port, found.gateway.host) == (21, 12, "127.0.0.3")
    assert found.gateway.max_tokens == GatewaySettings(data_dir=Path()).max_tokens
    assert found.sources == {"rate_limit": "flag", "port": "environment", "host": "file"}


def test_every_setting_reaches_its_place_in_the_gateway() -> None:
    given = {
        "host": "::1", "port": 1, "admin_port": 2, "admin_host": "a", "public_health": False,
        "tls_cert": "c", "tls_key": "k", "allow_origin": ["o"], "least_client": "1.4",
        "trust_proxy": ["10.0.0.0/8"],
        "allow_host": ["h"], "model": ["echo"], "system": "s", "lock_system": True, "max_tokens": 3, "context_turns": 4,
        "data_dir": "d", "database": "postgresql://x/y", "retention_days": 5, "history_days": 26, "standby": True,
        "node": "n", "drain": "24s", "lb_grace": "25s",
        "auth_secret": "s" * 32, "jwks_url": "u",
        "jwks_file": "f", "issuer": "i", "audience": "a", "user_claim": "uid",
        "team_claim": "t", "leeway": "6s", "rate_limit": 7,
        "max_connections": 8, "max_connections_per_user": 9, "max_pending_per_user": 10,
        "max_watchers": 27, "max_frames_per_second": 11, "max_frames_burst": 12,
        "max_message_bytes": 2000, "write_buffer_bytes": 3000, "answer_timeout": "13s",
        "queue_timeout": "14s", "lease": "15s", "max_attempts": 16, "idle_timeout": "17s", "handshake_timeout": "18s",
        "ping_interval": "19s", "write_stall_timeout": "20s", "grace": "21s", "janitor_interval": "22s",
        "coalesce_ms": 23, "log_format": "json", "log_level": "error", "ca_file": "ca",
        "otlp_endpoint": "http://collector:4318",
    }  # fmt: skip
    assert given.keys() == {setting.key for setting in SETTINGS} - {"auth_secret_file"}
    assert load(given, environment={}).gateway == GatewaySettings(
        host="::1", port=1, admin_port=2, admin_host="a", public_health=False,
        tls_cert=Path("c"), tls_key=Path("k"), allow_origins=("o",), least_client="1.4",
        trust_proxies=("10.0.0.0/8",),
        allow_hosts=("h",), models=("echo",), system="s", lock_system=True, max_tokens=3, context_turns=4,
        data_dir=Path("d"), database="postgresql://x/y", retention_days=5, history_days=26, standby=True,
        node="n", drain_s=24, lb_grace_s=25,
        rate_limit=7, idle_timeout_s=17,
        grace_s=21, janitor_interval_s=22, coalesce_ms=23, ca_file=Path("ca"),
        otlp_endpoint="http://collector:4318",
        auth=AuthSettings(
            secret="s" * 32, jwks_url="u", jwks_file=Path("f"), issuer="i", audience="a", user_claim="uid",
            team_claim="t", leeway_s=6
        ),
        caps=Caps(
            connections=8, connections_per_user=9, pending_per_user=10, watchers=27,
            frames_per_second=11, frames_burst=12,
            message_bytes=2000, write_buffer_bytes=3000, handshake_timeout_s=18, ping_interval_s=19,
            write_stall_timeout_s=20,
        ),
        policy=Policy(answer_timeout_ms=13_000, queue_timeout_ms=14_000, lease_ms=15_000, max_attempts=16),
        log=LogSettings(format="json", level="error"),
    )  # fmt: skip


def test_every_field_of_the_gateway_can_be_set() -> None:
    inner = {"auth": AuthSettings, "caps": Caps, "policy": Policy, "log": LogSettings}
    fields = {(field.name,) for field in dataclasses.fields(GatewaySettings) if field.name not in inner}
    fields |= {(section, field.name) for section, kind in inner.items() for field in dataclasses.fields(kind)}
    by_model = {("policy", "answer_timeouts_ms")}  # stands in the model's spec
    assert {setting.path for setting in SETTINGS} == fields - by_model


def test_the_units_are_those_that_the_gateway_wants() -> None:
    found = load(
        {"idle_timeout": "1h", "lease": "2s", "leeway": "90", "answer_timeout": "1.5m", "grace": "250ms"},
        environment={},
    ).gateway
    assert (found.idle_timeout_s, found.policy.lease_ms, found.auth.leeway_s) == (3600, 2000, 90)
    assert (found.policy.answer_timeout_ms, found.grace_s) == (90_000, 0.25)


def test_what_show_config_prints_means_the_same(file: Path) -> None:
    flags = {
        "model": ["echo", "openai:http://h/v1#m"],
        "admin_port": "off",
        "idle_timeout": "90s",
        "system": 'Say "ä\\"',
    }
    first = load(flags, environment={})
    file.write_text(first.as_toml())
    assert load({}, file=file, environment={}).gateway == first.gateway


def test_secrets_are_not_shown(file: Path) -> None:
    secret = "never-show-this-secret-0123456789abcdef"
    found = load({"database": "postgresql://me:hunter2@h/db"}, environment={"ANSWERBACK_AUTH_SECRET": secret})
    text = found.as_toml()
    assert secret not in text
    assert "hunter2" not in text
    assert "postgresql://me:***@h/db" in text
    tomllib.loads(text)


def test_the_default_file_is_read_and_may_be_missing(tmp_path: Path) -> None:
    assert load({}, environment={}).file is None
    folder = tmp_path / "config" / "answerback"
    folder.mkdir(parents=True)
    (folder / "answerback.toml").write_text("rate_limit = 3")
    found = load({}, environment={})
    assert (found.gateway.rate_limit, found.file) == (3, folder / "answerback.toml")


def test_paths_in_the_file_are_relative_to_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('data_dir = "data"')
    monkeypatch.chdir("/")
    assert load({}, file=file, environment={}).gateway.data_dir == file.parent / "data"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rate_limt = 3", "did you mean rate_limit?"),
        ("rate-limit = 3", "did you mean rate_limit?"),
        ("zzzzzzzz = 3", "answerback serve --show-config"),
        ("port = 70000", "port in {file} must be a whole number from 0 to 65535, not 70000"),
        ("port = true", "port in {file} must be a whole number"),
        ('idle_timeout = "soon"', "must be a duration above 0 such as 90s, 10m or 1h"),
        ("answer_timeout = 0", "must be a duration above 0"),
        ('janitor_interval = "0s"', "must be a duration above 0"),
        ('grace = "soon"', "must be a duration such as 90s, 10m or 1h"),
        ("lock_system = 1", "must be true or false"),
        ("model = [1]", "must be a list of texts"),
        ("[serve]\nport = 1", "{file} has a section [serve] — settings stand at the top level"),
        ("port = ", "{file} is not valid TOML"),
        (f"port = {'9' * 5_000}", "{file} is not valid TOML"),
        (f"port = {'[' * 100_000}", "{file} is not valid TOML"),
        ('jwks_file = "a\\u0000b"', "jwks_file in {file} must be"),
        ("auth_secret = 'short'", "shorter than 32 bytes"),
        (f"auth_secret = '{'x' * 32}'\nauth_secret_file = 's'", "both set"),
        ("auth_secret_file = 'nowhere'", "answerback token --new-secret"),
    ],
)
def test_a_wrong_file_is_reported_in_one_sentence(file: Path, content: str, said: str) -> None:
    file.write_text(content)
    with pytest.raises(CliError) as caught:
        load({}, file=file, environment={})
    assert said.format(file=file) in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_named_file_must_exist(file: Path) -> None:
    with pytest.raises(CliError, match="there is no file"):
        load({}, file=file, environment={})


def test_a_wrong_secret_is_not_repeated() -> None:
    with pytest.raises(CliError) as caught:
        load({}, environment={"ANSWERBACK_AUTH_SECRET": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_the_secret_of_the_stronger_place_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text("f" * 40 + "\n")
    secret_file.chmod(0o600)
    variables = {"ANSWERBACK_AUTH_SECRET": "e" * 40}
    by_flag = load({"auth_secret_file": str(secret_file)}, environment=variables)
    assert by_flag.gateway.auth.secret == "f" * 40
    assert capsys.readouterr().err == ""
    direct = load({"auth_secret": "d" * 40}, environment={"ANSWERBACK_AUTH_SECRET_FILE": str(secret_file)})
    assert direct.gateway.auth.secret == "d" * 40
    assert "everyone on this machine can see" in capsys.readouterr().err


def test_a_secret_that_others_can_read_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text("f" * 40)
    secret_file.chmod(0o644)
    load({"auth_secret_file": str(secret_file)}, environment={})
    assert f"chmod 600 {secret_file}" in capsys.readouterr().err


def test_a_mistyped_variable_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    load({}, environment={"ANSWERBACK_RATELIMIT": "3", "ANSWERBACK_SOMETHING_ELSE": "x", "ANSWERBACK_URL": "ws://h"})
    assert capsys.readouterr().err == (
        "answerback: warning: the variable ANSWERBACK_RATELIMIT means nothing here — did you mean "
        "ANSWERBACK_RATE_LIMIT?\n"
    )


def test_lists_from_a_variable_are_separated_by_spaces() -> None:
    found = load({}, environment={"ANSWERBACK_MODEL": "echo fast=openai:http://h/v1#m"})
    assert found.gateway.models == ("echo", "fast=openai:http://h/v1#m")


def test_every_default_is_one_that_may_be_given() -> None:
    for setting in SETTINGS:
        value = setting.value_in(defaults())
        if value is not None and "timeout" not in setting.key:
            assert setting.kind.read(value if not isinstance(value, Path) else str(value)) is not None


@given(st.integers(0, 10**12))
def test_a_duration_reads_back(milliseconds: int) -> None:
    assert duration_ms(duration_text(milliseconds)) == milliseconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "1 hour", "1e3", "nan", "∞", True, None, [], "1h30m"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller makes the sentence
        duration_ms(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@h:5/db?x=1", "postgresql://me:***@h:5/db?x=1"),
        ("postgresql://h/db", "postgresql://h/db"),
        ("postgresql://[::1/db", "(unreadable URL)"),
    ],
)
def test_passwords_in_urls_are_hidden(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff\xfea\0", b"-----BEGIN KEY-----\nsecret\n", b"k" * 40 + b"\r\nx: y"]
)
def test_a_file_that_is_no_admin_key_is_not_shown_to_anybody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "admin.key").write_bytes(content)
    (tmp_path / "admin.key").chmod(0o600)
    with pytest.raises(CliError, match="is damaged") as caught:
        admin_of(load({"data_dir": str(tmp_path)}, environment={}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "65536", "9" * 5_000])
def test_a_port_that_is_none_is_not_asked(tmp_path: Path, content: str) -> None:
    (tmp_path / "admin.port").write_text(content)
    assert find_port(tmp_path, otherwise=8766) == 8766
