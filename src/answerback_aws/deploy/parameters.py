"""The template's parameters: what is given, what stays as it was, and what a set of models needs."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

import answerback_aws
from answerback.models.spec import BedrockSpec, LocalSpec, ModelSpec, ModelSpecError, OpenAISpec, parse_model_specs
from answerback.outbound import CaFileError, ProxyError, fetch
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import CannotConnect, DeployError, UsageError, error_code

_UNKNOWN_MODEL: Final = frozenset({"ResourceNotFoundException", "ValidationException"})
WORKER_SPARE_S: Final = 30
"""For the start of a worker, to store the ending and to send it."""

_IS_PROFILE: Final = re.compile(r"(global|us|us-gov|eu|apac|jp|au|ca|sa|il|me|af)\.(?P<model>.+)")


def declared(template: str) -> Mapping[str, str | None]:
    """The template's parameters and their defaults; None: without one."""
    part = template.partition("\nParameters:\n")[2].partition("\nRules:\n")[0]
    found: dict[str, str | None] = {}
    for indent, key, value in re.findall(r"^( +)(\w+):(.*)$", part, re.MULTILINE):
        if len(indent) == 2:
            found[key] = None
        elif len(indent) == 4 and key == "Default":
            found[next(reversed(found))] = value.strip().strip('"')
    return found


@dataclass(slots=True)
class Parameters:
    """The template's parameters in one deployment.

    `known`: all of them with their defaults. `previous`: what a stack that is there has; None: it is new. `given`: what
    is said, and what follows from that.
    """

    known: Mapping[str, str | None]
    previous: Mapping[str, str] | None
    given: dict[str, str]

    def check(self) -> None:
        """Raises: DeployError: a name that the template does not have."""
        for name in self.given:
            if name not in self.known:
                near = [one for one in self.known if one.lower() == name.lower()] or sorted(self.known)
                raise UsageError(f"there is no parameter {name}", f"there are: {', '.join(near)}")

    def listed(self) -> list[Mapping[str, object]]:
        """For CloudFormation: what is given, and of a stack that is there all the rest as it was."""
        kept = sorted(set(self.previous or ()) & set(self.known) - set(self.given))
        new = [{"ParameterKey": name, "ParameterValue": value} for name, value in sorted(self.given.items())]
        return [*new, *({"ParameterKey": name, "UsePreviousValue": True} for name in kept)]

    def effective(self) -> Mapping[str, str]:
        """What each parameter will be. A secret one of an existing stack is only known as `****`."""
        was = self.previous or {}
        return {name: self.given.get(name, was.get(name, default or "")) for name, default in self.known.items()}


def check_sign_in(values: Mapping[str, str]) -> None:
    """Refuse a stack that is open to everyone because an option was forgotten. Raises: DeployError."""
    if values.get("AllowAnonymous") == "true" or values.get("JwtSecret"):
        return
    if not values.get("JwksUrl"):
        raise UsageError(
            "anyone who finds the URL could use this stack, as any user",
            "say who signs your users in: --jwt-issuer ISSUER --jwt-audience AUDIENCE, or allow it: --allow-anonymous",
        )
    if not (values.get("JwtIssuer") and values.get("JwtAudience")):
        raise UsageError(
            "a provider signs tokens for other services with the same keys", "say --jwt-issuer and --jwt-audience, too"
        )


def check_times(values: Mapping[str, str]) -> None:
    """Check that an answer gets the time that apps are promised, and its worker a bit more. Raises: DeployError."""
    timeouts = [values.get(f"{name}TimeoutSeconds", "") for name in ("Answer", "Worker")]
    if not all(text.isdecimal() for text in timeouts):
        return  # CloudFormation says what is wrong with it
    answer_s, worker_s = map(int, timeouts)
    specs = read_models(values["Models"].split()) if values.get("Models") else ()
    answer_s = max(answer_s, *(spec.limits.answer_timeout_s or 0 for spec in specs), 0)
    if answer_s + WORKER_SPARE_S > worker_s:
        raise UsageError(
            f"an answer may take {answer_s} s, but its worker is ended after {worker_s} s",
            f"say --parameter WorkerTimeoutSeconds={answer_s + WORKER_SPARE_S} or more",
        )


