"""What policies, grants and the making of keys cost the calls: `python -m bench.embedded --earlier CHECKOUT [--seconds 4]
[--keystore-url postgresql://…] [--context-privacy "*=hmac"]`.

Calls to the embedded KMS of an earlier version, from a checkout of it, beside those to this one: as `init` leaves it, and with a
key policy that looks at the encryption context, and grants. Then Decrypts, alone and while another client has RSA keys made. Only
ratios within a run mean anything. Needs wrk, taskset and Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import servers
from bench.__main__ import OPERATIONS, Figures, measure, median, prepare
from bench.servers import Server

GRANTS = 200
_CONNECTIONS = 16
_ACCOUNT = "111122223333"
_EARLIER, _AS_MADE, _GUARDED, _SHARED = "earlier", "this one", "with policies and grants", "on PostgreSQL"
_PRIVATE = "with private contexts"


def guard(server: Server) -> None:
    """A key policy of some statements, one of which is about the context, and grants."""
    client = server.client()
    key_id = client.describe_key(KeyId="alias/demo")["KeyMetadata"]["KeyId"]
    caller = f"arn:aws:iam::{_ACCOUNT}:user/demo"
    statements = [
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{_ACCOUNT}:root"}, "Action": ["kms:Put*", "kms:Create*"]},
        {
            "Effect": "Allow",
            "Principal": {"AWS": caller},
            "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
            "Condition": {"StringEquals": {"kms:EncryptionContext:tenant": ["acme", "globex"]}},
        },
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "kms:Decrypt",
            "Condition": {"StringLike": {"kms:EncryptionContext:object": "secret-*"}},
        },
    ]
    statements = [{**one, "Resource": "*"} for one in statements]
    client.put_key_policy(KeyId=key_id, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    for number in range(GRANTS):
        grantee = f"arn:aws:iam::{_ACCOUNT}:role/service-{number}"
        client.create_grant(KeyId=key_id, GranteePrincipal=grantee, Operations=["Decrypt", "GenerateDataKey"])


@contextmanager
def making_keys(server: Server) -> Iterator[list[str]]:
    """RSA keys are made, one after another, as long as this lasts; gives their ids."""
    made: list[str] = []
    stopping = threading.Event()

    def make() -> None:
        client = server.client()
        while not stopping.is_set():
            made.append(client.create_key(KeySpec="RSA_4096", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"])

    thread = threading.Thread(target=make)
    thread.start()
    try:
        yield made
    finally:
        stopping.set()
        thread.join()


def _of(checkout: Path) -> dict[str, str]:
    """What makes `keytrail` that of a checkout."""
    root = checkout.resolve()
    return {"PYTHONPATH": str(root), "KEYTRAIL_CONFIG": str(root / "config" / "keytrail.toml")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.embedded", description=__doc__)
    parser.add_argument("--earlier", type=Path, required=True, help="a checkout of an earlier version")
    parser.add_argument("--keystore-url", help="an empty PostgreSQL database, for one more keytrail with its key store there")
    parser.add_argument("--context-privacy", help="a setting of that name, for one more keytrail; a context has two pairs")
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    alone, beside, made_in_all = [], [], 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd())))
        kinds = {
            _EARLIER: partial(servers.keytrail, 5650, further=_of(options.earlier)),
            _AS_MADE: partial(servers.keytrail, 5660, further=_of(Path.cwd())),
            _GUARDED: partial(servers.keytrail, 5670, further=_of(Path.cwd())),
        }
        if options.keystore_url:
            shared = {**_of(Path.cwd()), "KEYTRAIL_KEYSTORE_URL": options.keystore_url}
            kinds[_SHARED] = partial(servers.keytrail, 5680, further=shared)
        if options.context_privacy:
            private = {**_of(Path.cwd()), "KEYTRAIL_CONTEXT_PRIVACY": options.context_privacy}
            kinds[_PRIVATE] = partial(servers.keytrail, 5690, further=private)
        running = {name: stack.enter_context(kind(folder)) for name, kind in kinds.items()}
        guard(running[_GUARDED])
        for _ in range(options.rounds):
            for operation in OPERATIONS:
                for name, server in running.items():
                    requests = prepare(server, operation, folder)
                    found[operation, name].append(measure(server, requests, _CONNECTIONS, options.seconds))
            server = running[_AS_MADE]
            requests = prepare(server, "Decrypt", folder)
            alone.append(measure(server, requests, _CONNECTIONS, options.seconds))
            with making_keys(server) as made:
                beside.append(measure(server, requests, _CONNECTIONS, options.seconds))
            made_in_all += len(made)
    table = Table("operation", "keytrail", "rps", "× earlier", "p99 ms", "CPU µs", "× earlier", title="the embedded KMS")
    for (operation, name), values in found.items():
        now, before = median(values), median(found[operation, _EARLIER])
        table.add_row(
            operation,
            name,
            f"{now.rps:,.0f}",
            f"{now.rps / before.rps:.2f}",
            f"{now.p99_us / 1e3:.2f}",
            f"{now.cpu_us:.0f}",
            f"{now.cpu_us / before.cpu_us:.2f}",
        )
    console = Console(width=120)
    console.print(table)
    quiet, busy = median(alone), median(beside)
    console.print(
        f"Decrypt, alone: p50 {quiet.p50_us / 1e3:.2f} ms, p99 {quiet.p99_us / 1e3:.2f} ms; while {made_in_all} RSA_4096 keys"
        f" were made: p50 {busy.p50_us / 1e3:.2f} ms, p99 {busy.p99_us / 1e3:.2f} ms ({busy.p99_us / quiet.p99_us:.2f} ×)"
    )
    console.print(f"{os.cpu_count()} cores; {platform.platform()}")


if __name__ == "__main__":
    main()
