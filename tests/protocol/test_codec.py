"""Bytes to frames and back, and nothing but FrameError for anything else."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.protocol.codec import FrameError, decode_client, decode_server, encode
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    VISIBLE,
    ClientFrame,
    ErrorBody,
    GetHistory,
    Hello,
    ListConversations,
    MessageResponse,
    SendMessage,
    ServerFrame,
    Status,
    is_id,
)
from answerback.protocol.limits import MAX_MESSAGE_BYTES

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VISIBLE_ID = st.text(
    st.characters(categories=("L", "N", "S", "P"), exclude_characters="\ufffc\ufffd"), min_size=1, max_size=128
)


def value_of(kind: Any, name: str) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may have."""
    if name in ("timestamp", "traceparent"):  # opaque
        return st.one_of(st.none(), st.text("abc"), st.integers(0, 10))
    if isinstance(kind, msgspec.inspect.LiteralType):
        return st.sampled_from(kind.values)
    if isinstance(kind, msgspec.inspect.AnyType):
        return st.one_of(st.none(), st.booleans(), st.integers(0, 10), st.text("abc"))
    if isinstance(kind, msgspec.inspect.BytesType):
        return st.binary(max_size=20)
    if isinstance(kind, msgspec.inspect.StrType):
        if kind.pattern and kind.pattern != VISIBLE:
            return st.from_regex(kind.pattern.replace(r"(?!\n)", ""), fullmatch=True).filter(
                lambda text: len(text) <= (kind.max_length or 10_000) and text == text.rstrip("\n")
            )
        if kind.pattern:
            return VISIBLE_ID.map(lambda text: text[: kind.max_length])
        text = TEXT.filter(lambda t: "\0" not in t and t.strip() != "") if name == "message" else TEXT
        return text.filter(lambda t: (kind.min_length or 0) <= len(t) <= (kind.max_length or 10_000) and "\0" not in t)
    if isinstance(kind, msgspec.inspect.IntType):
        return st.integers(kind.ge if kind.ge is not None else 0, kind.le if kind.le is not None else 10)
    if isinstance(kind, msgspec.inspect.BoolType):
        return st.booleans()
    if isinstance(kind, msgspec.inspect.NoneType):
        return st.none()
    if isinstance(kind, msgspec.inspect.UnionType):
        return st.one_of(*(value_of(option, name) for option in kind.types))
    if isinstance(kind, msgspec.inspect.EnumType):
        return st.sampled_from(list(kind.cls))
    if isinstance(kind, msgspec.inspect.VarTupleType):
        return st.lists(value_of(kind.item_type, name), max_size=3).map(tuple)
    if isinstance(kind, msgspec.inspect.DictType):
        return st.dictionaries(TEXT, value_of(kind.value_type, name), max_size=3)
    if isinstance(kind, msgspec.inspect.StructType):
        return struct(kind.cls)
    raise AssertionError(f"no strategy for {kind}")


def struct(cls: type) -> st.SearchStrategy[Any]:
    info = msgspec.inspect.type_info(cls)
    assert isinstance(info, msgspec.inspect.StructType)
    return st.builds(cls, **{f.name: value_of(f.type, f.name) for f in info.fields})


@given(st.one_of(*(struct(cls) for cls in get_args(ClientFrame))))
def test_every_client_frame_survives_the_round_trip(frame: ClientFrame) -> None:
    data = encode(frame)
    assert decode_client(data) == frame
    assert decode_client(data.decode()) == frame


@given(st.one_of(*(struct(cls) for cls in get_args(ServerFrame))))
def test_every_server_frame_survives_the_round_trip(frame: ServerFrame) -> None:
    assert decode_server(encode(frame)) == frame


@given(st.one_of(st.binary(), st.text(), st.text('{}[]",:action hello', min_size=20)))
def test_random_input_raises_only_frame_errors(data: bytes | str) -> None:
    for decode in (decode_client, decode_server):
        try:
            decode(data)
        except FrameError as exc:
            assert exc.code in (ErrorCode.INVALID_FRAME, ErrorCode.MESSAGE_TOO_LARGE)
            assert exc.detail.endswith(".")


