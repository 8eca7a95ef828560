"""The driver of the Data API against a client that says what it is told to."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from answerback.ports import StoredTurn, Unavailable
from answerback.protocol.frames import Status
from answerback.stores.database import StoreError
from answerback.stores.migrations import shipped
from answerback_aws.runtime.aurora.data_api import (
    MAX_REQUEST_BYTES,
    DataApi,
    Result,
    StatementFailed,
    Statements,
    Waking,
    bare,
    data_api_client,
)
from answerback_aws.runtime.aurora.operations import write_turns
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.turns import PendingTurn


def refusal(code: str, message: str = "", status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "ExecuteStatement",
    )


CLUSTER = "arn:aws:rds:us-east-1:1:cluster:c"
SECRET = "arn:aws:secretsmanager:us-east-1:1:secret:s"
WAKING = refusal("DatabaseResumingException")


class Scripted:
    """Answers calls with what was scripted for their kind, else with nothing found. Keeps what was called.

    Each call has to be one that boto3 takes, and its body to be of a size that AWS takes.
    """

    def __init__(self) -> None:
        self._real = data_api_client(region="us-east-1", endpoint="http://127.0.0.1:1")
        self.script: dict[str, deque[Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def say(self, method: str, *answers: Any) -> None:
        self.script.setdefault(method, deque()).extend(answers)

    @property
    def names(self) -> list[str]:
        return [name.partition("_")[0] for name, _ in self.calls]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append((method, arguments))
            operation = self._real.meta.service_model.operation_model(self._real.meta.method_to_api_mapping[method])
            body = self._real._serializer.serialize_to_request(arguments, operation)["body"]
            assert len(body) <= MAX_REQUEST_BYTES
            scripted = self.script.get(method)
            answer = scripted.popleft() if scripted else {"transactionId": f"t{len(self.calls)}"}
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


class Time:
    """Seconds that pass only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


@pytest.fixture
def client() -> Scripted:
    return Scripted()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def make(client: Scripted, time: Time) -> AsyncIterator[Callable[..., DataApi]]:
    calls = Calls(threads=1)

    def make(retry_for_s: float = 20, **more: Any) -> DataApi:
        return DataApi(
            client=client,
            calls=calls,
            cluster_arn=CLUSTER,
            secret_arn=SECRET,
            database="answerback",
            retry_for_s=retry_for_s,
            monotonic=time.monotonic,
            jitter=lambda: 1.0,
            sleep=time.sleep,
            **more,
        )

    yield make
    calls.close()


async def one(statements: Statements, text: str = "SELECT 1", **params: Any) -> Result:
    return await statements.execute(text, params)


# --- values and statements ----------------------------------------------------------------------------------


async def test_parameters_and_rows_are_texts_longs_and_nulls(make, client):
    client.say(
        "execute_statement",
        {"records": [[{"stringValue": "a"}, {"longValue": 7}, {"isNull": True}]], "numberOfRecordsUpdated": 0},
    )
    text = "SELECT a FROM t WHERE a = :words AND b = :number AND c IS :nothing"
    found = await make().read(
        lambda statements: one(statements, text, words="한", number=2**62, nothing=None, not_named="x")
    )
    assert found == Result([("a", 7, None)], 0)
    ((method, told),) = client.calls
    assert method == "execute_statement"
    assert {name: told[name] for name in ("resourceArn", "secretArn", "database")} == {
        "resourceArn": CLUSTER,
        "secretArn": SECRET,
        "database": "answerback",
    }
    assert told["parameters"] == [
        {"name": "nothing", "value": {"isNull": True}},
        {"name": "number", "value": {"longValue": 2**62}},
        {"name": "words", "value": {"stringValue": "한"}},
    ]


@pytest.mark.parametrize("value", [1.5, True, b"x", 2**63, ["x"]])
async def test_other_values_are_refused_before_they_are_sent(make, client, value):
    with pytest.raises(TypeError):
        await make().read(lambda statements: one(statements, "SELECT :a", a=value))
    assert client.calls == []


@pytest.mark.parametrize("field", [{"doubleValue": 1.0}, {"blobValue": b""}, {"arrayValue": {}}])
async def test_other_columns_are_refused(make, client, field):
    client.say("execute_statement", {"records": [[field]]})
    with pytest.raises(TypeError):
        await make().read(one)


def test_every_shipped_migration_is_sent_bare():
    for migration in shipped():
        for statement in migration.statements:
            assert not {";", "--"} & set(bare(statement).replace("--", " -- ").split(" "))
            assert bare(statement).startswith(("CREATE", "INSERT", "ALTER", "DROP"))


def test_bare_spares_literals_and_refuses_two_statements():
    assert bare("-- why; it's so\nSELECT 'a;--b' -- end\n;") == "SELECT 'a;--b'"
    with pytest.raises(ValueError, match="one statement"):
        bare("SELECT 1; SELECT 2")


# --- transactions -------------------------------------------------------------------------------------------


