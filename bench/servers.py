"""The servers that are measured: ours, and the peers whose sources are in bench/peers. Fetched, started, and tried.

A peer must do our job before its figures count: `try_out` refuses one that promises before the disk has it.
"""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aiohttp
import msgspec

from answerback import __version__
from answerback.client.link import Address
from answerback.protocol.codec import encode
from answerback.protocol.frames import SendMessage
from answerback_aws.emulator.emulator import free_ports
from answerback_proof.load.figures import measured_gateway
from answerback_proof.load.process import ProcessFailed, ServerProcess, Usage, start_server, usage_of
from answerback_proof.load.websocket import open_connection

PEERS = Path(__file__).parent / "peers"
CACHE = Path(__file__).parent.parent / ".cache" / "bench"
MODULES = CACHE / "node" / "node_modules"
LITELLM_PROGRAM = CACHE / "litellm" / "bin" / "litellm"

_SLOW_MS = 40
_TIME_LIMIT_S = 60.0


class WrongServer(Exception):
    """A server that does not do the job, or answers wrongly: its figures would say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a server is started. `join_ms`: words within it leave as one frame; None: as the server does by itself.

    `slow_ms`: added to every flush to disk. `model`, `database`: of our gateway alone.
    """

    word_ms: int = 0
    join_ms: int | None = None
    slow_ms: int = 0
    model: str | None = None
    database: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`command(folder, setup)` starts it, with its data in that folder. `fetched`: a program that must be there."""

    name: str
    command: Callable[[Path, Setup], Sequence[str]]
    fetched: Path | None = None
    is_durable: bool = True


def _ours(folder: Path, setup: Setup) -> Sequence[str]:
    # As many answers at a time as a storm has: the model itself is no limit.
    model = setup.model or f"echo:delay_ms={setup.word_ms}&concurrency=100000"
    command = measured_gateway(folder / "data", model=model, coalesce_ms=setup.join_ms)
    return command if setup.database is None else [*command, "--database", setup.database]


def _chat(program: str, *, is_durable: bool) -> Callable[[Path, Setup], Sequence[str]]:
    def command(folder: Path, setup: Setup) -> Sequence[str]:
        source = str(PEERS / "chat.js")
        return [program, source, str(folder) if is_durable else "-", str(setup.word_ms), str(setup.join_ms or 0)]

    return command


def _aiohttp(_: Path, setup: Setup) -> Sequence[str]:
    return [sys.executable, str(PEERS / "aiohttp_echo.py"), str(setup.word_ms)]


BUN_PROGRAM = MODULES / ".bin" / "bun"
NODE_PROGRAM = MODULES / ".bin" / "node"
OURS = Server(name="Answerback", command=_ours)
BUN = Server(name="Bun + SQLite", command=_chat(str(BUN_PROGRAM), is_durable=True), fetched=BUN_PROGRAM)
NODE = Server(name="Node + SQLite", command=_chat(str(NODE_PROGRAM), is_durable=True), fetched=NODE_PROGRAM)
BARE_BUN = Server(
    name="bare Bun echo",
    command=_chat(str(BUN_PROGRAM), is_durable=False),
    fetched=BUN_PROGRAM,
    is_durable=False,
)
BARE_AIOHTTP = Server(name="bare aiohttp echo", command=_aiohttp, is_durable=False)
LITELLM = Server(name="LiteLLM", command=lambda *_: [], fetched=LITELLM_PROGRAM, is_durable=False)


# --- fetching -----------------------------------------------------------------------------------------------


def fetch(servers: Sequence[Server]) -> list[str]:
    """Install the peers among these that are not here; the names of those that cannot be had."""
    programs = {server.fetched for server in servers if server.fetched is not None}
    if programs & {BUN_PROGRAM, NODE_PROGRAM}:
        _fetch_modules()
    if LITELLM_PROGRAM in programs:
        _fetch_litellm()
    return [server.name for server in servers if server.fetched is not None and not server.fetched.exists()]


def _fetch_modules() -> None:
    wanted = (PEERS / "package.json").read_text(encoding="utf-8")
    kept = CACHE / "node" / "package.json"
    if (kept.exists() and kept.read_text(encoding="utf-8") == wanted) or shutil.which("npm") is None:
        return
    note("fetching Node and Bun from npm (290 MB) …")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(wanted, encoding="utf-8")
    flags = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(["npm", "install", *flags], cwd=kept.parent, check=False, stdout=subprocess.DEVNULL).returncode:
        kept.unlink()


def _fetch_litellm() -> None:
    requirements = PEERS / "litellm.txt"
    stamp = CACHE / "litellm" / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == requirements.read_text(encoding="utf-8"):
        return
    note("fetching LiteLLM (530 MB) …")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(stamp.parent)], check=True)
    pip = [str(stamp.parent / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    if subprocess.run([*pip, "--requirement", str(requirements)], check=False).returncode == 0:
        shutil.copy(requirements, stamp)


def versions(servers: Sequence[Server]) -> dict[str, str]:
    """What was measured, by server."""
    modules = {name: MODULES / name / "package.json" for name in ("bun", "node", "ws")}
    found = {name: msgspec.json.decode(path.read_bytes())["version"] for name, path in modules.items() if path.exists()}
    python = f"CPython {sys.version.split()[0]}, aiohttp {aiohttp.__version__}"
    said = {
        OURS.name: f"{__version__}, {python}, SQLite {sqlite3.sqlite_version}",
        BUN.name: f"Bun {found.get('bun')}",
        NODE.name: f"Node {found.get('node')}, ws {found.get('ws')}",
        BARE_BUN.name: f"Bun {found.get('bun')}",
        BARE_AIOHTTP.name: python,
        LITELLM.name: (PEERS / "litellm.txt").read_text(encoding="utf-8").partition("litellm==")[2].split()[0],
    }
    return {server.name: said[server.name] for server in servers if server.name in said}


# --- running ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(server: Server, setup: Setup | None = None) -> AsyncIterator[ServerProcess]:
    """A fresh process with a fresh store, for the length of a block. Raises: ProcessFailed."""
    setup = setup or Setup()
    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        command = server.command(folder, setup)
        process = await start_server(command, log=folder / "log", environment=_environment(setup))
        try:
            yield process
        finally:
            await process.stop()


def _environment(setup: Setup) -> Mapping[str, str]:
    environment = dict(os.environ) | {"NODE_PATH": str(MODULES), "NODE_NO_WARNINGS": "1"}
    if setup.slow_ms:
        library = _slow_fsync()
        if library is None:
            raise ProcessFailed("a slow disk needs a C compiler (cc)")
        environment |= {"LD_PRELOAD": str(library), "SLOW_FSYNC_MS": str(setup.slow_ms)}
    return environment


def _slow_fsync() -> Path | None:
    """bench/peers/slow_fsync.c as a library; None without a compiler."""
    library, source = CACHE / "slow_fsync.so", PEERS / "slow_fsync.c"
    if (compiler := shutil.which("cc")) is None:
        return None
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        library.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


@asynccontextmanager
async def model_server(*, word_ms: int) -> AsyncIterator[str]:
    """A model server of the OpenAI protocol that answers with the question; its URL."""
    process = await start_server([sys.executable, str(PEERS / "upstream.py"), str(word_ms)])
    try:
        yield process.url.replace("ws:", "http:")
    finally:
        await process.stop()


@asynccontextmanager
async def litellm(
    upstream: str, *, config: Path = PEERS / "litellm.yaml", port: int | None = None
) -> AsyncIterator[ServerProcess]:
    """LiteLLM's proxy before a model server; its URL is of HTTP. `port` None: a free one. Raises: ProcessFailed."""
    at = str(port or free_ports(1)[0])
    words = [str(LITELLM_PROGRAM), "--config", str(config), "--host", "127.0.0.1", "--port", at]
    nowhere = asyncio.subprocess.DEVNULL
    # No key: the gateway asks for none here either. And no call of the internet at the start.
    local = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment = dict(os.environ) | local | {"UPSTREAM": f"{upstream}/v1"}
    started = await asyncio.create_subprocess_exec(*words, stdout=nowhere, stderr=nowhere, env=environment)
    process = ServerProcess(url=f"http://127.0.0.1:{at}", process=started)
    try:
        async with asyncio.timeout(_TIME_LIMIT_S), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{process.url}/health/liveliness") as response:
                        if response.ok:
                            break
                except aiohttp.ClientConnectionError:
                    if started.returncode is not None:
                        raise ProcessFailed(f"LiteLLM ended with exit code {started.returncode}") from None
                    await asyncio.sleep(0.2)
        yield process
    finally:
        await process.stop()


