"""What a deployment will meet in this account and region, asked before anything is made.

All of it is read, but for one answer of one token by each model of Bedrock (`ask`).
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from answerback.models.bedrock import model_error
from answerback.models.spec import BedrockSpec
from answerback.ports import ModelFault
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, is_missing
from answerback_aws.deploy.parameters import Parameters, default_model, guardrail_arns, model_arns, read_models
from answerback_aws.deploy.status import Fact, Read, gathered

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


def follow_models(account: Account, parameters: Parameters) -> None:
    """Give the parameters that follow from the models that are given, or of a new stack from the default one.

    Raises: DeployError: a model that cannot be there.
    """
    given = parameters.given
    texts = given.get("Models", "").split()
    if not texts and parameters.previous is None:
        texts = [default_model(account, str(parameters.known["Models"]))]
    if not texts:
        return
    specs = read_models(texts)
    found = {"Models": " ".join(texts)}
    if "ModelArns" not in given:
        found["ModelArns"] = ",".join(model_arns(account, specs))
    found["GuardrailArns"] = ",".join(guardrail_arns(account, specs))
    given |= found


def follow_account(account: Account, parameters: Parameters) -> None:
    """Give the parameters of a new stack that nobody gave and that follow from what account and region have."""
    if parameters.previous is None and account.is_real:
        for name, choose in (("WorkerConcurrency", _workers), ("EngineVersion", _engine_version)):
            if name not in parameters.given:
                try:
                    parameters.given[name] = choose(account, str(parameters.known[name]))
                except (ClientError, BotoCoreError, DeployError):
                    continue  # the template's default; what cannot be asked is said by the facts


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
        parts: list[tuple[str, Read]] = [("identity", self._identity)]
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

    def _identity(self) -> Fact:
        identity = self._account.client("sts").get_caller_identity()
        return Fact(f"account {identity['Account']} in {self._account.region}, as {identity['Arn']}")

    # --- Bedrock

    def _model(self, spec: BedrockSpec) -> Fact:
        try:
            model_arns(self._account, [spec])
        except DeployError as exc:
            return Fact(exc.message, exc.hint, is_good=False)
        if not self._ask:
            return Fact("known to Bedrock; it was not asked")
        self._say(
            f"Asking {spec.model} for one token with your credentials. It is billed, and a model that is sold through "
            "AWS Marketplace is subscribed to by it. --no-ask leaves it out."
        )
        try:
            self._answer(spec)
        except (ClientError, BotoCoreError) as exc:
            return self._refusal(exc)
        return Fact("it answers")

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

    def _refusal(self, exc: ClientError | BotoCoreError) -> Fact:
        error, text = model_error(exc), str(exc)
        if _NOT_MINE.search(text):
            advice = (
                "the worker has a role of its own; to check it, allow bedrock:InvokeModelWithResponseStream to yourself"
            )
            return Fact("these credentials may not ask it", advice, is_good=None)
        if "marketplace" in text.lower() or "access to the model" in text:
            return Fact("this account has no access to it yet", _MARKETPLACE, is_good=False)
        is_setup = getattr(error, "fault", None) is ModelFault.SETUP
        value = "it does not answer" if is_setup else "it did not answer now"
        return Fact(value, error.detail, is_good=False if is_setup else None)

    def _quota(self, spec: BedrockSpec) -> Fact:
        """A new account may have none at all: then every answer is throttled."""
        bedrock = self._account.client("bedrock", region=spec.region)
        base = re.sub(r"^(?:global|us-gov|[a-z]{2,4})\.(?=\w+\.)", "", spec.model.rpartition("/")[2])
        model = bedrock.get_foundation_model(modelIdentifier=base)["modelDetails"]["modelName"]
        way = "On-demand" if base == spec.model else "Global" if spec.model.startswith("global.") else "Cross-region"
        is_model = re.compile(rf"(^|\s){re.escape(model)}( V\d+)?$")
        quotas: dict[str, float] = {}
        pages = self._account.client("service-quotas", region=spec.region).get_paginator("list_service_quotas")
        for page in pages.paginate(ServiceCode="bedrock"):
            for one in page["Quotas"]:
                found = _QUOTA.fullmatch(one["QuotaName"])
                if found and found["way"].startswith(way) and is_model.search(found["model"]):
                    quotas[found["unit"]] = one["Value"]
        if not quotas:
            return Fact(f"none is listed for {model}", "see Service Quotas, Bedrock", is_good=None)
        value = ", ".join(f"{count:,.0f} {unit} a minute" for unit, count in sorted(quotas.items()))
        if "tokens" in quotas:
            longest = max(int(self._values["MaxTokens"]), 1)
            value += f": {quotas['tokens'] // longest:,.0f} answers of {longest} tokens"
        is_good = all(quotas.values())
        return Fact(value, "" if is_good else "ask for more in Service Quotas, Bedrock", is_good=is_good)

    # --- the rest of the account

    def _concurrency(self) -> Fact:
        limit, workers = _limit(self._account), int(self._values["WorkerConcurrency"])
        value = f"{limit} functions at the same time, {workers} of them workers"
        if workers > limit // 2:
            fits = _workers_of(limit)
            advice = f"say --parameter WorkerConcurrency={fits}, or ask for 1,000 in Service Quotas, Lambda"
            return Fact(value, advice, is_good=None)
        advice = "ask for 1,000 in Service Quotas, Lambda (new accounts have 10)" if limit < 2 * MOST_WORKERS else ""
        return Fact(value, advice)

    def _network(self) -> Fact:
        group = self._values.get("DatabaseSubnetGroup")
        if group:
            try:
                self._account.client("rds").describe_db_subnet_groups(DBSubnetGroupName=group)
            except ClientError as exc:
                if "NotFound" in str(exc.response["Error"].get("Code")) or is_missing(exc):
                    advice = "see `aws rds describe-db-subnet-groups`"
                    return Fact(f"no subnet group {group}", advice, is_good=False)
                raise
            return Fact(f"the subnet group {group}")
        ec2 = self._account.client("ec2")
        default = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        zones: set[str] = set()
        if default:
            subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [default[0]["VpcId"]]}])["Subnets"]
            zones = {one["AvailabilityZone"] for one in subnets}
        if len(zones) >= 2:
            return Fact(f"the default VPC {default[0]['VpcId']}")
        value = f"the default VPC has subnets in {len(zones)} zones" if default else "no default VPC"
        advice = "name a subnet group of two zones: --parameter DatabaseSubnetGroup=NAME (no traffic goes there)"
        return Fact(value, advice, is_good=False)

    def _engine(self) -> Fact:
        wanted, offered = self._values["EngineVersion"], _offered(self._account)
        if wanted not in offered:
            newest = ", ".join(sorted(offered, key=_number)[-3:]) or "none"
            advice = f"say --parameter EngineVersion=VERSION; newest: {newest}"
            value = f"Aurora PostgreSQL {wanted} is not offered in {self._account.region}"
            return Fact(value, advice, is_good=False)
        has_data_api = offered[wanted]
        return Fact(
            f"Aurora PostgreSQL {wanted}, serverless" + ("" if has_data_api else ", listed without the Data API"),
            "" if has_data_api else "choose another version or region: nothing else connects to the database",
            is_good=True if has_data_api else None,
        )

    def _files(self) -> Fact:
        if int(self._values["WorkerMemoryMegabytes"]) >= _FILES_MB:
            return Fact("in a bucket of the stack")
        value = f"a worker of {self._values['WorkerMemoryMegabytes']} MB has no room for 16 MB of files with a question"
        advice = f"say --parameter WorkerMemoryMegabytes={_FILES_MB}, or --parameter Attachments=disabled"
        return Fact(value, advice, is_good=None)

    def _log_role(self) -> Fact:
        role = self._account.client("apigateway").get_account().get("cloudwatchRoleArn")
        wants_new = self._values["AccessLogs"] == "create-role"
        if role and wants_new and self._is_new:
            advice = "say --parameter AccessLogs=existing-role: the setting is one for the whole region"
            return Fact(f"there is one: {role}", advice, is_good=None)
        if role or wants_new:
            return Fact(role or "the stack makes it")
        advice = "say --parameter AccessLogs=create-role"
        return Fact("API Gateway has none in this region", advice, is_good=False)

    def _certificate(self) -> Fact:
        arn = self._values["CertificateArn"]
        if arn.split(":")[3] != self._account.region:
            value, advice = f"it is in {arn.split(':')[3]}", f"make one in {self._account.region}, where the stack is"
            return Fact(value, advice, is_good=False)
        found = self._account.client("acm").describe_certificate(CertificateArn=arn)["Certificate"]
        names, domain = found.get("SubjectAlternativeNames", ()), self._values["DomainName"]
        is_for = domain in names or f"*.{domain.partition('.')[2]}" in names
        is_good = found["Status"] == "ISSUED" and is_for
        value = f"{found['Status']}, for {', '.join(names)}"
        advice = "" if is_good else f"ACM has to have issued it, and for {domain}"
        return Fact(value, advice, is_good=is_good)

    def _key(self) -> Fact:
        """Without its log groups no stack is made. Without CloudWatch nobody hears an alarm, and nothing tells."""
        told = self._account.client("kms").get_key_policy(KeyId=self._values["KeyArn"], PolicyName="default")
        services = {f"logs.{self._account.region}.amazonaws.com": "log groups", "cloudwatch.amazonaws.com": "alarms"}
        missing = [name for name in services if name not in told["Policy"]]
        if not missing:
            return Fact("its policy lets CloudWatch use it")
        value = (
            f"its policy does not name {' and '.join(missing)}, for {' and '.join(services[one] for one in missing)}"
        )
        advice = "add the statements of docs/aws-company.md, A key of yours"
        return Fact(value, advice, is_good=False)


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
