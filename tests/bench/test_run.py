"""The program behind `make bench`: tiny runs of it, and its check of the peers, with a stub in the place of a peer."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import page
import scenarios
import servers

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).parent / "durable_stub.py"


def stub(way: str) -> servers.Server:
    return servers.Server(name="stub", command=lambda folder, _: [sys.executable, str(STUB), str(folder), way])


# --- what counts as a peer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [servers.OURS, stub("honest")], ids=["ours", "stub"])
async def test_a_server_that_does_the_job_is_let_in(server: servers.Server) -> None:
    await servers.try_out(server)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make flushes slow")
@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("early-acceptance", "accepted a question before it was on disk"),
        ("early-ending", "sent an ending before it was on disk"),
        ("forgets", "1 are on disk"),
        ("another-text", "answered with another text"),
        ("fewer-fields", "messageResponse has no {'usage'}"),
    ],
)
async def test_a_server_that_does_less_is_refused(way: str, reason: str) -> None:
    with pytest.raises(servers.WrongServer, match=reason):
        await servers.try_out(stub(way))


# --- the measurements -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cases"), [("whole", 1), ("storms", 2), ("large", 1)])
async def test_every_kind_of_load_gives_figures(name: str, cases: int) -> None:
    """At a thousandth of its size, for ours and for a stub in the place of every peer."""
    (scenario,) = (one for one in scenarios.scenarios(0.001) if one.name == name)
    for case in scenario.cases[:cases]:
        peers = [] if len(case.servers) == 1 else [stub("honest")]
        for server in (servers.OURS, *peers):
            for figures in await case.measure(server):
                assert figures["cpu_us"] >= 0
                assert figures.keys() & set(page.TABLES[name].columns.split()) - {"cpu_us"}


async def test_a_wrong_answer_has_no_figures() -> None:
    (scenario,) = (one for one in scenarios.scenarios(0.001) if one.name == "whole")
    with pytest.raises(servers.WrongServer, match=r"stub: 0 misrouted, .* lost"):
        await scenario.cases[0].measure(stub("another-text"))


def test_it_runs_as_a_command() -> None:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "--only", "clients", "--scale", "0.001", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "### On the other end" in done.stdout


def test_every_scenario_has_a_table() -> None:
    assert [one.name for one in scenarios.scenarios(1)] == list(page.TABLES)


# --- the page -------------------------------------------------------------------------------------------------


def results(**cpu_us: float) -> Mapping[str, Any]:
    names = {"ours": page.OURS, "bun": page.BUN, "node": page.NODE}
    rounds = {
        names[key]: [{"cpu_us": value, "p50_ms": 0.5}, {"cpu_us": 3 * value, "p50_ms": 1.5}]
        for key, value in cpu_us.items()
    }
    cases = {"1 pending": rounds, "64 pending": rounds}
    return {
        "machine": "A machine",
        "flush_ms": 0.25,
        "versions": {page.OURS: "1.0"},
        "scenarios": {"whole": {"on": "2026-01-02", "scale": 0.5, "cases": cases}},
    }


def test_the_page_says_which_goals_are_met() -> None:
    text = page.goals(results(ours=120, bun=40, node=60))
    assert "| whole durable answer, 64 apps, over Bun | at most 3.5 times | 3 times |" in text
    assert "| whole durable answer, 64 apps, CPU | at most 130 µs | 120 µs |" in text
    assert "| one app alone, latency p50 | at most 1 ms | 0.50 ms |" in text
    assert "| LiteLLM over `openai:`, 50 chunks | at least 30 times | not measured |" in text


def test_the_page_says_which_goals_are_missed() -> None:
    text = page.goals(results(ours=200, bun=40, node=60))
    assert "at most 3.5 times | 5 times: **missed** |" in text
    assert "at most 130 µs | 200 µs: **missed** |" in text


def test_the_page_shows_least_and_median_and_the_ratios() -> None:
    text = page.rendered(results(ours=120, bun=40, node=60))
    assert "A machine. 0.2 ms to flush 4 KB to disk." in text
    assert "| 64 pending | Answerback | 120 / 240 |" in text
    assert "| 64 pending | Bun + SQLite | 40 / 80 | 1 | 3 / 3 |" in text
    assert "Rounds: 2. Measured on 2026-01-02. A run at 0.5 of the usual size." in text


def test_the_page_in_docs_is_made_from_the_figures_that_are_kept() -> None:
    kept = json.loads((ROOT / "bench" / "results.json").read_text(encoding="utf-8"))
    parts = runpy.run_path(str(ROOT / "scripts" / "generate_docs.py"))["PARTS"]
    assert parts["benchmarks"]() == page.rendered(kept)
    assert page.rendered(kept) in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
