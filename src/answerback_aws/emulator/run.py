"""The whole backend on this machine: the very template and functions of AWS, on the emulator."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

from answerback.models import ModelSpecError, open_model, parse_model_spec
from answerback.models.spec import BedrockSpec
from answerback.ports import Model, ModelError
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.deployment import Deployment, DeployRequest
from answerback_aws.deploy.package import Target
from answerback_aws.deploy.stack import Progress
from answerback_aws.emulator.bedrock import BedrockServer, of_model
from answerback_aws.emulator.emulator import CREDENTIALS, REGION, Emulator, EmulatorFailed, LocalFailed, emulator_python
from answerback_aws.emulator.postgres import PostgresServer

STACK: Final = "answerback"
MODEL_ID: Final = "answerback.emulated-v1:0"
CONCURRENCY: Final = "4"
"""Answers at a time; more start more processes than most machines have room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """What to run. `model`: a spec of `answerback.models`. `cache`: where the emulator and wheels are kept.

    `port` 0: a free one. `parameters`: of the template. `python`: of an environment of the emulator that is there.
    """

    model: str = "local"
    cache: Path
    port: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    python: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRun:
    """Where the local stack is reached. `model` is the name that apps use."""

    url: str
    endpoint: str
    model: str
    outputs: Mapping[str, str]


@contextmanager
def local_stack(settings: LocalSettings, progress: Progress) -> Iterator[LocalRun]:
    """The emulated backend for the length of a block; then all that it made is deleted.

    Raises: LocalFailed; DeployError.
    """
    with ExitStack() as started:
        python = settings.python or emulator_python(settings.cache, progress.step)
        progress.step("Starting PostgreSQL")
        postgres = started.enter_context(PostgresServer())
        progress.step(f"Loading the model {settings.model}")
        bedrock, model = _serve_model(settings.model, started)
        progress.step("Starting the emulator")
        emulator = Emulator(
            python=python,
            folder=Path(started.enter_context(TemporaryDirectory(prefix="answerback-local-"))),
            postgres=postgres.dsn,
            bedrock_url=bedrock.url,
            auth=True,
            port=settings.port,
        )
        try:
            started.enter_context(emulator)
        except EmulatorFailed as exc:
            raise LocalFailed(str(exc), "choose another --port, or leave it out for a free one") from exc
        outputs = deploy_on(
            emulator,
            STACK,
            progress,
            python=python,
            cache=settings.cache / "wheels",
            model=f"{model.name}=bedrock:{MODEL_ID}?price=0/0",
            parameters=settings.parameters,
        )
        yield LocalRun(url=outputs["WebSocketUrl"], endpoint=emulator.endpoint, model=model.name, outputs=outputs)


def _serve_model(text: str, started: ExitStack) -> tuple[BedrockServer, Model]:
    try:
        spec = parse_model_spec(text)
    except ModelSpecError as exc:
        raise LocalFailed(str(exc)) from exc
    if isinstance(spec, BedrockSpec):
        hint = "say --model local, echo, openai:BASE_URL#MODEL or python:module:factory"
        raise LocalFailed("Bedrock itself is what is emulated here", hint)
    server = started.enter_context(BedrockServer())
    try:
        model = server.call(open_model(spec))
    except (ModelSpecError, ModelError) as exc:
        raise LocalFailed(exc.detail if isinstance(exc, ModelError) else str(exc)) from exc
    started.callback(lambda: server.call(model.close()))
    server.script = of_model(model)
    return server, model


def target_of(python: Path) -> Target:
    """This machine, with the Python of the emulator's environment."""
    return Target.here(python=next((python.parents[1] / "lib").glob("python3*")).name.removeprefix("python"))


def deploy_on(
    emulator: Emulator,
    name: str,
    progress: Progress,
    *,
    python: Path,
    cache: Path,
    model: str = f"bedrock:{MODEL_ID}",
    parameters: Mapping[str, str] = MappingProxyType({}),
) -> Mapping[str, str]:
    """Deploy the stack `name` on an emulator, open to everyone and without protection; its outputs.

    `python`: of the emulator's environment. `cache`: of wheels. `parameters` win. Raises: DeployError.
    """
    account = Account(region=REGION, endpoint=emulator.endpoint, **CREDENTIALS)
    usual = {"AllowAnonymous": "true", "DeletionProtection": "false", "WorkerConcurrency": CONCURRENCY}
    usual["ModelArns"] = f"arn:aws:bedrock:*::foundation-model/{MODEL_ID}"
    request = DeployRequest(target=target_of(python), models=(model,), parameters={**usual, **parameters}, cache=cache)
    return account.outputs(Deployment(account, name, progress).deploy(request).outputs)
