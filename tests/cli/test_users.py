"""`answerback users`: the same over the store itself and over the admin port of a gateway that holds it."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.sync.client import connect

from cli_process import GatewayProcess, Result, Run, Serve

pytestmark = pytest.mark.process
ASKERS = ("alice", "bob/ü%2F")


def ask(gateway: GatewayProcess, user: str) -> None:
    with connect(gateway.url, proxy=None) as app:
        app.send(json.dumps({"action": "sendMessage", "requestId": f"r-{user}", "userId": user, "message": "one two"}))
        while json.loads(app.recv(timeout=30))["action"] != "messageResponse":
            pass


@pytest.fixture(params=["store", "admin port"])
def users(request: pytest.FixtureRequest, serve: Serve, run: Run) -> Callable[..., Result]:
    """`answerback users ...` where two users have asked, with the gateway stopped or running."""
    gateway = serve()
    for user in ASKERS:
        ask(gateway, user)
    place = ["--data-dir", str(gateway.data_dir)]
    if request.param == "store":
        gateway.stop()
    else:
        place += ["--admin-port", gateway.admin_port]
    return lambda *arguments: run("users", *arguments, *place)


def test_list_and_show(users: Callable[..., Result]) -> None:
    everyone = json.loads(users("list", "--json").out)
    assert [(user["userId"], user["turns"], user["perMinute"]) for user in everyone] == [
        (asker, 1, None) for asker in ASKERS
    ]
    for user in everyone:
        assert json.loads(users("show", user["userId"], "--json").out) == user
    lines = users("list").out.splitlines()
    assert lines[0].split("\t") == ["user", "limit", "conversations", "turns", "first seen", "last request"]
    assert lines[1].split("\t")[:4] == ["alice", "default", "1", "1"]


@pytest.mark.parametrize(("said", "kept"), [("60", 60), ("off", 0), ("default", None)])
def test_set_limit(users: Callable[..., Result], said: str, kept: int | None) -> None:
    assert users("set-limit", ASKERS[1], "7").code == 0
    assert json.loads(users("set-limit", ASKERS[1], said, "--json").out) == {"userId": ASKERS[1], "perMinute": kept}
    assert json.loads(users("show", ASKERS[1], "--json").out)["perMinute"] == kept
    assert json.loads(users("show", "alice", "--json").out)["perMinute"] is None


def test_export(users: Callable[..., Result], tmp_path: Path) -> None:
    bob, file = ASKERS[1], tmp_path / "bob.jsonl"
    said = json.loads(users("export", bob, str(file), "--json").out)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert said == {"userId": bob, "file": str(file), "lines": len(lines) - 1}
    assert lines[0] | {"exportedAt": ""} == {"table": "export", "format": 1, "userId": bob, "exportedAt": ""}
    (request,) = [line for line in lines if line["table"] == "requests"]
    assert (request["requestId"], request["question"], request["answer"]) == (f"r-{bob}", "one two", "one two")
    assert request["record"]["userId" if "userId" in request["record"] else "user_id"] == bob
    assert "alice" not in file.read_text(encoding="utf-8")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    for name, place, why in (
        (bob, file, "overwrites nothing"),
        ("eve", tmp_path / "eve", "there is no user eve"),
        (bob, tmp_path / "no" / "where", "cannot be written (No such file or directory)"),
    ):
        refused = users("export", name, str(place))
        assert (refused.code, refused.out) == (1, "")
        assert why in refused.err
    assert file.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part") or path.name == "eve"]


@pytest.mark.parametrize(("said", "kept"), [("30", 30), ("30d", 30), ("forever", 1_000_000), ("default", None)])
def test_set_retention(users: Callable[..., Result], said: str, kept: int | None) -> None:
    bob = ASKERS[1]
    assert users("set-retention", bob, "7d").code == 0
    assert json.loads(users("set-retention", bob, said, "--json").out) == {"userId": bob, "keepDays": kept}
    assert json.loads(users("show", bob, "--json").out).get("keepDays") == kept
    assert "keepDays" not in json.loads(users("show", "alice", "--json").out)
    refused = users("set-retention", bob, said, "--conversation", "none")
    assert (refused.code, refused.out) == (1, "")
    assert f"{bob} has no conversation none" in refused.err


@pytest.mark.parametrize("said", ["0", "1.5d", "2w", "36501", "off", ""])
def test_days_that_cannot_be_are_refused(users: Callable[..., Result], said: str) -> None:
    refused = users("set-retention", "alice", said)
    assert (refused.code, refused.out) == (2, "")
    assert "the days must be a whole number from 1 to 36500, or forever or default" in refused.err


@pytest.mark.parametrize("said", ["0", "00", " 0 ", "1.5", "1e3", "1000001", "none", ""])
def test_a_limit_that_could_mean_two_things_is_refused(users: Callable[..., Result], said: str) -> None:
    assert users("set-limit", ASKERS[1], "7").code == 0
    refused = users("set-limit", ASKERS[1], said)
    assert refused.code == 2
    assert "off or default" in refused.err
    assert ("users block" in refused.err) == (said.strip(" 0") == "")
    assert json.loads(users("show", ASKERS[1], "--json").out)["perMinute"] == 7


def test_block_and_unblock(users: Callable[..., Result]) -> None:
    assert users("set-limit", ASKERS[1], "7").code == 0
    assert users("block", ASKERS[1]).out == f"{ASKERS[1]} is blocked.\n"
    shown = json.loads(users("show", ASKERS[1], "--json").out)
    assert (shown["blocked"], shown["perMinute"], shown["turns"]) == (True, 7, 1)
    assert [line.split("\t")[1] for line in users("list").out.splitlines()[1:]] == ["default", "blocked"]
    assert json.loads(users("unblock", ASKERS[1], "--json").out) == {"userId": ASKERS[1], "blocked": False}
    shown = json.loads(users("show", ASKERS[1], "--json").out)
    assert ("blocked" in shown, shown["perMinute"]) == (False, 7)
    assert users("block", "two words").code == 2


def test_usage(users: Callable[..., Result]) -> None:
    days = json.loads(users("usage", "--json").out)
    assert {day["userId"]: day["requests"] for day in days} == dict.fromkeys(ASKERS, 1)
    assert [day["userId"] for day in json.loads(users("usage", "alice", "--since", "1d", "--json").out)] == ["alice"]
    assert json.loads(users("usage", "--since", "2999-01-01", "--json").out) == []


def test_delete_erases_one_user_and_asks_first(users: Callable[..., Result]) -> None:
    refused = users("delete", "alice")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert users("show", "alice").code == 0
    assert users("delete", "alice", "--yes").out == "alice is erased.\n"
    assert "there is no user alice" in users("show", "alice").err
    assert users("delete", "alice", "--yes").code == 1
    assert [day["userId"] for day in json.loads(users("usage", "--json").out)] == [ASKERS[1]]


def test_a_gateway_with_another_admin_port_is_reported(serve: Serve, run: Run) -> None:
    gateway = serve()
    result = run("users", "list", "--data-dir", str(gateway.data_dir), "--admin-port", "1")
    assert result.code == 3
    assert "--admin-port" in result.err


def test_the_admin_port_of_a_running_gateway_is_found(serve: Serve, run: Run) -> None:
    gateway = serve()
    ask(gateway, "alice")
    shown = run("users", "show", "alice", "--json", "--data-dir", str(gateway.data_dir))
    assert json.loads(shown.out)["userId"] == "alice"
    gateway.stop()
    assert not (gateway.data_dir / "admin.port").exists()


def test_no_database_is_reported(run: Run, tmp_path: Path) -> None:
    result = run("users", "list", "--data-dir", str(tmp_path / "nowhere"))
    assert result.code == 1
    assert "there is no database" in result.err
    assert not (tmp_path / "nowhere").exists()


def test_budgets_and_teams(users: Callable[..., Result]) -> None:
    assert json.loads(users("budgets", "alice", "--json").out) == []
    set_to = json.loads(users("set-budget", "alice", "20usd/month", "--json").out)
    assert [(row["period"], row["unit"], row["limit"], row["used"]) for row in set_to] == [
        ("month", "microUsd", 20_000_000, 0)
    ]
    assert json.loads(users("set-budget", "alice", "5000 tokens/day", "--json").out)[0]["unit"] == "tokens"
    assert users("set-team", "alice", "design").out == "alice: team design\n"
    assert json.loads(users("show", "alice", "--json").out)["team"] == "design"
    assert "20 USD a month" in users("budgets", "alice").out
    assert users("set-budget", "alice", "off").out == "alice: no budget\n"
    assert users("set-team", "alice", "none").code == 0
    assert "team" not in json.loads(users("show", "alice", "--json").out)


@pytest.mark.parametrize("said", ["20", "usd/month", "5.5tokens/day", "1e3usd/day", "20eur/month", "1usd/week"])
def test_an_amount_that_is_none_is_refused(users: Callable[..., Result], said: str) -> None:
    refused = users("set-budget", "alice", said)
    assert refused.code == 2
    assert "20usd/month" in refused.err


def test_usage_is_summed_up(users: Callable[..., Result]) -> None:
    users("set-team", "alice", "design")
    assert users("usage", "--by", "model", "--csv").out.splitlines() == [
        "model,requests,input tokens,output tokens", "echo,2,4,4", "total,2,4,4",
    ]  # fmt: skip
    by_team = json.loads(users("usage", "--by", "team", "--json").out)
    assert [(row["team"], row["requests"], row["inputTokens"]) for row in by_team] == [
        ("-", 1, 2), ("design", 1, 2), ("total", 2, 4),
    ]  # fmt: skip
    assert users("usage", "--by", "colour").code == 2
