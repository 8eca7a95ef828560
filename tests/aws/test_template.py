"""The template, read: what the emulator does not enforce, and what a slip in it would lose, leak or cost."""

import json
import re
import subprocess
import sys
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from answerback.protocol import frames
from answerback_aws.runtime.dynamodb.tables import TABLES, TTL_ATTRIBUTE
from answerback_aws.runtime.s3_files import FILE_DAYS, PIECE_DAYS
from template import PATH, RESOURCES, TEMPLATE, TEXT, listed, of_type, plain

FUNCTIONS = of_type("AWS::Lambda::Function")
SERVICES = {one["Properties"]["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]: n for n, one in FUNCTIONS.items()}
ROUTES = {route["Properties"]["RouteKey"]: route for route in of_type("AWS::ApiGatewayV2::Route").values()}


def test_it_is_clean_to_the_linter_without_waivers() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, PATH], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "cfn-lint" not in TEXT


def test_it_has_no_anchors_and_no_merge_keys() -> None:
    """AWS refuses them, the emulator does not."""
    assert not re.search(r"<<:|[:\-] [&*][A-Za-z]", TEXT)


@pytest.mark.parametrize("told", of_type("AWS::DynamoDB::Table").values())
def test_a_table_is_paid_by_use_and_can_be_restored(told: Any) -> None:
    told = told["Properties"]
    assert told["BillingMode"] == "PAY_PER_REQUEST"
    assert told["TimeToLiveSpecification"] == {"AttributeName": TTL_ATTRIBUTE, "Enabled": True}
    assert told["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    # Encrypted by default: this only chooses a key, which costs.
    assert told["SSESpecification"]["Fn::If"][0] == "HasKey"


def test_the_tables_are_those_that_the_code_expects() -> None:
    expected = {f"{name.title().replace('_', '')}Table" for name in TABLES}
    assert set(of_type("AWS::DynamoDB::Table")) == expected


# --- what users said is never lost by accident


def test_what_users_said_outlives_a_slip() -> None:
    protected = {"Fn::If": ["IsProtected", True, False]}
    assert TEMPLATE["Parameters"]["FirstDeployment"]["Default"] == "false", "whoever deploys without the command"
    cluster = RESOURCES["Cluster"]
    assert (cluster["DeletionPolicy"], cluster["UpdateReplacePolicy"]) == ("Snapshot", "Snapshot")
    assert cluster["Properties"]["DeletionProtection"] == protected
    assert cluster["Properties"]["StorageEncrypted"] is True
    for name in ("RequestsTable", "ConversationsTable"):
        assert RESOURCES[name]["UpdateReplacePolicy"] == "Retain"
        assert RESOURCES[name]["Properties"]["DeletionProtectionEnabled"] == protected
    assert TEMPLATE["Parameters"]["DeletionProtection"]["Default"] == "true"


def test_files_are_private_and_go_by_themselves() -> None:
    told = RESOURCES["FilesBucket"]["Properties"]
    assert set(told["PublicAccessBlockConfiguration"].values()) == {True}
    assert "VersioningConfiguration" not in told, "what is erased is gone"
    rules = {rule["Prefix"]: rule["ExpirationInDays"] for rule in told["LifecycleConfiguration"]["Rules"]}
    assert rules == {"up/": PIECE_DAYS, "blob/": FILE_DAYS}
    (statement,) = RESOURCES["FilesBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_no_secret_is_written_down() -> None:
    cluster = RESOURCES["Cluster"]["Properties"]
    assert cluster["ManageMasterUserPassword"] is True
    assert "MasterUserPassword" not in cluster
    assert TEMPLATE["Parameters"]["JwtSecret"]["NoEcho"] is True


def test_there_is_no_network_to_pay_for() -> None:
    assert not [name for name, resource in RESOURCES.items() if resource["Type"].startswith("AWS::EC2::")]
    assert not [name for name, function in FUNCTIONS.items() if "VpcConfig" in function["Properties"]]


# --- the API


def test_every_action_of_the_protocol_has_its_route() -> None:
    """Or that of what has none, which leads to the same function."""
    actions = {msgspec.inspect.type_info(frame).tag for frame in frames.ClientFrame.__args__}
    assert {"$connect", "$disconnect", "$default"} <= set(ROUTES) <= actions | {"$connect", "$disconnect", "$default"}
    for key, route in ROUTES.items():
        to = "ConnectionsIntegration" if key in {"$connect", "$disconnect"} else "FrontIntegration"
        assert route["Properties"]["Target"] == {"Fn::Sub": f"integrations/${{{to}}}"}


def test_the_stage_waits_for_its_routes() -> None:
    assert sorted(RESOURCES["Stage"]["DependsOn"]) == sorted(of_type("AWS::ApiGatewayV2::Route"))
    assert RESOURCES["Stage"]["Properties"]["AutoDeploy"] is True


@cache
def waits_for(name: str) -> frozenset[str]:
    """The resources that are there before this one is made, by DependsOn or because it names them."""
    text = json.dumps(RESOURCES[name])
    named = set(re.findall(r'"Ref": "(\w+)"|"Fn::GetAtt": \["(\w+)"|\$\{(\w+)[.}]', text))
    before = {one for parts in named for one in parts if one in RESOURCES} | set(
        listed(RESOURCES[name].get("DependsOn", []))
    )
    return frozenset(before) | {earlier for one in before for earlier in waits_for(one)}


def test_an_api_is_changed_by_one_resource_at_a_time() -> None:
    """API Gateway answers a second change of the same API with a ConflictException."""
    kinds = ("Integration", "Authorizer", "Route", "Stage", "ApiMapping")
    parts = [name for kind in kinds for name in of_type(f"AWS::ApiGatewayV2::{kind}")]
    assert len(parts) >= 16
    for one, other in combinations(parts, 2):
        assert one in waits_for(other) or other in waits_for(one), (one, other)


def test_access_logs_wait_for_the_role_that_writes_them() -> None:
    assert "ApiLogAccount" in waits_for("Stage")
    for name in ("ApiLogRole", "ApiLogAccount"):
        assert RESOURCES[name]["DeletionPolicy"] == "RetainExceptOnCreate", "a failed try leaves nothing"


def test_frames_go_to_the_endpoint_that_is_there() -> None:
    """By the stage's own URL, which serves connections of a domain too, unless that is switched off."""
    stage = "https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}/${StageName}"
    chosen = {"Fn::If": ["HasNoDefaultEndpoint", {"Fn::Sub": "https://${DomainName}"}, {"Fn::Sub": stage}]}
    wanted = {"Fn::If": ["HasManagementEndpoint", {"Ref": "ManagementEndpoint"}, chosen]}
    assert TEMPLATE["Outputs"]["ManagementEndpoint"]["Value"] == wanted
    for function in FUNCTIONS.values():
        variables = function["Properties"]["Environment"]["Variables"]
        assert variables.get("ANSWERBACK_MANAGEMENT_ENDPOINT", wanted) == wanted
    assert RESOURCES["Api"]["Properties"]["DisableExecuteApiEndpoint"]["Fn::If"][0] == "HasNoDefaultEndpoint"
    assert "DomainHasCertificate" in TEMPLATE["Rules"]


def test_without_tokens_nobody_connects_unless_it_is_allowed() -> None:
    connect = ROUTES["$connect"]["Properties"]
    assert connect["AuthorizationType"] == {"Fn::If": ["HasTokens", "CUSTOM", "NONE"]}
    assert connect["AuthorizerId"]["Fn::If"][:2] == ["HasTokens", {"Ref": "Authorizer"}]
    assert RESOURCES["Authorizer"]["Properties"]["IdentitySource"] == []  # one that is missing is 401, unasked
    assert TEMPLATE["Parameters"]["AllowAnonymous"]["Default"] == "false"
    assert "AllowAnonymous" in json.dumps(TEMPLATE["Rules"])


def test_no_log_of_the_api_holds_a_token_or_what_users_say() -> None:
    """A token may be in the query."""
    stage = RESOURCES["Stage"]["Properties"]
    assert stage["DefaultRouteSettings"]["DataTraceEnabled"] is False
    assert stage["DefaultRouteSettings"]["LoggingLevel"] == "OFF"
    written = json.loads(stage["AccessLogSettings"]["Fn::If"][1]["Format"])
    variables = set(written.values())
    assert len(json.dumps(written)) < 3000
    assert not [name for name in variables if re.search(r"path|query|header|body|protocol", name, re.IGNORECASE)]


# --- the functions


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_a_role_and_a_log_of_its_own(name: str) -> None:
    function = FUNCTIONS[name]["Properties"]
    role, group = function["Role"]["Fn::GetAtt"][0], function["LoggingConfig"]["LogGroup"]["Ref"]
    assert [other for other in FUNCTIONS if FUNCTIONS[other]["Properties"]["Role"]["Fn::GetAtt"][0] == role] == [name]
    assert RESOURCES[group]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert RESOURCES[group].get("Condition") == RESOURCES[role].get("Condition") == FUNCTIONS[name].get("Condition")
    assert function["Architectures"] == [{"Ref": "Architecture"}]
    # Lambda drops lines below INFO unless it is told. A higher level would drop the metrics, which have none.
    level = function["LoggingConfig"]["ApplicationLogLevel"]
    assert level == {"Fn::If": ["IsDebugged", "DEBUG", {"Ref": "AWS::NoValue"}]}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_environment_fits_in_4_kb(name: str) -> None:
    """Whatever the parameters are: their greatest lengths are in the template, a name AWS gives has 256 at most."""
    parameters = TEMPLATE["Parameters"]

    def longest(value: Any) -> int:
        parts = re.split(r"(\$\{[^}]+\})", plain(value))
        return sum(_longest_of(part[2:-1], parameters) if part.startswith("${") else len(part) for part in parts)

    variables = FUNCTIONS[name]["Properties"]["Environment"]["Variables"]
    if "ANSWERBACK_JWKS_URL" in variables:  # with the rule JwksHasIssuerAndAudience there is no secret beside it
        variables = variables | {"ANSWERBACK_JWT_SECRET": ""}
    assert sum(len(key) + longest(value) for key, value in variables.items()) <= 4096


def _longest_of(name: str, parameters: dict[str, Any]) -> int:
    if name not in parameters:
        return 20 if name.startswith("AWS::") else 160 if name.endswith("Arn") else 80
    parameter = parameters[name]
    if "AllowedValues" in parameter:
        return max(len(str(value)) for value in parameter["AllowedValues"])
    if parameter["Type"] == "Number":
        return 10
    assert "MaxLength" in parameter, f"{name} has no greatest length"
    return int(parameter["MaxLength"])


def test_no_message_is_redelivered_while_it_is_worked() -> None:
    """Lambda refuses a mapping whose queue hides messages for less than the function's time-out."""
    queue, worker = RESOURCES["Queue"]["Properties"], FUNCTIONS["WorkerFunction"]["Properties"]
    assert queue["VisibilityTimeout"] == worker["Timeout"] == {"Ref": "WorkerTimeoutSeconds"}
    dead, handler = RESOURCES["DeadLetters"]["Properties"], FUNCTIONS["DeadLettersFunction"]["Properties"]
    assert dead["VisibilityTimeout"] >= handler["Timeout"]
    for mapping in of_type("AWS::Lambda::EventSourceMapping").values():
        assert mapping["Properties"]["BatchSize"] == 1
        assert mapping["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert "MaximumConcurrency" in mapping["Properties"]["ScalingConfig"]


def test_an_answer_that_takes_its_time_sets_off_no_alarm() -> None:
    """The oldest message may be one that is being answered."""
    parameters = TEMPLATE["Parameters"]
    assert parameters["OldestMessageSeconds"]["Default"] > parameters["AnswerTimeoutSeconds"]["Default"]
    assert parameters["WorkerTimeoutSeconds"]["Default"] >= parameters["AnswerTimeoutSeconds"]["Default"] + 30


def test_the_gateway_calls_functions_by_post() -> None:
    """Any other method would be refused by Lambda."""
    for integration in of_type("AWS::ApiGatewayV2::Integration").values():
        assert integration["Properties"]["IntegrationMethod"] == "POST"


def test_the_front_answers_before_the_gateway_gives_up() -> None:
    for name in ("FrontFunction", "ConnectionsFunction", "AuthorizerFunction"):
        assert FUNCTIONS[name]["Properties"]["Timeout"] <= 29


def test_the_queues_are_ordered_fast_and_encrypted() -> None:
    for name in ("Queue", "DeadLetters"):
        queue = RESOURCES[name]["Properties"]
        assert queue["FifoQueue"] is True
        assert (queue["DeduplicationScope"], queue["FifoThroughputLimit"]) == ("messageGroup", "perMessageGroupId")
        assert queue["SqsManagedSseEnabled"] == {"Fn::If": ["HasKey", {"Ref": "AWS::NoValue"}, True]}
    redrive = RESOURCES["Queue"]["Properties"]["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    assert redrive["maxReceiveCount"] > 3  # the record decides first


# --- watching


def test_every_function_and_queue_is_watched() -> None:
    watched = json.dumps([alarm["Properties"] for alarm in of_type("AWS::CloudWatch::Alarm").values()])
    for metric in ("Errors", "Throttles", "IntegrationError", "ExecutionError", "ApproximateAgeOfOldestMessage"):
        assert f'"MetricName": "{metric}"' in watched
    for name in ("ErrorsAlarm", "ThrottlesAlarm"):
        metrics = RESOURCES[name]["Properties"]["Metrics"]
        summed, each = metrics[0], metrics[1:]
        names = {metric["MetricStat"]["Metric"]["Dimensions"][0]["Value"]["Ref"] for metric in each}
        # The authorizer is there with tokens only, and what it refuses counts as its error; the migration has its own.
        assert names == set(FUNCTIONS) - {"AuthorizerFunction", "Migration"}
        assert sorted(summed["Expression"].split(" + ")) == sorted(metric["Id"] for metric in each)
    assert "DeadLetters.QueueName" in {
        plain(dimension["Value"])[2:-1] for dimension in RESOURCES["DeadLettersDepthAlarm"]["Properties"]["Dimensions"]
    }


def test_failed_answers_ring_though_no_function_fails() -> None:
    one = RESOURCES["ModelUnavailableAlarm"]["Properties"]
    assert (one["MetricName"], one["Threshold"], one["Period"]) == ("Failed", 1, 300)
    assert {"Name": "code", "Value": "model_unavailable"} in one["Dimensions"]
    metrics = RESOURCES["FailedAnswersAlarm"]["Properties"]["Metrics"]
    counted = {
        tuple(
            sorted(
                (dimension["Name"], dimension["Value"]) for dimension in metric["MetricStat"]["Metric"]["Dimensions"]
            )
        )
        for metric in metrics
        if "MetricStat" in metric
    }
    services = {
        service
        for service, function in SERVICES.items()
        if function in {"WorkerFunction", "JanitorFunction", "DeadLettersFunction"}
    }
    failed = {(("service", service), ("status", "failed")) for service in services}
    assert counted == failed | {(("service", "worker"), ("status", "completed"))}
    assert "Failed" in plain(RESOURCES["Dashboard"]["Properties"]["DashboardBody"])


# --- rules of a company


@pytest.mark.parametrize("name", of_type("AWS::IAM::Role"))
def test_a_role_has_the_path_and_the_boundary_of_the_company(name: str) -> None:
    told = RESOURCES[name]["Properties"]
    nothing = {"Ref": "AWS::NoValue"}  # and no default: to give an old role its path would replace it
    assert told["Path"] == {"Fn::If": ["HasRolePath", {"Ref": "RolePath"}, nothing]}
    assert told["PermissionsBoundary"] == {"Fn::If": ["HasBoundary", {"Ref": "PermissionsBoundary"}, nothing]}


def test_a_key_of_the_company_encrypts_all_that_is_stored_and_who_reads_it_may_use_it() -> None:
    for kind in (
        "DynamoDB::Table",
        "SQS::Queue",
        "S3::Bucket",
        "SNS::Topic",
        "Logs::LogGroup",
        "RDS::DBCluster",
        "Lambda::Function",
    ):
        for name, resource in of_type(f"AWS::{kind}").items():
            assert '"HasKey"' in json.dumps(resource), name
    policy = RESOURCES["KeyPolicy"]["Properties"]
    users = {function["Properties"]["Role"]["Fn::GetAtt"][0] for function in FUNCTIONS.values()}
    authorizer = {"Fn::If": ["HasTokens", {"Ref": "AuthorizerRole"}, {"Ref": "AWS::NoValue"}]}
    assert {role["Ref"] for role in policy["Roles"] if role != authorizer} == users - {"AuthorizerRole"}
    assert authorizer in policy["Roles"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Resource"] == {"Ref": "KeyArn"}
    services = {plain(one).partition(".")[0] for one in statement["Condition"]["StringEquals"]["kms:ViaService"]}
    assert services == {"dynamodb", "sqs", "secretsmanager", "lambda", "s3"}
    assert "KeyPolicy" in waits_for("Schema"), "the first function to open the secret"


def test_every_alarm_reaches_somebody_if_somebody_is_named() -> None:
    for alarm in of_type("AWS::CloudWatch::Alarm").values():
        actions = json.dumps(alarm["Properties"]["AlarmActions"])
        assert "HasAlarmEmail" in actions
        assert "HasAlarmTopic" in actions


def test_the_dashboard_is_one() -> None:
    text = re.sub(r"\$\{[^}]+\}", "name", plain(RESOURCES["Dashboard"]["Properties"]["DashboardBody"]))
    widgets = json.loads(text)["widgets"]
    assert len(widgets) >= 10
    assert all(len(listed(widget["properties"]["metrics"])) >= 1 for widget in widgets)


def test_the_outputs_name_what_tools_need() -> None:
    wanted = {"WebSocketUrl", "ManagementEndpoint", "QueueUrl", "DeadLettersUrl", "ClusterArn", "SecretArn", "Database"}
    assert wanted | {*of_type("AWS::DynamoDB::Table"), "DashboardUrl", "ApiId", "StageName", "WorkerFunction"} <= set(
        TEMPLATE["Outputs"]
    )
