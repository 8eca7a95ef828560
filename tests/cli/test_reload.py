"""Files that change under a running gateway: SIGHUP and `answerback reload`, from a service and from a terminal."""

import json
import os
import pty
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.sync.client import ClientConnection, connect

from answerback.auth import make_token
from cli_process import STOP_TIMEOUT_S, GatewayProcess, Run, Serve

pytestmark = pytest.mark.process

OLD, NEW = "the old secret of thirty-two bytes", "the new secret of thirty-two bytes"


def by_signal(gateway: GatewayProcess, run: Run) -> None:
    lines = gateway.log.read_text().count("read again:")
    gateway.process.send_signal(signal.SIGHUP)
    while gateway.log.read_text().count("read again:") == lines:
        assert gateway.process.poll() is None


def by_command(gateway: GatewayProcess, run: Run) -> None:
    run("reload", "--data-dir", str(gateway.data_dir))


@pytest.fixture(params=[by_signal, by_command])
def reload(request: pytest.FixtureRequest, run: Run) -> Callable[[GatewayProcess], None]:
    return lambda gateway: request.param(gateway, run)


def write_certificate(cert: Path, key: Path) -> bytes:
    """A new pair of files; the certificate in DER."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(pem, form, serialization.NoEncryption()))
    return made.public_bytes(serialization.Encoding.DER)


def shown_certificate(gateway: GatewayProcess, *, name: str | None) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = int(gateway.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=name) as safe,
    ):
        return safe.getpeercert(binary_form=True)


def answers(app: ClientConnection, request_id: str) -> bool:
    app.send(json.dumps({"action": "sendMessage", "requestId": request_id, "message": "hello there"}))
    while (frame := json.loads(app.recv(timeout=30)))["action"] != "messageResponse":
        pass
    return bool(frame["status"] == "completed")


def let_in(gateway: GatewayProcess, secret: str) -> bool:
    headers = {"Authorization": f"Bearer {make_token('ann', secret=secret, ttl_s=3600)}"}
    try:
        with connect(gateway.url, additional_headers=headers, proxy=None):
            return True
    except websockets.InvalidStatus as refused:
        assert refused.response.status_code == 401
        return False


def test_a_renewed_certificate_is_shown_and_a_wrong_one_is_not(
    serve: Serve, tmp_path: Path, reload: Callable[[GatewayProcess], None]
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    old = write_certificate(cert, key)
    gateway = serve("--tls-cert", str(cert), "--tls-key", str(key))
    trusting = ssl.create_default_context(cafile=str(cert))
    with connect(gateway.url, ssl=trusting, proxy=None) as app:
        assert shown_certificate(gateway, name=None) == shown_certificate(gateway, name="any.example") == old
        cert.write_text("half a certificate")
        reload(gateway)
        assert shown_certificate(gateway, name=None) == old
        new = write_certificate(cert, key)
        write_certificate(tmp_path / "other.pem", key)
        reload(gateway)
        assert shown_certificate(gateway, name=None) == old, "a key of another certificate"
        new = write_certificate(cert, key)
        reload(gateway)
        assert shown_certificate(gateway, name=None) == shown_certificate(gateway, name="any.example") == new
        assert answers(app, "r1"), "the socket from before the renewal is open"


def test_a_new_secret_counts_and_a_short_one_does_not(
    serve: Serve, tmp_path: Path, reload: Callable[[GatewayProcess], None]
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(OLD)
    secret.chmod(0o600)
    gateway = serve("--auth-secret-file", str(secret))
    assert (let_in(gateway, OLD), let_in(gateway, NEW)) == (True, False)
    secret.write_text("short")
    reload(gateway)
    assert (let_in(gateway, OLD), let_in(gateway, NEW)) == (True, False)
    secret.write_text(NEW)
    reload(gateway)
    assert (let_in(gateway, OLD), let_in(gateway, NEW)) == (False, True)
    assert OLD not in gateway.log.read_text()
    assert NEW not in gateway.log.read_text()


def test_the_log_level_counts_and_what_needs_a_restart_is_named(serve: Serve, tmp_path: Path, run: Run) -> None:
    config = tmp_path / "answerback.toml"
    config.write_text('log_level = "info"\nrate_limit = 5\n')
    gateway = serve("--config", str(config))
    config.write_text('log_level = "debug"\nrate_limit = 6\n')
    by_signal(gateway, run)
    with connect(gateway.url, proxy=None):
        pass
    assert "need a restart: rate_limit\n" in gateway.log.read_text()
    config.write_text("log_level = 7\n")
    result = run("reload", "--data-dir", str(gateway.data_dir), "--json")
    assert result.code == 1
    assert "log_level" in json.loads(result.out)["kept"][0]
    assert gateway.stop() == 0
    assert " DEBUG " in gateway.log.read_text()


def test_tokens_cannot_be_turned_on_or_off_by_a_reload(serve: Serve, tmp_path: Path, run: Run) -> None:
    secret, config = tmp_path / "secret.txt", tmp_path / "answerback.toml"
    secret.write_text(OLD)
    secret.chmod(0o600)
    naming = f'auth_secret_file = "{secret}"\n'
    for before, after, is_open in (("", naming, True), (naming, "", False)):
        config.write_text(before)
        gateway = serve("--config", str(config))
        config.write_text(after)
        result = run("reload", "--data-dir", str(gateway.data_dir), "--json")
        assert json.loads(result.out)["restart"] == ["auth_secret", "auth_secret_file"]
        assert (
            "needs a restart: auth_secret, auth_secret_file" in run("reload", "--data-dir", str(gateway.data_dir)).err
        )
        by_signal(gateway, run)
        assert "need a restart: auth_secret, auth_secret_file\n" in gateway.log.read_text()
        assert let_in(gateway, OLD), "as before"
        assert let_in(gateway, NEW) == is_open
        assert gateway.stop() == 0


def test_a_secret_in_another_file_counts(serve: Serve, tmp_path: Path, run: Run) -> None:
    for name, text in (("old", OLD), ("new", NEW)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    config = tmp_path / "answerback.toml"
    config.write_text(f'auth_secret_file = "{tmp_path / "old"}"\n')
    gateway = serve("--config", str(config))
    config.write_text(f'auth_secret_file = "{tmp_path / "new"}"\n')
    result = run("reload", "--data-dir", str(gateway.data_dir), "--json")
    assert json.loads(result.out)["restart"] == []
    assert (let_in(gateway, OLD), let_in(gateway, NEW)) == (False, True)


@contextmanager
def hangups(kept: signal.Handlers) -> Iterator[None]:
    """What is started in here inherits this; these tests themselves may have been started with nohup."""
    before = signal.signal(signal.SIGHUP, kept)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_stops_gracefully(serve: Serve) -> None:
    keyboard, terminal = pty.openpty()
    with hangups(signal.SIG_DFL):
        gateway = serve(terminal=terminal)
    os.close(terminal)
    with connect(gateway.url, proxy=None) as app:
        assert answers(app, "r1")
        os.close(keyboard)
        with pytest.raises(websockets.ConnectionClosedOK):
            app.recv(timeout=30)
        assert app.close_code == 1001
    assert gateway.process.wait(STOP_TIMEOUT_S) == 0
    assert not (gateway.data_dir / "admin.port").exists()


def test_nohup_outlives_its_terminal(serve: Serve) -> None:
    keyboard, terminal = pty.openpty()
    with hangups(signal.SIG_IGN):
        gateway = serve(terminal=terminal)
    os.close(terminal)
    os.close(keyboard)
    with connect(gateway.url, proxy=None) as app:
        assert answers(app, "r1")
    assert gateway.stop() == 0
