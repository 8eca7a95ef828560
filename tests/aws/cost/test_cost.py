"""The bill: what it is made of, and that it moves the right way."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from answerback.cli.main import run
from answerback.core.delivery import growing, steady
from answerback_aws.cost.bill import (
    Price,
    Prices,
    UnknownPrice,
    bill,
    deployed,
    estimate,
    load_prices,
    load_token_price,
    month,
    plain,
    savings,
    total,
)
from answerback_aws.cost.workload import UnitCounts, Workload, answer_use, deltas, use

COUNTS = UnitCounts.load()
REGIONS = ("us-east-1", "ap-northeast-2")


@pytest.mark.parametrize("region", REGIONS)
def test_both_regions_price_the_same_things_with_a_date_and_a_source(region):
    prices = load_prices(region)
    assert set(prices.items) == set(load_prices(REGIONS[0]).items)
    assert all(price.usd > 0 and price.date[:2] == "20" and price.source for price in prices.items.values())


def test_an_unknown_region_or_model_says_which_are_known():
    with pytest.raises(UnknownPrice, match=r"known are us-east-1, ap-northeast-2$"):
        load_prices("mars-1")
    with pytest.raises(UnknownPrice, match=r"amazon\.nova-lite-v1:0"):
        load_token_price("bedrock:nobody.knows")
    with pytest.raises(UnknownPrice):
        load_prices("models")


def test_a_price_is_found_by_the_model_id_and_by_the_model_spec():
    assert load_token_price("bedrock:amazon.nova-lite-v1:0") == load_token_price("amazon.nova-lite-v1:0")


def test_an_answer_without_coalescing_takes_a_post_a_token():
    assert deltas(Workload(tokens_out=400), None) == 400


def test_an_answer_that_is_not_streamed_takes_no_delta():
    assert deltas(Workload(stream=False), growing()) == 0


@pytest.mark.parametrize(("tokens", "expected"), [(1, 1), (2, 2)])
def test_the_first_tokens_leave_at_once(tokens, expected):
    assert deltas(Workload(tokens_out=tokens, tokens_per_second=10), steady(0.04)) == expected


def test_a_steady_pause_gives_one_post_a_pause():
    workload = Workload(tokens_out=1001, tokens_per_second=100)  # ten seconds
    assert deltas(workload, steady(0.5)) == 21


def test_growing_pauses_take_at_most_a_fifth_of_the_tokens():
    assert deltas(Workload(tokens_out=400), growing()) <= 400 / 5


def test_a_line_is_its_quantity_times_its_price():
    prices = Prices(
        region="x", items={name: Price(2.0, "2026", "AWS price list") for name in load_prices("us-east-1").items}
    )
    workload = Workload(apps=10)
    usage = use(workload, deployed(), COUNTS)
    lines = {(line.service, line.what): line for line in bill(usage, workload, deployed(), prices, None)}
    assert lines["Lambda", "time"].usd == usage.gb_seconds * 2
    assert lines["API Gateway", "messages, in and out"].usd == usage.messages * 2 / 1e6
    assert lines["DynamoDB", "writes on demand"].usd == usage.write_units * 2 / 1e6


def test_the_models_tokens_are_on_the_bill():
    tokens = load_token_price("amazon.nova-lite-v1:0")
    workload = Workload(apps=1, days=1, requests=1, tokens_in=1_000_000, tokens_out=2_000_000)
    usage = use(workload, deployed(), COUNTS)
    lines = bill(usage, workload, deployed(), load_prices("us-east-1"), tokens)
    assert [line.usd for line in lines if line.service == "Bedrock"] == [
        tokens.input_usd,
        pytest.approx(2 * tokens.output_usd),
    ]


def test_cached_tokens_have_prices_of_their_own():
    model = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
    tokens = load_token_price(model, is_cached=True)
    workload = Workload(apps=1, days=1, requests=1, tokens_in=1_000_000, tokens_out=1, cached=0.75)
    lines = bill(use(workload, deployed(), COUNTS), workload, deployed(), load_prices("us-east-1"), tokens)
    usd = {line.what: line.usd for line in lines if line.service == "Bedrock"}
    assert (usd["questions"], usd["questions, cached"]) == (pytest.approx(0.25 * 1.25), pytest.approx(0.75 * 0.10))
    none, most = (
        estimate(replace(Workload(), cached=cached), region="us-east-1", model=model) for cached in (0.0, 0.9)
    )
    assert most.usd < none.usd
    assert most.stack_usd == none.stack_usd


def test_a_model_that_caches_nothing_has_no_such_price(capsys):
    assert run(["cost", "--model", "us.meta.llama3-3-70b-instruct-v1:0", "--cached", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "no price of cached tokens is known" in said
    assert "amazon.nova-lite-v1:0" in said


def test_nobody_asking_still_costs_what_stands_there():
    found = estimate(Workload(requests=0), region="us-east-1", model=None)
    assert found.workload.answers == 0
    assert 0 < found.usd < 60
    assert next(line for line in found.lines if line.what == "open connections").quantity == 1000 * 8 * 22 * 60


@pytest.mark.parametrize("region", REGIONS)
def test_every_choice_saves_at_the_documented_workload(region):
    for saving in savings(Workload(), COUNTS, load_prices(region)):
        assert saving.usd > 0, saving


def test_the_plain_way_costs_several_times_as_much():
    prices = load_prices("us-east-1")
    assert month(Workload(), plain(), COUNTS, prices) > 4 * month(Workload(), deployed(), COUNTS, prices)


@pytest.mark.parametrize("field", ["apps", "requests", "hours", "days"])
def test_more_of_anything_costs_more(field):
    workload = Workload()
    prices = load_prices("us-east-1")
    more = replace(workload, **{field: getattr(workload, field) * 1.25 if field != "days" else 27})
    assert month(more, deployed(), COUNTS, prices) > month(workload, deployed(), COUNTS, prices)


def test_the_command_prints_the_same_figures_as_json(capsys):
    assert run(["cost", "--apps", "7", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = estimate(Workload(apps=7), region="us-east-1", model="amazon.nova-lite-v1:0")
    assert printed["usd"] == pytest.approx(found.usd)
    assert printed["usd"] == pytest.approx(total(found.lines))
    assert len(printed["savings"]) == len(found.savings)


def test_the_command_says_how_old_its_prices_are_and_what_it_guesses(capsys):
    assert run(["cost", "--region", "ap-northeast-2", "--model", "none"]) == 0
    printed = capsys.readouterr().out
    assert "ap-northeast-2" in printed
    assert "Prices of 20" in printed
    printed = " ".join(printed.split())
    assert "3.5 times as long with 512 MB" in printed
    assert "200 wait or the oldest is 15 minutes old" in printed
    assert "Tokens of" not in printed


def test_the_page_has_the_figures_that_are_computed():
    docs = Path(__file__).parents[3] / "docs"
    page, benchmarks = ((docs / name).read_text(encoding="utf-8") for name in ("aws-cost.md", "benchmarks.md"))
    prices, workload, haiku = load_prices("us-east-1"), Workload(), "global.anthropic.claude-haiku-4-5-20251001-v1:0"
    million = 1e6 / workload.answers

    def stack(of: Workload = workload, **changed: object) -> float:
        return month(of, replace(deployed(), **changed), COUNTS, prices) * million

    def parts(**changed: object) -> dict[tuple[str, str], float]:
        design = replace(deployed(), **changed)
        lines = bill(use(workload, design, COUNTS), workload, design, prices, None)
        return {(line.service, line.what): line.usd * million for line in lines}

    def tokens(model: str, **changed: object) -> float:
        found = estimate(replace(workload, **changed), region="us-east-1", model=model)
        return (found.usd - found.stack_usd) * million

    usual, one = parts(), answer_use(workload, deployed(), COUNTS)
    shown = {"Lambda, time": usual["Lambda", "time"]}
    for service in ("API Gateway", "DynamoDB", "Aurora"):
        shown[service] = sum(usd for (of, _), usd in usual.items() if of == service)
    shown["the rest"] = stack() - sum(shown.values())

    def a_thousand_files(kb: int) -> str:
        with_files = replace(workload, files=0.1, file_kb=kb)
        return f"{(stack(with_files) - stack()) / 100:.2f} USD a thousand of"

    looks = 2 * prices["dynamodb_read_million"].usd
    silent, plain_usd = replace(workload, stream=False), month(workload, plain(), COUNTS, prices) * million
    wanted = [
        *(f"| {name}{', with the Data API' * (name == 'Aurora')} | {usd:.0f} |" for name, usd in shown.items()),
        f"| **the stack** | **{stack():.0f}** |",
        f"{one.frames:.0f} frames to the app and 1 from it; connection minutes are"
        f" {usual['API Gateway', 'open connections']:.0f} of it",
        f"{one.write_units:.0f} write and {one.read_units:g} read units an answer",
        f"{tokens('amazon.nova-lite-v1:0'):.0f} USD with Nova Lite",
        f"{tokens(haiku):,.0f} with Claude Haiku 4.5",
        f"| this stack | {stack():.0f} |",
        f"| this stack with a post for each token | {stack(interval=None):.0f} |",
        f"| the plain way | {plain_usd:.0f} |",
        *(
            f"| {mb:,} | {round(mb / 1769, 2):g} | {parts(memory_mb=mb)['Lambda', 'time']:.0f}"
            f" | {stack(memory_mb=mb):.0f} |"
            for mb in (128, 256, 512, 1024, 1769)
        ),
        f"cost {tokens(haiku, tokens_in=4000, cached=0.8):,.0f} USD for the tokens instead of"
        f" {tokens(haiku, tokens_in=4000):,.0f}.",
        f"which is {usual['Aurora', 'capacity'] / million:.0f} USD in a month",
        f"get {answer_use(silent, deployed(), COUNTS).frames:.0f} frames instead of {one.frames:.0f}, which saves"
        f" {stack() - stack(silent):.0f} USD",
        f"{a_thousand_files(500)} 500 KB and {a_thousand_files(4096)} 4 MB",
        f"{looks:.2f} USD a million answers of those who have one device",
        f"is {stack(replace(workload, devices=1)) - stack():.0f} USD a million answers for each",
        f"{730 * 0.5 * prices['aurora_acu_hour'].usd:.0f} USD a month for each half unit",
    ]
    assert [text for text in wanted if text not in page] == []
    assert f"| the stack, us-east-1, without the model's tokens | {stack():.0f} | {plain_usd:.0f} |" in benchmarks


def test_an_unknown_model_is_a_usage_error(capsys):
    assert run(["cost", "--model", "gpt"]) == 2
    assert "known are" in capsys.readouterr().err


def test_files_are_on_the_bill_of_those_who_send_them_and_of_nobody_else():
    text, files = (estimate(Workload(files=share), region="us-east-1", model=None) for share in (0.0, 0.1))
    assert not [line for line in text.lines if line.service == "S3"]
    assert text.usage.s3_puts == 0
    a_file = (files.usd - text.usd) / (text.workload.answers * 0.1)
    assert 0.0001 < a_file < 0.0002
    larger = estimate(Workload(files=0.1, file_kb=1_000), region="us-east-1", model=None)
    assert larger.usd > files.usd


def test_devices_are_on_the_bill_of_those_who_have_several():
    alone, two = (answer_use(Workload(devices=more), deployed(), COUNTS) for more in (0, 1))
    assert two.frames == alone.frames
    assert two.messages - alone.messages == alone.frames + 1  # the question for the acceptance, and a hint
    pinging, watching = (use(Workload(requests=0, devices=more), deployed(), COUNTS) for more in (0, 1))
    assert watching.messages > 2 * pinging.messages  # a conversation and the list, a little more often
    assert watching.aurora_acu_hours == pinging.aurora_acu_hours == 0
