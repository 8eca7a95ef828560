"""The whole product on the emulator: the real template and package, PostgreSQL, and a Bedrock that follows scripts."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt

from answerback.models.echo import echo_deltas
from answerback.ports import Finish, Piece
from answerback_aws.emulator.bedrock import Asked, BedrockServer, Script
from answerback_aws.emulator.emulator import Emulator

TEMPLATE = Path(__file__).resolve().parents[2] / "infra" / "template.yaml"
IDLE_S, LIFE_S = 4.0, 12.0
"""Of connections of the hasty stack."""
LONG_SYSTEM = "Answer as the handbook of the secured stack says. " * 100
"""The system prompt of the secured stack, which is longer than the template's parameter."""
JWT_SECRET = "a secret of thirty-two characters"
PAGE = "https://app.example"
"""The web page that may connect."""


class Scripts:
    """What Bedrock answers: to a question that was given a script, that; to any other its own words."""

    def __init__(self) -> None:
        self._by_question: dict[str, Script] = {}

    def __setitem__(self, question: str, script: Script) -> None:
        self._by_question[question] = script

    async def __call__(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        script = self._by_question.get(asked.question, echo)
        async for piece in script(asked):
            yield piece


async def echo(asked: Asked) -> AsyncGenerator[Piece, None]:
    """The question's own words, one a piece."""
    count = 0
    for piece in echo_deltas(asked.question):
        count += 1
        yield piece
        await asyncio.sleep(0)
    yield Finish(input_tokens=7, output_tokens=count)


class Stack:
    """One deployed stack. Users, sessions and questions of your own keep tests apart: `stack.name("user")`."""

    def __init__(
        self,
        emulator: Emulator,
        bedrock: BedrockServer,
        package: bytes,
        *,
        name: str = "chat",
        prepare: Callable[[Emulator], Mapping[str, str]] = lambda _emulator: {},
        **parameters: str,
    ) -> None:
        self.emulator = emulator
        self.bedrock = bedrock
        self.scripts = Scripts()
        bedrock.script = self.scripts
        self.stack_name = name
        self._package = package
        self._prepare = prepare
        self._parameters = parameters
        self.outputs: Mapping[str, str] = {}

    def deploy(self) -> None:
        """Create the stack, and wait for it."""
        s3, formation = self.emulator.client("s3"), self.emulator.client("cloudformation")
        s3.create_bucket(Bucket="code")
        s3.put_object(Bucket="code", Key="package.zip", Body=self._package)
        s3.put_object(Bucket="code", Key="template.yaml", Body=TEMPLATE.read_bytes())
        told = {
            "CodeBucket": "code",
            "CodeKey": "package.zip",
            "Models": "bedrock:amazon.nova-lite-v1:0",
            "DeletionProtection": "false",
            "WorkerConcurrency": "4",
            "RateLimit": "0",
            **self._parameters,
            **self._prepare(self.emulator),
        }
        formation.create_stack(
            StackName=self.stack_name,
            TemplateURL=f"{self.emulator.endpoint}/code/template.yaml",
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in told.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        formation.get_waiter("stack_create_complete").wait(
            StackName=self.stack_name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 1200}
        )
        found = formation.describe_stacks(StackName=self.stack_name)["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        # It refuses what comes without TLS, and so everything on an emulator that enforces it.
        s3.delete_bucket_policy(Bucket=self.outputs["FilesBucket"])

    @property
    def url(self) -> str:
        """Where apps connect."""
        return self.emulator.websocket_url(self.outputs["ApiId"], self.outputs["StageName"])

    def name(self, what: str) -> str:
        """A name that no other test has."""
        return f"{what}-{uuid.uuid4().hex[:8]}"

    def token(self, user: str, *, ttl_s: int = 600) -> str:
        """A token of a user, for a stack that asks for them."""
        claims = {"sub": user, "exp": datetime.now(UTC) + timedelta(seconds=ttl_s)}
        return jwt.encode(claims, JWT_SECRET, algorithm="HS256")

    def invoke(self, function: str, event: Mapping[str, Any] | None = None) -> Any:
        """Call a function (`Janitor`) by hand, and wait for what it returns."""
        answer = self.emulator.client("lambda").invoke(
            FunctionName=self.outputs[f"{function}Function"], Payload=json.dumps(event or {})
        )
        payload = json.loads(answer["Payload"].read() or b"null")
        assert "FunctionError" not in answer, payload
        return payload

    @contextmanager
    def configured(self, function: str, *, timeout_s: int | None = None, **variables: str) -> Iterator[None]:
        """A function (`Janitor`) with another time limit, and with other values of its variables."""
        client, name = self.emulator.client("lambda"), self.outputs[f"{function}Function"]
        was = client.get_function_configuration(FunctionName=name)
        kept = was["Environment"]["Variables"]
        told = {f"ANSWERBACK_{key}": value for key, value in variables.items()}
        client.update_function_configuration(
            FunctionName=name, Timeout=timeout_s or was["Timeout"], Environment={"Variables": {**kept, **told}}
        )
        try:
            yield
        finally:
            client.update_function_configuration(
                FunctionName=name, Timeout=was["Timeout"], Environment={"Variables": kept}
            )

    def sweep(self) -> None:
        """Run the janitor now."""
        self.invoke("Janitor")

    def item(self, table: str, **key: str) -> dict[str, Any] | None:
        """An item of a table (`Connections`), as plain strings."""
        found = self.emulator.client("dynamodb").get_item(
            TableName=self.outputs[f"{table}Table"], Key={name: {"S": value} for name, value in key.items()}
        )
        item: dict[str, Any] | None = found.get("Item")
        return None if item is None else {name: next(iter(value.values())) for name, value in item.items()}

    def items(self, table: str) -> list[dict[str, Any]]:
        """Every item of a table, as plain strings."""
        pages = self.emulator.client("dynamodb").get_paginator("scan").paginate(TableName=self.outputs[f"{table}Table"])
        return [
            {name: next(iter(value.values())) for name, value in item.items()}
            for page in pages
            for item in page["Items"]
        ]

    def sql(self, statement: str, **values: str) -> list[list[Any]]:
        """Rows from Aurora."""
        answer = self.emulator.client("rds-data").execute_statement(
            resourceArn=self.outputs["ClusterArn"],
            secretArn=self.outputs["SecretArn"],
            database=self.outputs["Database"],
            sql=statement,
            parameters=[{"name": name, "value": {"stringValue": value}} for name, value in values.items()],
        )
        return [
            [None if "isNull" in field else next(iter(field.values())) for field in row] for row in answer["records"]
        ]

    def logs(self, *, since_ms: int = 0) -> str:
        """What the functions wrote since then, by function."""
        client = self.emulator.client("logs")
        prefix = self.outputs.get("LogGroupPrefix", f"/answerback/{self.stack_name}/")
        said = []
        for group in client.describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]:
            name = group["logGroupName"]
            events = client.filter_log_events(logGroupName=name, startTime=since_ms)["events"]
            lines = [event["message"].rstrip() for event in events]
            said += [f"--- {name}", *(line for line in lines if not line.startswith(("START ", "END ")))]
        return "\n".join(said)
