"""The tables of docs/benchmarks.md, made from the figures that bench/run.py has kept in bench/results.json."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

OURS, BUN, NODE, LITELLM = "Answerback", "Bun + SQLite", "Node + SQLite", "LiteLLM"

Rounds: TypeAlias = Sequence[Mapping[str, float]]

_NAMES: Mapping[str, str] = {
    "cpu_us": "CPU an answer, µs: least / median",
    "p50_ms": "latency p50, ms",
    "p99_ms": "p99, ms",
    "first_ms": "first words p50, ms",
    "per_s": "answers/s",
    "frames": "frames an answer",
    "pause_p50_ms": "pause of a stream p50, ms",
    "pause_p99_ms": "p99, ms",
    "pause_max_ms": "longest, ms",
    "gateway_us": "of it the gateway",
    "database_us": "of it the database",
    "written_kb": "written to disk, KB",
    "kb": "memory of a connection, kB",
    "all_kb": "all memory over connections, kB",
    "opening_us": "CPU to open it, µs",
    "idle_share": "CPU while idle, % of a core",
    "apps": "apps",
    "growing": "answers growing",
    "median_s": "resumed: median, s",
    "last_s": "the last, s",
    "memory_mb": "memory, MB",
    "answers": "answers",
    "stopped": "model runs stopped",
    "last_stop_s": "until the last stop, s",
    "last_ending_s": "until the last ending, s",
    "frame_us": "CPU a frame, µs",
    "client_kb": "memory of a client, kB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How a scenario is shown: `columns` of `_NAMES`; `about` says what was done."""

    title: str
    about: str
    columns: str


