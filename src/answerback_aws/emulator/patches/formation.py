"""CloudFormation: an Aurora cluster whose password RDS manages, and alarms on a sum of metrics."""

import json
import secrets
from typing import Any, Final

from answerback_aws.emulator.patches import private, replace

_PROVISIONERS: Final = "services.cloudformation.provisioners"
_SECRET: Final = "MasterUserSecret"  # noqa: S105 - a property's name


def patch() -> None:
    """Apply. Raises: Moved."""
    handlers = private(_PROVISIONERS, "_RESOURCE_HANDLERS")
    _patch_clusters(handlers["AWS::RDS::DBCluster"])
    _patch_alarms(handlers["AWS::CloudWatch::Alarm"])


def _patch_clusters(handlers: Any) -> None:
    """`ManageMasterUserPassword` makes a secret, and `GetAtt CLUSTER.MasterUserSecret.SecretArn` names it."""

    def attributes(cluster: Any) -> Any:
        found = attributes_were(cluster)
        if secret := cluster.get(_SECRET):
            found = {**found, f"{_SECRET}.SecretArn": secret["SecretArn"]}
        return found

    def create(logical_id: str, properties: Any, stack_name: str) -> Any:
        cluster_id, found = create_was(logical_id, properties, stack_name)
        if str(properties.get("ManageMasterUserPassword")).lower() == "true":
            cluster = private("services.rds", "_clusters")[cluster_id]
            user = {"username": properties.get("MasterUsername", ""), "password": secrets.token_urlsafe(24)}
            make = private("services.secretsmanager", "create_secret_in_process")
            arn = make(f"rds!cluster-{cluster_id}", json.dumps(user), description="Managed by RDS")
            cluster[_SECRET] = {"SecretArn": arn, "SecretStatus": "active"}
            found = private(_PROVISIONERS, "_rds_db_cluster_attrs")(cluster)
        return cluster_id, found

    def delete(physical_id: str, properties: Any) -> None:
        cluster = private("services.rds", "_clusters").get(physical_id)
        delete_was(physical_id, properties)
        if cluster and (secret := cluster.get(_SECRET)):
            private("services.secretsmanager", "_delete_secret")(
                {"SecretId": secret["SecretArn"], "ForceDeleteWithoutRecovery": True}
            )

    private("services.secretsmanager", "create_secret_in_process")
    private("services.secretsmanager", "_delete_secret")
    private("services.rds", "_clusters")
    attributes_were = replace(_PROVISIONERS, "_rds_db_cluster_attrs", attributes)
    create_was, delete_was = handlers["create"], handlers["delete"]
    handlers.update(create=create, delete=delete)


def _patch_alarms(handlers: Any) -> None:
    """An alarm on an expression is accepted, and watches nothing."""

    def create(logical_id: str, properties: Any, stack_name: str) -> Any:
        if "Metrics" in properties:
            return f"{stack_name}-{logical_id}", {}
        return create_was(logical_id, properties, stack_name)

    def update(physical_id: str, before: Any, after: Any, *more: Any, **named: Any) -> Any:
        if "Metrics" in after:
            return physical_id, {}
        return update_was(physical_id, before, after, *more, **named)

    create_was, update_was = handlers["create"], handlers["update"]
    handlers.update(create=create, update=update)
