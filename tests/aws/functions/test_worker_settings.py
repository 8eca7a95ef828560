"""What the worker reads as it starts, from the emulated S3, Secrets Manager and SSM."""

import json
import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from answerback_aws.emulator.emulator import Emulator
from answerback_aws.runtime.composition import Composition
from answerback_aws.runtime.settings import SettingsError
from answerback_aws.runtime.worker_settings import StoredSettings, load

pytestmark = pytest.mark.emulator


@pytest.fixture
def store(emulator: Emulator) -> Callable[[StoredSettings], str]:
    """Puts settings where a deployment does; their URL."""
    bucket = f"b-{uuid.uuid4().hex[:8]}"
    emulator.client("s3").create_bucket(Bucket=bucket)

    def put(settings: StoredSettings) -> str:
        emulator.client("s3").put_object(Bucket=bucket, Key="settings/x.json", Body=settings.encode())
        return f"s3://{bucket}/settings/x.json"

    return put


@pytest.fixture
def secret(emulator: Emulator) -> Callable[[str], str]:
    """Makes a secret with this text; its ARN."""
    client = emulator.client("secretsmanager")
    return lambda text: str(client.create_secret(Name=f"s-{uuid.uuid4().hex[:8]}", SecretString=text)["ARN"])


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY", "USER_NAME", "TEAM_KEY", "KNOWLEDGE_BASE_ID"):
        monkeypatch.setenv(name, "before")


def test_variables_and_secrets_are_in_the_environment(
    emulator: Emulator, store: Callable[[StoredSettings], str], secret: Callable[[str], str]
) -> None:
    name = f"/team/{uuid.uuid4().hex[:8]}"
    ssm = emulator.client("ssm")
    ssm.put_parameter(Name=name, Value="three", Type="SecureString")
    settings = StoredSettings(
        system="s" * 50_000,
        environment={"KNOWLEDGE_BASE_ID": "ABCD1234EF"},
        secrets={
            "KEY": secret("one"),
            "USER_NAME": f"{secret(json.dumps({'user': 'two'}))}:user::",
            "TEAM_KEY": f"arn:aws:ssm:us-east-1:000000000000:parameter{name}",
        },
    )
    stored = load(store(settings), emulator.client)
    assert stored == settings
    found = {name: os.environ[name] for name in ("KEY", "USER_NAME", "TEAM_KEY", "KNOWLEDGE_BASE_ID")}
    assert found == {"KEY": "one", "USER_NAME": "two", "TEAM_KEY": "three", "KNOWLEDGE_BASE_ID": "ABCD1234EF"}


@pytest.mark.parametrize("text", ["not JSON", "[]", '{"other": "swordfish"}'])
def test_a_secret_that_cannot_be_read_is_named_and_its_text_is_not(
    emulator: Emulator, store: Callable[[StoredSettings], str], secret: Callable[[str], str], text: str
) -> None:
    url = store(StoredSettings(secrets={"KEY": f"{secret(text)}:password::"}))
    with pytest.raises(SettingsError, match=r"The secret KEY .* cannot be read") as caught:
        load(url, emulator.client)
    assert text not in str(caught.value)
    assert os.environ["KEY"] == "before"


def test_a_secret_or_an_object_that_is_not_there(emulator: Emulator, store: Callable[[StoredSettings], str]) -> None:
    absent = "arn:aws:secretsmanager:us-east-1:000000000000:secret:absent-AbCdEf"
    with pytest.raises(SettingsError, match=r"The secret KEY .*ResourceNotFoundException"):
        load(store(StoredSettings(secrets={"KEY": absent})), emulator.client)
    with pytest.raises(SettingsError, match=r"cannot be read \(NoSuchBucket\)"):
        load("s3://absent-bucket/settings/x.json", emulator.client)


def test_the_pipeline_is_made_after_its_variables_are_there(
    emulator: Emulator, store: Callable[[StoredSettings], str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "early_pipeline.py").write_text(
        "import os\nNAMED = os.environ['KNOWLEDGE_BASE_ID']\n"
        "def make():\n    async def answer(prompt):\n        yield NAMED\n    return answer\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    url = store(StoredSettings(environment={"KNOWLEDGE_BASE_ID": "ABCD1234EF"}))
    composition = Composition(
        "worker", {"ANSWERBACK_MODELS": "python:early_pipeline:make", "ANSWERBACK_SETTINGS_URL": url}
    )
    monkeypatch.setattr(composition, "client", emulator.client)
    assert list(composition.models) == ["early_pipeline"]
    assert __import__("early_pipeline").NAMED == "ABCD1234EF"
    composition.close()
