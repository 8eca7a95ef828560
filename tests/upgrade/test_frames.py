"""This version sends the frames that ff0d8e5 sent, with exactly their fields."""

from collections.abc import Callable
from typing import get_args

import msgspec
import pytest

from answerback.auth import make_token
from answerback.protocol.frames import ServerFrame
from answerback_proof.conformance import Case, CaseStatus, ServerRun, load_cases
from answerback_proof.conformance.cases import Needs, ServerCase
from cli_process import GatewayProcess
from kept import FOLDER

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

SECRET = "a secret of thirty-two characters"
PLACE = FOLDER / "conformance"


async def test_every_frame_is_as_it_was(serve: Callable[..., GatewayProcess]) -> None:
    cases, passed = load_cases("server", PLACE), set()
    plain = serve("--max-pending-per-user", "2")
    asks_for_tokens = serve("--rate-limit", "2", "--auth-secret", SECRET)
    token = make_token("conform", secret=SECRET, ttl_s=600)
    for server, has_tokens in ((ServerRun(plain.url), False), (ServerRun(asks_for_tokens.url, token=token), True)):
        chosen = [case for case in cases if bool(needs(case).tokens) is has_tokens]
        async for result in server.run(chosen, await server.probe()):
            assert result.status is CaseStatus.PASSED, (result.name, result.step, result.why, result.transcript)
            passed.add(result.name)
    assert passed == {case.name for case in cases}


def needs(case: Case) -> Needs:
    assert isinstance(case.case, ServerCase)
    return case.case.needs


ADDED = {
    *("messageProgress", "goAway", "features", "server", "modelInfo", "uploadState", "attachments", "attachment"),
    *("format", "part", "kind", "name", "budget", "cost", "watching", "messageAsked", "conversationChanged"),
}
"""What came later."""


def test_every_kind_of_frame_and_every_field_is_among_them() -> None:
    text = (PLACE / "server" / "frames.json").read_text(encoding="utf-8")
    for frame in get_args(ServerFrame):
        if frame.__struct_config__.tag in ADDED:
            continue
        assert f'"action": "{frame.__struct_config__.tag}"' in text
        for field in msgspec.structs.fields(frame):
            if field.encode_name in ADDED:
                continue
            assert f'"{field.encode_name}"' in text, (frame, field.encode_name)
