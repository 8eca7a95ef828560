"""Where an OpenID Connect provider keeps its keys."""

import json
from collections.abc import Callable
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from answerback_aws.deploy.errors import DeployError, Kind

_TIMEOUT_S: Final = 10
_MAX_BYTES: Final = 1 << 20
_HINT: Final = "check --jwt-issuer, or say --jwks-url"


def keys_of_issuer(issuer: str, *, open_url: Callable[..., Any] = urlopen) -> str:
    """The `jwks_uri` of the provider's discovery document. Raises: DeployError: it has none that can be read."""
    if urlsplit(issuer).scheme != "https":
        raise DeployError(
            f"the issuer {issuer!r} is no https URL, so its keys cannot be looked up", _HINT, kind=Kind.USAGE
        )
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        with open_url(url, timeout=_TIMEOUT_S) as answer:
            found = json.loads(answer.read(_MAX_BYTES))
        named, keys = found["issuer"], found["jwks_uri"]
    except (URLError, OSError) as exc:
        raise DeployError(f"cannot read {url}", _HINT, kind=Kind.CANNOT_CONNECT) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise DeployError(f"{url} is not a provider's discovery document", _HINT) from exc
    if named != issuer:
        raise DeployError(
            f"the provider calls itself {named}", "say it exactly so with --jwt-issuer: tokens do", kind=Kind.USAGE
        )
    if urlsplit(str(keys)).scheme != "https":
        raise DeployError(f"the provider's keys are not at an https URL: {keys}", _HINT)
    return str(keys)
