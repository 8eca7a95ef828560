import pytest

from oidc_provider import OidcProvider


@pytest.fixture
def provider():
    with OidcProvider() as provider:
        yield provider
