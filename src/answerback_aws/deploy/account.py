"""The account and region that a command works in, and its clients."""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import NoRegionError

from answerback.outbound import is_loopback
from answerback_aws.deploy.errors import UsageError, explained

_ATTEMPTS: Final = 5


class Account:
    """Clients of one account and region, made when they are first asked for.

    `region`, `profile`, `endpoint` None: as the environment says.
    """

    def __init__(
        self, *, region: str | None = None, profile: str | None = None, endpoint: str | None = None, **credentials: str
    ) -> None:
        self._endpoint = endpoint
        with explained("use this profile"):
            # Of the two variables boto3 reads the other one only.
            self._session = boto3.Session(
                profile_name=profile, region_name=region or os.environ.get("AWS_REGION"), **credentials
            )
        self._clients: dict[str, Any] = {}

    @cached_property
    def region(self) -> str:
        """The region's name. Raises: DeployError: none is named, or there is no such region."""
        region: str | None = self._session.region_name
        if region is None:
            with explained("find the region"):
                raise NoRegionError
        # A region newer than boto3 is let through if it looks like a known one.
        if self.is_real and not any(region.startswith(known.rsplit("-", 1)[0]) for known in self._regions()):
            raise UsageError(f"there is no AWS region {region}", "say --region, for example --region us-east-1")
        return region

    @property
    def is_real(self) -> bool:
        """Whether it is AWS and not an emulator."""
        return self._endpoint is None and "AWS_ENDPOINT_URL" not in os.environ

    def outputs(self, told: Mapping[str, str]) -> dict[str, str]:
        """A stack's outputs as they hold here: an emulator has other hosts than they say, and shows no dashboard."""
        if self.is_real or not {"ApiId", "StageName"} <= told.keys():
            return dict(told)
        endpoint = self.client("cloudformation").meta.endpoint_url
        stage = f"{endpoint}/_aws/execute-api/{told['ApiId']}/{told['StageName']}"
        here = {"WebSocketUrl": f"ws{stage.removeprefix('http')}", "ManagementEndpoint": stage}
        return {name: value for name, value in {**told, **here}.items() if name != "DashboardUrl"}

    def stage_url(self, outputs: Mapping[str, str]) -> str:
        """Where its apps connect without a domain of one's own, whose DNS record may not be there yet."""
        if self.is_real:
            return f"ws{outputs['ManagementEndpoint'].removeprefix('http')}"
        return self.outputs(outputs).get("WebSocketUrl", "")

    @cached_property
    def identity(self) -> str:
        """The account's number. Raises: DeployError: no or wrong credentials."""
        with explained("ask who these credentials belong to"):
            return str(self.client("sts").get_caller_identity()["Account"])

    @cached_property
    def partition(self) -> str:
        """`aws`, `aws-cn` or `aws-us-gov`."""
        return str(self._session.get_partition_for_region(self.region))

    def client(
        self, service: str, *, attempts: int = _ATTEMPTS, endpoint: str | None = None, region: str | None = None
    ) -> Any:
        """The client of a service. Its calls raise botocore's errors: use them within `explained`.

        `attempts`: tries of one call in all, as the one who asks first says it. `endpoint`, `region`: of this client
        alone.
        """
        key = service if region in {None, self.region} else f"{service} {region}"
        if key not in self._clients:
            where = endpoint or self._endpoint or os.environ.get("AWS_ENDPOINT_URL") or ""
            with explained(f"use {service}"):
                self._clients[key] = self._session.client(
                    service,
                    region_name=region or self.region,
                    endpoint_url=endpoint or self._endpoint,
                    config=Config(
                        connect_timeout=5,
                        read_timeout=60,
                        retries={"mode": "standard", "total_max_attempts": attempts},
                        tcp_keepalive=True,
                        # An emulator on this machine is reached directly; None: as boto3 finds it.
                        proxies={} if is_loopback(urlsplit(where).hostname or "") else None,
                    ),
                )
        return self._clients[key]

    def _regions(self) -> list[str]:
        return [
            region
            for partition in self._session.get_available_partitions()
            for region in self._session.get_available_regions("cloudformation", partition)
        ]
