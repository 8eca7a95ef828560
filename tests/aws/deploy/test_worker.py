"""What `deploy --system --env --secret` say to the worker, and that it stays."""

import pytest

from answerback_aws.deploy.deployment import WorkerRequest, worker_parameters
from answerback_aws.deploy.errors import DeployError, UsageError
from answerback_aws.runtime.worker_settings import StoredSettings, decode

SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:key-AbCdEf"
PARAMETER = "arn:aws:ssm:us-east-1:123456789012:parameter/team/key"


class Bucket:
    """Buckets in memory; uploads go to `name`."""

    def __init__(self) -> None:
        self.name = "first"
        self.objects: dict[tuple[str, str], bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        self.objects[self.name, key] = data

    def get(self, bucket: str, key: str) -> bytes:
        return self.objects[bucket, key]


class Stack:
    """Deploys one after the other; `parameters` are those of the stack."""

    def __init__(self) -> None:
        self.bucket = Bucket()
        self.parameters: dict[str, str] = {}

    def deploy(self, request: WorkerRequest | None = None, **said: object) -> StoredSettings | None:
        asked = request or WorkerRequest(**said)  # type: ignore[arg-type]
        self.parameters |= {"SystemPrompt": "", **self.parameters}
        self.parameters |= worker_parameters(asked, self.parameters, self.bucket)
        self.parameters["CodeBucket"] = self.bucket.name
        key = self.parameters.get("WorkerSettingsKey")
        return decode(self.bucket.get(self.bucket.name, key)) if key else None


@pytest.fixture
def stack() -> Stack:
    return Stack()


def test_nothing_said_uploads_nothing(stack: Stack) -> None:
    assert stack.deploy() is None
    assert stack.bucket.objects == {}


def test_a_short_prompt_is_a_parameter_and_a_long_one_of_any_length_is_stored(stack: Stack) -> None:
    assert stack.deploy(system="가" * 1024) is None
    assert stack.parameters["SystemPrompt"] == "가" * 1024
    assert stack.deploy(system="가" * 100_000) == StoredSettings(system="가" * 100_000)
    assert stack.parameters["SystemPrompt"] == ""
    assert stack.deploy(system="brief") is None, "the long one is gone"
    assert stack.parameters["SystemPrompt"] == "brief"
    assert stack.deploy(system="") is None
    assert stack.parameters["SystemPrompt"] == ""


def test_what_is_not_said_stays_and_an_empty_value_takes_away(stack: Stack) -> None:
    stack.deploy(system="s" * 2000, environment={"A": "1", "B": "x=y"}, secrets={"K": SECRET, "P": PARAMETER})
    assert stack.parameters["SecretArns"] == f"{SECRET},{PARAMETER}"
    stored = stack.deploy(environment={"A": "2", "B": ""}, secrets={"P": ""})
    assert stored == StoredSettings(system="s" * 2000, environment={"A": "2"}, secrets={"K": SECRET})
    assert stack.parameters["SecretArns"] == SECRET
    assert stack.deploy(system="", environment={"A": ""}, secrets={"K": ""}) is None
    assert (stack.parameters["WorkerSettingsKey"], stack.parameters["SecretArns"]) == ("", "")


def test_it_goes_along_to_another_bucket(stack: Stack) -> None:
    stack.deploy(environment={"A": "1"})
    stack.bucket.name = "second"
    assert stack.deploy() == StoredSettings(environment={"A": "1"})


def test_the_same_settings_have_the_same_key(stack: Stack) -> None:
    stack.deploy(environment={"A": "1", "B": "2"})
    key = stack.parameters["WorkerSettingsKey"]
    other = Stack()
    other.deploy(environment={"B": "2", "A": "1"})
    assert other.parameters["WorkerSettingsKey"] == key


def test_the_key_of_a_json_secret_is_no_part_of_what_is_allowed(stack: Stack) -> None:
    stack.deploy(secrets={"USER": f"{SECRET}:user::", "PASSWORD": f"{SECRET}:password::"})
    assert stack.parameters["SecretArns"] == SECRET


@pytest.mark.parametrize("name", ["AWS_REGION", "LAMBDA_TASK_ROOT", "ANSWERBACK_QUEUE_URL", "1A", "A-B", "이름"])
def test_a_name_that_is_not_the_operators(stack: Stack, name: str) -> None:
    with pytest.raises(DeployError, match=name) as caught:
        stack.deploy(environment={name: "x"})
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    "text", ["sk-12345", "my-secret", "arn:aws:s3:::bucket/key", f"{SECRET}:key", f"{SECRET}:key:AWSCURRENT:"]
)
def test_a_secret_is_named_and_never_given(stack: Stack, text: str) -> None:
    with pytest.raises(DeployError, match="must be the whole ARN") as caught:
        stack.deploy(secrets={"K": text})
    assert isinstance(caught.value, UsageError)
    assert text not in str(caught.value)
