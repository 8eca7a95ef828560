"""Parameters: what is given, what stays, who may sign in, and what the worker may invoke."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.stub import Stubber

from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, UsageError
from answerback_aws.deploy.parameters import (
    Parameters,
    check_sign_in,
    check_times,
    declared,
    default_model,
    guardrail_arns,
    model_arns,
    read_models,
    template_text,
)
from template import TEMPLATE

KNOWN = {"RateLimit": "10", "Models": "echo", "CodeKey": None, "JwtSecret": ""}


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Account:
    """An account of AWS that nothing is sent to: each call that it may make is scripted."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    account = Account(region="ap-northeast-2", aws_access_key_id="x", aws_secret_access_key="x")
    account.identity = "123456789012"
    return account


@pytest.fixture
def bedrock(real: Account) -> Callable[..., Stubber]:
    stubber = Stubber(real.client("bedrock"))
    stubber.activate()
    return stubber


def test_a_new_stack_gets_what_is_given_and_an_old_one_keeps_the_rest() -> None:
    given = {"RateLimit": "5", "CodeKey": "k"}
    new = Parameters(KNOWN, None, given).listed()
    assert new == [
        {"ParameterKey": "CodeKey", "ParameterValue": "k"},
        {"ParameterKey": "RateLimit", "ParameterValue": "5"},
    ]
    # `Gone` was dropped by a newer template, `JwtSecret` is new in it: neither has a previous value to use.
    old = Parameters(KNOWN, {"Models": "m", "CodeKey": "j", "Gone": "1"}, given).listed()
    assert old == [*new, {"ParameterKey": "Models", "UsePreviousValue": True}]


def test_a_name_that_is_nearly_right_is_offered() -> None:
    with pytest.raises(DeployError, match=r"there are: RateLimit$") as caught:
        Parameters(KNOWN, None, {"rateLimit": "5"}).check()
    assert isinstance(caught.value, UsageError)


def test_what_will_be() -> None:
    values = Parameters(KNOWN, {"Models": "m", "JwtSecret": "****"}, {"RateLimit": "5"}).effective()
    assert values == {"RateLimit": "5", "Models": "m", "CodeKey": "", "JwtSecret": "****"}


@pytest.mark.parametrize(
    "values",
    [
        {"AllowAnonymous": "true"},
        {"JwtSecret": "****"},
        {"JwksUrl": "https://x", "JwtIssuer": "i", "JwtAudience": "a"},
    ],
)
def test_someone_decided_who_may_connect(values: dict[str, str]) -> None:
    check_sign_in(values)


@pytest.mark.parametrize("values", [{}, {"JwtIssuer": "i", "JwtAudience": "a"}, {"JwksUrl": "https://x"}])
def test_nobody_decided_who_may_connect(values: dict[str, str]) -> None:
    with pytest.raises(DeployError) as caught:
        check_sign_in(values)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("text", "says"),
    [("local", "embedded model"), ("x=local", "embedded"), ("openai:http://x/v1#m", "openai:"), ("nix", "kind")],
)
def test_models_that_cannot_run_in_a_function(text: str, says: str) -> None:
    with pytest.raises(DeployError, match=says):
        read_models([text])


def arns(account: Account, *texts: str) -> list[str]:
    return model_arns(account, read_models(texts))


def test_a_model_of_the_region(real: Account, bedrock: Stubber) -> None:
    bedrock.add_response(
        "get_foundation_model", {"modelDetails": details("ON_DEMAND")}, {"modelIdentifier": "amazon.m"}
    )
    assert arns(real, "bedrock:amazon.m", "echo") == ["arn:aws:bedrock:ap-northeast-2::foundation-model/amazon.m"]
    bedrock.assert_no_pending_responses()


def test_a_model_that_needs_a_profile_says_so(real: Account, bedrock: Stubber) -> None:
    """Named by asking: not every model has a global one."""
    bedrock.add_response("get_foundation_model", {"modelDetails": details("PROVISIONED")})
    bedrock.add_response("list_inference_profiles", profiles("apac.amazon.m", "global.amazon.m", "apac.amazon.other"))
    with pytest.raises(
        DeployError, match=r"say --model bedrock:apac\.amazon\.m or --model bedrock:global\.amazon\.m \("
    ):
        arns(real, "bedrock:amazon.m")


