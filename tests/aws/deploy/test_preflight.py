"""What a deployment would meet: an account in Seoul that answers as AWS documents; no AWS was asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from answerback.cli.main import run
from answerback_aws.commands.options import StackOptions
from answerback_aws.deploy.deployment import Deployment, DeployRequest
from answerback_aws.deploy.errors import DeployError
from answerback_aws.deploy.package import Package, Target
from answerback_aws.deploy.stack import Stack
from answerback_aws.deploy.status import Fact
from fake_aws import FakeAccount, refused


class Silent:
    """Progress that nobody sees."""

    def step(self, text: str) -> None: ...

    def event(self, event: object) -> None: ...


PACKAGE = Package(data=b"zip", content_sha256="0" * 64, names=(), unzipped_bytes=3)
KEY = "arn:aws:kms:ap-northeast-2:123456789012:key/k"
LITE = "amazon.nova-lite-v1:0"
PROFILE = f"arn:aws:bedrock:ap-northeast-2:123456789012:inference-profile/apac.{LITE}"
ACCOUNT = FakeAccount()
CERTIFICATE = "arn:aws:acm:ap-northeast-2:123456789012:certificate/abc"


def model(*types: str) -> dict[str, Any]:
    arn = f"arn:aws:bedrock:ap-northeast-2::foundation-model/{LITE}"
    return {
        "modelDetails": {
            "modelArn": arn,
            "modelId": LITE,
            "modelName": "Nova Lite",
            "inferenceTypesSupported": [*types],
        }
    }


def profile(name: str) -> dict[str, Any]:
    models = [
        {"modelArn": f"arn:aws:bedrock:{region}::foundation-model/{LITE}"}
        for region in ("ap-northeast-1", "ap-northeast-2")
    ]
    told = {"inferenceProfileName": "APAC Nova Lite", "inferenceProfileArn": PROFILE, "inferenceProfileId": name}
    return {**told, "models": models, "status": "ACTIVE", "type": "SYSTEM_DEFINED"}


def quota(name: str, value: float) -> dict[str, Any]:
    return {"QuotaName": name, "Value": value}


def versions(*names: str) -> dict[str, Any]:
    return {"OrderableDBInstanceOptions": [{"EngineVersion": name, "SupportsHttpEndpoint": True} for name in names]}


SEOUL: Mapping[str, Any] = {
    "DescribeStacks": refused("ValidationError", "Stack with id chat does not exist"),
    "GetFoundationModel": model("INFERENCE_PROFILE"),
    "ListInferenceProfiles": {"inferenceProfileSummaries": [profile(f"apac.{LITE}")]},
    "GetInferenceProfile": profile(f"apac.{LITE}"),
    "ConverseStream": {"stream": [{"messageStop": {"stopReason": "max_tokens"}}]},
    "ListServiceQuotas": {
        "Quotas": [
            quota("On-demand model inference requests per minute for Amazon Nova Lite", 0),
            quota("Cross-region model inference requests per minute for Amazon Nova Lite", 20),
            quota("Cross-region model inference tokens per minute for Amazon Nova Lite", 8000),
            quota("Cross-region model inference requests per minute for Amazon Nova 2 Lite", 0),
        ]
    },
    "GetAccountSettings": {"AccountLimit": {"ConcurrentExecutions": 10}},
    "DescribeVpcs": {"Vpcs": [{"VpcId": "vpc-1"}]},
    "DescribeSubnets": {"Subnets": [{"AvailabilityZone": "a"}, {"AvailabilityZone": "b"}]},
    "DescribeOrderableDBInstanceOptions": versions("16.9", "17.7", "17.7-limitless"),
    "GetAccount": {},
}
"""A new account: ten functions at the same time, and the default model through a profile only."""


def preflight(
    changed: Mapping[str, Any] | None = None, /, *models: str, ask: bool = True, **parameters: str
) -> tuple[FakeAccount, dict[str, Fact], Mapping[str, str], list[str]]:
    account, said = ACCOUNT.answering({**SEOUL, **(changed or {})}), list[str]()
    request = DeployRequest(models=models, parameters=parameters, ask=ask, cache=Path("unused"))
    facts, values = Deployment(account, "chat", Silent(), say=said.append).facts(request)
    assert {name for name in account.made() if not name.startswith(("Get", "List", "Describe"))} <= {"ConverseStream"}
    return account, {fact.name: fact for fact in facts}, values, said


def test_a_new_account_in_seoul_with_nothing_said_gets_what_works_there() -> None:
    account, facts, values, said = preflight()
    assert [fact for fact in facts.values() if fact.is_good is not True] == []
    assert values["Models"] == f"bedrock:apac.{LITE}"
    assert values["ModelArns"].split(",") == [PROFILE, *(one["modelArn"] for one in profile("x")["models"])]
    assert values["WorkerConcurrency"] == "5"  # awslabs/fhir-works-on-aws-deployment#691: ten are the account's all
    assert (
        facts[f"quota of apac.{LITE}"].value == "20 requests a minute, 8,000 tokens a minute: 7 answers of 1024 tokens"
    )
    (asked,) = [told for name, told in account.calls if name == "ConverseStream"]
    assert (asked["modelId"], asked["inferenceConfig"]) == (f"apac.{LITE}", {"maxTokens": 1})
    assert "billed" in said[0]
    assert "Marketplace" in said[0]


def test_no_ask_asks_no_model() -> None:
    account, facts, _, said = preflight(ask=False)
    assert "ConverseStream" not in account.made()
    assert said == []
    assert facts[f"model apac.{LITE}"].value == "known to Bedrock; it was not asked"


def test_the_engine_version_follows_what_the_region_offers() -> None:
    for offered, wanted in (
        (["16.9", "17.9", "17.10", "18.3"], "17.10"),
        (["16.9", "16.10"], "16.10"),
        (["13.12"], "17.7"),
    ):
        _, _, values, _ = preflight({"DescribeOrderableDBInstanceOptions": versions(*offered)})
        assert values["EngineVersion"] == wanted
    _, facts, values, _ = preflight(EngineVersion="17.2")
    assert values["EngineVersion"] == "17.2"
    assert facts["database engine"].is_good is False
    assert "newest: 16.9, 17.7" in facts["database engine"].advice


def test_an_account_with_room_takes_a_hundred_workers() -> None:
    _, facts, values, _ = preflight({"GetAccountSettings": {"AccountLimit": {"ConcurrentExecutions": 1000}}})
    assert values["WorkerConcurrency"] == "100"
    assert facts["lambda concurrency"].advice == ""
    _, facts, values, _ = preflight(WorkerConcurrency="80")
    assert facts["lambda concurrency"].is_good is None
    assert "WorkerConcurrency=5" in facts["lambda concurrency"].advice


def key_policy(*services: str) -> str:
    principals = [f"{service}.amazonaws.com" for service in services]
    return json.dumps({"Statement": [{"Effect": "Allow", "Principal": {"Service": principals}}]})


DENIED = "You don't have access to the model with the specified model ID."
MARKETPLACE = (
    "Model access is denied due to IAM user or service role is not authorized to perform the required AWS Marketplace "
    "actions (aws-marketplace:ViewSubscriptions, aws-marketplace:Subscribe) to enable access to this model."
)


@pytest.mark.parametrize(
    ("changed", "parameters", "name", "is_good", "says"),
    [
        # anthropics/claude-code#9620, elastic/docs-content#3770
        ({"ConverseStream": refused("AccessDeniedException", DENIED)}, {}, "model", False, "aws-marketplace:Subscribe"),
        ({"ConverseStream": refused("AccessDeniedException", MARKETPLACE)}, {}, "model", False, "15 minutes"),
        ({"ConverseStream": refused("FTUFormNotFilled", "use case details")}, {}, "model", False, "use case form"),
        (
            {
                "ConverseStream": refused(
                    "AccessDeniedException", "User: x is not authorized to perform: bedrock:Invoke"
                )
            },
            {},
            "model",
            None,
            "the worker has a role of its own",
        ),
        (
            {
                "ConverseStream": refused(
                    "AccessDeniedException",
                    "not authorized to perform: bedrock:InvokeModel with an explicit deny in a service control policy",
                )
            },
            {},
            "model",
            False,
            "",
        ),
        ({"ConverseStream": refused("ThrottlingException")}, {}, "model", None, ""),
        (
            {
                "ListServiceQuotas": {
                    "Quotas": [quota("Cross-region model inference tokens per minute for Amazon Nova Lite", 0)]
                }
            },
            {},
            "quota",
            False,
            "Service Quotas",
        ),
        ({"ListServiceQuotas": {"Quotas": []}}, {}, "quota", None, "Service Quotas"),
        ({"DescribeVpcs": {"Vpcs": []}}, {}, "database network", False, "DatabaseSubnetGroup=NAME"),
        ({"DescribeSubnets": {"Subnets": [{"AvailabilityZone": "a"}]}}, {}, "database network", False, "two zones"),
        (
            {"DescribeDBSubnetGroups": refused("DBSubnetGroupNotFoundFault")},
            {"DatabaseSubnetGroup": "nix"},
            "database network",
            False,
            "describe-db-subnet-groups",
        ),
        ({}, {"AccessLogs": "existing-role"}, "api log role", False, "AccessLogs=create-role"),
        (
            {"GetAccount": {"cloudwatchRoleArn": "arn:aws:iam::1:role/r"}},
            {"AccessLogs": "create-role"},
            "api log role",
            None,
            "AccessLogs=existing-role",
        ),
        (
            {},
            {"DomainName": "chat.example.com", "CertificateArn": CERTIFICATE.replace("ap-northeast-2", "us-east-1")},
            "certificate",
            False,
            "make one in ap-northeast-2",
        ),
        (
            {
                "DescribeCertificate": {
                    "Certificate": {"Status": "PENDING_VALIDATION", "SubjectAlternativeNames": ["chat.example.com"]}
                }
            },
            {"DomainName": "chat.example.com", "CertificateArn": CERTIFICATE},
            "certificate",
            False,
            "issued",
        ),
        (
            {
                "DescribeCertificate": {
                    "Certificate": {"Status": "ISSUED", "SubjectAlternativeNames": ["*.example.com"]}
                }
            },
            {"DomainName": "chat.example.com", "CertificateArn": CERTIFICATE},
            "certificate",
            True,
            "",
        ),
        ({"DescribeVpcs": refused("UnauthorizedOperation")}, {}, "database network", None, "add that permission"),
        ({"GetKeyPolicy": {"Policy": key_policy("logs.ap-northeast-2")}}, {"KeyArn": KEY}, "key", False, "A key of"),
        ({"GetKeyPolicy": {"Policy": key_policy("cloudwatch")}}, {"KeyArn": KEY}, "key", False, "A key of"),
        (
            {"GetKeyPolicy": {"Policy": key_policy("cloudwatch", "logs.ap-northeast-2")}},
            {"KeyArn": KEY},
            "key",
            True,
            "",
        ),
        ({}, {"KeyArn": KEY}, "key", None, "add that permission"),
    ],
)
def test_a_finding_says_what_to_do(
    changed: dict[str, Any], parameters: dict[str, str], name: str, is_good: bool | None, says: str
) -> None:
    _, facts, _, _ = preflight(changed, **parameters)
    (fact,) = [fact for key, fact in facts.items() if key.startswith(name)]
    assert fact.is_good is is_good, fact
    assert says in fact.advice


def test_a_model_that_the_region_does_not_serve_does_not_hide_the_rest() -> None:
    changed = {
        "GetFoundationModel": refused("ResourceNotFoundException"),
        "ListInferenceProfiles": {"inferenceProfileSummaries": []},
    }
    _, facts, values, _ = preflight(changed)
    assert facts[f"model {LITE}"].is_good is False
    assert (values["WorkerConcurrency"], facts["database network"].is_good) == ("5", True)


def stack(**parameters: str) -> dict[str, Any]:
    return {
        "Stacks": [
            {
                "StackId": "arn:stack",
                "StackName": "chat",
                "StackStatus": "UPDATE_COMPLETE",
                "CreationTime": 0,
                "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            }
        ]
    }


def test_a_stack_that_is_there_is_checked_as_it_is() -> None:
    """Deployed before with the default model, in a region that does not serve it so."""
    was = {"Models": f"bedrock:{LITE}", "WorkerConcurrency": "100", "MaxTokens": "1024"}
    _, facts, values, _ = preflight({"DescribeStacks": stack(**was)})
    assert {"database network", "database engine"}.isdisjoint(facts)
    assert facts[f"model {LITE}"].advice.startswith(f"say --model bedrock:apac.{LITE}")
    assert values["WorkerConcurrency"] == "100"
    assert facts["lambda concurrency"].is_good is None


def test_a_deployment_that_would_fail_makes_nothing() -> None:
    account = ACCOUNT.answering({**SEOUL, "DescribeVpcs": {"Vpcs": []}})
    request = DeployRequest(target=Target(), parameters={"AllowAnonymous": "true"}, cache=Path("unused"))
    with pytest.raises(DeployError, match=r"database network: no default VPC — name a subnet group"):
        Deployment(account, "chat", Silent()).deploy(request)
    assert {name for name in account.made() if not name.startswith(("Get", "List", "Describe"))} == {"ConverseStream"}


@pytest.mark.parametrize(("vpcs", "code"), [([{"VpcId": "vpc-1"}], 0), ([], 1)])
def test_the_command_prints_what_it_found_and_exits_by_it(
    vpcs: list[Any], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    account = ACCOUNT.answering({**SEOUL, "DescribeVpcs": {"Vpcs": vpcs}})
    monkeypatch.setattr(StackOptions, "account", lambda _: account)
    assert run(["aws", "check", "--json"]) == code
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["ready"] is (code == 0)
    assert found["parameters"]["Models"] == f"bedrock:apac.{LITE}"
    assert {"identity", "database network"} <= {fact["name"] for fact in found["facts"]}
    assert "--no-ask" in err


UPLOADS: Mapping[str, Any] = {
    "HeadObject": refused("404"),
    "HeadBucket": {},
    "PutObject": {},
    "CreateChangeSet": {"Id": "arn:change-set"},
    "DescribeChangeSet": {"Status": "CREATE_COMPLETE", "Changes": []},
}


@pytest.mark.parametrize(("protection", "first"), [({}, "true"), ({"DeletionProtection": "false"}, "false")])
def test_a_new_stack_is_made_so_that_it_can_be_rolled_back(protection: dict[str, str], first: str) -> None:
    """aws-cloudformation/aws-cloudformation-resource-providers-rds#2: protection refuses in rollbacks, too."""
    account = ACCOUNT.answering({**SEOUL, **UPLOADS})
    deployment = Deployment(account, "chat", Silent(), build=lambda *_, **__: PACKAGE)
    given = {"AllowAnonymous": "true", **protection}
    plan = deployment.plan(DeployRequest(target=Target(), parameters=given, cache=Path("unused")))
    (asked,) = [told for name, told in account.calls if name == "CreateChangeSet"]
    told = {one["ParameterKey"]: one["ParameterValue"] for one in asked["Parameters"]}
    assert (told["FirstDeployment"], plan.is_protected_after) == (first, first == "true")
    assert asked["OnStackFailure"] == "DELETE"
    assert told["Models"] == f"bedrock:apac.{LITE}"
    assert told["ModelArns"].startswith(PROFILE)
    assert told["WorkerConcurrency"] == "5"


