"""What a deployment will meet in this account and region, asked before anything is made.

All of it is read, but for one answer of one token by each model of Bedrock (`ask`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from answerback.models.bedrock import model_error
from answerback.models.spec import BedrockSpec
from answerback.ports import ModelFault
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, is_missing
from answerback_aws.deploy.parameters import default_model, guardrail_arns, model_arns, read_models
from answerback_aws.deploy.status import Fact, gathered

MOST_WORKERS: Final = 100
"""What the template takes where the account allows it."""

_FILES_MB: Final = 512
"""The bytes are there as they are, in the model's request, and on their way."""

_ENGINE: Final = {"Engine": "aurora-postgresql", "DBInstanceClass": "db.serverless"}
_IS_VERSION: Final = re.compile(r"\d+\.\d+")
_OLDEST_ENGINE: Final = (16, 3)
"""The first with the Data API and with a pause at 0 capacity units."""

_QUOTA: Final = re.compile(r"(?P<way>.*)model inference (?P<unit>requests|tokens) per minute for (?P<model>.+)", re.I)
_NOT_MINE: Final = re.compile(
    r"not authorized to perform: bedrock:(?!.*service control policy)", re.IGNORECASE | re.DOTALL
)
_MARKETPLACE: Final = (
    "let somebody with aws-marketplace:Subscribe and aws-marketplace:ViewSubscriptions run `answerback aws check` "
    "once; it can take 15 minutes until the model answers"
)


def of_models(
    account: Account, given: Mapping[str, str], *, default: str, previous: Mapping[str, str] | None
) -> Mapping[str, str]:
    """The parameters that follow from the models that are `given`, or of a new stack from the `default` one.

    Raises: DeployError: a model that cannot be there.
    """
    texts = given.get("Models", "").split()
    if not texts and previous is None:
        texts = [default_model(account, default)]
    if not texts:
        return {}
    found = {"Models": " ".join(texts)}
    specs = read_models(texts)
    if "ModelArns" not in given:
        found["ModelArns"] = ",".join(model_arns(account, specs))
    found["GuardrailArns"] = ",".join(guardrail_arns(account, specs))
    return found


def of_account(
    account: Account, given: Mapping[str, str], *, known: Mapping[str, str | None], previous: Mapping[str, str] | None
) -> Mapping[str, str]:
    """The parameters of a new stack that nobody gave and that follow from what account and region have."""
    found: dict[str, str] = {}
    if previous is None and account.is_real:
        for name, choose in (("WorkerConcurrency", _workers), ("EngineVersion", _engine_version)):
            if name not in given:
                try:
                    found[name] = choose(account, str(known[name]))
                except (ClientError, BotoCoreError, DeployError):
                    continue  # the template's default; what cannot be asked is said by the facts
    return found


