"""The case files: readable, complete, and about sections that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from answerback.models.spec import EchoSpec, parse_model_specs
from answerback.protocol.codec import decode_server
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ClientFrame, ServerFrame
from answerback_proof.conformance import BrokenCase, load_cases, load_models
from answerback_proof.conformance.cases import ServerCase

ROOT = Path(__file__).resolve().parents[2]
CANNOT_BE_PROVOKED = {"unavailable", "internal"}
"""They need a store that fails, or a worker that is lost."""


def frames_in(part: Any, step: Literal["send", "expect", "answer"]) -> Iterator[dict[str, Any]]:
    for case in part["cases"]:
        yield from (found["frame"] for found in case["steps"] if found["do"] == step and "frame" in found)


def files(kind: str) -> list[Any]:
    return [json.loads(path.read_text()) for path in sorted((ROOT / "conformance" / kind).glob("*.json"))]


@pytest.mark.parametrize("kind", ["server", "client"])
def test_every_section_exists(kind: Literal["server", "client"]) -> None:
    headings = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", (ROOT / "PROTOCOL.md").read_text(), re.MULTILINE))
    assert {case.case.section for case in load_cases(kind)} <= headings


def test_every_frame_of_a_client_is_sent_and_every_frame_of_a_server_is_expected() -> None:
    sent, expected = set(), {"messageStarted", "messageDelta"}
    for file in files("server"):
        sent |= {frame.get("action") for frame in frames_in(file, "send") if isinstance(frame.get("action"), str)}
        expected |= {frame["action"] for frame in frames_in(file, "expect") if isinstance(frame["action"], str)}
    assert {str(frame.__struct_config__.tag) for frame in get_args(ClientFrame)} <= sent
    expected.add("goAway")  # of a server that stops: tests/process/test_fleet.py
    assert {str(frame.__struct_config__.tag) for frame in get_args(ServerFrame)} <= expected


def test_every_error_code_is_expected_somewhere() -> None:
    text = "".join(path.read_text() for path in (ROOT / "conformance" / "server").glob("*.json"))
    expected = set(re.findall(r'"(?:code|errorCode)": "(\w+)"', text))
    # Of HTTP, where no frame can carry it.
    expected |= {"unauthorized"} if '"status": 401' in text else set()
    assert expected == {code.value for code in ErrorCode} - CANNOT_BE_PROVOKED


def test_what_a_client_case_sends_is_what_a_server_may_send() -> None:
    for file in files("client"):
        for frame in frames_in(file, "send"):
            filled = json.loads(json.dumps(frame).replace("${", "").replace('}"', '"'))
            decode_server(json.dumps(filled))


def test_models_are_those_that_cases_need_and_the_gateway_can_make_them() -> None:
    needed = {name for case in load_cases("server") for name in case.case.needs.models}
    models = load_models()
    assert set(models) == needed
    specs = parse_model_specs(need.spec for need in models.values())
    assert [spec.name for spec in specs] == list(models)
    assert all(isinstance(spec, EchoSpec) for spec in specs)


def test_every_variable_that_is_fresh_is_used() -> None:
    for kind in ("server", "client"):
        for file in files(kind):
            for case in file["cases"]:
                steps = json.dumps(case["steps"])
                assert [name for name in case.get("fresh", []) if f"${{{name}" not in steps] == [], case["name"]


def test_a_file_with_a_mistake_is_refused(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    file = tmp_path / "server" / "01.json"
    case = {"name": "n", "section": "1", "steps": [{"do": "open"}]}
    file.write_text(json.dumps({"about": "", "cases": [case]}))
    (only,) = load_cases("server", tmp_path)
    assert only.name == "01/n"
    assert isinstance(only.case, ServerCase)
    for wrong in (
        {**case, "steps": [{"do": "opne"}]},
        {**case, "steps": [{"do": "open", "onn": "a"}]},
        {**case, "stpes": []},
    ):
        file.write_text(json.dumps({"about": "", "cases": [wrong]}))
        with pytest.raises(BrokenCase, match=r"01\.json"):
            load_cases("server", tmp_path)
    file.write_text(json.dumps({"about": "", "cases": [case, case]}))
    with pytest.raises(BrokenCase, match="twice"):
        load_cases("server", tmp_path)


def test_the_readme_names_every_step_and_matcher() -> None:
    readme = (ROOT / "conformance" / "README.md").read_text()
    for kind in ("server", "client"):
        for file in files(kind):
            for case in file["cases"]:
                for step in case["steps"]:
                    assert f"| `{step['do']}` |" in readme
                for name in set(re.findall(r'"(\$[a-z]+)":', json.dumps(case))):
                    assert name in readme
