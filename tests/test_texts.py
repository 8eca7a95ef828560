"""What people read in Korean: every sentence of the code has one, and finds it."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import answerback
from answerback.cli.settings import SETTINGS
from answerback.cli.talk import shortfall
from answerback.client import Answer
from answerback.client.failures import _MEANINGS
from answerback.core.finish import REASONS, STOP
from answerback.ports import ModelFault
from answerback.protocol.codec import FrameError, decode_client
from answerback.protocol.errors import ERRORS
from answerback.protocol.frames import Status
from answerback.protocol.limits import MAX_MESSAGE_BYTES
from answerback.service.front import TOO_MANY_CONNECTIONS
from answerback.service.questions import BLOCKED
from answerback.texts import locale_name, speaks_korean, spoken, words_of
from answerback.texts.encodings import likely_encoding
from answerback.texts.korean import catalogue, translated, with_particles

SOURCE = Path(answerback.__file__).parents[1]
SPEAKING = {
    "CliError": ["answerback/", "answerback_desktop", "answerback_aws"],
    "usage_error": ["answerback/", "answerback_desktop", "answerback_aws"],
    "DeployError": ["answerback_aws"],
    "LocalFailed": ["answerback_aws"],
    "note": ["answerback/cli", "answerback_desktop/command.py"],
    "warn": ["answerback/cli"],
    "confirm": ["answerback/cli"],
    "spoken": ["answerback/cli", "answerback_proof/demo"],
    **{name: ["answerback/cli"] for name in ("say_result", "say_rows", "say_budgets")},
    **{
        level: [f"answerback/cli/{name}.py" for name in ("doctor", "probe", "database_checks")]
        for level in ("ok", "warning", "failure")
    },
    "missing_extra": ["answerback/", "answerback_desktop"],
    "extra_needed": ["answerback/", "answerback_desktop"],
    "CannotConnect": ["answerback/client"],
    "ProxyError": ["answerback/outbound.py"],
    "CaFileError": ["answerback/outbound.py"],
    "SettingsError": ["answerback/gateway"],
    "AuthError": ["answerback/auth.py"],
    "StoreError": ["answerback/stores"],
    "StoreInUse": ["answerback/stores"],
    "ModelSpecError": ["answerback/models"],
    "ValueError": ["answerback/client/uploads.py", "answerback/client/client.py", "answerback/client/link.py"],
}
"""Calls whose texts a person reads on the terminal, and where they count."""
NO_SENTENCE = re.compile(r"(answerback: )?(warning: )?[{}\s—:()/\[\]yN]*")


def template(node: ast.expr) -> str | None:
    """The sentence with `{}` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def sentences() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if not any(place.startswith(where) for where in SPEAKING.get(name, ())):
                continue
            for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                for part in [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]:
                    if (text := template(part)) is not None and " " in text and not NO_SENTENCE.fullmatch(text):
                        yield f"{place}:{node.lineno}", text


def test_every_sentence_has_its_korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    found = list(sentences())
    assert len(found) > 300
    for place, text in found:
        filled = re.sub(r"(in|time|it)\{\}$", r"\1", text).replace("{}", "7")  # what may follow begins with a mark
        shown = spoken(filled)
        assert re.search("[가-힣]", shown), f"{place}: put the Korean of {text!r} into answerback/texts/ko.toml"
        words = re.findall("[a-z]{3,}", re.sub("`[^`]*`|--[a-z-]+", "", text))
        assert sum(word in shown.split() for word in words) < 8, f"{place}: half of it is still English: {shown}"


@pytest.mark.parametrize(
    ("english", "korean"),
    [
        ("kim is erased.", "kim 사용자의 모든 것을 지웠어요."),
        ("kim: 7 a minute", "kim: 1분에 7개"),
        ("kim: off", "kim: 제한 없음"),
        ("kim: kept for 30 days", "kim: 30일 동안 보관해요"),
        ("kim: team design", "kim: design 팀"),
        ("/a/b: 7 lines about kim", "/a/b: kim 사용자에 관한 7줄"),
        ("read again: nothing", "다시 읽은 것: 없음"),
        (
            "/b: checked. Users: 1, conversations: 2, requests: 3, as of 2026-01-02 03:04:05, store x",
            "/b: 확인했어요. 사용자 1명, 대화 2개, 요청 3개, 2026-01-02 03:04:05 기준, 저장소 x",
        ),
    ],
)
def test_a_result_is_told_in_korean(monkeypatch: pytest.MonkeyPatch, english: str, korean: str) -> None:
    assert spoken(english) == english
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert spoken(english) == korean


READ_BY_PROGRAMS = ("listening on", "answerback {}")


