"""The emulator for tests: where its environment is, and an Aurora cluster on it."""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from answerback_aws.emulator.emulator import Emulator

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".cache" / "emulator"


@dataclass(frozen=True, slots=True)
class Cluster:
    """An Aurora PostgreSQL with the Data API, and the secret that opens it."""

    cluster_arn: str
    secret_arn: str
    database: str


def emulator_python() -> Path:
    """The interpreter of the emulator's environment; skips without it, fails under CI."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        why = "the emulator's environment is not installed (make .cache/emulator/installed)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return python


def make_cluster(emulator: Emulator, *, database: str | None = None) -> Cluster:
    """A cluster with a database of its own; its tables are yours to make."""
    name = database or f"d{uuid.uuid4().hex[:12]}"
    rds = emulator.client("rds")
    cluster = rds.create_db_cluster(
        DBClusterIdentifier=f"c-{name}",
        Engine="aurora-postgresql",
        DatabaseName=name,
        MasterUsername="answerback",
        ManageMasterUserPassword=True,
        EnableHttpEndpoint=True,
        ServerlessV2ScalingConfiguration={"MinCapacity": 0, "MaxCapacity": 1},
    )["DBCluster"]
    rds.create_db_instance(
        DBInstanceIdentifier=f"i-{name}",
        DBClusterIdentifier=f"c-{name}",
        DBInstanceClass="db.serverless",
        Engine="aurora-postgresql",
    )
    return Cluster(cluster["DBClusterArn"], cluster["MasterUserSecret"]["SecretArn"], name)
