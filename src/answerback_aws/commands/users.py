"""The users of a stack on AWS: what `answerback users --stack` works on, with the operator's own credentials."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

from answerback.cli.output import CliError, ExitCode, extra_needed, note
from answerback.clock import epoch_ms
from answerback.ports import Unavailable, Users

with extra_needed("AWS", "aws"):
    from botocore.exceptions import ClientError

    from answerback.stores.database import StoreError
    from answerback_aws.commands import options
    from answerback_aws.deploy.account import Account
    from answerback_aws.deploy.errors import explained
    from answerback_aws.deploy.stack import Stack
    from answerback_aws.runtime.aurora.data_api import DataApi, StatementFailed
    from answerback_aws.runtime.aurora.users import AwsUsers
    from answerback_aws.runtime.aurora.write_behind import WriteBehind
    from answerback_aws.runtime.client import Calls, error_code
    from answerback_aws.runtime.dynamodb.database import Database
    from answerback_aws.runtime.dynamodb.requests import DynamoRequests
    from answerback_aws.runtime.dynamodb.tables import TABLES, Tables
    from answerback_aws.runtime.dynamodb.turns import DynamoTurns
    from answerback_aws.runtime.s3_files import S3Files

RETRY_FOR_S: Final = 120.0
"""A paused Aurora takes 15 s to wake up, after a day and more at least 30."""


class _Screen:
    """WriteBehindObserver that prints once why the command waits, and that a turn could not be written."""

    def __init__(self) -> None:
        self._has_noted = False

    def waking(self) -> None:
        """Aurora was found paused."""
        if not self._has_noted:
            note("The database was paused and wakes up; this takes up to a minute.")
        self._has_noted = True

    def waiting(self, turns: int, oldest_ms: int) -> None:
        pass

    def turns_written(self, turns: int) -> None:
        pass

    def turns_not_written(self) -> None:
        note("A turn cannot be written to the database: `answerback aws logs` of the janitor has more.")


@asynccontextmanager
async def open_stack_users(
    stack: str, *, region: str | None = None, profile: str | None = None, endpoint: str | None = None
) -> AsyncIterator[Users]:
    """The users of the stack; what is None is as the environment says. Raises: CliError: what to do."""
    with _plain_errors(stack):
        account = Account(region=region, profile=profile, endpoint=endpoint)
        outputs = Stack(account, stack).existing().outputs
        names = {name: outputs.get(f"{name.title().replace('_', '')}Table", "") for name in TABLES}
        where = {name: outputs.get(name, "") for name in ("ClusterArn", "SecretArn", "Database")}
        if not all((*names.values(), *where.values())):
            raise CliError(
                f"the stack {stack} is not one of answerback's, or of an older version",
                f"see its outputs: answerback aws outputs --stack {stack}",
            )
        screen, calls = _Screen(), Calls()
        database = Database(client=account.client("dynamodb"), calls=calls, tables=Tables(**names))
        api = DataApi(
            client=account.client("rds-data", attempts=1),
            calls=calls,
            cluster_arn=where["ClusterArn"],
            secret_arn=where["SecretArn"],
            database=where["Database"],
            retry_for_s=RETRY_FOR_S,
            on_waking=screen.waking,
        )
        write_behind = WriteBehind(pending_turns=DynamoTurns(database), api=api, observer=screen, clock=epoch_ms)
        requests = DynamoRequests(database, clock=epoch_ms)
        bucket, s3 = outputs.get("FilesBucket"), partial(account.client, "s3")
        files = S3Files(database, s3=s3, calls=calls, bucket=bucket, clock=epoch_ms) if bucket else None
        try:
            yield AwsUsers(
                database=database,
                requests=requests,
                write_behind=write_behind,
                api=api,
                files=files,
                close_connection=_closer(account, _management_endpoint(outputs, endpoint), calls),
            )
        finally:
            calls.close()


def _closer(account: Account, endpoint: str, calls: Calls) -> Callable[[str], Awaitable[None]]:
    async def close(connection_id: str) -> None:
        management = account.client("apigatewaymanagementapi", endpoint=endpoint, attempts=2)
        try:
            await calls.run(management.delete_connection, ConnectionId=connection_id)
        except (ClientError, Unavailable) as exc:
            if not (isinstance(exc, ClientError) and error_code(exc) == "GoneException"):
                note("A connection could not be closed. Nothing that it sends counts, and it ends within two hours.")

    return close


def _management_endpoint(outputs: Mapping[str, str], emulator: str | None) -> str:
    """Where connections are closed. An emulator has that under its own address, by LocalStack's convention."""
    if emulator is None:
        return outputs.get("ManagementEndpoint", "")
    return f"{emulator.rstrip('/')}/_aws/execute-api/{outputs.get('ApiId')}/{outputs.get('StageName')}"


@contextmanager
def _plain_errors(stack: str) -> Iterator[None]:
    """The errors of AWS in a sentence."""
    try:
        with options.explained(), explained(f"use the tables and the database of the stack {stack}"):
            yield
    except StoreError as exc:
        raise CliError(str(exc).rstrip(".")) from exc
    except StatementFailed as exc:
        raise CliError("the stack's database does not take this command", "deploy again with this version") from exc
    except Unavailable as exc:
        raise CliError(
            f"the stack's database cannot be used now: {exc}",
            f"see answerback aws status --stack {stack}, and repeat the command",
            exit_code=ExitCode.CANNOT_CONNECT,
        ) from exc
