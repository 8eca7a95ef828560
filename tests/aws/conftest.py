"""The stack on the emulator, deployed once for all tests; what its functions logged is shown with a failed one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from answerback_aws.deploy.package import build_package
from answerback_aws.emulator.bedrock import BedrockServer
from answerback_aws.emulator.emulator import Emulator
from answerback_aws.emulator.run import target_of
from answerback_aws.runtime.worker_settings import StoredSettings
from answerback_proof.conformance import load_models
from emulation import ENVIRONMENT, emulator_python
from stack import IDLE_S, JWT_SECRET, LIFE_S, LONG_SYSTEM, PAGE, Stack


@pytest.fixture(scope="session")
def package() -> bytes:
    """The package of the functions for this machine and the emulator's Python."""
    return build_package(target_of(emulator_python()), cache=ENVIRONMENT.parent / "wheels").data


@pytest.fixture(scope="session")
def stack(package: bytes, postgres_server: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack without tokens."""
    with _deployed(tmp_path_factory.mktemp("stack"), package, postgres_server, AllowAnonymous="true") as deployed:
        yield deployed


@pytest.fixture(scope="session")
def secured(package: bytes, postgres_server: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with tokens, and IAM enforced: a permission that the template forgets is missing here."""
    folder, emulated = tmp_path_factory.mktemp("secured"), {"auth": True}

    def prepare(emulator: Emulator) -> Mapping[str, str]:
        """What the worker reads as it starts: without the permissions for it, it would not."""
        arn = emulator.client("secretsmanager").create_secret(Name="key", SecretString="swordfish")["ARN"]
        settings = StoredSettings(system=LONG_SYSTEM, environment={"A": "1"}, secrets={"KEY": arn})
        emulator.client("s3").put_object(Bucket="code", Key="settings.json", Body=settings.encode())
        return {"WorkerSettingsKey": "settings.json", "SecretArns": arn}

    with _deployed(
        folder, package, postgres_server, emulated, name="secured", prepare=prepare, JwtSecret=JWT_SECRET
    ) as deployed:
        yield deployed


@pytest.fixture(scope="module")
def hasty(package: bytes, postgres_server: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack where API Gateway's ten minutes are four seconds, its two hours twelve, and posts are unruly."""
    emulated = {"idle_timeout_s": IDLE_S, "connection_limit_s": LIFE_S, "unruly_posts": True}
    with _deployed(
        tmp_path_factory.mktemp("hasty"), package, postgres_server, emulated, AllowAnonymous="true"
    ) as deployed:
        yield deployed


@pytest.fixture(scope="module")
def conforming(package: bytes, postgres_server: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with the models that the conformance cases ask for, in the worker itself."""
    folder, models = tmp_path_factory.mktemp("conforming"), " ".join(need.spec for need in load_models().values())
    with _deployed(
        folder, package, postgres_server, AllowAnonymous="true", WorkerConcurrency="8", Models=models
    ) as deployed:
        yield deployed


@contextmanager
def _deployed(
    folder: Path, package: bytes, postgres: object, emulated: dict[str, Any] | None = None, **parameters: Any
) -> Iterator[Stack]:
    dsn = postgres.dsn  # type: ignore[attr-defined]
    python = emulator_python()
    parameters.setdefault("AllowOrigins", PAGE)
    with (
        BedrockServer() as bedrock,
        Emulator(python=python, folder=folder, postgres=dsn, bedrock_url=bedrock.url, **(emulated or {})) as emulator,
    ):
        stack = Stack(emulator, bedrock, package, **parameters)
        try:
            stack.deploy()
        except Exception as exc:
            exc.add_note(stack.logs())
            exc.add_note(emulator.log())
            raise
        yield stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    """Show the logs of the functions with a test that failed."""
    report = yield
    used = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Stack)]
    if call.when == "call" and report.failed:
        report.sections += [("functions", stack.logs(since_ms=int(call.start * 1000))) for stack in used]
    return report