def test_the_default_model_is_asked_for_as_the_region_serves_it(real: Account, bedrock: Stubber) -> None:
    """aws-samples/generative-ai-use-cases#918: the id that works in us-east-1 alone, and every answer fails."""
    bedrock.add_response("get_foundation_model", {"modelDetails": details("INFERENCE_PROFILE")})
    for _ in range(2):
        bedrock.add_response("list_inference_profiles", profiles("global.amazon.m", "apac.amazon.m"))
    assert default_model(real, "bedrock:amazon.m") == "bedrock:apac.amazon.m"
    bedrock.add_response("get_foundation_model", {"modelDetails": details("ON_DEMAND")})
    assert default_model(real, "bedrock:amazon.m") == "bedrock:amazon.m"
    bedrock.add_client_error("get_foundation_model", "ResourceNotFoundException")
    bedrock.add_response("list_inference_profiles", profiles())
    with pytest.raises(DeployError, match=r"does not serve amazon\.m, the default, in ap-northeast-2"):
        default_model(real, "bedrock:amazon.m")


def test_the_parameters_of_the_template_are_read_as_cloudformation_reads_them() -> None:
    defaults = {
        name: None if "Default" not in one else str(one["Default"]) for name, one in TEMPLATE["Parameters"].items()
    }
    assert declared(template_text()) == defaults


def test_a_profile_allows_itself_and_all_that_it_may_choose(real: Account, bedrock: Stubber) -> None:
    models = ["arn:aws:bedrock:us-east-1::foundation-model/a.m", "arn:aws:bedrock:::foundation-model/a.m"]
    bedrock.add_response("get_inference_profile", profile(models), {"inferenceProfileIdentifier": "global.a.m"})
    assert arns(real, "bedrock:global.a.m") == [PROFILE, *models]


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "ValidationException"])
def test_a_model_that_is_not_in_the_region(real: Account, bedrock: Stubber, code: str) -> None:
    bedrock.add_client_error("get_inference_profile", code)
    with pytest.raises(DeployError, match=r"no model us\.a\.m in ap-northeast-2"):
        arns(real, "bedrock:us.a.m")


def test_who_may_not_ask_bedrock_may_still_deploy(real: Account, bedrock: Stubber) -> None:
    for call in ("get_inference_profile", "get_foundation_model"):
        bedrock.add_client_error(call, "AccessDeniedException")
    assert arns(real, "bedrock:global.a.m", "bedrock:b") == [
        "arn:aws:bedrock:ap-northeast-2:123456789012:inference-profile/global.a.m",
        "arn:aws:bedrock:*::foundation-model/a.m",
        "arn:aws:bedrock:::foundation-model/a.m",
        "arn:aws:bedrock:ap-northeast-2::foundation-model/b",
    ]


def test_an_application_profile_has_to_be_looked_up(real: Account, bedrock: Stubber) -> None:
    arn = "arn:aws:bedrock:ap-northeast-2:123456789012:application-inference-profile/abc"
    bedrock.add_client_error("get_inference_profile", "AccessDeniedException")
    with pytest.raises(DeployError, match="ModelArns="):
        arns(real, f"mine=bedrock:{arn}")
    bedrock.add_response("get_inference_profile", profile(["arn:aws:bedrock:us-east-1::foundation-model/a.m"]))
    assert len(arns(real, f"mine=bedrock:{arn}")) == 2


@pytest.mark.parametrize(
    "kind",
    [
        *("provisioned-model/abc123def456", "imported-model/abc123def456", "custom-model-deployment/abc123def456"),
        *("custom-model/amazon.nova-lite-v1:0:300k/abc123def456", "a-kind-of-tomorrow/abc"),
    ],
)
def test_what_is_no_profile_is_granted_as_it_is(real: Account, bedrock: Stubber, kind: str) -> None:
    arn = f"arn:aws:bedrock:ap-northeast-2:123456789012:{kind}"
    assert arns(real, f"mine=bedrock:{arn}") == [arn]
    endpoint = "arn:aws:sagemaker:ap-northeast-2:123456789012:endpoint/mine"
    assert arns(real, f"mine=bedrock:{endpoint}") == [endpoint]


def test_a_prompt_router_is_allowed_with_all_that_it_may_choose(real: Account, bedrock: Stubber) -> None:
    router = "arn:aws:bedrock:ap-northeast-2:123456789012:default-prompt-router/nova:1"
    small, large = (f"arn:aws:bedrock:ap-northeast-2::foundation-model/{name}" for name in ("small", "large"))
    told = {
        "promptRouterName": "nova",
        "promptRouterArn": router,
        "routingCriteria": {"responseQualityDifference": 0.2},
        "models": [{"modelArn": small}, {"modelArn": PROFILE}],
        "fallbackModel": {"modelArn": small},
        "status": "AVAILABLE",
        "type": "default",
    }
    bedrock.add_response("get_prompt_router", told, {"promptRouterArn": router})
    bedrock.add_response("get_inference_profile", profile([large]), {"inferenceProfileIdentifier": PROFILE})
    assert arns(real, f"r=bedrock:{router}") == [router, small, PROFILE, large]
    bedrock.add_client_error("get_prompt_router", "AccessDeniedException")
    with pytest.raises(DeployError, match="GetPromptRouter, or say --parameter ModelArns="):
        arns(real, f"r=bedrock:{router}")


