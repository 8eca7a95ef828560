"""The bucket of packages and templates: one for an account and region, private, encrypted. Names are hashes."""

import json
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, error_code, explained, is_missing


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something uploaded. `is_new`: it was not there before."""

    bucket: str
    key: str
    url: str
    is_new: bool


class Artefacts:
    """Uploads what is not there yet. What was uploaded never changes, so that a stack can always be rolled back."""

    def __init__(self, account: Account) -> None:
        self._account = account

    @property
    def bucket(self) -> str:
        return f"answerback-artefacts-{self._account.identity}-{self._account.region}"

    def put(self, key: str, data: bytes) -> Artefact:
        """Upload `data` unless `key` is there; the bucket is made if need be. Raises: DeployError."""
        s3, mine = self._account.client("s3"), self._mine
        is_new = not self.has(key)
        if is_new:
            with explained("upload to the bucket of packages"):
                self._make(s3, mine)
                s3.put_object(**mine, Key=key, Body=data)
        return Artefact(self.bucket, key, f"{s3.meta.endpoint_url}/{self.bucket}/{key}", is_new)

    def has(self, key: str) -> bool:
        """Whether `key` was uploaded before. Raises: DeployError."""
        with explained("read the bucket of packages"):
            try:
                self._account.client("s3").head_object(**self._mine, Key=key)
            except ClientError as exc:
                if is_missing(exc):
                    return False
                if error_code(exc) == "403":
                    raise DeployError(
                        f"the bucket {self.bucket} is not this account's, or these credentials may not read it",
                        "allow s3:GetObject, s3:PutObject, s3:ListBucket and s3:CreateBucket on it",
                    ) from exc
                raise
        return True

    @property
    def _mine(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "ExpectedBucketOwner": self._account.identity}

    def _make(self, s3: Any, mine: dict[str, str]) -> None:
        """Private from its first moment on: new buckets of S3 are; what follows holds it so."""
        try:
            s3.head_bucket(**mine)
        except ClientError as exc:
            if not is_missing(exc):
                raise
        else:
            return
        where = {} if self._account.region == "us-east-1" else {"LocationConstraint": self._account.region}
        s3.create_bucket(Bucket=self.bucket, **({"CreateBucketConfiguration": where} if where else {}))
        s3.put_public_access_block(
            **mine,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        s3.put_bucket_encryption(
            **mine,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
        s3.put_bucket_policy(**mine, Policy=json.dumps(self._only_by_tls()))

    def _only_by_tls(self) -> dict[str, Any]:
        arn = f"arn:{self._account.partition}:s3:::{self.bucket}"
        return {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "OnlyByTls",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [arn, f"{arn}/*"],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }
