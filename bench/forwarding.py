"""keytrail in front of a stand-in for AWS, beside nginx and mitmdump: `python -m bench.forwarding [--seconds 4] [--rounds 3]`.

The upstream is nginx with one fixed answer, over TLS, on the core of the load; so it is never what is measured. On the other core
run, each pinned to it, with plain HTTP to the client and TLS to the upstream: keytrail (verifying, signing anew, each call on
disk before it is answered), nginx (`proxy_pass`, keep-alive) and mitmdump (reverse mode). *direct* is the upstream itself. The
rounds go through all in turn, and the median of each figure counts. Only ratios within a run mean anything. Needs wrk, nginx,
taskset and Linux; mitmdump is installed into an environment of its own, in the user's cache folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.__main__ import Figures, asdict, fdatasync_p50_us, measure, median, prepare
from bench.servers import LOAD_CORE, Server, keytrail, started
from tests.integration.components.certificates import Certificate, CertificateAuthority

CONNECTIONS = (1, 16, 64)
UPSTREAM_PORT = 5710
MITMPROXY = "mitmproxy==11.0.2"
_HOST = "kms.us-east-1.amazonaws.com"
_ANSWER = {
    "KeyId": "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "KeyMaterialId": "ab" * 32,
    "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    "Plaintext": "A" * 43 + "=",
}
_NGINX = """
daemon off; worker_processes 1; error_log stderr warn; pid {folder}/nginx.pid; master_process off;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    {server}
}}
"""
_UPSTREAM = """
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key};
        default_type application/x-amz-json-1.1;
        add_header x-amzn-RequestId $request_id;
        location / {{ return 200 '{answer}'; }}
    }}
"""
_FORWARDING = """
    upstream kms {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass https://kms; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {host};
            proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name {host}; proxy_ssl_server_name on;
        }}
    }}
"""


@contextmanager
def upstream(folder: Path, certificate: Certificate) -> Iterator[Server]:
    """The stand-in for AWS."""
    server = _UPSTREAM.format(port=UPSTREAM_PORT, certificate=certificate, answer=json.dumps(_ANSWER))
    with started(_nginx(folder, "upstream", server), UPSTREAM_PORT, folder, {}, core=LOAD_CORE) as pid:
        yield Server("direct", UPSTREAM_PORT, "AKIADIRECT", "secret", pid, scheme="https")


@contextmanager
def nginx(port: int, authority: CertificateAuthority, folder: Path) -> Iterator[Server]:
    """nginx, passing on what it gets."""
    server = _FORWARDING.format(upstream=UPSTREAM_PORT, port=port, host=_HOST, ca=authority.bundle)
    with started(_nginx(folder, "forwarding", server), port, folder, {}) as pid:
        yield Server("nginx", port, "AKIANGINX", "secret", pid)


@contextmanager
def mitmdump(port: int, authority: CertificateAuthority, folder: Path) -> Iterator[Server]:
    """mitmdump in reverse mode, silent, with no add-on."""
    argv = [str(_mitmdump()), "--quiet", "--set", f"confdir={folder / 'mitmproxy'}"]
    argv += ["--set", f"ssl_verify_upstream_trusted_ca={authority.bundle}", "--set", "connection_strategy=lazy"]
    argv += ["--mode", f"reverse:https://127.0.0.1:{UPSTREAM_PORT}@127.0.0.1:{port}"]
    with started(argv, port, folder, {}) as pid:
        yield Server("mitmdump", port, "AKIAMITM", "secret", pid)


def _nginx(folder: Path, name: str, server: str) -> list[str]:
    path = folder / name
    path.mkdir()
    (path / "nginx.conf").write_text(_NGINX.format(folder=path, server=server))
    return ["nginx", "-p", str(path), "-c", str(path / "nginx.conf"), "-e", "stderr"]


def _mitmdump() -> Path:
    """mitmdump, installed once: its packages and ours do not go together."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "keytrail-bench" / MITMPROXY
    command = cache / "bin" / "mitmdump"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(cache)], check=True)
        subprocess.run([str(cache / "bin" / "pip"), "install", "--quiet", MITMPROXY], check=True)
    return command


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.forwarding", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the log goes: the disk that is measured (default: a temporary folder here)"
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    found: dict[tuple[int, str], list[Figures]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder or Path.cwd())))
        authority = CertificateAuthority(folder)
        certificate = authority.server(_HOST, "127.0.0.1")
        aws = {
            "KEYTRAIL_BACKEND": "aws",
            "KEYTRAIL_AWS_HOSTS": f"{_HOST}=127.0.0.1:{UPSTREAM_PORT}",
            "KEYTRAIL_AWS_CA_BUNDLE": str(authority.bundle),
            "AWS_ACCESS_KEY_ID": "AKIAUPSTREAM",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        kinds: list[Callable[[Path], AbstractContextManager[Server]]] = [
            partial(upstream, certificate=certificate),
            partial(nginx, 5720, authority),
            partial(mitmdump, 5730, authority),
            partial(keytrail, 5740, further=aws),
        ]
        running = [stack.enter_context(kind(folder)) for kind in kinds]
        sync_us = [fdatasync_p50_us(folder)]
        for _ in range(options.rounds):
            for connections in CONNECTIONS:
                for server in running:
                    requests = prepare(server, "Decrypt", folder, blob="AQID")
                    found[connections, server.name].append(measure(server, requests, connections, options.seconds))
            sync_us.append(fdatasync_p50_us(folder))
    medians = {key: median(values) for key, values in found.items()}
    _print(medians, statistics.median(sync_us))
    if options.json:
        rows = [{"connections": c, "server": s, **asdict(f)} for (c, s), f in medians.items()]
        document = {"machine": platform.platform(), "fdatasync_p50_us": statistics.median(sync_us), "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def _print(medians: dict[tuple[int, str], Figures], sync_us: float) -> None:
    columns = ("connections", "server", "rps", "× nginx", "× mitmdump", "p50 ms", "added p50 ms", "p99 ms", "CPU µs")
    table = Table(*columns, title="keytrail bench: forwarded Decrypt")
    for (connections, name), figures in medians.items():
        table.add_row(
            str(connections),
            name,
            f"{figures.rps:,.0f}",
            f"{figures.rps / medians[connections, 'nginx'].rps:.2f}",
            f"{figures.rps / medians[connections, 'mitmdump'].rps:.1f}",
            f"{figures.p50_us / 1e3:.2f}",
            f"{(figures.p50_us - medians[connections, 'direct'].p50_us) / 1e3:.2f}",
            f"{figures.p99_us / 1e3:.2f}",
            f"{figures.cpu_us:.0f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"fdatasync p50: {sync_us / 1e3:.2f} ms; {os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
