"""What a large key store costs a worker: its start, its memory, a look-up. `python -m bench.keystore [--keys N] [--grants N]`.

A store is filled with keys, with an alias and with grants for some of them, as rows of the size that they have; then `serve` is
started on it, and in a process of its own the embedded KMS is asked for keys that were never used, and for the same ones again.
Each is beside the same with ten keys. Bounds that the last line tells: 5 s for a start, 700 MiB for a worker.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.table import Table

from audit.instance import Instance
from bench import servers
from proxy.authorization import PolicyAuthoriser
from proxy.backends.local.backend import LocalBackend
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.grants import Grant
from proxy.backends.local.keys import ALIAS, KEY, alias_row, new_key_body
from proxy.domain import KmsCall, Principal
from proxy.kms.operations import OPERATIONS
from proxy.opening import open_store
from proxy.permissions import Permissions
from proxy.sealed_store import SealedStore, Secret
from proxy.settings import Settings

MOST_START_S, MOST_MIB = 5.0, 700.0
_FEW = 10
_ACCOUNT, _REGION = "111122223333", "us-east-1"
_BATCH = 10_000
_ASKED = 2_000
_PORT = 5680
_CALLER = Principal("IAMUser", f"arn:aws:iam::{_ACCOUNT}:user/bench", _ACCOUNT, "AKIAIOSFODNN7EXAMPLE", "AIDABENCH", "bench")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a store: how long until it is served, and how much of a core a worker took until then; MiB of the worker; microseconds
    of a call on a key (DescribeKey, not recorded) the first time and the second; MiB of a process that used every key."""

    start_s: float
    worker_cpu_s: float
    worker_mib: float
    first_us: float
    again_us: float
    all_used_mib: float


def fill(store: SealedStore, keys: int, grants: int) -> None:
    """Rows as CreateKey, CreateAlias and CreateGrant leave them, in transactions of some thousand."""
    chance = random.Random(1)
    ids = [str(UUID(bytes=chance.randbytes(16), version=4)) for _ in range(keys)]
    for batch in _batches(ids):
        with store.change() as tx:
            for key_id in batch:
                tx.put(KEY, _REGION, key_id, _key_body(chance), Secret(chance.randbytes(32)))
                tx.put(ALIAS, _REGION, alias_row(_ACCOUNT, f"alias/{key_id}"), _alias_body(), parent=key_id)
    for batch in _batches([chance.choice(ids) for _ in range(grants)]):
        with store.change() as tx:
            for key_id in batch:
                KeysInChange(tx).put_grant(_grant(chance, key_id))


