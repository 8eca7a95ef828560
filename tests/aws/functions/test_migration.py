"""The migration as a custom resource: whatever happens, CloudFormation is told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from answerback.stores.database import StoreError
from answerback_aws.runtime.composition import Composition
from answerback_aws.runtime.functions import migration
from lambda_functions import Context


class CloudFormation:
    """The place behind ResponseURL: S3, which refuses what was not signed."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.content_type = self.headers["Content-Type"]
                outer.answers.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.content_type: str | None = None
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/response?signature=walnut"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def event(self, kind: str) -> dict[str, Any]:
        return {
            "RequestType": kind,
            "ResponseURL": self.url,
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/chat/1",
            "RequestId": "request",
            "LogicalResourceId": "Schema",
            "ResourceType": "Custom::Schema",
            "ResourceProperties": {"Package": "key"},
        }


@pytest.fixture
def formation() -> Iterator[CloudFormation]:
    formation = CloudFormation()
    yield formation
    formation.close()


@pytest.fixture
def outcome(logging_put_back: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What the migration does: `error`, or so many files."""
    outcome = SimpleNamespace(error=None, applied=3, calls=0)

    async def apply(api: object, *, now_ms: int) -> int:
        outcome.calls += 1
        if outcome.error is not None:
            raise outcome.error
        return int(outcome.applied)

    composition = Composition("migration", {})
    composition.__dict__["aurora"] = object()
    monkeypatch.setattr(migration, "process", lambda *_: composition)
    monkeypatch.setattr(migration, "apply_migrations", apply)
    yield outcome
    composition.close()


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_cloudformation_goes_on_when_the_tables_are_there(
    kind: str, formation: CloudFormation, outcome: SimpleNamespace
) -> None:
    migration.handler(formation.event(kind), Context())
    assert formation.answers == [
        {
            "Status": "SUCCESS",
            "PhysicalResourceId": "schema",
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/chat/1",
            "RequestId": "request",
            "LogicalResourceId": "Schema",
            "Data": {"Applied": 3},
        }
    ]
    assert formation.content_type == ""


def test_a_failure_is_reported_with_what_to_do(formation: CloudFormation, outcome: SimpleNamespace) -> None:
    outcome.error = StoreError("The tables are newer than this version.")
    migration.handler(formation.event("Create"), Context())
    (answer,) = formation.answers
    assert answer["Status"] == "FAILED"
    assert "The tables are newer than this version." in answer["Reason"]
    assert "Deploy again" in answer["Reason"]


def test_a_deleted_stack_keeps_its_data(formation: CloudFormation, outcome: SimpleNamespace) -> None:
    migration.handler(formation.event("Delete"), Context())
    assert formation.answers[0]["Status"] == "SUCCESS"
    assert outcome.calls == 0


def test_by_hand(outcome: SimpleNamespace) -> None:
    assert migration.handler({}, Context())["Data"] == {"Applied": 3}
    outcome.error = StoreError("planted")
    with pytest.raises(StoreError):
        migration.handler({}, Context())