TABLES: Mapping[str, Table] = {
    "whole": Table(
        title="A whole answer, durable",
        about="50 words. Closed loop: an app asks again when it has its answer.",
        columns="cpu_us p50_ms p99_ms per_s",
    ),
    "streamed": Table(
        title="A streamed answer, durable",
        about="50 words, 64 apps. By itself the gateway joins words for 40 ms, and the peers send a frame a word. Then "
        "both do as the other.",
        columns="cpu_us p50_ms p99_ms frames",
    ),
    "openai": Table(
        title="A relayed answer",
        about="The same model server behind both, 50 chunks at 2 ms, 20 apps. The gateway keeps question and answer on "
        "disk. LiteLLM keeps nothing.",
        columns="cpu_us first_ms p50_ms",
    ),
    "open": Table(
        title="Open loop",
        about="100 apps, whole answers. A question goes out when it is due, and its latency counts from then.",
        columns="cpu_us p50_ms p99_ms",
    ),
    "slow-disk": Table(
        title="A slow disk",
        about="One stream with a word every 5 ms beside eight apps that ask, and then 64 apps with whole answers. "
        "With a frame a word a pause has 5 ms, with words joined for 40 ms it has 40 ms.",
        columns="pause_p50_ms pause_p99_ms pause_max_ms cpu_us p50_ms",
    ),
    "echo": Table(
        title="Beside bare echoes",
        about="The same frames, and nothing else: what the promises cost.",
        columns="cpu_us p50_ms p99_ms frames",
    ),
    "history": Table(
        title="With a long history",
        about="64 apps, whole answers, random request ids.",
        columns="cpu_us p50_ms p99_ms",
    ),
    "postgres": Table(
        title="On PostgreSQL",
        about="64 apps, whole answers. The CPU of gateway and database together.",
        columns="cpu_us gateway_us database_us p50_ms",
    ),
    "large": Table(
        title="A large question",
        about="It is answered with itself, streamed. A note is a write to the request's record while the answer grows.",
        columns="cpu_us written_kb",
    ),
    "idle": Table(
        title="Quiet connections",
        about="Resident memory with the connections less the one without them. Centrifugo publishes 27 kB, tuned "
        "10.9 kB: all its memory, after a collection, over 200,000 connections.",
        columns="kb all_kb opening_us idle_share",
    ),
    "storms": Table(
        title="All at once",
        about="Every app reads a growing answer, loses its connection in the same moment, connects again and resumes. "
        "The time is until an app has every character that it had missed. Growing answers are cancelled, until the "
        "model server has seen the last of them stop.",
        columns="median_s last_s stopped last_stop_s last_ending_s cpu_us memory_mb",
    ),
    "clients": Table(
        title="On the other end",
        about="The SDK, and the desktop app's engine, which keeps all in a local database. They read streamed answers, "
        "a frame a word.",
        columns="frame_us client_kb",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`value` of the results, at most (or `at_least`) `limit`. It raises LookupError where that was not measured."""

    what: str
    value: Callable[[Mapping[str, Any]], float]
    limit: float
    unit: str
    at_least: bool = False


def _least(
    scenario: str, case: str | None, server: str = OURS, metric: str = "cpu_us"
) -> Callable[[Mapping[str, Any]], float]:
    """The least of all rounds. `case` None: the scenario has one alone."""

    def value(results: Mapping[str, Any]) -> float:
        cases = results["scenarios"][scenario]["cases"]
        return min(_values(cases[next(iter(cases)) if case is None else case][server], metric))

    return value


def _ratio(scenario: str, case: str, over: str, under: str) -> Callable[[Mapping[str, Any]], float]:
    above, below = _least(scenario, case, over), _least(scenario, case, under)
    return lambda results: above(results) / below(results)


def _added_pause(results: Mapping[str, Any]) -> float:
    slow, own = (
        _least("slow-disk", case, metric="pause_p99_ms") for case in ("a flush takes 100 ms more", "this disk")
    )
    return slow(results) - own(results)


GOALS: Sequence[Goal] = (
    Goal(
        what="whole durable answer, 64 apps, over Bun",
        value=_ratio("whole", "64 pending", OURS, BUN),
        limit=3.5,
        unit=" times",
    ),
    Goal(what="whole durable answer, 64 apps, CPU", value=_least("whole", "64 pending"), limit=130, unit=" µs"),
    Goal(what="the same with a long history, CPU", value=_least("history", None), limit=130, unit=" µs"),
    Goal(
        what="streamed at 5 ms a word, over Bun",
        value=_ratio("streamed", "5 ms a word", OURS, BUN),
        limit=1.05,
        unit=" times",
    ),
    Goal(
        what="streamed at 5 ms a word, over Node",
        value=_ratio("streamed", "5 ms a word", OURS, NODE),
        limit=0.8,
        unit=" times",
    ),
    Goal(what="`openai:`, 50 chunks, CPU", value=_least("openai", "50 chunks at 2 ms"), limit=1_200, unit=" µs"),
    Goal(
        what="LiteLLM over `openai:`, 50 chunks",
        value=_ratio("openai", "50 chunks at 2 ms", LITELLM, OURS),
        limit=30,
        unit=" times",
        at_least=True,
    ),
    Goal(what="on PostgreSQL, gateway and database, CPU", value=_least("postgres", None), limit=650, unit=" µs"),
    Goal(what="one app alone, latency p50", value=_least("whole", "1 pending", metric="p50_ms"), limit=1, unit=" ms"),
    Goal(
        what="a stream's pause p99, when a flush takes 100 ms more: longer than on this disk by",
        value=_added_pause,
        limit=20,
        unit=" ms",
    ),
)


def rendered(results: Mapping[str, Any]) -> str:
    """All of the page that is made of figures."""
    versions = "; ".join(f"{name}: {version}" for name, version in results["versions"].items())
    machine = f"{results['machine']}. {results['flush_ms']:.1f} ms to flush 4 KB to disk.\n\n{versions}.\n"
    shown = [name for name in TABLES if name in results["scenarios"]]
    return "\n".join(
        [machine, "### Goals\n", goals(results), *(section(name, results["scenarios"][name]) for name in shown)]
    )


def goals(results: Mapping[str, Any]) -> str:
    """Which goals are met and which are missed, by the least of all rounds."""
    rows = []
    for goal in GOALS:
        limit = f"{'at least' if goal.at_least else 'at most'} {goal.limit:,g}{goal.unit}"
        try:
            value = goal.value(results)
        except LookupError:
            rows.append([goal.what, limit, "not measured"])
            continue
        is_met = value >= goal.limit if goal.at_least else value <= goal.limit
        rows.append([goal.what, limit, f"{_shown(value)}{goal.unit}{'' if is_met else ': **missed**'}"])
    return _table(["", "goal", "reached"], rows)


def section(name: str, scenario: Mapping[str, Any]) -> str:
    """One scenario as a heading, a sentence and a table."""
    table = TABLES[name]
    cases: Mapping[str, Mapping[str, Rounds]] = scenario["cases"]
    columns = [key for key in table.columns.split() if any(_values(r, key) for c in cases.values() for r in c.values())]
    has_peers = any(len(servers) > 1 for servers in cases.values())
    head = ["", *(["server"] if has_peers else []), *(_NAMES[key] for key in columns)]
    if has_peers and "cpu_us" in columns:
        head.append("Answerback over it")
    rows = []
    for case, servers in cases.items():
        for server, rounds in servers.items():
            row = [case, *([server] if has_peers else []), *(_cell(_values(rounds, key), key) for key in columns)]
            if has_peers and "cpu_us" in columns:
                row.append("" if server == OURS or OURS not in servers else _over(servers[OURS], rounds))
            rows.append(row)
    size = "" if scenario["scale"] == 1 else f" A run at {scenario['scale']:g} of the usual size."
    most = max((len(found) for servers in cases.values() for found in servers.values()), default=0)
    made = f"Rounds: {most}. Measured on {scenario['on']}.{size}"
    return f"### {table.title}\n\n{table.about} {made}\n\n{_table(head, rows)}"


def _over(ours: Rounds, other: Rounds) -> str:
    """Ours over another: of the least, and of the medians."""
    mine, its = _values(ours, "cpu_us"), _values(other, "cpu_us")
    if not min(its):
        return "-"
    return f"{_shown(min(mine) / min(its))} / {_shown(median(mine) / median(its))}"


def _values(rounds: Rounds, key: str) -> list[float]:
    return [figures[key] for figures in rounds if key in figures]


def _cell(values: Sequence[float], key: str) -> str:
    """CPU: the least and the median of all rounds. A throughput: the most. Everything else: the median."""
    if not values:
        return "-"
    if key == "cpu_us":
        return f"{_shown(min(values))} / {_shown(median(values))}"
    if key == "idle_share":
        return f"{100 * min(values):.1f}"
    return _shown(max(values) if key == "per_s" else median(values))


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