def test_no_command_says_an_english_sentence_alone() -> None:
    for path in sorted((SOURCE / "answerback" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say":
                (argument,) = node.args
                for part in [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]:
                    text = template(part) or ""
                    is_sentence = re.search("[a-z]{2}", text.replace("{}", "")) and not text.startswith(
                        READ_BY_PROGRAMS
                    )
                    assert not is_sentence, f"{path.name}:{node.lineno}: say(spoken({text!r}))"


def test_every_shortfall_has_its_korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    for text in ("", "a"):
        for reason in set(REASONS) - {STOP} if text else REASONS:
            answer = Answer(text=text, request_id="r", status=Status.COMPLETED, attempt=1, finish_reason=reason)
            said = spoken(f"answerback: {shortfall(answer)}")
            assert set(re.findall("[a-z]{4,}", said)) <= {"answerback", "tokens"}, said


def test_what_a_setting_must_be_is_korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    for setting in SETTINGS:
        for where in (setting.flag, f"{setting.key} in f.toml"):
            said = spoken(f"answerback: {where} must be {setting.kind.rule}, not 'x' — correct it")
            assert not re.search("[a-z]+ [a-z]+", said.replace(setting.flag, "")), said


@pytest.mark.parametrize("code", ERRORS)
def test_every_code_of_the_protocol_has_its_words(code: str) -> None:
    english, korean = (words_of(language)["failures"] for language in ("en", "ko"))
    assert english.keys() == korean.keys() >= {code}
    assert translated(f"{ERRORS[code].message} ({code})") == f"{korean[code]} ({code})"  # type: ignore[index]


def test_every_status_has_its_words() -> None:
    assert {meaning for _, meaning in _MEANINGS.values()} <= catalogue().keys()


def test_each_entry_uses_what_it_is_given() -> None:
    for english, korean in catalogue().items():
        used = {int(number) for number in re.findall(r"\{(\d)\}", korean.replace("{}", "{0}"))}
        assert used <= set(range(english.count("{}"))), english
        facts = [f"fact{n}" for n in range(english.count("{}"))]
        assert translated(re.sub(r"\{\}", lambda _, facts=facts: facts.pop(0), english)) is not None, english


SERVER = [
    *(fault.value for fault in ModelFault),
    *(BLOCKED, TOO_MANY_CONNECTIONS, "This model is not offered. Models: echo, local."),
    'The operator has set the system prompt. Leave "system" out.',
    '"replaces" needs the "conversationId" of the request that it replaces.',
]
BROKEN = [
    {"message": " "}, {"message": "a\0b"}, {"message": "x" * MAX_MESSAGE_BYTES}, {"message": None}, {"message": ""},
    {"message": "a", "maxTokens": 0}, {"message": "a", "conversationId": "two words"}, {"message": "\ud800"},
]  # fmt: skip


@pytest.mark.parametrize("said", SERVER)
def test_what_a_server_says_is_korean_as_a_whole(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    for text in (f"answerback: {said} (forbidden)", f"({said} (forbidden))", said):
        assert re.search("[가-힣]", spoken(text))
        assert set(re.findall("[a-z]{4,}", spoken(text))) <= {
            "answerback", "forbidden", "local", "echo", "replaces", "conversation"
        }  # fmt: skip


@pytest.mark.parametrize("frame", BROKEN)
def test_what_is_wrong_with_a_question_is_korean(monkeypatch: pytest.MonkeyPatch, frame: dict[str, Any]) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    with pytest.raises(FrameError) as broken:
        decode_client(json.dumps({"action": "sendMessage", "requestId": "r", **frame}))
    assert re.search("[가-힣]", spoken(f"answerback: {broken.value.detail} (invalid_frame)"))


@pytest.mark.parametrize(
    "foreign",
    [
        "This model is not to be used. Ask Kim, he must be somewhere. (forbidden)",
        "The queue refuses us. It does not open. (overloaded)",
        "Something failed. Cannot do: more",
    ],
)
def test_sentences_of_others_are_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch, foreign: str) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert spoken(f"answerback: {foreign}") == f"answerback: {foreign}"


def test_sentences_within_sentences_and_hints_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    text = "answerback: Cannot connect to ws://h:1: no answer in time — for example --timeout 90s"
    assert spoken(text) == "answerback: ws://h:1에 연결할 수 없어요: 제때 응답이 없어요 — 예: --timeout 90s"
    assert spoken("(Request timeout)") == "(제때 답변이 오지 않았어요 (Request timeout))"
    assert spoken("nobody has translated this") == "nobody has translated this"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("책을(를)", "책을"), ("나무을(를)", "나무를"), ("`local`이(가)", "`local`이"), ("x이(가)", "x가"),
        ("8766을(를)", "8766을"), ("8765을(를)", "8765를"), ("길(으)로", "길로"), ("집(으)로", "집으로"),
        ("나무(으)로", "나무로"), ("홍길동과(와)", "홍길동과"), ("철수은(는)", "철수는"), ("정수(이)어야", "정수여야"),
        ("말(이)어야", "말이어야"), ("“여행”이(가)", "“여행”이"), ("--timeout은(는)", "--timeout은"),
        ("'limit'이(가)", "'limit'이"), ("port을(를)", "port를"),
        ("파일 a.FILE이(가)", "파일 a.FILE이"), ("module(으)로", "module로"), ("name을(를)", "name을"),
        ("\u1112\u1161\u11ab\u1100\u1161\u11bc이(가)", "\u1112\u1161\u11ab\u1100\u1161\u11bc이"),
        ("\u1106\u116e\u11af(으)로", "\u1106\u116e\u11af로"), ("\u1102\u1161을(를)", "\u1102\u1161를"),
        ("stack(으)로", "stack으로"),
        ("host은(는)", "host는"),
    ],
)  # fmt: skip
def test_particles_follow_the_last_sound(text: str, chosen: str) -> None:
    assert with_particles(text) == chosen


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "C"),
        ({"LANG": "ko_KR.UTF-8"}, "ko_KR.UTF-8"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}, "C"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ko_KR"}, "ko_KR"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": ""}, "ko_KR.UTF-8"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows says it itself where no variable does")
def test_the_locale(environment: dict[str, str], name: str) -> None:
    assert locale_name(environment) == name


def test_a_terminal_that_has_no_hangul_is_spoken_to_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert speaks_korean()
    with monkeypatch.context() as patched, open("/dev/null", "w", encoding="ascii") as narrow:
        patched.setattr(sys, "stderr", narrow)
        assert not speaks_korean()


@pytest.mark.parametrize(
    "data", [b"a\0b", b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\xcb\xc8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x1f\x8b\xcb\xc8"]
)
def test_what_is_no_text_looks_like_none(data: bytes) -> None:
    assert likely_encoding(data) is None
