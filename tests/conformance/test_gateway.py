"""The gateway passes every case, each on a server that has what the case needs; and the command that says so."""

import json
from pathlib import Path
from typing import Any

import pytest

from answerback_proof.conformance import load_cases, load_models
from cli_process import GatewayProcess, Run, start_gateway

SECRET = "a secret of the conformance tests, long enough"

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


def report(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run("conform", "--json", *arguments)
    return done.code, json.loads(done.out)


def of(found: dict[str, Any], status: str) -> dict[str, str]:
    return {case["case"]: case["why"] for case in found["cases"] if case["verdict"] == status}


def test_every_case_passes_on_one_gateway_or_another(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    gateway: GatewayProcess,
    gateway_with_tokens: GatewayProcess,
    gateway_with_small_limits: GatewayProcess,
    gateway_with_a_budget: GatewayProcess,
) -> None:
    monkeypatch.setenv("ANSWERBACK_AUTH_SECRET", SECRET)
    token = run("token", "--user", "conform").out.strip()
    passed: set[str] = set()
    for arguments in (
        (gateway.url,),
        (gateway_with_tokens.url, "--token", token, "--case", "11-tokens", "--case", "06-resuming"),
        (gateway_with_small_limits.url, "--case", "12-limits"),
        (gateway_with_a_budget.url, "--token", token, "--case", "14-budgets"),
    ):
        code, found = report(run, *arguments)
        assert of(found, "failed") == {}
        assert code == 0
        passed |= set(of(found, "passed"))
    assert passed == {case.name for case in load_cases("server") if case.case.needs.deployment != "aws"}


def test_what_is_skipped_is_reported_and_strict_makes_it_a_failure(run: Run, gateway: GatewayProcess) -> None:
    done = run("conform", gateway.url, "--case", "11-tokens")
    assert done.code == 0
    assert done.out == "1 passed, 0 failed, 7 skipped\n"
    assert "7 skipped: needs a server that asks for tokens" in done.err
    assert run("conform", gateway.url, "--case", "11-tokens", "--strict").code == 1
    assert run("conform", gateway.url, "--case", "11-tokens/no token").code == 1, "nothing was tried at all"


def test_models_that_are_missing_are_named_and_the_command_that_has_them(run: Run, tmp_path: Path) -> None:
    plain = start_gateway("--rate-limit", "0", data_dir=tmp_path / "data", log=tmp_path / "log")
    with plain.process:
        done = run("conform", plain.url, "--case", "08-ordering", "--case", "hello is answered", "--verbose")
        plain.stop()
    assert done.out.splitlines()[0] == "ok    01-connecting/hello is answered by welcome  (PROTOCOL.md 3.2)"
    assert "skipped: needs the model stuck" in done.err
    assert "answerback serve --rate-limit 0 --model echo" in done.err
    assert all(need.spec in done.err for need in load_models().values())


def test_a_rate_limit_is_reported_clearly(run: Run, serve: Any) -> None:
    done = run("conform", serve("--rate-limit", "1").url, "--case", "02-asking/many in flight")
    assert done.code == 5
    assert "--rate-limit 0" in done.err
    assert "the server limited the rate: start it with --rate-limit 0" in done.out


def test_no_server(run: Run) -> None:
    done = run("conform", "ws://127.0.0.1:9")
    assert done.code == 3
    assert "is the server running?" in done.err


def test_a_token_that_is_missing(run: Run, gateway_with_tokens: GatewayProcess) -> None:
    done = run("conform", gateway_with_tokens.url)
    assert done.code == 3
    assert "--token" in done.err


@pytest.mark.parametrize("arguments", [(), ("http://127.0.0.1:1",), ("ws://127.0.0.1:9", "--case", "no such case")])
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("conform", *arguments).code == 2


def test_the_cases_are_listed(run: Run) -> None:
    names = run("conform", "--list").out.splitlines()
    assert names == [case.name for case in load_cases("server")]
    listed = json.loads(run("conform", "--list", "--json", "--case", "05-*").out)
    assert {entry["case"].partition("/")[0] for entry in listed} == {"05-cancelling"}