ALARMS = ("ErrorsAlarm", "FailedAnswersAlarm", "ModelUnavailableAlarm", "ThrottlesAlarm")


def test_an_update_is_taken_back_by_the_alarms_that_are_quiet_before_it() -> None:
    """One that rings may be what the update repairs."""
    arn = "arn:aws:cloudwatch:ap-northeast-2:123456789012:alarm:"
    resources = [
        {
            "LogicalResourceId": name,
            "PhysicalResourceId": f"chat-{name}",
            "ResourceType": "AWS::CloudWatch::Alarm",
            "LastUpdatedTimestamp": 0,
            "ResourceStatus": "CREATE_COMPLETE",
        }
        for name in ALARMS
    ]

    def alarms(asked: Mapping[str, Any]) -> dict[str, Any]:
        assert asked["AlarmNames"] == [f"chat-{name}" for name in ALARMS[:3]]
        states = zip(asked["AlarmNames"], ("ALARM", "OK", "INSUFFICIENT_DATA"), strict=True)
        return {"MetricAlarms": [{"AlarmArn": arn + name, "StateValue": state} for name, state in states]}

    was = {"Models": "echo", "WorkerConcurrency": "5", "AllowAnonymous": "true", "CodeBucket": "theirs", "KeyArn": KEY}
    account = ACCOUNT.answering(
        {
            **SEOUL,
            "DescribeStacks": stack(**was),
            "ListStackResources": {"StackResourceSummaries": resources},
            "DescribeAlarms": alarms,
            **UPLOADS,
        }
    )
    deployment = Deployment(account, "chat", Silent(), build=lambda *_, **__: PACKAGE)
    role = "arn:aws:iam::123456789012:role/deployer"
    request = DeployRequest(target=Target(), watch_minutes=10, role_arn=role, cache=Path("unused"))
    deployment.plan(request)
    (asked,) = [told for name, told in account.calls if name == "CreateChangeSet"]
    triggers = [{"Arn": f"{arn}chat-{name}", "Type": "AWS::CloudWatch::Alarm"} for name in ALARMS[1:3]]
    assert asked["RollbackConfiguration"] == {"RollbackTriggers": triggers, "MonitoringTimeInMinutes": 10}
    assert asked["RoleARN"] == role
    assert "OnStackFailure" not in asked
    assert {"ParameterKey": "FirstDeployment", "ParameterValue": "false"} in asked["Parameters"]
    # The bucket and the key of the company, as they were.
    puts = [told for name, told in account.calls if name == "PutObject"]
    assert {(told["Bucket"], told["SSEKMSKeyId"]) for told in puts} == {("theirs", KEY)}
    assert {"CreateBucket", "PutBucketPolicy"}.isdisjoint(account.made())


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"])
def test_a_stack_that_can_only_be_deleted_says_so(status: str) -> None:
    told = stack()
    told["Stacks"][0]["StackStatus"] = status
    with pytest.raises(DeployError, match="run `answerback aws destroy --stack chat`, then deploy again"):
        Deployment(ACCOUNT.answering({"DescribeStacks": told}), "chat", Silent()).plan(
            DeployRequest(cache=Path("unused"))
        )