def usage_of_tree(pid: int) -> Usage:
    """CPU and memory of a process and all its descendants."""
    usage = usage_of(pid)
    if usage is None:
        raise ProcessFailed(f"process {pid} is gone, or this is not Linux")
    cpu_s, rss_bytes = usage.cpu_s, usage.rss_bytes
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            below = usage_of_tree(int(child))
            cpu_s, rss_bytes = cpu_s + below.cpu_s, rss_bytes + below.rss_bytes
    return Usage(cpu_s=cpu_s, rss_bytes=rss_bytes)


# --- trying out ---------------------------------------------------------------------------------------------


async def try_out(server: Server) -> None:
    """See that a server does the whole job. Raises: WrongServer: it does not.

    On a disk that is slow on purpose, the acceptance may come after one flush and the ending after a second. Then the
    process is killed, and question and answer must stand in its file. A bare echo is tried for its frames alone.
    """
    slow_ms = _SLOW_MS if server.is_durable and _slow_fsync() is not None else 0
    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        setup = Setup(slow_ms=slow_ms)
        process = await start_server(server.command(folder, setup), log=folder / "log", environment=_environment(setup))
        try:
            for stream in (False, True):
                question = f"Question {uuid4()} has five words"
                frames = await _ask(process.url, question, stream=stream)
                _check_frames(server.name, frames, question, stream=stream, slow_s=slow_ms / 1000)
        finally:
            process.process.kill()
            await process.process.wait()
        if server.is_durable and (kept := _copies(folder, question)) < 2:
            raise WrongServer(f"{server.name}: of a question and its answer {kept} are on disk after its end")