async def test_a_read_needs_no_transaction_and_a_write_has_one(make, client):
    api = make()
    await api.read(one)
    await api.write(lambda statements: one(statements, "UPDATE t SET a = 1"))
    assert client.names == ["execute", "begin", "execute", "commit"]
    assert "transactionId" not in client.calls[0][1]
    assert client.calls[2][1]["transactionId"] == client.calls[3][1]["transactionId"] == "t2"
    assert "database" not in client.calls[3][1]


async def test_one_statement_with_many_rows_is_one_call(make, client):
    rows = [{"a": n} for n in range(3)]
    await make().write(lambda statements: statements.execute_many("UPDATE t SET a = :a", rows))
    assert client.names == ["begin", "batch", "commit"]
    assert [fields[0]["value"] for fields in client.calls[1][1]["parameterSets"]] == [
        {"longValue": n} for n in range(3)
    ]


async def test_calls_stay_below_4_mib_whatever_the_characters(make, client):
    astral = "\U0001f600" * 16_000
    rows = [{"a": astral} for _ in range(60)]
    await make().write(lambda statements: statements.execute_many("UPDATE t SET a = :a", rows))
    batches = [arguments for method, arguments in client.calls if method == "batch_execute_statement"]
    assert sum(len(arguments["parameterSets"]) for arguments in batches) == 60
    assert len(batches) > 2


async def test_what_fits_no_request_is_refused_before_it_is_sent(make, client):
    with pytest.raises(ValueError, match="do not fit"):
        await make().read(lambda statements: one(statements, "SELECT :a", a="\U0001f600" * 400_000))
    assert client.calls == []


async def test_a_failed_transaction_is_rolled_back_and_a_lost_one_begins_again(make, client):
    client.say("execute_statement", refusal("TransactionNotFoundException", status=404), {"numberOfRecordsUpdated": 1})
    result = await make().write(lambda statements: one(statements, "UPDATE t SET a = 1"))
    assert result.changed == 1
    assert client.names == ["begin", "execute", "rollback", "begin", "execute", "commit"]


async def test_a_commit_whose_answer_is_lost_is_followed_by_the_whole_work_again(make, client):
    client.say("commit_transaction", ReadTimeoutError(endpoint_url="https://x"), {})
    runs = []

    async def work(statements: Statements) -> int:
        runs.append(await one(statements, "UPDATE t SET a = 1"))
        return len(runs)

    assert await make().write(work) == 2


async def test_a_mistake_rolls_back_and_is_not_tried_again(make, client):
    client.say("execute_statement", refusal("DatabaseErrorException", "ERROR: no; SQLState: 23502"))
    with pytest.raises(StatementFailed):
        await make().write(lambda statements: one(statements, "INSERT INTO turns VALUES (1)"))
    assert client.names == ["begin", "execute", "rollback"]


async def test_ddl_goes_on_when_the_call_is_over(make, client):
    await make().write(lambda statements: one(statements, "CREATE TABLE t (a text)"), is_ddl=True)
    assert client.calls[1][1]["continueAfterTimeout"] is True


# --- waiting for Aurora -------------------------------------------------------------------------------------


async def test_a_paused_aurora_is_waited_for(make, client, time):
    woken = []
    client.say("execute_statement", *[WAKING] * 6, {"records": [[{"longValue": 1}]]})
    found = await make(on_waking=lambda: woken.append(time.now_s)).read(one)
    assert found.rows == [(1,)]
    assert time.pauses == [0.25, 0.5, 1, 2, 4, 4]
    assert len(woken) == 6


async def test_the_timeout_ends(make, client, time):
    client.say("execute_statement", *[WAKING] * 99)
    with pytest.raises(Waking):
        await make(retry_for_s=5).read(one)
    assert 3 <= time.now_s < 5


async def test_no_timeout_is_one_call(make, client):
    client.say("execute_statement", *[WAKING] * 9)
    with pytest.raises(Unavailable):
        await make(retry_for_s=0).read(one)
    assert len(client.calls) == 1


async def test_pauses_are_jittered(client, time):
    calls = Calls(threads=1)
    api = DataApi(
        client=client,
        calls=calls,
        cluster_arn=CLUSTER,
        secret_arn=SECRET,
        database="d",
        retry_for_s=20,
        monotonic=time.monotonic,
        jitter=lambda: 0.0,
        sleep=time.sleep,
    )
    client.say("execute_statement", WAKING, WAKING, {})
    await api.read(one)
    calls.close()
    assert time.pauses == [0.125, 0.25]


