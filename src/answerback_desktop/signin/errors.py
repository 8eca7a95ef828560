"""Why nobody is signed in."""

from enum import StrEnum


class SignInFailure(StrEnum):
    """A closed list; the texts are the language tables'."""

    UNREACHABLE = "unreachable"
    """The identity provider does not answer."""
    BAD_PROVIDER = "bad-provider"
    """What answers at the issuer's URL is no OpenID provider, or not that one."""
    DENIED = "denied"
    """The person, or the provider, said no in the browser."""
    REFUSED = "refused"
    """The provider does not give tokens to this client: its id or redirect URI may not be registered."""
    BAD_TOKEN = "bad-token"  # noqa: S105 - the name of a failure
    """The provider's id token does not hold."""
    TIMEOUT = "timeout"
    """Nobody signed in in the browser."""


class SignInError(Exception):
    """Signing in, or getting a fresh token, did not work. `is_final`: the person has to sign in again."""

    def __init__(self, failure: SignInFailure, *, is_final: bool = True) -> None:
        super().__init__(failure.value)
        self.failure = failure
        self.is_final = is_final