class Preflight:
    """The facts about one stack that is to be. `values`: of all parameters.

    `say` hears what costs something before it is done.
    """

    def __init__(
        self,
        account: Account,
        values: Mapping[str, str],
        *,
        is_new: bool,
        ask: bool = True,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._account = account
        self._values = values
        self._is_new = is_new
        self._ask = ask
        self._say = say

    def facts(self) -> tuple[Fact, ...]:
        """What is good, bad (False: a deployment would fail, or every answer) and unknown (None), and what to do."""
        parts: list[tuple[str, Callable[[], Sequence[Fact]]]] = [("identity", self._identity)]
        specs = [spec for spec in read_models(self._values["Models"].split()) if isinstance(spec, BedrockSpec)]
        for spec in specs if self._account.is_real else ():
            parts += [
                (f"model {spec.name}", partial(self._model, spec)),
                (f"quota of {spec.name}", partial(self._quota, spec)),
            ]
        parts.append(("lambda concurrency", self._concurrency))
        if self._is_new:
            parts.append(("database network", self._network))
            if self._account.is_real:  # an emulator knows neither Bedrock's models nor Aurora's versions
                parts.append(("database engine", self._engine))
        if self._values.get("Attachments") == "enabled":
            parts.append(("files", self._files))
        if self._values.get("AccessLogs", "none") != "none":
            parts.append(("api log role", self._log_role))
        if self._values.get("CertificateArn"):
            parts.append(("certificate", self._certificate))
        if self._values.get("KeyArn"):
            parts.append(("key", self._key))
        return tuple(gathered(parts))

    def _identity(self) -> Sequence[Fact]:
        identity = self._account.client("sts").get_caller_identity()
        where = f"account {identity['Account']} in {self._account.region}, as {identity['Arn']}"
        return [Fact(name="identity", value=where)]

    # --- Bedrock

    def _model(self, spec: BedrockSpec) -> Sequence[Fact]:
        name = f"model {spec.name}"
        try:
            model_arns(self._account, [spec])
        except DeployError as exc:
            return [Fact(name=name, value=exc.message, is_good=False, advice=exc.hint)]
        if not self._ask:
            return [Fact(name=name, value="known to Bedrock; it was not asked")]
        self._say(
            f"Asking {spec.model} for one token with your credentials. It is billed, and a model that is sold through "
            "AWS Marketplace is subscribed to by it. --no-ask leaves it out."
        )
        try:
            self._answer(spec)
        except (ClientError, BotoCoreError) as exc:
            return [self._refusal(name, exc)]
        return [Fact(name=name, value="it answers")]

    def _answer(self, spec: BedrockSpec) -> None:
        """One token, as the worker asks for many."""
        guardrail = spec.guardrail and {
            "guardrailConfig": dict(zip(("guardrailIdentifier", "guardrailVersion"), spec.guardrail, strict=True))
        }
        answer = self._account.client("bedrock-runtime", region=spec.region).converse_stream(
            modelId=spec.model,
            messages=[{"role": "user", "content": [{"text": "Say yes."}]}],
            inferenceConfig={"maxTokens": 1},
            **(guardrail or {}),
        )
        for _ in answer["stream"]:
            pass

    def _refusal(self, name: str, exc: ClientError | BotoCoreError) -> Fact:
        error, text = model_error(exc), str(exc)
        if _NOT_MINE.search(text):
            advice = (
                "the worker has a role of its own; to check it, allow bedrock:InvokeModelWithResponseStream to yourself"
            )
            return Fact(name=name, value="these credentials may not ask it", is_good=None, advice=advice)
        if "marketplace" in text.lower() or "access to the model" in text:
            return Fact(name=name, value="this account has no access to it yet", is_good=False, advice=_MARKETPLACE)
        is_setup = getattr(error, "fault", None) is ModelFault.SETUP
        value = "it does not answer" if is_setup else "it did not answer now"
        return Fact(name=name, value=value, is_good=False if is_setup else None, advice=error.detail)

    def _quota(self, spec: BedrockSpec) -> Sequence[Fact]:
        """A new account may have none at all: then every answer is throttled."""
        name, region = f"quota of {spec.name}", spec.region
        bedrock = self._account.client("bedrock", region=region)
        base = re.sub(r"^(?:global|us-gov|[a-z]{2,4})\.(?=\w+\.)", "", spec.model.rpartition("/")[2])
        model = bedrock.get_foundation_model(modelIdentifier=base)["modelDetails"]["modelName"]
        way = "On-demand" if base == spec.model else "Global" if spec.model.startswith("global.") else "Cross-region"
        quotas: dict[str, float] = {}
        pages = self._account.client("service-quotas", region=region).get_paginator("list_service_quotas")
        for page in pages.paginate(ServiceCode="bedrock"):
            for one in page["Quotas"]:
                found = _QUOTA.fullmatch(one["QuotaName"])
                if (
                    found
                    and found["way"].startswith(way)
                    and re.search(rf"(^|\s){re.escape(model)}( V\d+)?$", found["model"])
                ):
                    quotas[found["unit"]] = one["Value"]
        if not quotas:
            return [
                Fact(name=name, value=f"none is listed for {model}", is_good=None, advice="see Service Quotas, Bedrock")
            ]
        value = ", ".join(f"{count:,.0f} {unit} a minute" for unit, count in sorted(quotas.items()))
        if "tokens" in quotas:
            longest = max(int(self._values["MaxTokens"]), 1)
            value += f": {quotas['tokens'] // longest:,.0f} answers of {longest} tokens"
        is_good = all(quotas.values())
        return [
            Fact(
                name=name,
                value=value,
                is_good=is_good,
                advice="" if is_good else "ask for more in Service Quotas, Bedrock",
            )
        ]

    # --- the rest of the account

    def _concurrency(self) -> Sequence[Fact]:
        limit, workers = _limit(self._account), int(self._values["WorkerConcurrency"])
        value = f"{limit} functions at the same time, {workers} of them workers"
        if workers > limit // 2:
            fits = _workers_of(limit)
            advice = f"say --parameter WorkerConcurrency={fits}, or ask for 1,000 in Service Quotas, Lambda"
            return [Fact(name="lambda concurrency", value=value, is_good=None, advice=advice)]
        advice = "ask for 1,000 in Service Quotas, Lambda (new accounts have 10)" if limit < 2 * MOST_WORKERS else ""
        return [Fact(name="lambda concurrency", value=value, advice=advice)]

    def _network(self) -> Sequence[Fact]:
        group = self._values.get("DatabaseSubnetGroup")
        if group:
            try:
                self._account.client("rds").describe_db_subnet_groups(DBSubnetGroupName=group)
            except ClientError as exc:
                if "NotFound" in str(exc.response["Error"].get("Code")) or is_missing(exc):
                    advice = "see `aws rds describe-db-subnet-groups`"
                    return [
                        Fact(name="database network", value=f"no subnet group {group}", is_good=False, advice=advice)
                    ]
                raise
            return [Fact(name="database network", value=f"the subnet group {group}")]
        ec2 = self._account.client("ec2")
        default = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        zones: set[str] = set()
        if default:
            subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [default[0]["VpcId"]]}])["Subnets"]
            zones = {one["AvailabilityZone"] for one in subnets}
        if len(zones) >= 2:
            return [Fact(name="database network", value=f"the default VPC {default[0]['VpcId']}")]
        value = f"the default VPC has subnets in {len(zones)} zones" if default else "no default VPC"
        advice = "name a subnet group of two zones: --parameter DatabaseSubnetGroup=NAME (no traffic goes there)"
        return [Fact(name="database network", value=value, is_good=False, advice=advice)]

    def _engine(self) -> Sequence[Fact]:
        wanted, offered = self._values["EngineVersion"], _offered(self._account)
        if wanted not in offered:
            newest = ", ".join(sorted(offered, key=_number)[-3:]) or "none"
            advice = f"say --parameter EngineVersion=VERSION; newest: {newest}"
            value = f"Aurora PostgreSQL {wanted} is not offered in {self._account.region}"
            return [Fact(name="database engine", value=value, is_good=False, advice=advice)]
        has_data_api = offered[wanted]
        return [
            Fact(
                name="database engine",
                value=f"Aurora PostgreSQL {wanted}, serverless"
                + ("" if has_data_api else ", listed without the Data API"),
                is_good=True if has_data_api else None,
                advice=""
                if has_data_api
                else "choose another version or region: nothing else connects to the database",
            )
        ]

    def _files(self) -> Sequence[Fact]:
        if int(self._values["WorkerMemoryMegabytes"]) >= _FILES_MB:
            return [Fact(name="files", value="in a bucket of the stack")]
        value = f"a worker of {self._values['WorkerMemoryMegabytes']} MB has no room for 16 MB of files with a question"
        advice = f"say --parameter WorkerMemoryMegabytes={_FILES_MB}, or --parameter Attachments=disabled"
        return [Fact(name="files", value=value, is_good=None, advice=advice)]

    def _log_role(self) -> Sequence[Fact]:
        role = self._account.client("apigateway").get_account().get("cloudwatchRoleArn")
        wants_new = self._values["AccessLogs"] == "create-role"
        if role and wants_new and self._is_new:
            advice = "say --parameter AccessLogs=existing-role: the setting is one for the whole region"
            return [Fact(name="api log role", value=f"there is one: {role}", is_good=None, advice=advice)]
        if role or wants_new:
            return [Fact(name="api log role", value=role or "the stack makes it")]
        advice = "say --parameter AccessLogs=create-role"
        return [Fact(name="api log role", value="API Gateway has none in this region", is_good=False, advice=advice)]

    def _certificate(self) -> Sequence[Fact]:
        arn = self._values["CertificateArn"]
        if arn.split(":")[3] != self._account.region:
            value, advice = f"it is in {arn.split(':')[3]}", f"make one in {self._account.region}, where the stack is"
            return [Fact(name="certificate", value=value, is_good=False, advice=advice)]
        found = self._account.client("acm").describe_certificate(CertificateArn=arn)["Certificate"]
        names, domain = found.get("SubjectAlternativeNames", ()), self._values["DomainName"]
        is_for = domain in names or f"*.{domain.partition('.')[2]}" in names
        is_good = found["Status"] == "ISSUED" and is_for
        value = f"{found['Status']}, for {', '.join(names)}"
        advice = "" if is_good else f"ACM has to have issued it, and for {domain}"
        return [Fact(name="certificate", value=value, is_good=is_good, advice=advice)]

    def _key(self) -> Sequence[Fact]:
        """Without its log groups no stack is made. Without CloudWatch nobody hears an alarm, and nothing tells."""
        told = self._account.client("kms").get_key_policy(KeyId=self._values["KeyArn"], PolicyName="default")
        services = {f"logs.{self._account.region}.amazonaws.com": "log groups", "cloudwatch.amazonaws.com": "alarms"}
        missing = [name for name in services if name not in told["Policy"]]
        if not missing:
            return [Fact(name="key", value="its policy lets CloudWatch use it")]
        value = (
            f"its policy does not name {' and '.join(missing)}, for {' and '.join(services[one] for one in missing)}"
        )
        advice = "add the statements of docs/aws-company.md, A key of yours"
        return [Fact(name="key", value=value, is_good=False, advice=advice)]


