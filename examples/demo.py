"""The main job, in one go: two callers, one encrypted file, and afterwards the story of its data key. `make demo`.

It makes a data folder of its own, starts `keytrail serve` on ports of its own, and leaves nothing behind and nothing running.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console

KEYTRAIL = str(Path(sys.executable).with_name("keytrail"))
CONTEXT = {"tenant": "acme", "document": "contract-7"}
BOB = "arn:aws:sts::111122223333:assumed-role/claims-reader/bob"


def say(text: str) -> None:
    Console(highlight=False).print(f"\n[bold]{text}[/bold]")


def run(*arguments: str) -> None:
    """Show a command of keytrail, and run it."""
    print(f"$ keytrail {' '.join(arguments)}", flush=True)
    subprocess.run([KEYTRAIL, *arguments], check=True)


def client(url: str, profile: str) -> Any:  # boto3's clients have no type of their own
    session = boto3.Session(profile_name=profile, region_name="us-east-1")
    return session.client("kms", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}))


def attempt(what: str, call: Any, **parameters: object) -> None:
    """Make a call that must be refused, and say how it was."""
    try:
        call(**parameters)
    except ClientError as error:
        print(f"  {what}: refused, {error.response['Error']['Code']}")
    else:
        raise SystemExit(f"{what}: this should have been refused")


def work(url: str, folder: Path) -> Path:
    """The workload. Gives the file with the encrypted data key, as an application would keep it beside its data."""
    alice, bob = client(url, "default"), client(url, "bob")
    say("Alice encrypts a file under a data key of its own")
    made = alice.generate_data_key(KeyId="alias/demo", KeySpec="AES_256", EncryptionContext=CONTEXT)
    nonce = os.urandom(12)
    sealed = nonce + AESGCM(made["Plaintext"]).encrypt(nonce, b"The contract, in confidence.", None)
    (folder / "contract.enc").write_bytes(sealed)
    key_file = folder / "contract.key"
    key_file.write_bytes(base64.b64encode(made["CiphertextBlob"]))
    print(f"  encryption context {CONTEXT}")

    say("Bob reads it")
    blob = base64.b64decode(key_file.read_bytes())
    plaintext = bob.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
    print(f"  {AESGCM(plaintext).decrypt(sealed[:12], sealed[12:], None).decode()}")

    say("What should not work does not, and is on record too")
    attempt("Bob, with another tenant's context", bob.decrypt, CiphertextBlob=blob, EncryptionContext={"tenant": "globex"})
    alice.disable_key(KeyId=made["KeyId"])
    attempt("Bob, while the key is disabled", bob.decrypt, CiphertextBlob=blob, EncryptionContext=CONTEXT)
    alice.enable_key(KeyId=made["KeyId"])
    return key_file


def serve() -> tuple[subprocess.Popen[str], str]:
    """Start the proxy on free ports, and wait until it says where it answers."""
    process = subprocess.Popen([KEYTRAIL, "serve"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    if "at http://" not in first:
        process.kill()
        raise SystemExit(f"keytrail serve did not start: {first}")
    return process, first.split(" at ")[1].split(";")[0]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="keytrail-demo-") as name:
        folder = Path(name)
        data = folder / "keytrail-data"
        os.environ |= {"KEYTRAIL_DATA": str(data), "KEYTRAIL_LISTEN": "127.0.0.1:0", "KEYTRAIL_ADMIN_LISTEN": "127.0.0.1:0"}
        os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(data / "credentials")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            os.environ.pop(variable, None)
        say("Set up: keys, callers, an empty log")
        run("init")
        run("caller", "add", BOB)
        process, url = serve()
        try:
            key_file = work(url, folder)
            say("Afterwards: what happened to this file's data key?")
            run("trace", str(key_file))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        say("And can that be proved?")
        run("verify")


if __name__ == "__main__":
    main()
