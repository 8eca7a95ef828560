"""Each role may do what its function calls, and nothing else; who calls a function may."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from answerback_aws.runtime.composition import Composition
from lambda_functions import logging_kept
from template import RESOURCES, of_type, plain, statements

FUNCTIONS = of_type("AWS::Lambda::Function")
STAGE = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/${StageName}"


def dynamodb(table: str, actions: str) -> set[tuple[str, str]]:
    name, _, index = table.partition("/")
    resource = f"${{{name}Table.Arn}}/{index}" if index else f"${{{name}Table.Arn}}"
    return {(f"dynamodb:{action}", resource) for action in actions.split()}


def consume(queue: str) -> set[tuple[str, str]]:
    """Of the mapping, and for the pause before the next try."""
    actions = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes", "ChangeMessageVisibility")
    return {(f"sqs:{action}", f"${{{queue}.Arn}}") for action in actions}


def posts(*methods: str) -> set[tuple[str, str]]:
    return {("execute-api:ManageConnections", f"{STAGE}/{method}/@connections/*") for method in methods}


SEND = {("sqs:SendMessage", "${Queue.Arn}")}
AURORA = {
    *(
        (f"rds-data:{action}", "${Cluster.DBClusterArn}")
        for action in (
            "ExecuteStatement",
            "BatchExecuteStatement",
            "BeginTransaction",
            "CommitTransaction",
            "RollbackTransaction",
        )
    ),
    ("secretsmanager:GetSecretValue", "${Cluster.MasterUserSecret.SecretArn}"),
}
FORGET_CONNECTION = dynamodb("Connections", "DeleteItem") | dynamodb("Sessions", "UpdateItem")
END_REQUEST = (
    dynamodb("Requests", "GetItem UpdateItem")
    | dynamodb("Conversations", "GetItem Query PutItem DeleteItem")
    | dynamodb("Sessions", "Query")  # who watches
    | dynamodb("RateLimits", "UpdateItem")  # what a budget has reserved
)
ARCHIVE = dynamodb("Conversations", "GetItem BatchGetItem Query PutItem UpdateItem DeleteItem BatchWriteItem") | AURORA


def files(*folders: str, actions: str) -> set[tuple[str, str]]:
    """Objects of the bucket; what is not there is only said to be missing to who may list it."""
    objects = {(f"s3:{action}", f"${{FilesBucket.Arn}}/{folder}/*") for folder in folders for action in actions.split()}
    return objects | {("s3:ListBucket", "${FilesBucket.Arn}")}


MAY: Mapping[str, set[tuple[str, str]]] = {
    "AuthorizerFunction": set(),
    "ConnectionsFunction": FORGET_CONNECTION | dynamodb("Connections", "PutItem"),
    "FrontFunction": FORGET_CONNECTION
    | dynamodb("Connections", "GetItem UpdateItem")
    | dynamodb("Sessions", "GetItem PutItem")
    | END_REQUEST
    | dynamodb("Requests", "BatchGetItem PutItem")
    | dynamodb("Requests/index/unfinished", "Query")
    | dynamodb("RateLimits", "Query")
    | ARCHIVE
    | dynamodb("Conversations/index/unarchived", "Query")
    | files("up", "blob", actions="GetObject PutObject")
    | SEND
    | posts("POST", "DELETE"),
    "WorkerFunction": FORGET_CONNECTION
    | files("blob", actions="GetObject")
    | END_REQUEST
    | consume("Queue")
    | posts("POST")
    | {("bedrock:InvokeModelWithResponseStream", "${ModelArns}"), ("bedrock:ApplyGuardrail", "${GuardrailArns}")}
    | {("s3:GetObject", "arn:${AWS::Partition}:s3:::${CodeBucket}/${WorkerSettingsKey}")}
    | {(action, "${SecretArns}") for action in ("secretsmanager:GetSecretValue", "ssm:GetParameter")},
    "DeadLettersFunction": FORGET_CONNECTION | END_REQUEST | consume("DeadLetters") | posts("POST"),
    "JanitorFunction": FORGET_CONNECTION
    | dynamodb("Connections", "Scan GetItem UpdateItem")
    | END_REQUEST
    | dynamodb("Requests", "BatchGetItem")
    | dynamodb("Requests/index/unfinished", "Scan")
    | ARCHIVE
    | dynamodb("Conversations/index/unarchived", "Scan")
    | SEND
    | posts("GET", "POST", "DELETE"),
    "Migration": AURORA,
}


MAKE_SPANS = {"FrontFunction", "WorkerFunction", "DeadLettersFunction", "JanitorFunction"}


def role_of(function: str) -> Any:
    return RESOURCES[FUNCTIONS[function]["Properties"]["Role"]["Fn::GetAtt"][0]]


def test_the_table_is_of_all_functions() -> None:
    assert set(MAY) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_role_allows_what_its_function_calls_and_nothing_else(name: str) -> None:
    group = FUNCTIONS[name]["Properties"]["LoggingConfig"]["LogGroup"]["Ref"]
    always = {
        *((f"logs:{action}", f"${{{group}.Arn}}") for action in ("CreateLogStream", "PutLogEvents")),
        # X-Ray has no resources to name.
        *((f"xray:{action}", "*") for action in ("PutTraceSegments", "PutTelemetryRecords")),
        *({("xray:PutSpans", "*")} if name in MAKE_SPANS else ()),
    }
    allowed = statements(role_of(name))
    assert len(set(allowed)) == len(allowed)
    assert set(allowed) - always == MAY[name]
    assert always <= set(allowed)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_role_has_a_wildcard_that_could_be_narrower(name: str) -> None:
    for action, resource in statements(role_of(name)):
        assert "*" not in action
        assert resource != "*" or action.startswith("xray:")
        assert resource.count("*") == resource.endswith(("@connections/*", "/up/*", "/blob/*")) or resource == "*"
    managed = role_of(name)["Properties"].get("ManagedPolicyArns")
    own = {"Fn::If": ["HasWorkerPolicies", {"Ref": "WorkerPolicyArns"}, {"Ref": "AWS::NoValue"}]}
    assert managed == (own if name == "WorkerFunction" else None), "only those that the operator names"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_lambda_takes_a_role(name: str) -> None:
    (trust,) = role_of(name)["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}


def permissions() -> Iterator[tuple[str, str, str]]:
    for permission in of_type("AWS::Lambda::Permission").values():
        told = permission["Properties"]
        assert told["Action"] == "lambda:InvokeFunction"
        yield told["FunctionName"]["Ref"], told["Principal"], plain(told["SourceArn"])


def test_who_calls_a_function_may() -> None:
    """The emulator lets everybody call."""
    api = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}"
    assert set(permissions()) == {
        ("AuthorizerFunction", "apigateway.amazonaws.com", api + "/authorizers/${Authorizer}"),
        ("ConnectionsFunction", "apigateway.amazonaws.com", STAGE + "/*"),
        ("FrontFunction", "apigateway.amazonaws.com", STAGE + "/*"),
        ("JanitorFunction", "events.amazonaws.com", "${Schedule.Arn}"),
    }
    integrated = {
        re.findall(r"\$\{(\w+)\.Arn\}", plain(integration["Properties"]["IntegrationUri"]))[0]
        for integration in of_type("AWS::ApiGatewayV2::Integration").values()
    }
    assert integrated == {"ConnectionsFunction", "FrontFunction"}


# --- the environment


class Recording(dict[str, str]):
    """An environment that notes what is read of it."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def use(composition: Composition, *parts: str) -> None:
    for part in parts:
        assert getattr(composition, part) is not None