def read_models(texts: Sequence[str]) -> tuple[ModelSpec, ...]:
    """The models' specs; those that cannot run in a function are refused. Raises: DeployError."""
    try:
        specs = parse_model_specs(texts)
    except ModelSpecError as exc:
        raise UsageError(str(exc).rstrip(".")) from exc
    for spec in specs:
        if isinstance(spec, LocalSpec):
            raise UsageError("the embedded model does not run on AWS", "say --model bedrock:MODEL_ID")
        if isinstance(spec, OpenAISpec):
            raise UsageError(
                f"{spec.name}: openai: models are not part of the functions' package",
                "use bedrock:MODEL_ID, or python:MODULE:FACTORY with --include and --requirements",
            )
    return specs


def model_arns(account: Account, specs: Sequence[ModelSpec]) -> list[str]:
    """What the worker must be allowed to invoke, in every region that a model's profile may choose.

    Raises: DeployError: Bedrock says that there is no such model in its region.
    """
    found: list[str] = []
    for spec in specs:
        if isinstance(spec, BedrockSpec):
            found += _arns(account, spec)
    return list(dict.fromkeys(found))


def guardrail_arns(account: Account, specs: Sequence[ModelSpec]) -> list[str]:
    """What the worker must be allowed to apply: the models' guardrails, and the profiles that cross regions for them.

    Raises: DeployError: Bedrock says that there is no such guardrail in the model's region.
    """
    found: list[str] = []
    for spec in specs:
        if isinstance(spec, BedrockSpec) and spec.guardrail is not None:
            found += _guardrail(account, spec, *spec.guardrail)
    return list(dict.fromkeys(found))


def _guardrail(account: Account, spec: BedrockSpec, identifier: str, version: str) -> list[str]:
    region = spec.region or account.region
    here = f"arn:{account.partition}:bedrock:{region}:{account.identity}"
    # A profile is there in each region that it may choose.
    anywhere = f"arn:{account.partition}:bedrock:*:{account.identity}:guardrail-profile"
    guardrail = identifier if identifier.startswith("arn:") else f"{here}:guardrail/{identifier}"
    told = _ask(
        account,
        f"guardrail {identifier}:{version}",
        region,
        "get_guardrail",
        guardrailIdentifier=identifier,
        guardrailVersion=version,
    )
    if told is None:
        return [guardrail, f"{anywhere}/*"]
    profile = told.get("crossRegionDetails", {}).get("guardrailProfileId")
    return [told["guardrailArn"], *([f"{anywhere}/{profile}"] if profile else ())]


def _arns(account: Account, spec: BedrockSpec) -> list[str]:
    region, partition = spec.region or account.region, account.partition
    if spec.model.startswith("arn:"):
        return _of_arn(account, spec, spec.model)
    match = _IS_PROFILE.fullmatch(spec.model)
    if match is None:
        _check_model(account, spec, region)
        return [f"arn:{partition}:bedrock:{region}::foundation-model/{spec.model}"]
    profile = _profile(account, spec.model, region)
    own = f"arn:{partition}:bedrock:{region}:{account.identity}:inference-profile/{spec.model}"
    if profile is not None:
        return [profile.get("inferenceProfileArn", own), *(one["modelArn"] for one in profile["models"])]
    # A global profile calls the model by an ARN without a region, too.
    base = match["model"]
    return [
        own,
        f"arn:{partition}:bedrock:*::foundation-model/{base}",
        f"arn:{partition}:bedrock:::foundation-model/{base}",
    ]


def _of_arn(account: Account, spec: BedrockSpec, arn: str) -> list[str]:
    """By the kind of ARN: profiles and prompt routers call other models, which must be allowed too.

    Every other kind is what is invoked: foundation, provisioned, imported and custom models, deployments of those,
    endpoints of the marketplace, and kinds that come after this version.
    """
    kind = arn.split(":", 5)[-1].partition("/")[0]
    region = spec.region or account.region
    if kind in {"inference-profile", "application-inference-profile"}:
        profile = _profile(account, arn, region)
        if profile is None:
            raise _unknown_models(arn, "bedrock:GetInferenceProfile")
        return [profile.get("inferenceProfileArn", arn), *(one["modelArn"] for one in profile["models"])]
    if kind in {"prompt-router", "default-prompt-router"}:
        router = _ask(account, f"prompt router {arn}", region, "get_prompt_router", promptRouterArn=arn)
        if router is None:
            raise _unknown_models(arn, "bedrock:GetPromptRouter")
        models = [*router["models"], router["fallbackModel"]]
        return [arn, *(found for one in models for found in _of_arn(account, spec, one["modelArn"]))]
    return [arn]


def _unknown_models(arn: str, action: str) -> DeployError:
    return DeployError(
        f"cannot find out which models {arn} uses", f"allow {action}, or say --parameter ModelArns=ARN,ARN"
    )


