"""Each check of `keytrail doctor` on something that is well, and on something that is not; and the systemd unit."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
from cryptography import x509

from proxy import authority, doctor
from proxy.cli import app
from proxy.doctor import CHECKS, Check, Surroundings, Verdict
from proxy.host import write_ca
from proxy.settings import Settings
from tests.docs.repository import ROOT
from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.ports import free_ports

KMS = "kms.us-east-1.amazonaws.com"
NOW_S = datetime.now(UTC).timestamp()


def look(check: str, environment: dict[str, str] | None = None, now_s: float | None = None, **settings: Any) -> Check:
    """What the check of that name finds."""
    (found,) = (function for name, function in CHECKS if name == check)
    around = Surroundings(Settings(**settings), environment or {}, lambda: NOW_S if now_s is None else now_s)
    return Check(check, *found(around))


# --- the host


def test_the_data_folder(tmp_path: Path) -> None:
    assert look("data folder", data=tmp_path).verdict is Verdict.FAILED
    (tmp_path / "keytrail.json").touch()
    assert look("data folder", data=tmp_path).verdict is Verdict.OK


def test_a_data_folder_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keytrail.json").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root, who runs tests too, may write everywhere
    found = look("data folder", data=tmp_path)
    assert found.verdict is Verdict.FAILED and str(tmp_path) in found.seen


def test_secrets_that_others_may_read(tmp_path: Path) -> None:
    for name in ("master.key", "credentials"):
        (tmp_path / name).touch(0o600)
    assert look("secrets", data=tmp_path).verdict is Verdict.OK
    (tmp_path / "credentials").chmod(0o640)
    found = look("secrets", data=tmp_path)
    assert found.verdict is Verdict.FAILED and "credentials" in found.seen and "master.key" not in found.seen


@pytest.mark.parametrize(
    ("total", "free", "verdict"),
    [(100 << 30, 50 << 30, Verdict.OK), (100 << 30, 2 << 30, Verdict.WARNING), (2 << 30, 1 << 20, Verdict.FAILED)],
)
def test_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, verdict: Verdict) -> None:
    usage = SimpleNamespace(total=total, used=total - free, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert look("free disk", data=tmp_path).verdict is verdict


@pytest.fixture
def admin() -> Iterator[tuple[int, dict[str, Any]]]:
    """The admin listener: its port, and what it answers."""
    says: dict[str, Any] = {"status": 200, "date": datetime.fromtimestamp(NOW_S, UTC)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(says["status"])
            self.send_header("Date", format_datetime(says["date"], usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, says
        server.shutdown()
        thread.join()


def test_the_health(admin: tuple[int, dict[str, Any]]) -> None:
    port, says = admin
    assert look("health", admin_listen=f"127.0.0.1:{port}").verdict is Verdict.OK
    says["status"] = 503
    assert look("health", admin_listen=f"127.0.0.1:{port}").verdict is Verdict.FAILED
    assert look("health", admin_listen=f"127.0.0.1:{free_ports(1)[0]}").verdict is Verdict.FAILED


@pytest.mark.parametrize(("off_s", "verdict"), [(0, Verdict.OK), (120, Verdict.WARNING), (-400, Verdict.FAILED)])
def test_the_clock(admin: tuple[int, dict[str, Any]], off_s: int, verdict: Verdict) -> None:
    port, _ = admin
    assert look("clock", now_s=NOW_S + off_s, admin_listen=f"127.0.0.1:{port}").verdict is verdict
    environment = {"AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:{port}"}
    assert look("clock", environment, now_s=NOW_S + off_s).verdict is verdict


def test_a_resolver_that_leads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    aws: dict[str, Any] = {
        "backend": "aws",
        "aws_signing": "pass-through",
        "tls_listen": "0.0.0.0:443",
        "tls_certificate": "x",
        "tls_key": "y",
    }
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 443))])
    found = look("upstream's name", **aws)
    assert found.verdict is Verdict.FAILED and "aws_nameservers" in found.advice
    assert look("upstream's name", **aws, aws_hosts=f"{KMS}=192.0.2.1").verdict is Verdict.OK
    assert look("upstream's name", **aws, aws_nameservers="192.0.2.1").verdict is Verdict.OK
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("192.0.2.1", 443))])
    assert look("upstream's name", **{**aws, "tls_listen": "127.0.0.1:443"}).verdict is Verdict.OK
    assert look("upstream's name").verdict is Verdict.SKIPPED


# --- certificates


def test_the_ca(tmp_path: Path) -> None:
    assert look("CA", data=tmp_path).verdict is Verdict.SKIPPED
    assert look("CA", data=tmp_path, forward_listen="127.0.0.1:1").verdict is Verdict.FAILED
    write_ca(tmp_path / "ca" / "ca.pem", tmp_path / "ca" / "ca.key", days=60)
    assert look("CA", data=tmp_path, forward_listen="127.0.0.1:1").verdict is Verdict.OK
    later: dict[str, Any] = {"data": tmp_path, "forward_listen": "127.0.0.1:1"}
    assert look("CA", now_s=NOW_S + 40 * 86_400, **later).verdict is Verdict.WARNING
    assert look("CA", now_s=NOW_S + 61 * 86_400, **later).verdict is Verdict.FAILED
    assert look("CA", now_s=NOW_S - 86_400, **later).verdict is Verdict.FAILED


def test_a_ca_from_before_sts_was_intercepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kms_alone = x509.NameConstraints([x509.DNSName(KMS)], None)
    monkeypatch.setattr(authority, "_kms_and_sts_only", lambda: kms_alone)
    write_ca(tmp_path / "ca" / "ca.pem", tmp_path / "ca" / "ca.key")
    ours: dict[str, Any] = {"data": tmp_path, "forward_listen": "127.0.0.1:1"}
    found = look("CA", **ours)
    assert found.verdict is Verdict.WARNING and "not for the names of STS" in found.seen
    assert look("CA", **ours, backend="aws").verdict is Verdict.OK


def test_the_server_certificate_is_for_kms_where_calls_are_passed_through(tmp_path: Path) -> None:
    company = CertificateAuthority(tmp_path)
    for name, verdict in ((KMS, Verdict.WARNING), ("keytrail.example", Verdict.FAILED)):  # it is valid for a day
        certificate = company.server(name)
        passing: dict[str, Any] = {"backend": "aws", "aws_signing": "pass-through", "tls_listen": "127.0.0.1:1"}
        found = look("server certificate", **passing, tls_certificate=certificate.chain, tls_key=certificate.key)
        assert name in found.seen
        assert found.verdict is verdict


def test_the_handshake(tmp_path: Path) -> None:
    company, stranger = CertificateAuthority(tmp_path), CertificateAuthority(tmp_path, "stranger")
    certificate = company.server("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        context = certificate.server_context()

        def serve() -> None:
            for _ in range(2):
                accepted, _ = listening.accept()
                with accepted:
                    try:
                        context.wrap_socket(accepted, server_side=True).close()
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        tls: dict[str, Any] = {
            "tls_listen": f"127.0.0.1:{port}",
            "tls_certificate": certificate.chain,
            "tls_key": certificate.key,
        }
        assert look("TLS handshake", {"AWS_CA_BUNDLE": str(company.bundle)}, **tls).verdict is Verdict.OK
        assert look("TLS handshake", {"AWS_CA_BUNDLE": str(stranger.bundle)}, **tls).verdict is Verdict.FAILED
        thread.join()


# --- the client


@pytest.mark.parametrize(
    ("environment", "verdict"),
    [
        ({}, Verdict.SKIPPED),
        ({"AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:4599"}, Verdict.OK),
        ({"AWS_ENDPOINT_URL_KMS": "https://127.0.0.1:4599"}, Verdict.FAILED),
        ({"AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:4599/team-a"}, Verdict.WARNING),
        ({"AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:1"}, Verdict.WARNING),
        ({"AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:4597"}, Verdict.FAILED),
        ({"HTTPS_PROXY": "http://127.0.0.1:4597"}, Verdict.OK),
        ({"https_proxy": "http://127.0.0.1:4597"}, Verdict.OK),
        ({"HTTPS_PROXY": "http://127.0.0.1:4599"}, Verdict.FAILED),
        ({"HTTPS_PROXY": "https://127.0.0.1:4597"}, Verdict.FAILED),
    ],
)
def test_the_endpoint(environment: dict[str, str], verdict: Verdict) -> None:
    assert look("endpoint", environment, forward_listen="127.0.0.1:4597").verdict is verdict


@pytest.mark.parametrize(
    ("no_proxy", "verdict"),
    [
        ("169.254.169.254,localhost", Verdict.OK),
        ("169.254.0.0/16", Verdict.OK),
        ("", Verdict.WARNING),
        ("169.254.169.254,.amazonaws.com", Verdict.FAILED),
        ("169.254.169.254,amazonaws.com", Verdict.FAILED),
        (f"169.254.169.254,{KMS}", Verdict.FAILED),
        ("*", Verdict.FAILED),
    ],
)
def test_no_proxy(no_proxy: str, verdict: Verdict) -> None:
    environment = {"HTTPS_PROXY": "http://127.0.0.1:4597", "NO_PROXY": no_proxy}
    assert look("NO_PROXY", environment).verdict is verdict
    assert look("NO_PROXY", {"NO_PROXY": no_proxy}).verdict is Verdict.SKIPPED


def test_a_check_that_breaks_has_failed_and_the_rest_go_on(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ca.pem").write_text("rubbish")
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    checks = doctor.run(Settings(data=tmp_path, forward_listen="127.0.0.1:1", admin_listen=listen), {})
    assert [check.name for check in checks] == [name for name, _ in CHECKS]
    assert {check.name: check.verdict for check in checks}["CA"] is Verdict.FAILED


# --- the systemd unit


def test_the_unit_runs_a_command_that_there_is() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "config" / "keytrail.service")
    words = unit["Service"]["ExecStart"].split()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert Path(words[0]).name == "keytrail" and words[1] in commands
    options = {option for parameter in commands[words[1]].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert float(unit["Service"]["TimeoutStopSec"]) > 2 * Settings().drain_timeout_s
    if (systemd := shutil.which("systemd-analyze")) is not None:
        argv = [systemd, "verify", "--man=no", str(ROOT / "config" / "keytrail.service")]
        checked = subprocess.run(argv, capture_output=True, text=True)
        assert "Unknown" not in checked.stderr, checked.stderr