USED: Mapping[str, tuple[str, ...]] = {
    "ConnectionsFunction": ("connections",),
    "FrontFunction": ("front",),
    "WorkerFunction": ("worker",),
    "DeadLettersFunction": ("dead_letters",),
    "JanitorFunction": ("janitor", "write_behind"),
    "Migration": ("aurora",),
}
"""What each handler takes from the composition root."""

QUEUES = {"WorkerFunction": "queue_url", "DeadLettersFunction": "dead_letters_url"}
OPTIONAL = {"ANSWERBACK_MAX_ATTEMPTS", "ANSWERBACK_LEASE_S"}
"""They have defaults that no operator needs to change."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gets_what_it_reads_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{variable}", value)
    told = FUNCTIONS[name]["Properties"]["Environment"]["Variables"]
    environment = Recording({key: _sample(key) for key in told})
    with logging_kept(), closing(Composition("any", environment)) as composition:
        if name == "AuthorizerFunction":
            assert composition.tokens is not None
            composition._make_tokens()
        else:
            use(composition, *USED[name])
        if name == "FrontFunction":
            composition._make_tokens(names_team=False)  # for `renewToken`
        if name in {"AuthorizerFunction", "ConnectionsFunction"}:
            assert composition.settings.handshake_rules.allow_origins
        if name in QUEUES:
            getattr(composition.settings, QUEUES[name])
    assert set(told) == environment.read - OPTIONAL


def _sample(variable: str) -> str:
    samples = {
        "MODELS": "echo",
        "MANAGEMENT_ENDPOINT": "https://x.example/v1",
        "LOCK_SYSTEM": "true",
        "TRACE_RATIO": "0.5",
        "LEAST_CLIENT": "1.4",
        "JWT_SECRET": "s" * 32,
        "SYSTEM_BYTES": "1",
    }
    name = variable.removeprefix("ANSWERBACK_")
    if name in {"JWKS_URL", "SETTINGS_URL"}:
        return ""  # a secret is set, and one of them is enough; nothing is stored
    numeric = re.search(r"_S$|_DAYS$|^MAX_|RATE_LIMIT$", name)
    return samples.get(name, "10" if numeric else "INFO" if name.endswith("LOG_LEVEL") else "text")