@given(st.one_of(*(struct(cls) for cls in get_args(ClientFrame))), st.randoms(use_true_random=False))
def test_a_damaged_frame_raises_only_frame_errors(frame: ClientFrame, random: Any) -> None:
    data = bytearray(encode(frame))
    for _ in range(3):
        data[random.randrange(len(data))] = random.randrange(256)
    try:
        decode_client(bytes(data))
    except FrameError as exc:
        assert "Error" not in exc.detail, "an exception's text"


@pytest.mark.parametrize(
    ("data", "says", "action", "request_id"),
    [
        ("nonsense", "not valid JSON", None, None),
        ('{"action":"sendMessage","message":"\\ud800","requestId":"r"}', "surrogate", "sendMessage", "r"),
        ("[1]", "not a JSON object", None, None),
        ("[" * 50_000, "nested too deeply", None, None),
        ('{"requestId":"r"}', '"action"', None, "r"),
        ('{"action":7}', '"action"', None, None),
        ('{"action":"dance","requestId":"r"}', "not known", "dance", "r"),
        ('{"action":"sendMessage","message":"m"}', 'needs "requestId"', "sendMessage", None),
        ('{"action":"sendMessage","requestId":"r"}', 'needs "message"', "sendMessage", "r"),
        ('{"action":"sendMessage","requestId":"r","message":5}', '"message" must be', "sendMessage", "r"),
        ('{"action":"sendMessage","requestId":"r","message":" \\n"}', "empty", "sendMessage", "r"),
        ('{"action":"sendMessage","requestId":"r","message":"a\\u0000"}', "U+0000", "sendMessage", "r"),
        ('{"action":"sendMessage","requestId":"a b","message":"m"}', '"requestId" must be', "sendMessage", None),
        ('{"action":"sendMessage","requestId":"' + "x" * 129 + '","message":"m"}', "128", "sendMessage", None),
        ('{"action":"sendMessage","requestId":"r","message":"m","maxTokens":0}', '"maxTokens"', "sendMessage", "r"),
        ('{"action":"hello","helloId":"h","resume":[{"requestId":"r"}]}', '"offset"|"attempt"', "hello", None),
        ('{"action":"getHistory","requestId":"r","conversationId":"c","limit":101}', '"limit"', "getHistory", "r"),
    ],
)
def test_what_is_wrong_is_one_sentence(data: str, says: str, action: str | None, request_id: str | None) -> None:
    with pytest.raises(FrameError) as caught:
        decode_client(data)
    assert any(word in caught.value.detail for word in says.split("|"))
    assert (caught.value.action, caught.value.request_id) == (action, request_id)


@pytest.mark.parametrize(
    "name", ["", "a b", " a", "a ", "a\n", "\na", "a\r", "a\u00a0", "a\u200b", "\u202ea", "x" * 129]
)
def test_an_id_is_visible_to_its_last_character(name: str) -> None:
    with pytest.raises(FrameError, match="requestId"):
        decode_client(json.dumps({"action": "cancelMessage", "requestId": name}))


def test_a_filler_of_hangul_is_a_letter() -> None:
    assert all(map(is_id, "\u115f\u1160\u3164\uffa0"))


@given(st.text(max_size=3) | st.text("ab ", min_size=126, max_size=130) | VISIBLE_ID)
def test_is_id_says_of_a_text_what_the_decoder_does(name: str) -> None:
    try:
        decode_client(encode(Hello(hello_id=name)))
    except FrameError:
        assert not is_id(name)
    else:
        assert is_id(name)


def test_the_size_limit_counts_utf8_bytes_of_text_and_bytes_alike() -> None:
    frame = SendMessage(request_id="r", message="가" * 40_000)
    data = encode(frame)
    assert len(data) < MAX_MESSAGE_BYTES
    assert decode_client(data.decode()) == frame
    too_large = encode(SendMessage(request_id="r", message="가" * 44_000))
    for form in (too_large, too_large.decode()):
        with pytest.raises(FrameError) as caught:
            decode_client(form)
        assert caught.value.code is ErrorCode.MESSAGE_TOO_LARGE


def test_unknown_fields_are_ignored_and_unknown_actions_of_a_server_are_none() -> None:
    frame = decode_client('{"action":"sendMessage","requestId":"r","message":"m","colour":"red","timestamp":{"a":[1]}}')
    assert isinstance(frame, SendMessage)
    assert decode_server('{"action":"somethingNew","x":1}') is None
    with pytest.raises(FrameError):
        decode_server('{"action":"messageDelta","requestId":"r"}')
    with pytest.raises(FrameError):
        decode_server('{"message":"Internal server error","connectionId":"c","requestId":"x"}')


