"""Variables and matchers."""

from typing import Any

import pytest

from answerback_proof.conformance.patterns import BrokenPattern, Mismatch, match, match_exactly, matches, substitute


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("${n}", 7),
        ("n is ${n}", "n is 7"),
        ({"a": ["${id}", {"b": "${have.offset}"}]}, {"a": ["q-1", {"b": 3}]}),
        ({"$repeat": ["ab", 3]}, "ababab"),
        ({"$join": ["x", {"$repeat": ["${n}", 2]}, "y"]}, "x77y"),
        ("$5 and {id}", "$5 and {id}"),
        (None, None),
    ],
)
def test_variables_are_filled_in(value: Any, expected: Any) -> None:
    assert substitute(value, {"n": 7, "id": "q-1", "have": {"offset": 3}}) == expected


@pytest.mark.parametrize("value", ["${missing}", "${n.deeper}", "a ${missing} b"])
def test_an_unknown_variable_is_a_broken_case(value: str) -> None:
    with pytest.raises(BrokenPattern):
        substitute(value, {"n": 7})


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ([1, {"a": 2}], [1, {"a": 2, "b": 3}]),
        (None, None),
        ({"a": {"$any": True}}, {"a": None}),
        ({"a": {"$absent": True}}, {"b": 1}),
        ({"$regex": "^ab?$"}, "a"),
        ({"$int": {"min": 0}}, 0),
        ({"$int": {"min": 1, "max": 3}}, 3),
        ({"$in": [1, {"a": 2}]}, {"a": 2, "b": 3}),
        ({"$not": 1}, 2),
        ({"$contains": {"a": 1}}, [{"a": 2}, {"a": 1, "b": 2}]),
        ({"$contains": "b"}, "abc"),
        ({"$length": 2}, "👋🏽"),
        ({"$length": {"$int": {"min": 1}}}, [0]),
    ],
)
def test_matches(pattern: Any, value: Any) -> None:
    match(pattern, value, {})


@pytest.mark.parametrize(
    ("pattern", "value", "where"),
    [
        ({"a": 1}, {"b": 1}, "a is missing"),
        ({"a": 1}, {"a": True}, "a should be 1"),
        ({"a": 1}, {"a": 1.0}, "a should be 1"),
        ({"a": "1"}, {"a": 1}, "a should be"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a.b[1] should be 2"),
        ([1], [1, 2], "should be a list of 1"),
        ({"a": 1}, [], "should be an object"),
        ({"a": None}, {}, "a is missing"),
        ({"a": {"$any": True}}, {}, "a is missing"),
        ({"a": {"$absent": True}}, {"a": None}, "a should be left out"),
        ({"$regex": "^a"}, "ba", "should match /^a/"),
        ({"$regex": "1"}, 1, "should match /1/"),
        ({"$int": {"min": 1}}, 0, "from 1 to inf"),
        ({"$int": {}}, True, "whole number"),
        ({"$in": [1, 2]}, 3, "one of"),
        ({"$not": {"a": 1}}, {"a": 1, "b": 2}, "should not be"),
        ({"$contains": 1}, [2], "should contain 1"),
        ({"$contains": 1}, 1, "should contain 1"),
        ({"$length": 3}, "ab", "length"),
        ({"$length": 0}, None, "should have a length"),
    ],
)
def test_does_not_match(pattern: Any, value: Any, where: str) -> None:
    with pytest.raises(Mismatch) as caught:
        match(pattern, value, {})
    assert where in str(caught.value)
    assert not matches(pattern, value)


def test_captures() -> None:
    variables: dict[str, Any] = {}
    match({"a": {"$capture": "one"}, "b": [{"$capture": "two"}]}, {"a": {"x": 1}, "b": [2]}, variables)
    assert variables == {"one": {"x": 1}, "two": 2}


def test_an_unknown_matcher_is_a_broken_case() -> None:
    with pytest.raises(BrokenPattern, match="no matcher"):
        match({"$regexp": "a"}, "a", {})


def test_exactly_means_no_field_besides() -> None:
    pattern = {"a": [{"b": {"$any": True}}], "c": {"$absent": True}}
    match_exactly(pattern, {"a": [{"b": {"more": 1}}]}, {})
    for value, where in (({"a": [{"b": 1, "d": 2}]}, r"a\[0\]\.d"), ({"a": [{"b": 1}], "e": None}, "e")):
        match(pattern, value, {})
        with pytest.raises(Mismatch, match=f"^{where} should not be there"):
            match_exactly(pattern, value, {})
    with pytest.raises(Mismatch, match="is missing"):
        match_exactly({"a": 1}, {}, {})
