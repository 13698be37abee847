"""keytrail beside an aiohttp echo and moto_server, in one run: `python -m bench [--seconds 4] [--rounds 3] [--json FILE]`.

Every server runs pinned to core 0, wrk to core 1; the rounds go through all servers in turn, and the median of each figure
counts. Only the ratios within a run mean anything: absolute figures are those of the machine and the hour. Needs wrk, taskset and
Linux.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from rich.console import Console
from rich.table import Table

from bench import servers
from bench.servers import LOAD_CORE, REGION, Server

CONNECTIONS = (1, 16, 64)
OPERATIONS = ("GenerateDataKey", "Decrypt")
SIGNED_REQUESTS = 256
_CONTEXT = {"tenant": "acme", "object": "1"}


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement. Times in microseconds; `cpu_us` is CPU time a request, of all the server's processes."""

    rps: float
    p50_us: float
    p99_us: float
    cpu_us: float


def prepare(server: Server, operation: str, folder: Path, count: int = SIGNED_REQUESTS, blob: str | None = None) -> Path:
    """A file of `count` signed requests for wrk (see load.lua). Their signatures differ, and hold for five minutes.

    Decrypt is of `blob` (base64), or of one that is made first.
    """
    parameters: dict[str, object] = {"KeyId": "alias/demo", "KeySpec": "AES_256", "EncryptionContext": _CONTEXT}
    if operation == "Decrypt":
        if blob is None and server.name != "aiohttp echo":
            made = server.client().generate_data_key(**parameters)["CiphertextBlob"]
            blob = base64.b64encode(made).decode()
        parameters = {"CiphertextBlob": blob or "AQID", "EncryptionContext": _CONTEXT}
    body = json.dumps(parameters)
    target = f"TrentService.{operation}"
    lines = [target, body]
    signer = SigV4Auth(Credentials(server.access_key, server.secret_key), "kms", REGION)
    for number in range(count):
        # A signed header of its own makes each signature its own.
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target, "X-Number": str(number)}
        request = AWSRequest("POST", f"{server.url}/", headers, body)
        signer.add_auth(request)
        lines.append("\t".join(request.headers[name] for name in ("X-Number", "X-Amz-Date", "Authorization")))
    path = folder / f"{server.port}-{operation}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def measure(server: Server, requests: Path, connections: int, seconds: float) -> Figures:
    """Put load on `server`. Raises RuntimeError where it refuses or drops a single request."""
    script = Path(__file__).with_name("load.lua")
    before = server.cpu_seconds()
    argv = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    run = subprocess.run([*argv, server.url, "--", str(requests)], check=True, capture_output=True, text=True)
    cpu_s = server.cpu_seconds() - before
    seen = json.loads(run.stdout.splitlines()[-1])
    if seen["refused"] or seen["broken"]:
        raise RuntimeError(f"{server.name}: {seen}")
    count = seen["requests"]
    return Figures(count / seen["seconds"], seen["p50_us"], seen["p99_us"], cpu_s / count * 1e6)


def fdatasync_p50_us(folder: Path, line_bytes: int = 1_200, samples: int = 400) -> float:
    """The disk's own part: appending a line and syncing it, in microseconds."""
    taken = []
    with (folder / "probe").open("ab", buffering=0) as file:
        for _ in range(samples):
            begin = time.perf_counter()
            file.write(b"x" * line_bytes)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the logs go: the disk that is measured (default: a temporary folder here)"
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    kinds: list[Callable[[Path], AbstractContextManager[Server]]] = [
        partial(servers.echo, 5610),
        partial(servers.moto, 5620),
        partial(servers.keytrail, 5630),
        partial(servers.keytrail, 5640, syncing=False),
    ]
    found: dict[tuple[str, int, str], list[Figures]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder or Path.cwd())))
        running = [stack.enter_context(kind(folder)) for kind in kinds]
        sync_us = [fdatasync_p50_us(folder)]
        for _ in range(options.rounds):
            for operation in OPERATIONS:
                for connections in CONNECTIONS:
                    for server in running:
                        requests = prepare(server, operation, folder)
                        figures = measure(server, requests, connections, options.seconds)
                        found[operation, connections, server.name].append(figures)
            sync_us.append(fdatasync_p50_us(folder))
    medians = {key: median(values) for key, values in found.items()}
    _print(medians, statistics.median(sync_us))
    if options.json:
        rows = [{"operation": o, "connections": c, "server": s, **asdict(f)} for (o, c, s), f in medians.items()]
        document = {"machine": platform.platform(), "fdatasync_p50_us": statistics.median(sync_us), "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def asdict(figures: Figures) -> dict[str, float]:
    return {name: round(getattr(figures, name), 1) for name in Figures.__slots__}


def median(values: list[Figures]) -> Figures:
    return Figures(*(statistics.median(getattr(value, name) for value in values) for name in Figures.__slots__))


def _print(medians: dict[tuple[str, int, str], Figures], sync_us: float) -> None:
    table = Table(
        "operation", "connections", "server", "rps", "× echo", "× moto", "p50 ms", "p99 ms", "CPU µs", title="keytrail bench"
    )
    for (operation, connections, name), figures in medians.items():
        echo = medians[operation, connections, "aiohttp echo"]
        moto = medians[operation, connections, "moto_server"]
        table.add_row(
            operation,
            str(connections),
            name,
            f"{figures.rps:,.0f}",
            f"{figures.rps / echo.rps:.2f}",
            f"{figures.rps / moto.rps:.1f}",
            f"{figures.p50_us / 1e3:.2f}",
            f"{figures.p99_us / 1e3:.2f}",
            f"{figures.cpu_us:.0f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"fdatasync p50: {sync_us / 1e3:.2f} ms; {os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
