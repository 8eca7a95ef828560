"""The AWS emulator as a child process: started on a free port and stopped without leaving anything.

It runs `launch.py` on the interpreter of an environment of its own (requirements/emulator.txt), because the emulator
pins botocore exactly. What it emulates, and what not, stands in `launch.py`.
"""

import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any, Final

from answerback.outbound import fetch
from answerback_aws.emulator.patches.sockets import Limits

REGION: Final = "us-east-1"
CREDENTIALS: Final = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}

_LAUNCHER: Final = Path(__file__).with_name("launch.py")
_START_S: Final = 60.0
_POLL_EVERY_S: Final = 0.05
_TRIES: Final = 3  # another process may take the free port before the emulator does
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
_INSTALL_S: Final = 900
_SHOWN_LINES: Final = 5
_PAUSED: Final = "database-paused"


class EmulatorFailed(Exception):
    """The emulator did not start, or ended by itself; the text says why and where its log is."""


class Emulator:
    """One emulator on 127.0.0.1, as a context manager.

    Args:
        python: interpreter of the emulator's environment.
        folder: where its log is kept; its temporary files are in a folder of their own, which is deleted.
        postgres: libpq connection string of a running PostgreSQL for the RDS Data API; None: a stub that runs no SQL.
        bedrock_url: an HTTP server that speaks Bedrock's ConverseStream; None: a one-line mock.
        auth: whether IAM is enforced.
        environment: more variables for the functions, such as AWS_ENDPOINT_URL_RDS_DATA.
        transaction_idle_s: when the Data API ends a transaction that is not used (AWS: 180).
        port: 0: a free one.
        limits: of API Gateway, where they are other than AWS has them.
    """

    def __init__(
        self,
        *,
        python: Path,
        folder: Path,
        postgres: str | None = None,
        bedrock_url: str | None = None,
        auth: bool = False,
        environment: Mapping[str, str] | None = None,
        transaction_idle_s: float = 180,
        port: int = 0,
        **limits: Any,
    ) -> None:
        self._python = python
        self.log_path = folder / "emulator.log"
        self._auth = auth
        self._environment = dict(environment or {})
        self._secret = secrets.token_hex(16)  # what only its own process answers to
        self._options = {
            "secret": self._secret,
            "postgres": postgres,
            "bedrock_url": bedrock_url,
            "transaction_idle_s": transaction_idle_s,
            "limits": asdict(Limits(**limits)),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: Path | None = None
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._making_client = threading.Lock()
        self._wanted_port = port
        self.port = 0

    @property
    def endpoint(self) -> str:
        """The URL of every service, `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process; the functions' processes are its children."""
        if self._process is None:
            raise EmulatorFailed("the emulator is not running")
        return self._process.pid

    def management_endpoint(self, api_id: str, stage: str) -> str:
        """Where frames are posted to connections: the parameter ManagementEndpoint of the template."""
        return f"{self.endpoint}/_aws/execute-api/{api_id}/{stage}"

    def websocket_url(self, api_id: str, stage: str) -> str:
        return f"ws://127.0.0.1:{self.port}/_aws/execute-api/{api_id}/{stage}"

    def client(self, service: str, **options: Any) -> Any:
        """A boto3 client of the account's owner; `options` are boto3's and win. Without them all callers share one."""
        if (is_shared := not options) and service in self._clients:
            return self._clients[service]
        direct = import_module("botocore.config").Config(proxies={})  # it is on this machine
        config = direct.merge(options.pop("config")) if "config" in options else direct
        ours = {"endpoint_url": self.endpoint, "region_name": REGION, **CREDENTIALS, "config": config}
        with self._making_client:
            if self._session is None:  # kept: it has read what describes the services, which takes 100 ms
                self._session = import_module("boto3.session").Session()
            client = self._session.client(service, **ours | options)
        if is_shared:
            self._clients[service] = client
        return client

    def start(self) -> None:
        """Start it and wait until it answers. Raises: EmulatorFailed."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_TRIES):
            try:
                self._start_once()
            except EmulatorFailed as exc:
                self.stop()
                if "already in use" not in self.log():
                    raise
                if self._wanted_port:
                    raise EmulatorFailed(f"port {self._wanted_port} is in use") from exc
                if attempt + 1 == _TRIES:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return

    def pause_database(self) -> None:
        """From now on the Data API answers as an Aurora at 0 ACU that is waking up, until `resume_database`."""
        self._paused.touch()

    def resume_database(self) -> None:
        self._paused.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop it and every process that it started; doing it again does nothing."""
        process, self._process = self._process, None
        self._clients.clear()
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # the functions' processes with it; all that it holds is memory
            except ProcessLookupError:
                pass
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def __enter__(self) -> "Emulator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _paused(self) -> Path:
        if self._temporary is None:
            raise EmulatorFailed("the emulator is not running")
        return self._temporary / _PAUSED

    def _start_once(self) -> None:
        self.port = self._wanted_port or free_ports(1)[0]
        self._temporary = Path(tempfile.mkdtemp(prefix="answerback-emulator-"))
        with self.log_path.open("wb") as log:
            self._process = self._popen(log)
        give_up_at = time.monotonic() + _START_S
        while not self._answers():
            code = self._process.poll()
            if code is not None:
                raise EmulatorFailed(f"the emulator ended with exit code {code}; see {self.log_path}\n{self._tail()}")
            if time.monotonic() > give_up_at:
                raise EmulatorFailed(f"the emulator did not answer within {_START_S:.0f} s; see {self.log_path}")
            time.sleep(_POLL_EVERY_S)

    def _popen(self, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        # Its standard input is a pipe that nobody writes to: when this process dies, it closes, and the launcher ends.
        return subprocess.Popen(  # noqa: S603 - our launcher, on an interpreter that the caller names
            [str(self._python), "-P", str(_LAUNCHER)],
            env=self._variables(),
            cwd=self._temporary,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _variables(self) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "TMPDIR": str(self._temporary),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "MINISTACK_HOST": "localhost",
            "LAMBDA_EXECUTOR": "local",
            "DOCKER_HOST": "unix:///nonexistent.sock",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "AWS_ACCESS_KEY_ID": CREDENTIALS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": REGION,
            "AUTH": "true" if self._auth else "false",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_PROXY": "*",
            "EMULATED": json.dumps(self._options),
            **self._environment,
        }

    def _answers(self) -> bool:
        """Whether it is this emulator that answers: another program may hold the port, or another emulator."""
        try:
            return fetch(f"{self.endpoint}/{self._secret}", timeout_s=1, max_bytes=1 << 20)[0] == 204
        except OSError:
            return False

    def _tail(self) -> str:
        return "\n".join(self.log().splitlines()[-15:])


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class LocalFailed(Exception):
    """`message` says what is wrong, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message} — {self.hint}" if self.hint else self.message


def emulator_python(cache: Path, say: Callable[[str], None], *, pins: Traversable | None = None) -> Path:
    """The interpreter of the emulator's environment, in a folder of `cache` that is named by what it holds.

    The first time it installs what `pins` names: by default 220 MB, about a minute and a half. Raises: LocalFailed.
    """
    pins = pins or resources.files("answerback_aws") / "requirements" / "emulator.txt"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    name = hashlib.sha256(f"{version} {sys.executable} ".encode() + pins.read_bytes()).hexdigest()[:16]
    folder = cache / "emulator" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)  # of an installation that was interrupted
    say("Installing the AWS emulator, once (220 MB, about a minute)")
    _install([sys.executable, "-m", "venv", str(folder)], "make an environment for the emulator")
    with resources.as_file(pins) as path:
        options = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(path)]
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        _install([*pip, *options], "install the emulator")
    stamp.touch()
    return python


def _install(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=_INSTALL_S,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LocalFailed(
            f"cannot {what}: {type(exc).__name__}", "check the network and the disk, and try again"
        ) from exc
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-_SHOWN_LINES:])
        hint = "check the network, and that Python has venv and pip (Debian: apt-get install python3-venv)"
        raise LocalFailed(f"cannot {what}:\n{said}", hint)
