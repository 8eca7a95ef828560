"""What each error of Bedrock means, and what the operator can do about it. One table for both of its kinds.

A call fails with `ThrottlingException`; a stream breaks with `throttlingException`. The advice goes into the log.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSOError,
)
from urllib3.exceptions import ReadTimeoutError as SilentStream

from answerback.ports import ModelError
from answerback.protocol.errors import ErrorCode

_CREDENTIALS: Final = "Check the credentials: `aws sts get-caller-identity` must work with them."
_MODEL_ACCESS: Final = (
    "Ask for access to the model in the Bedrock console of this region, and allow "
    "bedrock:InvokeModelWithResponseStream on the model and on the inference profile."
)
_MODEL_ID: Final = (
    "Check the model id and the region (?region=…): `aws bedrock list-inference-profiles` shows what can be used there."
)
_SILENCE: Final = "The model was silent for too long; raise silence_s= if it thinks longer before it answers."
_TRY_LATER: Final = "It passes by itself."


@dataclass(frozen=True, slots=True)
class _Meaning:
    code: ErrorCode
    transient: bool = False
    advice: str = ""


_BY_CODE: Final[Mapping[str, _Meaning]] = {
    # Calls too fast, or too many tokens a minute.
    "ThrottlingException": _Meaning(
        ErrorCode.MODEL_THROTTLED, True, "Raise the model's quotas in Service Quotas if this goes on."
    ),
    "TooManyRequestsException": _Meaning(ErrorCode.MODEL_THROTTLED, True),
    "ServiceQuotaExceededException": _Meaning(
        ErrorCode.MODEL_THROTTLED, False, "Raise the model's quotas in Service Quotas."
    ),
    # Bedrock's or the model's own trouble.
    "ModelNotReadyException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, True, _TRY_LATER),
    "InternalServerException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, True),
    "InternalFailure": _Meaning(ErrorCode.MODEL_UNAVAILABLE, True),
    "ServiceUnavailableException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, True),
    "ServiceUnavailable": _Meaning(ErrorCode.MODEL_UNAVAILABLE, True),
    "ModelStreamErrorException": _Meaning(ErrorCode.MODEL_FAILED, True),
    "ModelErrorException": _Meaning(ErrorCode.MODEL_FAILED, True),
    "ModelTimeoutException": _Meaning(ErrorCode.MODEL_FAILED, False, "Ask for fewer tokens, or use a faster model."),
    # The operator's to mend.
    "AccessDeniedException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, _MODEL_ACCESS),
    "ResourceNotFoundException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, _MODEL_ID),
    "UnrecognizedClientException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, _CREDENTIALS),
    "InvalidSignatureException": _Meaning(
        ErrorCode.MODEL_UNAVAILABLE, False, f"{_CREDENTIALS} Check this machine's clock, too."
    ),
    "ExpiredTokenException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, "The credentials have expired: renew them."),
    "ExpiredToken": _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, "The credentials have expired: renew them."),
    # This prompt; another may do.
    "ValidationException": _Meaning(ErrorCode.MODEL_FAILED),
}

_BY_MESSAGE: Final[tuple[tuple[re.Pattern[str], _Meaning], ...]] = (
    (
        re.compile("FTUFormNotFilled|use case details", re.I),
        _Meaning(
            ErrorCode.MODEL_UNAVAILABLE, False, "Fill in the provider's use case form in the Bedrock console, once."
        ),
    ),
    (
        re.compile("on-demand throughput", re.I),
        _Meaning(
            ErrorCode.MODEL_UNAVAILABLE,
            False,
            "Name the model's inference profile instead, for example global.MODEL_ID or us.MODEL_ID.",
        ),
    ),
    (
        re.compile("model identifier is invalid|end of its life|legacy", re.I),
        _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, _MODEL_ID),
    ),
    (
        re.compile("temperature|top_?p", re.I),
        _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, "Leave temperature and top_p out of the model's spec."),
    ),
    (
        re.compile("guardrail", re.I),
        _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, "Check guardrail=ID:VERSION and bedrock:ApplyGuardrail."),
    ),
    (
        re.compile("cache_?point|prompt caching", re.I),
        _Meaning(ErrorCode.MODEL_UNAVAILABLE, False, "This model caches no prompts: leave cache= out of its spec."),
    ),
    (
        re.compile("maximum tokens you requested|max_?tokens", re.I),
        _Meaning(ErrorCode.MODEL_FAILED, False, "The model writes shorter answers: lower --max-tokens."),
    ),
)
"""What is the operator's to mend says so in its message alone; looked at for refusals (4xx) only, in this order."""

_REFUSALS: Final = frozenset({"AccessDeniedException", "ResourceNotFoundException", "ValidationException"})


def model_error(exc: BotoCoreError | ClientError) -> ModelError:
    """The error of the closed list; its detail names Bedrock's own and says what to do."""
    if isinstance(exc, ClientError):
        return _of_answer(exc)
    return _of_transport(exc)


def broken_stream(exc: Exception) -> ModelError:
    """The error of an answer that broke off on its way: urllib3's own, or of the decoder of events."""
    is_silent = isinstance(exc, SilentStream)
    return ModelError(
        ErrorCode.MODEL_FAILED,
        f"Bedrock's stream broke: {type(exc).__name__}: {exc} {_SILENCE if is_silent else ''}".rstrip(),
        transient=not is_silent,
    )


def _of_answer(exc: ClientError) -> ModelError:
    error = exc.response.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    # Refusals of a stream have the same names, in lower camel case.
    name = code[:1].upper() + code[1:]
    meaning = _BY_CODE.get(name)
    if name in _REFUSALS:
        meaning = next((found for pattern, found in _BY_MESSAGE if pattern.search(f"{code} {message}")), meaning)
    if meaning is None:
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        meaning = _Meaning(ErrorCode.MODEL_UNAVAILABLE, status >= 500 or status == 429)
        # Only a form that was not filled in has a code of its own that no model of botocore lists.
        meaning = next((found for pattern, found in _BY_MESSAGE[:1] if pattern.search(code)), meaning)
    return ModelError(
        meaning.code,
        f"Bedrock: {code}: {message} {meaning.advice}".rstrip(),
        transient=meaning.transient,
        retry_after_ms=_retry_after_ms(exc),
    )


def _of_transport(exc: BotoCoreError) -> ModelError:
    advice, transient = "", False
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        advice = f"Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. {_CREDENTIALS}"
    elif isinstance(exc, SSOError | CredentialRetrievalError) or "Token" in type(exc).__name__:
        advice = "Sign in again, for example with `aws sso login`."
    elif isinstance(exc, ParamValidationError):
        advice = "Check the options of the model's spec, and that boto3 is new enough to know them."
    elif isinstance(exc, ReadTimeoutError):
        advice = _SILENCE
    elif isinstance(exc, ConnectionError | HTTPClientError):
        advice = "Check the network, and that Bedrock exists in this region (?region=…)."
        transient = True
    detail = f"Bedrock: {type(exc).__name__}: {exc} {advice}".rstrip()
    return ModelError(ErrorCode.MODEL_UNAVAILABLE, detail, transient=transient)


def _retry_after_ms(exc: ClientError) -> int | None:
    headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return max(0, min(86_400_000, int(float(headers["retry-after"]) * 1000)))
    except (KeyError, ValueError, OverflowError):
        return None
