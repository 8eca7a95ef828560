"""What operators and scripts rely on is as it was in ff0d8e5: flags, settings, exit codes, JSON, metrics, log keys."""

import asyncio
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from websockets.asyncio.client import connect

from answerback import Client
from answerback.client import AnswerbackError
from cli_process import GatewayProcess
from kept import assert_kept, command, kept

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

SECRET = "a secret of thirty-two characters"


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


# --- what can be said to a command


def test_every_command_takes_the_arguments_and_flags_it_took() -> None:
    assert_kept("help.json", dict(sorted(commands(()))))


def commands(path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every command under one, itself first, and what its help says."""
    text = command(*path, "--help").out
    yield " ".join(path), usage(text)
    for name in re.findall(r"^  ([\w-]+)  ", text.partition("\nCommands:\n")[2].split("\n\n")[0], re.MULTILINE):
        yield from commands((*path, name))


def usage(text: str) -> dict[str, Any]:
    """The usage line, and every flag with what it takes, its variable and its default."""
    flags = {}
    for entry in re.split(r"\n(?=  -)", text.partition("\nOptions:\n")[2].split("\n\n")[0]):
        name = re.split(r"  |\n", entry.strip())[0]
        words = " ".join(entry.split())
        variable, default = re.search(r"env var: (\w+)", words), re.search(r"\bdefault: ([^;\]]+)", words)
        said = {"variable": variable, "default": default}
        flags[name] = {what: found[1] for what, found in said.items() if found is not None}
    line = text.partition("Usage: ")[2].split("\n\n")[0]
    return {"usage": " ".join(line.split()), "flags": dict(sorted(flags.items()))}


def test_every_setting_has_its_flag_its_variable_and_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples: dict[str, list[str]] = kept("settings.json")["samples"]
    flags = [text for key, values in samples.items() for text in flags_of(key, values)]
    by_flag = shown(*flags)
    assert {*by_flag, "auth_secret"} == set(samples)  # which is shown nowhere
    assert_kept("settings.json", {"samples": samples, "shown": by_flag})
    for key, values in samples.items():
        monkeypatch.setenv(f"ANSWERBACK_{key.upper()}", " ".join(values))
    assert shown() == by_flag
    for key in samples:
        monkeypatch.delenv(f"ANSWERBACK_{key.upper()}")
    file = tmp_path / "answerback.toml"
    file.write_text(command("serve", "--show-config", *flags).out)
    lines = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("auth_secret ="))
    file.write_text(f'{lines}\nauth_secret = "{samples["auth_secret"][0]}"\n')
    assert shown("--config", str(file)) == by_flag


def test_every_setting_has_the_default_it_had() -> None:
    defaults = shown()
    defaults["data_dir"] = "of the platform"
    assert_kept("defaults.json", defaults)


def flags_of(key: str, values: list[str]) -> Iterator[str]:
    flag = f"--{key.replace('_', '-')}"
    if values == ["true"]:
        yield flag
        return
    for value in values:
        yield from (flag, value)


def shown(*arguments: str) -> dict[str, Any]:
    """What the settings are."""
    done = command("serve", "--show-config", *arguments)
    assert done.code == 0, done.err
    return tomllib.loads(done.out)


def test_exit_codes_are_what_they_were(
    copied_sqlite: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWERBACK_DATA_DIR", str(tmp_path / "own"))  # not the one of whoever runs the tests
    (tmp_path / "broken.toml").write_text("no toml")
    nobody = "ws://127.0.0.1:9"
    found = {
        " ".join(arguments): command(*(one.replace("FOLDER", str(tmp_path)) for one in arguments)).code
        for arguments in (
            ("--version",),
            ("--help",),
            (),
            ("no-such-command",),
            ("ask", "--no-such-flag"),
            ("ask", "--url", nobody, "Hello?"),
            ("ask", "--url", "http://example", "Hello?"),
            ("chat", "--url", nobody),
            ("conform", nobody),
            ("conform", nobody, "--case", "no such case"),
            ("token",),
            ("token", "--user", "kim"),
            ("serve", "--port", "99999"),
            ("serve", "--host", "0.0.0.0"),
            ("serve", "--config", "FOLDER/broken.toml"),
            ("serve", "--model", "no-such-kind"),
            ("serve", "--database", "postgresql:///x?host=/nowhere", "--model", "echo"),
            ("users", "list", "--data-dir", "FOLDER"),
            ("users", "list", "--data-dir", "FOLDER/nothing-here"),
            ("users", "show", "nobody", "--data-dir", "FOLDER"),
            ("users", "show", "ann", "--data-dir", "FOLDER"),
            ("users", "delete", "ann", "--data-dir", "FOLDER"),
            ("users", "list", "--region", "us-east-1"),
            ("simulate", "--profile", "no-such-profile"),
        )
    }
    assert_kept("exit-codes.json", found)


# --- what they print


def test_json_has_the_form_it_had(
    copied_sqlite: tuple[str, ...], serve: Callable[..., GatewayProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWERBACK_AUTH_SECRET", SECRET)
    found: dict[str, Any] = {}

    def say(name: str, *arguments: str) -> None:
        done = command(*arguments, "--json")
        found[name] = {"exit code": done.code, "form": form(json.loads(done.out))}

    say("users list", "users", "list", *copied_sqlite)
    say("users show", "users", "show", "mina", *copied_sqlite)
    say("users usage", "users", "usage", *copied_sqlite)
    say("users set-limit", "users", "set-limit", "ann", "5", *copied_sqlite)
    say("users delete", "users", "delete", "omar", "--yes", *copied_sqlite)
    say("token", "token", "--user", "kim")
    say("conform --list", "conform", "--list")
    say("simulate", "simulate", "--profile", "calm", "--seed", "1", "--storm", "1", "--jobs", "1")
    for counted in ("faults", "endings"):  # by name, what happened in this run
        found["simulate"]["form"]["profiles"][0][counted] = "counts"
    monkeypatch.delenv("ANSWERBACK_AUTH_SECRET")
    gateway = serve()
    say("ask", "ask", "--url", gateway.url, "Hello?")
    say("ask, refused", "ask", "--url", gateway.url, "Hello?", "--model", "no-such-model")
    say("ask, failed", "ask", "--url", gateway.url, "Hello?", "--model", "throttled")
    say("ask, nobody there", "ask", "--url", "ws://127.0.0.1:9", "Hello?")
    say("conform", "conform", gateway.url, "--case", "ping is answered")
    say("doctor", "doctor", "--url", gateway.url)
    found["doctor"]["form"]["checks"] = sorted(found["doctor"]["form"]["checks"][0])  # what they find is the machine's
    say("bench", "bench", "--url", gateway.url, "--apps", "1", "--requests", "1")
    say("cost", "cost")
    assert_kept("json.json", found)


def form(value: Any) -> Any:
    """The keys, and the kinds of the values; of a list each kind of item once."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    if isinstance(value, dict):
        return {key: form(part) for key, part in value.items()}
    if isinstance(value, list):
        forms = [form(part) for part in value]
        return [one for number, one in enumerate(forms) if one not in forms[:number]]
    return "null" if value is None else type(value).__name__


# --- what a gateway shows of itself


async def test_metrics_logs_and_the_admin_port_are_what_they_were(serve: Callable[..., GatewayProcess]) -> None:
    gateway = serve("--log-format", "json", "--log-level", "debug")
    async with asyncio.timeout(30):
        await use(gateway.url)
    admin = {
        name: await asyncio.to_thread(admin_form, gateway, name) for name in ("healthz", "requests", "users", "usage")
    }
    erase = ("users", "delete", "ann", "--yes", "--json", "--data-dir", str(gateway.data_dir))
    done = await asyncio.to_thread(command, *erase, "--admin-port", admin_port(gateway))
    assert done.code == 0, done.err
    metrics = await asyncio.to_thread(admin_text, gateway, "metrics")
    assert gateway.stop() == 0
    logged: dict[str, set[str]] = {}
    for line in map(json.loads, gateway.log.read_text(encoding="utf-8").splitlines()):
        for key, value in line.items():
            logged.setdefault(key, set()).add(form(value))
    assert_kept(
        "observed.json",
        {
            "metrics": metrics_of(metrics),
            "log keys": {key: sorted(kinds) for key, kinds in sorted(logged.items())},
            "admin port": admin,
        },
    )


async def use(url: str) -> None:
    """Something of everything that a gateway counts and logs."""
    async with Client(url, user="ann", session="desk") as app:
        await app.ask("Hello?", conversation="c")
        async for _ in app.stream("How are you?", conversation="c"):
            pass
        for model in ("broken", "throttled", "no-such-model"):
            with pytest.raises(AnswerbackError):
                await app.ask("Hello?", model=model)
        stuck = app.stream("Hello?", model="stuck")
        async for _ in stuck.events():
            break
        stuck.cancel()
        with pytest.raises(AnswerbackError):
            await stuck.answer
    async with connect(f"{url}/?userId=ann&sessionId=desk", proxy=None) as socket:
        await socket.send("no frame")
        await socket.recv()
        await socket.send(json.dumps({"action": "sendMessage", "requestId": "left", "message": "?", "model": "stuck"}))
        await socket.recv()
        async with connect(f"{url}/?userId=ann&sessionId=desk", proxy=None) as other:
            await other.send(json.dumps({"action": "hello", "helloId": "h"}))
            await other.recv()
            await socket.wait_closed()


def admin_text(gateway: GatewayProcess, path: str) -> str:
    key = (gateway.data_dir / "admin.key").read_text().strip()
    request = Request(f"http://127.0.0.1:{admin_port(gateway)}/{path}", headers={"Authorization": f"Bearer {key}"})
    with urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def admin_port(gateway: GatewayProcess) -> str:
    return (gateway.data_dir / "admin.port").read_text().strip()


def admin_form(gateway: GatewayProcess, path: str) -> Any:
    return form(json.loads(admin_text(gateway, path)))


def metrics_of(text: str) -> dict[str, Any]:
    """Each metric with its type, and the labels of its samples."""
    found: dict[str, Any] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        samples = re.findall(rf"^({name}(?:_\w+)?)(?:{{(.*)}})? ", text, re.MULTILINE)
        labels = {sample: sorted(re.findall(r'(\w+)="', inside)) for sample, inside in samples}
        if name.startswith("answerback"):
            found[name] = {"type": kind, "samples": labels}
    return found
