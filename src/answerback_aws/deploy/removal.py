"""Destroying a stack without losing the history by accident."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DENIED, DeployError, advice_for, error_code, explained
from answerback_aws.deploy.stack import Progress, Stack, StackState

_KEPT_TABLES: Final = ("RequestsTable", "ConversationsTable")
_FLUSH_ROUNDS: Final = 10
_FLUSH_PAUSE_S: Final = 10.0
_UNARCHIVED: Final = "unarchived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a removal has left behind. `snapshots`: of the database. `unwritten`: turns that Aurora never got."""

    snapshots: tuple[str, ...]
    unwritten: int
    bucket: str


class Removal:
    """Deletes one stack. All calls raise DeployError."""

    def __init__(
        self, account: Account, name: str, progress: Progress, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._account = account
        self._stack = Stack(account, name, sleep=sleep)
        self._progress = progress
        self._sleep = sleep

    def destroy(self, *, delete_history: bool = False) -> Removed:
        """Delete everything but, unless `delete_history`, a snapshot of the database with the whole history in it."""
        bucket = self._stack.existing().parameters.get("CodeBucket", "")
        state = self._stack.at_rest(self._progress)
        unwritten = 0
        snapshots: tuple[str, ...] = ()
        if state is not None:
            if state.status in {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"}:
                state = self._open(state)
                unwritten = 0 if delete_history else self._write_history(state)
            else:
                self._unlock()
            cluster = self._physical_id("AWS::RDS::DBCluster")
            self._delete_files(self._physical_id("AWS::S3::Bucket"))
            if delete_history:
                self._stop_backups(state)
            self._delete(state)
            snapshots = self._snapshots(cluster)
            if delete_history:
                self._delete_snapshots(snapshots)
                snapshots = ()
        return Removed(snapshots=snapshots, unwritten=unwritten, bucket=bucket)

    def _open(self, state: StackState) -> StackState:
        """Lift the protection, and let the janitor write what is waiting without delay."""
        wanted = {"DeletionProtection": "false", "HistoryDelaySeconds": "0"}
        if all(state.parameters.get(name) == value for name, value in wanted.items()):
            return state
        self._progress.step("Lifting the deletion protection")
        opened = self._stack.update_parameters(state, wanted, self._progress.event)
        if opened.status != "UPDATE_COMPLETE":
            raise DeployError(
                f"the protection could not be lifted: the stack is {opened.status}", "see the reasons above"
            )
        return opened

    def _unlock(self) -> None:
        """Lift the protection of each resource: a stack in this state cannot be updated, only deleted."""
        self._progress.step("Lifting the deletion protection")
        for one in self._stack.resources():
            name = one.get("PhysicalResourceId")
            if not name or one["ResourceStatus"] == "DELETE_COMPLETE":
                continue
            try:
                if one["ResourceType"] == "AWS::RDS::DBCluster":
                    rds = self._account.client("rds")
                    rds.modify_db_cluster(DBClusterIdentifier=name, DeletionProtection=False, ApplyImmediately=True)
                elif one["ResourceType"] == "AWS::DynamoDB::Table":
                    self._account.client("dynamodb").update_table(TableName=name, DeletionProtectionEnabled=False)
            except ClientError as exc:
                # It is gone, or was never there; what is still there and protected shows when it is deleted.
                if error_code(exc) in DENIED:
                    with explained(f"lift the protection of {name}"):
                        raise

    def _write_history(self, state: StackState) -> int:
        """Have all turns written to Aurora, so that its snapshot is whole. Returns: those that could not be."""
        self._progress.step("Writing the last turns to the history")
        remaining = self._unwritten(state)
        for _ in range(_FLUSH_ROUNDS):
            if not remaining:
                break
            try:
                self._account.client("lambda").invoke(FunctionName=state.outputs["JanitorFunction"], Payload=b"{}")
            except (ClientError, BotoCoreError, KeyError):
                break
            remaining = self._unwritten(state)
            if remaining:
                self._sleep(_FLUSH_PAUSE_S)
        return remaining

    def _unwritten(self, state: StackState) -> int:
        with explained("count the turns that wait for the database"):
            pages = (
                self._account.client("dynamodb")
                .get_paginator("scan")
                .paginate(TableName=state.outputs["ConversationsTable"], IndexName=_UNARCHIVED, Select="COUNT")
            )
            return sum(page["Count"] for page in pages)

    def _stop_backups(self, state: StackState) -> None:
        """Without this DynamoDB keeps a backup of a deleted table for 35 days."""
        self._progress.step("Turning the tables' backups off")
        for name in _KEPT_TABLES:
            table = state.outputs.get(name)
            if table is not None:
                with explained(f"turn off the backups of {table}"):
                    self._account.client("dynamodb").update_continuous_backups(
                        TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False}
                    )

    def _delete_files(self, bucket: str | None) -> None:
        """Empty the bucket of files: S3 deletes no other. The history has the names of files, not their bytes."""
        if bucket is None:
            return
        self._progress.step("Deleting the files of questions")
        s3 = self._account.client("s3")
        with explained(f"empty the bucket {bucket}"):
            try:
                for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                    if "Contents" in page:
                        objects = [{"Key": one["Key"]} for one in page["Contents"]]
                        s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            except ClientError as exc:
                if error_code(exc) != "NoSuchBucket":
                    raise

    def _delete(self, state: StackState) -> None:
        self._progress.step(f"Deleting the stack {self._stack.name}")
        after = self._stack.last_event()
        self._stack.delete()
        first = self._stack.watch(state.stack_id, after, self._progress.event)
        final = self._stack.state(state.stack_id)
        if final is not None and final.status != "DELETE_COMPLETE":
            if first is None:
                raise DeployError(f"the stack is {final.status}: {final.reason}", "run the command again")
            raise DeployError(
                f"{first.resource} ({first.kind}) is still there: {first.reason.rstrip('.')}", advice_for(first.reason)
            )

    def _physical_id(self, kind: str) -> str | None:
        return next(
            (one.get("PhysicalResourceId") for one in self._stack.resources() if one["ResourceType"] == kind), None
        )

    def _snapshots(self, cluster: str | None) -> tuple[str, ...]:
        if cluster is None:
            return ()
        try:
            found: Sequence[Any] = self._account.client("rds").describe_db_cluster_snapshots(
                DBClusterIdentifier=cluster, SnapshotType="manual"
            )["DBClusterSnapshots"]
        except ClientError as exc:
            if error_code(exc) in {"DBClusterNotFoundFault", "DBClusterSnapshotNotFoundFault"}:
                return ()
            with explained("list the database's snapshots"):
                raise
        return tuple(one["DBClusterSnapshotIdentifier"] for one in found)

    def _delete_snapshots(self, names: Sequence[str]) -> None:
        for name in names:
            self._progress.step(f"Deleting the snapshot {name}")
            with explained(f"delete the snapshot {name}"):
                self._account.client("rds").delete_db_cluster_snapshot(DBClusterSnapshotIdentifier=name)
