"""What models cost: the table, and what a spec says instead."""

import pytest

from answerback.core.budget import Price
from answerback.models.prices import FREE, price_of
from answerback.models.spec import parse_model_spec

HAIKU = "bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0"


@pytest.mark.parametrize(
    ("spec", "price"),
    [
        ("local", FREE),
        ("echo", FREE),
        ("echo:price=1/5", Price(1_000_000, 5_000_000, 1_000_000)),
        ("openai:https://api.openai.com/v1#gpt-4o-mini", Price(150_000, 600_000, 75_000)),
        ("openai:http://127.0.0.1:11434/v1#qwen3", None),
        ("openai:http://127.0.0.1:11434/v1?price=0.15/0.60/0.075#qwen3", Price(150_000, 600_000, 75_000)),
        (HAIKU, Price(1_000_000, 5_000_000, 100_000)),
        (f"{HAIKU}?cache=5m", Price(1_250_000, 5_000_000, 100_000)),
        (f"{HAIKU}?cache=1h", Price(2_000_000, 5_000_000, 100_000)),
        (f"{HAIKU}?tier=priority", None),
        ("bedrock:amazon.nova-lite-v1:0?cache=5m", None),
        ("python:a.b:c", None),
        ("python:a.b:c?price=3/15", Price(3_000_000, 15_000_000, 3_000_000)),
    ],
)
def test_a_price_is_of_the_spec_or_of_the_table(spec: str, price: Price | None) -> None:
    assert price_of(parse_model_spec(spec)) == price