def _check_model(account: Account, spec: BedrockSpec, region: str) -> None:
    answer = _ask(account, f"model {spec.model}", region, "get_foundation_model", modelIdentifier=spec.model)
    if answer is None:
        return
    types = answer.get("modelDetails", {}).get("inferenceTypesSupported", [])
    if types and "ON_DEMAND" not in types:
        found = profiles_of(account, spec.model)
        names = " or ".join(f"--model bedrock:{name}" for name in found) or "another model"
        raise UsageError(
            f"{spec.model} is only served through an inference profile in {region}",
            f"say {names} (`aws bedrock list-inference-profiles` has all)",
        )


def profiles_of(account: Account, model: str) -> list[str]:
    """The inference profiles of the region through which a model is served, those that stay near it first.

    Empty: there is none, or these credentials may not ask.
    """
    try:
        pages = account.client("bedrock").get_paginator("list_inference_profiles").paginate(typeEquals="SYSTEM_DEFINED")
        found = [
            one["inferenceProfileId"]
            for page in pages
            for one in page["inferenceProfileSummaries"]
            if any(part["modelArn"].endswith(f"foundation-model/{model}") for part in one["models"])
        ]
    except (ClientError, BotoCoreError, DeployError):
        return []
    return sorted(found, key=lambda name: (name.startswith("global."), name))


def default_model(account: Account, text: str) -> str:
    """The template's model as the region serves it: on demand, or through a profile of the region.

    Raises: DeployError: the region does not have it.
    """
    (spec,) = parse_model_specs([text])
    if not isinstance(spec, BedrockSpec) or not account.is_real:
        return text
    try:
        _check_model(account, spec, account.region)
    except DeployError:
        found = profiles_of(account, spec.model)
        if not found:
            raise UsageError(
                f"Bedrock does not serve {spec.model}, the default, in {account.region}",
                "choose another one: --model bedrock:ID (`aws bedrock list-inference-profiles`)",
            ) from None
        return text.replace(spec.model, found[0])
    return text


def _profile(account: Account, model: str, region: str) -> Mapping[str, Any] | None:
    return _ask(account, f"model {model}", region, "get_inference_profile", inferenceProfileIdentifier=model)


def _ask(account: Account, what: str, region: str, call: str, **arguments: str) -> Mapping[str, Any] | None:
    """What Bedrock says; None: it cannot be asked, which does not keep anyone from deploying."""
    if region != account.region or not account.is_real:
        return None
    try:
        answer: Mapping[str, Any] = getattr(account.client("bedrock"), call)(**arguments)
    except ClientError as exc:
        if error_code(exc) in _UNKNOWN_MODEL:
            raise UsageError(
                f"Bedrock has no {what} in {region}",
                "see `aws bedrock list-inference-profiles` and `list-guardrails`, or name another region",
            ) from exc
        return None
    except Exception:  # Asked only to fail early; a region without Bedrock has no such host.
        return None
    return answer


_TIMEOUT_S: Final = 10
_MAX_BYTES: Final = 1 << 20
_HINT: Final = "check --jwt-issuer, or say --jwks-url"


def keys_of_issuer(issuer: str, *, get: Callable[..., tuple[int, bytes]] = fetch) -> str:
    """The `jwks_uri` of the provider's discovery document. Raises: DeployError: it has none that can be read."""
    if urlsplit(issuer).scheme != "https":
        raise UsageError(f"the issuer {issuer!r} is no https URL, so its keys cannot be looked up", _HINT)
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        found = json.loads(get(url, timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES)[1])
        named, keys = found["issuer"], found["jwks_uri"]
    except (OSError, ProxyError, CaFileError) as exc:
        raise CannotConnect(f"cannot read {url} ({exc})", _HINT) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise DeployError(f"{url} is not a provider's discovery document", _HINT) from exc
    if named != issuer:
        raise UsageError(f"the provider calls itself {named}", "say it exactly so with --jwt-issuer: tokens do")
    if urlsplit(str(keys)).scheme != "https":
        raise DeployError(f"the provider's keys are not at an https URL: {keys}", _HINT)
    return str(keys)


_FILE: Final = "template.yaml"


def template_text() -> str:
    """The CloudFormation template: from the installed package, else from the work tree."""
    package = Path(answerback_aws.__file__).parent
    for place in (package / _FILE, package.parents[1] / "infra" / _FILE):
        if place.exists():
            return place.read_text(encoding="utf-8")
    raise FileNotFoundError(f"{_FILE} is missing from this installation of answerback")