def _batches(ids: list[str]) -> Iterator[list[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _key_body(chance: random.Random) -> Mapping[str, object]:
    return new_key_body(
        account_id=_ACCOUNT,
        created_s=1_767_225_600.0,
        spec="SYMMETRIC_DEFAULT",
        usage="ENCRYPT_DECRYPT",
        origin="AWS_KMS",
        description="A key of one of the many tenants",
        tags={"tenant": chance.randbytes(8).hex(), "stage": "production"},
        materials=[{"id": chance.randbytes(32).hex(), "created_s": 1_767_225_600.0, "size": 32}],
    )


def _alias_body() -> Mapping[str, object]:
    return {"account": _ACCOUNT, "created_s": 1_767_225_600.0, "updated_s": 1_767_225_600.0}


def _grant(chance: random.Random, key_id: str) -> Grant:
    return Grant(
        id=chance.randbytes(32).hex(),
        region=_REGION,
        key_id=key_id,
        account_id=_ACCOUNT,
        issuer=_ACCOUNT,
        grantee=f"arn:aws:iam::{_ACCOUNT}:role/tenant-{chance.randrange(5_000)}",
        operations=("Decrypt", "Encrypt", "GenerateDataKey"),
        created_s=1_767_225_600.0,
        retiring=f"arn:aws:iam::{_ACCOUNT}:role/admin-{chance.randrange(50)}",
        name=chance.randbytes(8).hex(),
        constraints={"EncryptionContextSubset": {"tenant": chance.randbytes(8).hex()}},
        token_key=chance.randbytes(32),
    )


def ask(data: Path) -> None:
    """In a process of its own: times look-ups; prints medians in microseconds and the memory of having used every key."""
    instance = Instance.load(data)
    store = open_store(instance, Settings(data=data))
    gc.disable()
    backend = LocalBackend(store, time.time, os.urandom, PolicyAuthoriser(Permissions(store), time.time))
    gc.freeze()
    ids = [entry.id for entry in store.changes_since(0, (KEY,)).entries]
    asked = random.Random(2).sample(ids, min(_ASKED, len(ids)))

    async def timed() -> list[float]:
        taken = []
        for key_id in asked:
            call = KmsCall(OPERATIONS["DescribeKey"], _REGION, _CALLER, {"KeyId": key_id}, 0)
            started = time.perf_counter()
            await backend.call(call)
            taken.append(time.perf_counter() - started)
        return taken

    first, again = (statistics.median(asyncio.run(timed())) for _ in range(2))
    asked = ids
    asyncio.run(timed())
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    print(json.dumps([first * 1e6, again * 1e6, resident / 2**20]))


def measure(folder: Path, keys: int, grants: int) -> Figures:
    """Makes a data folder in `folder`, fills it, and measures."""
    folder.mkdir()
    with servers.keytrail(_PORT, folder):
        pass  # makes the data folder
    data = folder / f"data-{_PORT}"
    instance = Instance.load(data)
    store = open_store(instance, Settings(data=data))
    fill(store, keys, grants)
    store.close()
    served = _served(data, folder)
    argv = [sys.executable, "-m", "bench.keystore", "--ask", str(data)]
    told = subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout
    return Figures(*served, *json.loads(told))


def _served(data: Path, folder: Path) -> tuple[float, float, float]:
    command = str(Path(sys.executable).with_name("keytrail"))
    environment = {
        "KEYTRAIL_DATA": str(data),
        "KEYTRAIL_LISTEN": f"127.0.0.1:{_PORT}",
        "KEYTRAIL_ADMIN_LISTEN": f"127.0.0.1:{_PORT + 1}",
    }
    started = time.perf_counter()
    with servers.started([command, "serve"], _PORT, folder, environment, is_up=lambda: servers.is_ready(_PORT + 1)) as pid:
        start_s = time.perf_counter() - started
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        worker = next(child for child in children if b"proxy.worker" in Path(f"/proc/{child}/cmdline").read_bytes())
        cpu_s = servers.cpu_ticks(int(worker)) / os.sysconf("SC_CLK_TCK")
        pages = int(Path(f"/proc/{worker}/statm").read_text().split()[1])
    return start_s, cpu_s, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.keystore", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--grants", type=int, default=100_000)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask is not None:
        ask(options.ask)
        return
    table = Table()
    columns = ("keys", "grants", "start, s", "its CPU, s", "worker, MiB", "first use, µs", "again, µs", "all keys used, MiB")
    for column in columns:
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        few = measure(Path(name) / "few", _FEW, _FEW)
        many = measure(Path(name) / "many", options.keys, options.grants)
    for keys, grants, one in ((_FEW, _FEW, few), (options.keys, options.grants, many)):
        figures = (one.start_s, one.worker_cpu_s, one.worker_mib, one.first_us, one.again_us, one.all_used_mib)
        table.add_row(f"{keys:,}", f"{grants:,}", *(f"{figure:,.1f}" for figure in figures))
    console = Console(width=130)
    console.print(table)
    kept = many.start_s <= MOST_START_S and max(many.worker_mib, many.all_used_mib) <= MOST_MIB
    console.print(
        f"many ÷ few: start {many.start_s / few.start_s:.1f}, look-up {many.again_us / few.again_us:.2f};"
        f" the bounds of {MOST_START_S:.0f} s and {MOST_MIB:.0f} MiB are {'kept' if kept else 'NOT kept'}"
    )
    console.print(f"{os.cpu_count()} cores; Python {platform.python_version()}; {platform.platform()}")


if __name__ == "__main__":
    main()
