"""Whether a worker's memory is flat: resident bytes over a million calls. `python -m bench.memory [--calls 1000000]`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench import servers
from bench.__main__ import measure, prepare

_BURST_S = 10
_SIGNATURES = 5_000  # fresh ones a burst, so that what is remembered of signatures is exercised too


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name, servers.keytrail(5660, Path(name)) as server:
        done, turn = 0, 0
        print("calls so far   resident MiB, by process (supervisor, sealer, worker)")
        while done < options.calls:
            operation = ("GenerateDataKey", "Decrypt")[turn % 2]
            turn += 1
            figures = measure(server, prepare(server, operation, Path(name), _SIGNATURES), 64, _BURST_S)
            done += round(figures.rps * _BURST_S)
            resident = "  ".join(f"{size / 2**20:7.1f}" for size in server.resident_bytes().values())
            print(f"{done:12,}   {resident}", flush=True)


if __name__ == "__main__":
    main()
