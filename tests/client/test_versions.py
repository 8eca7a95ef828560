"""Which version a server wants, as the SDK tells its user."""

import pytest

from answerback import __version__
from answerback.client import versions
from answerback.protocol.frames import ServerInfo


@pytest.mark.parametrize(
    ("version", "least", "lower"),
    [
        ("0.9.1", "0.10", True),
        ("1.4", "1.4.0", False),
        ("1.4.0", "1.4", False),
        ("2", "1.9", False),
        ("1.4.0rc1", "v1.5", True),
        ("1.4", "soon", False),
        ("1.4", "9" * 5_000, True),
        ("1.4", "١٢", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version, least, lower):
    assert versions.is_lower(version, least) is lower


def test_a_server_that_wants_no_later_version_wants_none() -> None:
    for server in (
        None,
        ServerInfo(version="1"),
        *(ServerInfo(version="1", least_client=v) for v in ("", __version__)),
    ):
        assert versions.wanted(server) is None
    assert versions.wanted(ServerInfo(version="1", least_client="999.1")) == "999.1"