def test_a_response_always_has_its_response_field() -> None:
    frame = MessageResponse(
        request_id="r",
        status=Status.FAILED,
        response=None,
        attempt=1,
        length=0,
        error=ErrorBody(code=ErrorCode.TIMEOUT, message="m", retryable=True),
    )
    assert json.loads(encode(frame)) == {
        "action": "messageResponse",
        "requestId": "r",
        "status": "failed",
        "response": None,
        "attempt": 1,
        "length": 0,
        "error": {"code": "timeout", "message": "m", "retryable": True},
    }


def test_every_code_has_its_row() -> None:
    assert set(ERRORS) == set(ErrorCode)
    assert all(row.message.endswith(".") for row in ERRORS.values())


# --- members that are wrong and not needed, and null


ENDING = {
    "action": "messageResponse",
    "requestId": "a",
    "status": "completed",
    "response": "hi",
    "attempt": 1,
    "length": 2,
}


@pytest.mark.parametrize(
    "member",
    [
        {"usage": {"inputTokens": 1, "outputTokens": -1}},
        {"usage": "many"},
        {"timing": {"queuedMs": "soon"}},
        {"model": 7},
        {"usage": 1, "timing": 2, "model": 3, "finishReason": 4},
    ],
)
def test_a_wrong_member_that_is_not_needed_is_left_out(member: dict[str, Any]) -> None:
    frame = decode_server(json.dumps({**ENDING, **member}))
    assert isinstance(frame, MessageResponse)
    assert (frame.response, frame.usage, frame.timing) == ("hi", None, None)


@pytest.mark.parametrize("member", ["response", "status", "attempt", "length", "error"])
def test_a_wrong_member_that_is_needed_tells_whose_it_is(member: str) -> None:
    with pytest.raises(FrameError) as broken:
        decode_server(json.dumps({**ENDING, member: [{}]}))
    assert (broken.value.action, broken.value.request_id) == ("messageResponse", "a")
    assert member in broken.value.detail


OPTIONAL = [
    ({"action": "sendMessage", "requestId": "a", "message": "hi"}, SendMessage),
    ({"action": "hello", "helloId": "a"}, Hello),
    ({"action": "listConversations", "requestId": "a"}, ListConversations),
    ({"action": "getHistory", "requestId": "a", "conversationId": "c"}, GetHistory),
]


@pytest.mark.parametrize(("frame", "kind"), OPTIONAL)
def test_null_is_absent_for_every_member_that_may_be(frame: dict[str, Any], kind: type) -> None:
    for field in msgspec.structs.fields(kind):
        if not field.required:
            assert decode_client(json.dumps({**frame, field.encode_name: None})) == decode_client(json.dumps(frame))
    with pytest.raises(FrameError):
        decode_client(json.dumps({**frame, next(iter(frame.keys() - {"action"})): None}))


@pytest.mark.parametrize("name", ["a\x85b", "a\u2028b", "gpj.\u202eexe", "\u2066a"])
def test_a_name_of_a_file_has_nothing_that_breaks_or_turns_a_line(name: str) -> None:
    one = {"sha256": "0" * 64, "bytes": 1, "mediaType": "text/plain", "name": name}
    frame = {"action": "sendMessage", "requestId": "r", "message": "?", "attachments": [one]}
    with pytest.raises(FrameError, match='"attachments" must be'):
        decode_client(msgspec.json.encode(frame))
    assert decode_client(msgspec.json.encode({**frame, "attachments": [{**one, "name": "a\u202f👩‍💻.md"}]}))


@pytest.mark.parametrize(("depth", "is_read"), [(63, True), (64, False), (900, False)])
def test_a_schema_is_not_too_deep_to_be_read_again(depth: int, is_read: bool) -> None:
    schema = '{"items":[' * (depth // 2) + "{}" * (depth % 2 == 0) + "true" * (depth % 2) + "]}" * (depth // 2)
    data = (
        f'{{"action":"sendMessage","requestId":"r","message":"?","format":{{"type":"json_schema","schema":{schema}}}}}'
    )
    if is_read:
        assert decode_client(data)
    else:
        with pytest.raises(FrameError, match="64 levels deep") as caught:
            decode_client(data)
        assert caught.value.request_id == "r"
