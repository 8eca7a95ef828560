"""Commands against the stack, as against the gateway."""

import pytest

from answerback.cli.demo.remote import RemoteDemo, run_remote_demo
from stack import Stack

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(180)]


def test_the_demo_finds_every_answer_at_home(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    demo = RemoteDemo(url=stack.url, token=None, apps=2, questions=2, max_tokens=60)
    assert run_remote_demo(demo), capsys.readouterr()
    assert "0 misrouted, 0 lost, 0 repeated" in capsys.readouterr().out.splitlines()


def test_the_demo_with_a_token_is_one_user_with_several_sessions(
    secured: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    token = secured.token(secured.name("user"))
    demo = RemoteDemo(url=secured.url, token=token, apps=2, questions=2, max_tokens=60)
    assert run_remote_demo(demo), capsys.readouterr()
    assert "0 misrouted, 0 lost, 0 repeated" in capsys.readouterr().out.splitlines()
