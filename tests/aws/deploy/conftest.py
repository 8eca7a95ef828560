"""Stacks of the real template on the emulator, deployed as a user deploys them."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from answerback_aws.deploy.account import Account
from answerback_aws.deploy.deployment import DeployRequest
from answerback_aws.deploy.package import Package, Target, build_package
from answerback_aws.deploy.stack import StackEvent
from answerback_aws.emulator.emulator import CREDENTIALS, REGION, Emulator

CACHE = Path(__file__).resolve().parents[3] / ".cache" / "wheels"


class Recorder:
    """Keeps what a deployment tells."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.events: list[StackEvent] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def event(self, event: StackEvent) -> None:
        self.events.append(event)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def account(emulator: Emulator) -> Account:
    made = Account(region=REGION, endpoint=emulator.endpoint, **CREDENTIALS)
    assert made.identity == "000000000000"
    return made


@pytest.fixture(scope="session")
def build() -> Callable[..., Package]:
    """Builds a package once: the work tree may change while the tests run."""
    built = build_package(Target.here(), cache=CACHE)
    return lambda target, **_: built


@pytest.fixture(scope="session")
def wanted() -> Callable[..., DeployRequest]:
    """What is asked for: by default an echo that lets everyone in."""

    def make(**parameters: str) -> DeployRequest:
        given = {"AllowAnonymous": "true", "HistoryDelaySeconds": "0", **parameters}
        return DeployRequest(target=Target.here(), models=("echo",), parameters=given, cache=CACHE)

    return make


@pytest.fixture
def stack_name() -> str:
    return f"s{uuid.uuid4().hex[:10]}"
