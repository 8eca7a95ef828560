"""The emulator as a child process: what it leaves, and that its Data API runs on PostgreSQL."""

import concurrent.futures
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from answerback_aws.emulator.emulator import Emulator, EmulatorFailed
from answerback_aws.emulator.patches.functions import timed
from emulation import Cluster, emulator_python, make_cluster

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module")
def cluster(emulator: Emulator) -> Cluster:
    return make_cluster(emulator)


@pytest.fixture
def sql(emulator: Emulator, cluster: Cluster) -> "Sql":
    return Sql(emulator, cluster)


class Sql:
    """The Data API on one cluster."""

    def __init__(self, emulator: Emulator, cluster: Cluster) -> None:
        self._client = emulator.client("rds-data")
        self._arns = {"resourceArn": cluster.cluster_arn, "secretArn": cluster.secret_arn}
        self._database = cluster.database

    def run(self, sql: str, *, transaction: str | None = None, **values: str) -> list[list[dict[str, object]]]:
        told = {} if transaction is None else {"transactionId": transaction}
        parameters = [{"name": name, "value": {"stringValue": value}} for name, value in values.items()]
        answer = self._client.execute_statement(
            sql=sql, parameters=parameters, database=self._database, **self._arns, **told
        )
        return list(answer["records"])

    def begin(self) -> str:
        return str(self._client.begin_transaction(database=self._database, **self._arns)["transactionId"])

    def commit(self, transaction: str) -> None:
        self._client.commit_transaction(transactionId=transaction, **self._arns)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made, seen by nobody else."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_it_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    with Emulator(python=emulator_python(), folder=tmp_path) as emulator:
        assert emulator.client("sqs").list_queues().get("QueueUrls", []) == []
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


def test_it_dies_with_the_process_that_started_it(tmp_path: Path, temporary: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from answerback_aws.emulator.emulator import Emulator\n"
        f"emulator = Emulator(python=Path({str(emulator_python())!r}), folder=Path({str(tmp_path)!r}))\n"
        "emulator.start(); print(emulator._process.pid, flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent, parent.stdout:
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        parent.kill()
    assert select.select([watched], [], [], 30)[0] == [watched]
    os.close(watched)
    assert list(temporary.iterdir()) == []


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    emulator = Emulator(python=Path(sys.executable), folder=tmp_path)  # without the emulator's packages
    with pytest.raises(EmulatorFailed, match=r"the emulator's ministack has no"):
        emulator.start()
    emulator.stop()


def test_two_on_one_port_do_not_meet(emulator: Emulator, tmp_path: Path) -> None:
    second = Emulator(python=emulator_python(), folder=tmp_path, port=emulator.port)
    with pytest.raises(EmulatorFailed, match=f"^port {emulator.port} is in use$"), second:
        pass
    assert emulator.client("sqs").list_queues() is not None


def test_a_line_has_the_time_at_which_it_was_written() -> None:
    """The emulator reads the lines of an invocation when it has ended."""
    line = '{"message": "m", "timestamp": "2026-11-30T03:35:31.123+00:00"}'
    texts = ["START RequestId: r", line, "END RequestId: r"]
    told = timed([{"timestamp": 9_999_999_999_999, "message": text} for text in texts])
    assert [event["timestamp"] for event in told] == [1_796_009_731_123, 1_796_009_731_123, 9_999_999_999_999]
    assert [event["message"] for event in told] == texts


def test_the_data_api_runs_sql(sql: Sql) -> None:
    sql.run("CREATE TABLE said (who text PRIMARY KEY, what text)")
    sql.run("INSERT INTO said VALUES (:who, :what)", who="a", what="50 % of x")
    found = sql.run("SELECT what FROM said WHERE who = :who AND what LIKE '%x'", who="a")
    assert found == [[{"stringValue": "50 % of x"}]]
    assert sql.run("SELECT count(*) FROM said WHERE what LIKE '%x'") == [[{"longValue": 1}]]


@pytest.mark.parametrize("place", ["CAST('{}' AS jsonb) = :what", "3 = :what", "gen_random_uuid() = :what"])
def test_a_parameter_has_a_type_as_one_that_is_bound(sql: Sql, place: str) -> None:
    """A literal of the same text would become what its place wants: Aurora refuses what that hides."""
    with pytest.raises(ClientError, match="operator does not exist"):
        sql.run(f"SELECT {place}", what="3")
    assert sql.run("SELECT :what || '%'", what="50 it's \\ ' ü") == [[{"stringValue": "50 it's \\ ' ü%"}]]


def test_two_transactions_on_one_row_wait_for_each_other(sql: Sql) -> None:
    sql.run("CREATE TABLE counted (n integer)")
    sql.run("INSERT INTO counted VALUES (0)")
    first = sql.begin()
    sql.run("UPDATE counted SET n = n + 1", transaction=first)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(sql.run, "UPDATE counted SET n = n + 1")
        assert sql.run("SELECT n FROM counted") == [[{"longValue": 0}]]
        sql.commit(first)
        waiting.result(30)
    assert sql.run("SELECT n FROM counted") == [[{"longValue": 2}]]


def test_a_response_over_a_mebibyte_is_refused(sql: Sql) -> None:
    with pytest.raises(ClientError, match="response size limit"):
        sql.run("SELECT repeat('x', 1100000)")


def test_a_paused_database_says_that_it_is_resuming(emulator: Emulator, cluster: Cluster) -> None:
    client = emulator.client("rds-data")
    emulator.pause_database()
    try:
        with pytest.raises(client.exceptions.DatabaseResumingException):
            client.execute_statement(resourceArn=cluster.cluster_arn, secretArn=cluster.secret_arn, sql="SELECT 1")
    finally:
        emulator.resume_database()
    told = client.execute_statement(resourceArn=cluster.cluster_arn, secretArn=cluster.secret_arn, sql="SELECT 1")
    assert told["records"] == [[{"longValue": 1}]]


def test_stopping_twice_does_nothing(tmp_path: Path) -> None:
    emulator = Emulator(python=emulator_python(), folder=tmp_path)
    emulator.start()
    emulator.stop()
    emulator.stop()