def guardrails(account: Account, text: str) -> list[str]:
    return guardrail_arns(account, read_models([text, "echo"]))


def test_a_guardrail_is_allowed_with_the_profile_that_crosses_regions(real: Account, bedrock: Stubber) -> None:
    """Without it every answer is refused: aws-solutions/generative-ai-application-builder-on-aws#132."""
    here = "arn:aws:bedrock:ap-northeast-2:123456789012"
    spec = "bedrock:amazon.m?guardrail=abc123:1"
    told: dict[str, Any] = {
        **{"name": "g", "guardrailId": "abc123", "guardrailArn": f"{here}:guardrail/abc123", "version": "1"},
        **{"status": "READY", "createdAt": 0, "updatedAt": 0},
        **{"blockedInputMessaging": "no", "blockedOutputsMessaging": "no"},
    }
    asked = {"guardrailIdentifier": "abc123", "guardrailVersion": "1"}
    bedrock.add_response("get_guardrail", told, asked)
    assert guardrails(real, spec) == [f"{here}:guardrail/abc123"]
    crossing = {
        "guardrailProfileId": "apac.guardrail.v1:0",
        "guardrailProfileArn": f"{here}:guardrail-profile/apac.guardrail.v1:0",
    }
    bedrock.add_response("get_guardrail", {**told, "crossRegionDetails": crossing}, asked)
    anywhere = "arn:aws:bedrock:*:123456789012:guardrail-profile"
    assert guardrails(real, spec) == [f"{here}:guardrail/abc123", f"{anywhere}/apac.guardrail.v1:0"]
    bedrock.add_client_error("get_guardrail", "AccessDeniedException")
    assert guardrails(real, spec) == [f"{here}:guardrail/abc123", f"{anywhere}/*"]
    bedrock.add_client_error("get_guardrail", "ResourceNotFoundException")
    with pytest.raises(DeployError, match="no guardrail abc123:1 in ap-northeast-2"):
        guardrails(real, spec)
    assert guardrails(real, "bedrock:amazon.m") == []


def test_another_region_is_not_asked(real: Account, bedrock: Stubber) -> None:
    assert arns(real, "bedrock:a.m?region=us-west-2") == ["arn:aws:bedrock:us-west-2::foundation-model/a.m"]


PROFILE = "arn:aws:bedrock:ap-northeast-2:123456789012:inference-profile/global.a.m"


def details(kind: str) -> dict[str, Any]:
    return {
        "modelArn": "arn:aws:bedrock:ap-northeast-2::foundation-model/amazon.m",
        "modelId": "amazon.m",
        "inferenceTypesSupported": [kind],
    }


def profiles(*names: str) -> dict[str, Any]:
    return {
        "inferenceProfileSummaries": [
            {
                **profile([f"arn:aws:bedrock:ap-northeast-1::foundation-model/{name.partition('.')[2]}"]),
                "inferenceProfileId": name,
            }
            for name in names
        ]
    }


def profile(models: list[str]) -> dict[str, Any]:
    return {
        "inferenceProfileName": "p",
        "inferenceProfileArn": PROFILE,
        "models": [{"modelArn": arn} for arn in models],
        "inferenceProfileId": "global.a.m",
        "status": "ACTIVE",
        "type": "SYSTEM_DEFINED",
    }


def test_a_worker_has_more_time_than_its_answer() -> None:
    check_times({"AnswerTimeoutSeconds": "150", "WorkerTimeoutSeconds": "180"})
    check_times({"AnswerTimeoutSeconds": "long", "WorkerTimeoutSeconds": "180"})  # CloudFormation tells
    with pytest.raises(DeployError, match="an answer may take 151 s") as refused:
        check_times({"AnswerTimeoutSeconds": "151", "WorkerTimeoutSeconds": "180"})
    assert "WorkerTimeoutSeconds=181" in refused.value.hint
    times = {"AnswerTimeoutSeconds": "120", "WorkerTimeoutSeconds": "180"}
    check_times({**times, "Models": "echo bedrock:some.model?answer_timeout=150"})
    with pytest.raises(DeployError, match="600 s") as refused:
        check_times({**times, "Models": "echo bedrock:some.model?answer_timeout=600"})
    assert "WorkerTimeoutSeconds=630" in refused.value.hint