async def _ask(url: str, question: str, *, stream: bool) -> list[tuple[float, dict[str, object]]]:
    """Ask once: seconds since the question, and frame."""
    ended = asyncio.Event()
    frames: list[tuple[float, dict[str, object]]] = []
    connection = await open_connection(Address(url=url, session="try-out", user="try-out").uri(with_user=True))

    def take(text: bytes) -> None:
        frames.append((time.perf_counter() - asked, msgspec.json.decode(text)))
        if frames[-1][1].get("action") == "messageResponse":
            ended.set()

    connection.on_text = take
    asked = time.perf_counter()
    try:
        connection.send(encode(SendMessage(request_id=str(uuid4()), message=question, stream=stream)))
        async with asyncio.timeout(_TIME_LIMIT_S):
            await ended.wait()
    except TimeoutError:
        raise WrongServer(f"no ending came, but {frames}") from None
    finally:
        connection.close()
    return frames


_FIELDS: Mapping[str, set[str]] = {
    "messageAccepted": {"conversationId", "position"},
    "messageStarted": {"attempt"},
    "messageDelta": {"attempt", "offset", "delta"},
    "messageResponse": {"status", "response", "attempt", "length", "finishReason", "usage", "model"},
}


def _check_frames(
    name: str, frames: list[tuple[float, dict[str, object]]], question: str, *, stream: bool, slow_s: float
) -> None:
    actions = [frame["action"] for _, frame in frames]
    deltas = [str(frame["delta"]) for _, frame in frames if frame["action"] == "messageDelta"]
    wanted = ["messageAccepted", *(["messageStarted", *["messageDelta"] * len(deltas)] if stream else [])]
    if actions != [*wanted, "messageResponse"]:
        raise WrongServer(f"{name} sent {actions}")
    for _, frame in frames:
        if missing := _FIELDS[str(frame["action"])] - frame.keys():
            raise WrongServer(f"{name}: {frame['action']} has no {missing}")
    if ("".join(deltas) if stream else frames[-1][1]["response"]) != question:
        raise WrongServer(f"{name} answered with another text: {frames}")
    if frames[0][0] < slow_s:
        raise WrongServer(f"{name} accepted a question before it was on disk")
    if frames[-1][0] < 2 * slow_s:
        raise WrongServer(f"{name} sent an ending before it was on disk")


def _copies(folder: Path, text: str) -> int:
    """How often a text stands in the SQLite files of a folder."""
    count = 0
    for path in folder.rglob("*"):
        if path.suffix not in {".db", ".sqlite", ".sqlite3"}:
            continue
        with closing(sqlite3.connect(path)) as database:
            names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = (row for table in names for row in database.execute(f'SELECT * FROM "{table}"'))
            count += sum(text in str(value) for row in rows for value in row)
    return count


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
