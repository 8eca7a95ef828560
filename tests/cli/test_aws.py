"""`answerback aws` as it is typed, against the emulator."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from answerback_aws.commands import deploy
from answerback_aws.emulator.emulator import CREDENTIALS, Emulator
from cli_process import Run

pytestmark = pytest.mark.timeout(300)
CACHE = Path(__file__).resolve().parents[2] / ".cache"
HERE = ("--architecture", "here")


@pytest.fixture(autouse=True)
def _no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in CREDENTIALS:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))


@pytest.fixture
def aws(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.mark.parametrize("command", ["check", "deploy", "status", "logs", "outputs", "destroy", "package"])
def test_help_has_examples(run: Run, command: str) -> None:
    result = run("aws", command, "--help")
    assert result.code == 0
    assert f"answerback aws {command} " in result.out


def test_without_a_region_or_credentials(run: Run) -> None:
    nowhere = run("aws", "status")
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "--region" in nowhere.err
    nobody = run("aws", "status", "--region", "us-east-1")
    assert nobody.code == 2
    assert "aws configure" in nobody.err


def test_aws_that_cannot_be_reached(run: Run, aws: None) -> None:
    result = run("aws", "status", "--endpoint-url", "http://127.0.0.1:1")
    assert result.code == 3
    assert "cannot reach AWS" in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("deploy", "--parameter", "RateLimit"), "NAME=VALUE"),
        (("deploy", "--runtime", "2.7"), "--runtime must be"),
        (("deploy", "--architecture", "mips"), "arm64, x86_64 or here"),
        (("deploy", "--model", "local"), "does not run on AWS"),
        (("deploy", "--jwt-secret-file", "/nix"), "token --new-secret"),
        (("deploy",), "--allow-anonymous"),
        (("deploy", "--stack", "my stack", "--allow-anonymous"), "cannot be a stack's name"),
        (("logs", "--since", "soon"), "10m"),
        (("package", "--measure"), "--architecture here"),
    ],
)
def test_wrong_usage(run: Run, aws: None, arguments: tuple[str, ...], says: str) -> None:
    result = run("aws", *arguments)
    assert (result.code, result.out) == (2, "")
    assert says in result.err


@pytest.mark.parametrize("command", ["status", "logs", "outputs", "destroy"])
def test_a_stack_that_is_not_there(run: Run, aws: None, command: str) -> None:
    result = run("aws", command, "--stack", "nix")
    assert result.code == 1
    assert "answerback aws deploy --stack nix" in result.err


def test_a_package(run: Run, tmp_path: Path) -> None:
    result = run("aws", "package", "--output", str(tmp_path / "a.zip"), "--json")
    assert result.code == 0
    said = json.loads(result.out)
    assert said["target"] == "python3.13-arm64"
    assert said["bytes"] == (tmp_path / "a.zip").stat().st_size <= 10_000_000
    nowhere = run("aws", "package", "--output", str(tmp_path / "nix" / "a.zip"))
    assert nowhere.code == 1
    assert "--output" in nowhere.err


def test_a_package_is_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "measure_imports", partial(deploy.measure_imports, rounds=1))
    result = run("aws", "package", *HERE, "--measure")
    assert result.code == 0
    measured = dict(line.split("\t")[:2] for line in result.out.splitlines() if "runtime.functions." in line)
    assert {"answerback_aws.runtime.functions.worker", "answerback_aws.runtime.functions.front"} <= set(measured)
    assert all(float(figure.split()[0]) > 0 for figure in measured.values())


def test_a_model_that_is_not_in_the_package(run: Run, aws: None) -> None:
    result = run("aws", "deploy", "--allow-anonymous", "--model", "python:mine:make", "--dry-run", *HERE)
    assert result.code == 1
    assert "--include" in result.err


def test_a_stack_from_the_first_day_to_the_last(run: Run, aws: None, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from answerback.models import EchoModel\ndef make():\n    return EchoModel(name='mine')\n"
    )
    stack = ("--stack", "cli")
    checked = run("aws", "check", *stack)
    assert (checked.code, checked.out.count("\nok\t")) == (0, 4), checked.out
    mine = ("--model", "python:mine:make", "--include", str(tmp_path / "mine.py"))
    planned = run("aws", "deploy", *stack, *HERE, *mine, "--allow-anonymous", "--dry-run", "--json")
    assert {"action": "Add", "resource": "Api", "kind": "AWS::ApiGatewayV2::Api", "replaced": ""} in json.loads(
        planned.out
    )
    assert run("token", "--new-secret", str(tmp_path / "secret")).code == 0
    secret = ("--jwt-secret-file", str(tmp_path / "secret"))
    made = run("aws", "deploy", *stack, *HERE, *mine, *secret, "--rate-limit", "30", "--max-acu", "2.5")
    assert made.code == 0, made.err
    assert "It answered a question in " in made.err
    url, token = made.out.strip(), run("token", "--user", "ann", "--secret-file", str(tmp_path / "secret")).out.strip()
    assert url.startswith("ws://127.0.0.1:")
    assert "WorkerFunction CREATE_COMPLETE" in made.err
    assert f"answerback ask --url {url} " in made.err
    outputs = json.loads(run("aws", "outputs", *stack, "--json").out)
    assert run("aws", "outputs", "ApiId", *stack).out.strip() == outputs["ApiId"]
    assert "there are: ApiId" in run("aws", "outputs", "Nix", *stack).err
    asked = run("ask", "--url", url, "--token", token, "one two")
    assert (asked.code, asked.out.strip()) == (0, "one two"), asked.err
    status = run("aws", "status", *stack)
    assert status.code == 0, status.out
    assert "ok\tqueue\t0 waiting, 0 at work" in status.out
    assert json.loads(run("aws", "status", *stack, "--json").out)["healthy"] is True
    logs = run("aws", "logs", *stack, "--function", "worker", "--since", "1h")
    assert "a request ended" in logs.out
    assert "START RequestId" not in logs.out
    again = run("aws", "deploy", *stack, *HERE, "--include", str(tmp_path / "mine.py"), "--dry-run")
    assert again.out == "Nothing would change.\n"
    replaced = run(
        "aws", "deploy", *stack, *HERE, "--include", str(tmp_path / "mine.py"), "--parameter", "StageName=v2"
    )
    assert (replaced.code, "apps need another URL" in replaced.err, "--replace" in replaced.err) == (2, True, True)
    away = run("aws", "deploy", *stack, *HERE, "--model", "echo:fail=unavailable", "--token", token)
    assert away.code == 1
    assert away.out.strip() == url
    assert "does not answer: The model cannot be reached" in away.err
    unsure = run("aws", "destroy", *stack)
    assert unsure.code == 2
    assert "--yes" in unsure.err
    gone = run("aws", "destroy", *stack, "--yes")
    assert gone.code == 0, gone.err
    assert "cli is deleted." in gone.out
    assert "snapshot" in gone.out


def in_a_fresh_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_the_packages_for_aws() -> None:
    done = in_a_fresh_process(
        "import sys; sys.modules['boto3'] = None\n"
        "from answerback.cli.main import run\n"
        "sys.exit(run(['aws', 'status', '--region', 'us-east-1']))"
    )
    assert done.returncode == 1
    assert "pip install '.[aws]'" in done.stderr


def test_the_help_needs_no_packages_for_aws() -> None:
    done = in_a_fresh_process(
        "import sys\nfrom answerback.cli.main import run\n"
        "code = run(['aws', 'deploy', '--help'])\nassert not {'boto3', 'botocore'} & set(sys.modules)\nsys.exit(code)"
    )
    assert done.returncode == 0, done.stderr