def change(kind: str, replaced: str, *details: tuple[str, str]) -> dict[str, Any]:
    told = [
        {"Target": {"Attribute": "Properties", "RequiresRecreation": recreation}, "ChangeSource": source}
        for recreation, source in details
    ]
    one = {"Action": "Modify", "LogicalResourceId": "R", "ResourceType": kind, "Replacement": replaced, "Details": told}
    return {"Type": "Resource", "ResourceChange": one}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (change("AWS::ApiGatewayV2::Stage", "True", ("Always", "ParameterReference")), "another URL"),
        (change("AWS::RDS::DBCluster", "Conditional", ("Conditionally", "DirectModification")), "empty database"),
        (change("AWS::DynamoDB::Table", "True", ("Always", "DirectModification")), "the new table is empty"),
        (change("AWS::ApiGatewayV2::Stage", "Conditional", ("Always", "ResourceReference")), ""),  # a tag of the stack
        (change("AWS::ApiGatewayV2::Stage", "Conditional", ("Always", "ResourceReference"), ("Never", "")), ""),
        (change("AWS::RDS::DBCluster", "False", ("Never", "DirectModification")), ""),
        (change("AWS::IAM::Role", "True", ("Always", "ParameterReference")), ""),  # nobody notices
    ],
)
def test_what_a_replacement_would_cost_is_announced(told: dict[str, Any], says: str) -> None:
    account = ACCOUNT.answering(
        {
            "CreateChangeSet": {"Id": "arn:change-set"},
            "DescribeChangeSet": {"Status": "CREATE_COMPLETE", "Changes": [told]},
        }
    )
    (one,) = Stack(account, "chat").plan(template_url="https://x", parameters=[], tags={}, name="n", is_new=False)
    assert (says in one.loss, bool(one.loss)) == (True, bool(says))
