"""AWS calls from asyncio: boto3 in a bounded pool of threads, and one table of what counts as an outage."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Final, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError
from botocore.session import Session, get_session

from answerback.ports import Unavailable

T = TypeVar("T")

THREADS: Final = 16
"""Calls at the same time in one process, and connections kept open to each service."""

OUTAGES: Final = frozenset(
    {
        # The service cannot, or not now.
        "InternalFailure",
        "InternalServerError",
        "InternalServerErrorException",
        "ServiceUnavailable",
        "ServiceUnavailableError",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
        # Too many calls. Not LimitExceededException: of a post to a connection it means a slow reader.
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes of errors after which the same call may succeed; every other code is the caller's to understand."""

_SERVER_ERROR: Final = 500


class Calls:
    """Runs blocking calls of AWS clients without blocking the event loop.

    `threads`: how many run at the same time; more wait. A cancelled caller does not stop its call.
    """

    def __init__(self, *, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="aws")

    async def run(self, call: Callable[..., T], /, **arguments: Any) -> T:
        """What `call(**arguments)` returns.

        Raises: Unavailable: the service could not be reached or could not do it now (after the client's own retries);
        the call may have taken effect. Any other error of the client as it is.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, partial(call, **arguments))
        except (ConnectionError, HTTPClientError, IncompleteReadError) as exc:
            raise Unavailable(str(exc)) from exc
        except ClientError as exc:
            if is_outage(exc):
                raise Unavailable(str(exc)) from exc
            raise

    def close(self) -> None:
        """Release the threads; calls under way are waited for."""
        self._pool.shutdown()


def error_code(error: ClientError) -> str:
    """The service's name of an error: `ConditionalCheckFailedException`, `GoneException`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_outage(error: ClientError) -> bool:
    """Whether the same call may succeed later."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error_code(error) in OUTAGES or int(status) >= _SERVER_ERROR


def client(
    service: str,
    *,
    region: str | None = None,
    endpoint: str | None = None,
    connect_timeout_s: float = 2.0,
    read_timeout_s: float = 5.0,
    attempts: int = 3,
    connections: int = THREADS,
) -> Any:
    """A client of botocore; thread-safe, so make one a service and process and keep it: it reuses its connections.

    The time-outs are shorter than boto3's 60 s, because a caller has a person waiting and repeats the call itself.
    `attempts`: tries of one call in all, with jittered pauses. `endpoint`, `region` None: as the environment says.
    """
    config = Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
        tcp_keepalive=True,
    )
    return session().create_client(service, region_name=region, endpoint_url=endpoint, config=config)


@cache
def session() -> Session:
    """What clients share: loading it takes longer than all the rest of a client. boto3 would take as long once more."""
    return get_session()
