"""Records as items, and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core.request import DeliveryTarget, Ending, Record, Watcher
from answerback.core.transitions import State
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback.stores.database import StoreError
from answerback_aws.runtime.dynamodb import items
from answerback_aws.runtime.dynamodb.items import decode, decode_item, encode, encode_record, update
from asking import record_of

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
numbers = st.integers(0, 2**53)
maybe = st.none() | numbers
targets = st.builds(
    DeliveryTarget, no=numbers, connection_id=names, generation=numbers, attempt=numbers, offset=numbers
)
endings = st.builds(
    Ending,
    status=st.sampled_from(Status),
    attempt=numbers,
    length=numbers,
    ended_at_ms=numbers,
    finish_reason=st.none() | names,
    error_code=st.none() | st.sampled_from(ErrorCode),
    error_detail=st.none() | names,
    retry_after_ms=maybe,
    input_tokens=maybe,
    output_tokens=maybe,
    model=st.none() | names,
    first_text_ms=maybe,
)
watchers = st.builds(
    Watcher,
    session_id=names,
    connection_id=names,
    generation=numbers,
    number=numbers,
    off=st.booleans(),
    attempt=numbers,
    offset=numbers,
)
records = st.builds(
    Record,
    user_id=names,
    request_id=names,
    session_id=names,
    conversation_id=names,
    ordering_key=names,
    fingerprint=names,
    model=names,
    accepted_at_ms=numbers,
    standalone=st.booleans(),
    stream=st.booleans(),
    state=st.sampled_from(State),
    attempt=numbers,
    owner=names | st.just(""),
    lease_until_ms=numbers,
    started_at_ms=maybe,
    queue_no=numbers,
    cancel_requested=st.booleans(),
    target=st.none() | targets,
    ending=st.none() | endings,
    parts=st.none() | st.lists(names, max_size=3).map(tuple),
    watchers=st.lists(watchers, max_size=3).map(tuple),
    cancelled_by=st.none() | names,
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert decode_item(encode_record(record)) == record


@given(records, st.dictionaries(st.sampled_from(["version", "position", "expiresAt"]), numbers))
def test_the_stores_own_attributes_are_not_the_records(record: Record, own: dict[str, Any]) -> None:
    assert decode_item({**encode_record(record), **encode(own)}) == record


@given(records)
def test_only_kinds_of_value_that_are_ours_are_written(record: Record) -> None:
    assert {kind for attribute in encode_record(record).values() for kind in attribute} <= {"S", "N", "BOOL"}


def test_the_schema_is_always_there() -> None:
    assert encode_record(record_of())["schema"] == {"N": "1"}


def test_a_record_of_a_newer_program_is_not_guessed_at() -> None:
    with pytest.raises(StoreError, match="Upgrade the program"):
        decode_item(encode_record(record_of()) | {"schema": {"N": "99"}})


def test_a_set_comes_back_sorted() -> None:
    assert decode(encode({"n": (10, 9), "s": ("b", "a")})) == {"n": (9, 10), "s": ("a", "b")}


def test_an_attribute_that_is_not_ours_is_refused() -> None:
    with pytest.raises(TypeError):
        decode({"x": {"L": []}})


@given(records, records)
def test_an_update_says_just_what_differs(before: Record, after: Record) -> None:
    old, new = encode_record(before), encode_record(after)
    change = update(old, new)
    assert apply(old, change) == new
    values = change["ExpressionAttributeValues"].values()
    assert len(values) == sum(old.get(name) != new[name] for name in new)


def test_names_that_are_words_of_the_language_never_stand_in_an_expression() -> None:
    change = update(encode({"status": "a", "window": 1}), encode({"status": "b"}))
    assert "status" not in change["UpdateExpression"]
    assert "window" not in change["UpdateExpression"]


def test_a_record_of_usual_length_fits_the_unit_that_a_write_is_billed_by() -> None:
    """Also with everything in it that an ended, streamed request has: 1 KB, names and values in UTF-8."""
    uuid = "0123abcd-0123-4567-89ab-0123456789ab"
    full = record_of(
        user_id="auth0|0123456789abcdef01234567",
        request_id=uuid,
        session_id=uuid,
        conversation_id=uuid,
        ordering_key="f" * 64,
        fingerprint="f" * 64,
        model="bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0",
        accepted_at_ms=1_800_000_000_000,
        stream=True,
        state=State.COMPLETED,
        attempt=1,
        owner="0" * 32,
        lease_until_ms=1_800_000_000_000,
        started_at_ms=1_800_000_000_000,
        queue_no=1,
        target=DeliveryTarget(
            no=3, connection_id="L0S9aeCap5sA92b=", generation=1_800_000_000_000, attempt=1, offset=12_345
        ),
        ending=Ending(
            status=Status.COMPLETED,
            attempt=1,
            length=1_900,
            ended_at_ms=1_800_000_009_000,
            finish_reason="stop",
            input_tokens=600,
            output_tokens=400,
            model="bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0",
            queued_ms=150,
            first_text_ms=900,
            total_ms=9_000,
        ),
    )
    own = encode({"version": "0" * 12, "position": 2**50, "expiresAt": 1_800_000_000, "answer": "answer#" + "0" * 12})
    size = sum(
        len(name) + max(len(str(value).encode()) for value in attribute.values())
        for name, attribute in {**encode_record(full), **own}.items()
    )
    assert size <= 1024


def apply(item: items.Item, change: dict[str, Any]) -> items.Item:
    """What DynamoDB makes of the update."""
    names_of, values = change["ExpressionAttributeNames"], change["ExpressionAttributeValues"]
    after = dict(item)
    set_part, _, remove_part = change["UpdateExpression"].partition("REMOVE ")
    for part in filter(None, set_part.removeprefix("SET ").strip().split(", ")):
        name, _, value = part.partition(" = ")
        after[names_of[name]] = values[value]
    for name in filter(None, remove_part.split(", ")):
        del after[names_of[name]]
    return after
