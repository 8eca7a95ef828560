"""Development tokens, and the secrets that sign them."""

import json
import stat
from pathlib import Path

import pytest

from answerback.auth import JwtTokens
from answerback.ports import TokenRefused
from cli_process import Run


@pytest.fixture
def secret_file(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    assert run("token", "--new-secret", str(path)).code == 0
    return path


@pytest.fixture
def secret(secret_file: Path) -> str:
    return secret_file.read_text().strip()


def test_a_new_secret_is_good_and_for_its_owner_alone(secret_file: Path) -> None:
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert len(secret_file.read_text().strip()) >= 43


def test_a_secret_is_never_overwritten(run: Run, secret_file: Path) -> None:
    before = secret_file.read_text()
    result = run("token", "--new-secret", str(secret_file))
    assert result.code == 2
    assert "exists already" in result.err
    assert secret_file.read_text() == before


async def test_a_token_is_accepted_by_a_gateway_with_the_same_settings(
    run: Run, secret_file: Path, secret: str
) -> None:
    options = ("--secret-file", str(secret_file), "--issuer", "me", "--audience", "apps", "--ttl", "10m")
    made = json.loads(run("token", "--user", "alice", *options, "--json").out)
    identity = await JwtTokens(secret=secret, issuer="me", audience="apps").identify(made["token"])
    assert identity.user_id == made["userId"] == "alice"
    assert identity.expires_at_ms is not None
    for other in (JwtTokens(secret="x" * 64), JwtTokens(secret=secret, issuer="you", audience="apps")):
        with pytest.raises(TokenRefused):
            await other.identify(made["token"])


def test_the_secret_may_come_from_the_environment_or_the_file(
    run: Run, secret_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = tmp_path / "answerback.toml"
    toml.write_text('auth_secret_file = "secret.txt"')
    by_file = run("token", "--user", "alice", "--config", str(toml))
    monkeypatch.setenv("ANSWERBACK_AUTH_SECRET", secret_file.read_text())
    by_variable = run("token", "--user", "alice")
    assert by_file.code == by_variable.code == 0
    assert by_file.out.count(".") == by_variable.out.count(".") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "alice"], "no secret is set"),
        (["--user", "alice", "--ttl", "0"], "--ttl must be a duration"),
        (["--user", "a b"], "user id"),
        (["--user", "alice", "--secret-file", "nowhere"], "cannot be read"),
    ],
)
def test_what_is_wrong_is_reported(
    run: Run, secret_file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    if arguments[-1] == "a b":
        monkeypatch.setenv("ANSWERBACK_AUTH_SECRET", secret_file.read_text())
    result = run("token", *arguments)
    assert result.code == 2
    assert said in result.err
