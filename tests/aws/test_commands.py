"""Commands and clients of others against the stack, as against the gateway."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from answerback_proof.demo.run import Demo, run_demo
from stack import Stack

INTEROP = Path(__file__).parents[1] / "interop"

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(180)]


def test_the_demo_finds_every_answer_at_home(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Demo(url=stack.url, token=None, apps=2, questions=2, max_tokens=60)
    assert run_demo(demo), capsys.readouterr()
    assert "0 misrouted, 0 lost, 0 repeated" in capsys.readouterr().out.splitlines()


def test_the_demo_with_a_token_is_one_user_with_several_sessions(
    secured: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    token = secured.token(secured.name("user"))
    demo = Demo(url=secured.url, token=token, apps=2, questions=2, max_tokens=60)
    assert run_demo(demo), capsys.readouterr()
    assert "0 misrouted, 0 lost, 0 repeated" in capsys.readouterr().out.splitlines()


def test_a_client_of_two_frames_in_another_language(stack: Stack) -> None:
    node = shutil.which("node")
    if node is None or not (INTEROP / "node_modules" / "ws").is_dir():
        why = "Node and its package ws are not here (make test installs them)"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    command = [node, str(INTEROP / "two_frame.mjs"), stack.url, "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 8
    assert all(question == answer for question, answer in answers.items())