def _limit(account: Account) -> int:
    limits: Mapping[str, Any] = account.client("lambda").get_account_settings()["AccountLimit"]
    return int(limits["ConcurrentExecutions"])


def _workers_of(limit: int) -> int:
    """Half of what the account has: connects, frames and pings need the other."""
    return max(2, min(MOST_WORKERS, limit // 2))


def _workers(account: Account, _default: str) -> str:
    return str(_workers_of(_limit(account)))


def _offered(account: Account) -> Mapping[str, bool]:
    """The engine's versions that a serverless instance of this region takes, and whether with the Data API."""
    pages = account.client("rds").get_paginator("describe_orderable_db_instance_options").paginate(**_ENGINE)
    options = [one for page in pages for one in page["OrderableDBInstanceOptions"]]
    return {
        one["EngineVersion"]: one.get("SupportsHttpEndpoint", True)
        for one in options
        if _IS_VERSION.fullmatch(one["EngineVersion"]) and _number(one["EngineVersion"]) >= _OLDEST_ENGINE
    }


def _engine_version(account: Account, default: str) -> str:
    """The default, or where the region does not offer it the newest of its major version, else the newest of all."""
    offered = _offered(account)
    if default in offered or not offered:
        return default
    return max(offered, key=lambda one: (offered[one], _number(one)[0] == _number(default)[0], _number(one)))


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