@pytest.mark.parametrize(
    "error",
    [
        refusal("DatabaseResumingException"),
        refusal("DatabaseUnavailableException", status=504),
        refusal("ServiceUnavailableError", status=503),
        refusal("InternalServerErrorException", status=500),
        refusal("ThrottlingException"),
        refusal("StatementTimeoutException"),
        refusal("InvalidResourceStateException"),
        refusal("DatabaseErrorException", "ERROR: deadlock detected; SQLState: 40P01"),
        refusal("DatabaseErrorException", "ERROR: could not serialize access; SQLState: 40001"),
        refusal("DatabaseErrorException", "FATAL: terminating connection; SQLState: 57P01"),
        refusal("DatabaseErrorException", "An I/O error occurred; SQLState: 08006"),
        refusal("DatabaseErrorException", "WARNING: crash of another server process; SQLState: 57P02"),
        refusal("DatabaseErrorException", "FATAL: the database system is in recovery mode; SQLState: 57P03"),
        refusal("DatabaseErrorException", "ERROR: could not write block; SQLState: 58030"),
        refusal("DatabaseErrorException", "ERROR: out of memory; SQLState: 53200"),
        refusal("DatabaseErrorException", "ERROR: cannot execute INSERT in a read-only transaction; SQLState: 25006"),
        refusal("DatabaseErrorException", "ERROR: statement completion unknown; SQLState: 40003"),
        refusal("DatabaseErrorException", "ERROR: server closed the connection unexpectedly; SQLState: None"),
        refusal("DatabaseErrorException", "This connection has been closed."),
        refusal("BadRequestException", "Communications link failure"),
        refusal("BadRequestException", "Transaction AXvQcVw is not found"),
        refusal("DatabaseErrorException", 'ERROR: relation "users" does not exist; SQLState: 42P01'),
        EndpointConnectionError(endpoint_url="https://x"),
        ReadTimeoutError(endpoint_url="https://x"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:60],
)
async def test_states_of_the_world_are_tried_again_and_then_unavailable(make, client, error):
    client.say("execute_statement", error, {})
    await make().read(one)
    client.say("execute_statement", error)
    with pytest.raises(Unavailable):
        await make(retry_for_s=0).read(one)


@pytest.mark.parametrize(
    "code",
    [
        "AccessDeniedException",
        "ForbiddenException",
        "DatabaseNotFoundException",
        "HttpEndpointNotEnabledException",
        "InvalidSecretException",
        "SecretsErrorException",
        "ExpiredTokenException",
        "UnrecognizedClientException",
    ],
)
async def test_a_wrong_deployment_is_reported_to_the_operator(make, client, code):
    client.say("execute_statement", refusal(code, "secret words"))
    with pytest.raises(StoreError) as caught:
        await make().read(one)
    assert str(caught.value).endswith((".", ")."))
    assert len(client.calls) == 1


async def test_a_commit_that_nobody_answers_is_tried_again(make, client):
    """No statement of ours is at fault, whatever the words."""
    client.say("begin_transaction", {"transactionId": "t1"})
    client.say("commit_transaction", refusal("BadRequestException", "Commit failed: unexpected"), {})
    await make().write(one)
    assert [name for name, _ in client.calls].count("commit_transaction") == 2


async def test_what_the_database_quotes_is_not_repeated(make, client):
    client.say("execute_statement", refusal("DatabaseErrorException", "ERROR: bad value 'my secret'; SQLState: 22021"))
    with pytest.raises(StatementFailed) as caught:
        await make().read(lambda statements: one(statements, "INSERT INTO texts VALUES (:a)", a="my secret"))
    error = caught.value
    assert (error.code, error.sqlstate) == ("DatabaseErrorException", "22021")
    client.say("execute_statement", refusal("DatabaseErrorException", "bad value 'SQLState: 57P01'; SQLState: 22021"))
    with pytest.raises(StatementFailed, match="22021"):
        await make().read(one)
    assert "INSERT INTO texts" in str(error)
    assert "my secret" not in f"{error!r} {error}"
    assert error.__cause__ is None
    assert error.__context__ is None


async def test_how_long_ago_aurora_answered(make, client, time):
    api = make(retry_for_s=0)
    assert api.idle_s is None
    await api.read(one)
    time.now_s += 30
    assert api.idle_s == 30
    client.say("execute_statement", WAKING)
    with pytest.raises(Unavailable):
        await api.read(one)
    assert api.idle_s == 30


def test_the_client_never_repeats_a_call_by_itself():
    made = data_api_client(region="us-east-1", endpoint="http://127.0.0.1:1")
    assert made.meta.config.retries["total_max_attempts"] == 1


# --- requests of writing behind --------------------------------------------------------------------------------


async def test_a_full_batch_keeps_the_limits_of_parameters(make, client):
    entries = [note(number) for number in range(100)]
    receipts = [[{"stringValue": "u"}, {"stringValue": f"r{number}"}] for number in range(100)]
    client.say("execute_statement", {}, {}, {"records": receipts})
    written = await make().write(lambda statements: write_turns(statements, entries))
    assert written == 100
    assert max(len(arguments.get("parameters", [])) for _, arguments in client.calls) <= 1_000
    assert len(client.calls) < 12


def note(number: int) -> PendingTurn:
    turn = StoredTurn(
        position=number,
        request_id=f"r{number}",
        question="Why?",
        answer="Because.",
        status=Status.COMPLETED,
        accepted_at_ms=number,
        ended_at_ms=number + 1,
    )
    return PendingTurn(user_id="u", conversation_id="c", turn=turn)
