"""README.md's recipes, run as they stand there, in their order, by one reader: each must work and show what it promises.

A block marked `sh` runs in bash, a block marked `python` in the interpreter; what a block exports, the next one has. `sh serve`
and `sh tail` run until they are told to stop. What is marked `sh aws` is for test_readme_aws.py,
`sh postgresql` for test_shared_keystore.py, and `sh finding` for test_acknowledged.py. The ports are not the README's,
since these may be in use on this machine.

`make …` is not run here: its targets are checked to be in the Makefile. `make test` is what runs this test, and test_demo.py runs
what `make demo` runs.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.repository import ROOT
from tests.integration.components.ports import free_ports
from tests.integration.conftest import LIMIT_S, plain_environment, wait_until

README = (ROOT / "README.md").read_text()
_HEADING = re.compile(r"^##+ +(.+)$")
_LONGEST_S = 60.0

#: What the recipes below a heading print, as regular expressions to be found in this order in what they wrote to standard output.
PROMISED = {
    "Install and start": [
        r"Made keytrail-data for account 111122223333, region us-east-1\.",
        r"keytrail answers KMS calls at http://127\.0\.0\.1:\d+; health at http://127\.0\.0\.1:\d+/health/ready",
        r'eval "\$\(keytrail env\)"',
    ],
    "aws CLI": [
        *[r'"CiphertextBlob": "[\w+/=]+"'] * 4,
        r'"KeyId": "arn:aws:kms:us-east-1:111122223333:key/[0-9a-f-]{36}"',
        r'"Plaintext": "[\w+/]{43}="',
        *[r'"KeyId": "arn:aws:kms:us-east-1:111122223333:key/[0-9a-f-]{36}"'] * 4,
    ],
    "boto3": [],
    "AWS Encryption SDK": [],
    "What happened to this data key?": [
        r"ciphertext [0-9a-f]{64}",
        r"made .* by user/demo: GenerateDataKeyWithoutPlaintext under [0-9a-f-]{36}, context object=3 tenant=acme",
        r"unwrapped  1 time by 1 caller",
        r"refused    never",
        r"unwrapped     Decrypt by user/demo from 127\.0\.0\.1",
        r"w0/0{20}\.jsonl:\d+",
        r"can unwrap it now: user/demo",
    ],
    "What is in this store?": [
        r"store/object-3\.key",
        r"unwrapped 1 time by 1 caller, last .* by user/demo; key [0-9a-f-]{36}",
        r"lost",
    ],
    "Ask the log": [
        r"event .* caller .* key .* context .* result",
        r"GenerateDataKey .* user/demo .* object=1",
        r"Decrypt .* user/demo .* object=3",
        r'"eventName":"Decrypt"',
        r"time,event,phase,error,caller",
        r",GenerateDataKeyWithoutPlaintext,outcome,",
        r"Usage: keytrail query",
        r"GenerateDataKeyWithoutPlaintext +user/demo .* object=3 tenant=acme",
    ],
    "In SQL": [
        r"arn:aws:iam::111122223333:user/demo +GenerateDataKey",
        r"time,caller,source_ip",
        r"fingerprints_in +SHA-256",
    ],
    "Reports": [r"Key usage from", r"VERIFIED|[Vv]erified", r"\d+ +Workloads"],
    "Detections": [],
    "The index": [r"log w0: \d+ of \d+ closed segments"],
    "Prove it": [
        r"Log w0: \d+ records",
        r"✓ 5\. the tree over the lines has the root of every checkpoint",
        r"Verified\.",
        r"✓ 4\. .*by the key that was given",
        r"✓ 7\. every saved checkpoint is of this tree",
        r"Log w0: \d+ records",
        r"✓ 4\. .*by the key that was given",
        r"✓ 7\. every saved checkpoint is of this tree",
        r"Verified\.",
        r'"passed": ?true',
        r"w0-\d+\.json: the record, number \d+ of log w0",
        r"Proved: this record is number \d+ of the log keytrail/[0-9a-f]{16}/w0",
        r"✓ 10\. every receipt that was given .*: 1 given",
        r"keytrail/[0-9a-f]{16}/w0\n\d+\n",
        r"attest",
        r"attest",
    ],
    "The sealer and its key": [
        r"Change 1 of the sealer's key is made; the old key is gone\.",
        r"✓ 4\. .*by the key that was given",
        r"Verified\.",
    ],
    "Witnesses": [
        r"log admin: 1 of 1 witnesses cosigned; the quorum stands by \d+ records \(20",
        r"log w0: 1 of 1 witnesses cosigned; the quorum stands by \d+ records \(20",
        r"✓ 11\. the newest cosigned checkpoint fulfils the policy.*: \d+ records, cosigned by first, \d+ s ago",
        r"✓ 11\. ",
        r"Verified\.",
        r"admin-0\.json: the record, number 0 of log admin",
        r"Witnessed by first, the last that was needed at 20\S+Z: they saw no other history\.",
        r"No log has contradicted itself",
        r"✓ 7\. every saved checkpoint is of this tree: 1 saved",
    ],
    "CloudTrail's tools": [
        r"/evidence: \d+ log files and 0 digests were delivered\.",
        r"/evidence: trail keytrail, \d+ log files and 0 digests\.",
        r"log w0: \d+ of \d+ sealed records",
        r"Digests are signed with the key [0-9a-f]{32} from the next one on\.",
        r"✓ 20\. every record that is due was delivered: \d+ records in \d+ files",
        r"✓ 21\. every file has the log's own bytes",
        r"Verified\.",
        r'"EventName": "GenerateDataKey"',
        r'"ResourceName": "arn:aws:kms:us-east-1:111122223333:key/[0-9a-f-]{36}"',
        r'"LookupEvents",\s+"auditor"',
    ],
    "Private contexts": [
        r"Made clinic-data",
        r'"status": ?"ready"',
        r"arn:aws:kms:us-east-1:111122223333:key/",
        r'"patient-id":"hmac-sha256:[0-9a-f]{64}","note":"aes-256-gcm:[0-9a-f]{16}:[\w+/=]+"',
        r"note=asthma",
        r"The key of the subject patient-id=hmac-sha256:[0-9a-f]{64} is gone\.",
        r"note=\[shredded\]",
        r"GenerateDataKey",
        r"Verified\.",
    ],
    "Shipping": [
        r"otlp-[0-9a-f]{16} \(https://collector\.example\.com:4318\): 0 records refused",
        r"log w0: 0 of \d+ records, \d+ s behind",
        r"syslog-[0-9a-f]{16} \(tls://logs\.example\.com:6514\)",
        r'"class_uid":6003',
    ],
    "Callers": [
        r"ASIA\w{16}: its credentials are in .*, profile bob\.",
        r"alias/demo|Made by keytrail init",
        r"assumed-role/claims-reader/bob",
        r"AKIA\w{16} is disabled\.",
        r"AKIA\w{16} is enabled\.",
        r"AKIA\w{16}: its credentials are in .*, profile alice\.",
    ],
    "What callers may do": [
        r"user/alice has acme-only\.",
        r"ALLOWED: .*user/alice may kms:Decrypt on arn:aws:kms:.*, by acme-only, statement 1",
        r"DENIED: User: .* because no identity-based policy allows the kms:Decrypt action",
        r"its condition StringEqualsIfExists on kms:EncryptionContext:tenant is not met",
        r"user/alice has KMSFullAccess\.",
    ],
    "Roles": [
        r"arn:aws:iam::444455556666:role/claims-writer may be assumed, for 3600 s at a time\.",
        r"ALLOWED: .*user/demo may sts:AssumeRole on .*role/claims-writer, by trust policy of .*role/claims-writer, statement 1",
        r'"Arn": "arn:aws:sts::444455556666:assumed-role/claims-writer/run-1"',
        r"arn:aws:iam::444455556666:role/claims-writer .* AROA\w{17} .* 3600 s",
        r"its sessions have ended\.",
    ],
    "Guardrails": [r"user/demo", r"GenerateDataKey"],
    "Operate": [r'"status": ?"live"', r'"status": ?"ready"', r'keytrail_calls_total\{error="",operation="Decrypt"\}'],
    "The key store": [
        r"the master key [0-9a-f]{16} opens it\.",
        r"Only the master key [0-9a-f]{16} opens it",
        r"opens the key store, and no other does",
        r"2 of 2 keys were made",
    ],
}


@dataclass(frozen=True)
class Recipe:
    """A block of code in the README; `mark` is `serve`, `tail` or empty."""

    heading: str
    line: int
    language: str
    mark: str
    code: str


@dataclass(frozen=True)
class Ran:
    """A recipe that was run, and what became of it."""

    recipe: Recipe
    exit_code: int
    out: str
    err: str


#: First marks of blocks that other tests run.
_ELSEWHERE = ("aws", "postgresql", "finding")


def recipes(*, elsewhere: str = "") -> list[Recipe]:
    """Every block that is marked `sh` or `python`, in order; or every one whose first mark is `elsewhere`, which then is none."""
    found: list[Recipe] = []
    heading, opened, code = "", "", []  # `opened` is the mark of the block that we are in
    start = 0
    for number, line in enumerate(README.split("\n"), 1):
        if opened:
            if line != "```":
                code.append(line)
                continue
            language, _, mark = opened.partition(" ")
            first = mark.partition(" ")[0]
            whose = first if first in _ELSEWHERE else ""
            mark = mark.removeprefix(whose).strip()
            if language in ("sh", "python") and whose == elsewhere:
                found.append(Recipe(heading, start, language, mark, "\n".join(code)))
            opened, code = "", []
        elif line.startswith("```"):
            opened, start = line.removeprefix("```"), number
            assert opened, f"README.md:{number}: say what is in this block (sh, python, text, …)"
        elif match := _HEADING.match(line):
            heading = match[1]
    return found


class Reader:
    """Someone who follows the README in `folder`, which has what a checkout has after `make demo`: `.venv` and `config`.

    `places` are words of the README, and what stands for them here; `environment` is the reader's own.
    """

    def __init__(
        self, folder: Path, places: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._listen, self._admin, witness = (f"127.0.0.1:{port}" for port in free_ports(3))
        clinic, clinic_admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        self._places = {
            "127.0.0.1:4599": self._listen,
            "127.0.0.1:4598": self._admin,
            "127.0.0.1:4600": witness,
            "127.0.0.1:4609": clinic,
            "127.0.0.1:4608": clinic_admin,
            **(places or {}),
        }
        self._exported = folder / "exported.sh"
        self._serving: tuple[Recipe, subprocess.Popen[str]] | None = None
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "config").symlink_to(ROOT / "config")
        self._environment = plain_environment() | {
            "HOME": str(folder),
            "NO_PROXY": "127.0.0.1",
            "KEYTRAIL_LISTEN": self._listen,
            "KEYTRAIL_ADMIN_LISTEN": self._admin,
            "KEYTRAIL_CLOUDTRAIL_API": "true",
            **(environment or {}),
        }

    def run(self, recipe: Recipe) -> Ran | None:
        """Follow one recipe. None for the one that serves: it is done when `stop` is called."""
        code = recipe.code
        for place, here in self._places.items():
            code = code.replace(place, here)
        if recipe.language == "python":
            (self.folder / "recipe.py").write_text(code)
            code = "python recipe.py"
        match recipe.mark:
            case "":
                done = subprocess.run(
                    self._bash(f'{code}\nexport -p > "{self._exported}"'),
                    cwd=self.folder,
                    env=self._environment,
                    capture_output=True,
                    text=True,
                    timeout=_LONGEST_S,
                )
                return Ran(recipe, done.returncode, done.stdout, done.stderr)
            case "serve":
                process = self._start(recipe, code)
                self._serving = recipe, process
                wait_until(lambda: "health at" in self._written(recipe, "out") or process.poll() is not None, "it serves")
                return None
            case "tail":
                process = self._start(recipe, code)
                last = re.compile(PROMISED[recipe.heading][-1])
                wait_until(lambda: bool(last.search(self._written(recipe, "out"))) or process.poll() is not None, "its last line")
                return self._end(recipe, process, signal.SIGINT)
        raise AssertionError(f"README.md:{recipe.line}: what is `{recipe.language} {recipe.mark}`?")

    def stop(self) -> Ran | None:
        """Stop serving, as Ctrl-C does."""
        return self._end(*self._serving, signal.SIGINT) if self._serving is not None else None

    def _bash(self, code: str) -> list[str]:
        before = f'if [ -e "{self._exported}" ]; then source "{self._exported}"; fi'
        return ["bash", "-c", f"set -euo pipefail\n{before}\n{code}"]

    def _start(self, recipe: Recipe, code: str) -> subprocess.Popen[str]:
        with self._file(recipe, "out").open("w") as out, self._file(recipe, "err").open("w") as err:
            return subprocess.Popen(
                self._bash(re.sub(r"(?m)^keytrail ", "exec keytrail ", code)),
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=err,
                text=True,
            )

    def _end(self, recipe: Recipe, process: subprocess.Popen[str], number: signal.Signals) -> Ran:
        process.send_signal(number)
        try:
            exit_code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            exit_code = process.wait(LIMIT_S)
        return Ran(recipe, exit_code, self._written(recipe, "out"), self._written(recipe, "err"))

    def _file(self, recipe: Recipe, stream: str) -> Path:
        return self.folder / f"line-{recipe.line}.{stream}"

    def _written(self, recipe: Recipe, stream: str) -> str:
        return self._file(recipe, stream).read_text()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[Ran]:
    """Every recipe, run in order; those behind one that failed too."""
    reader = Reader(tmp_path_factory.mktemp("readme"))
    done: list[Ran] = []
    try:
        done += [one for recipe in recipes() if (one := reader.run(recipe)) is not None]
    finally:
        if (served := reader.stop()) is not None:
            done.append(served)
    return sorted(done, key=lambda one: one.recipe.line)


@pytest.mark.parametrize("line", [recipe.line for recipe in recipes()])
def test_the_recipe_in_this_line_works(ran: list[Ran], line: int) -> None:
    (one,) = (one for one in ran if one.recipe.line == line)
    assert one.exit_code == 0, f"README.md:{line}: exit code {one.exit_code}\n{one.recipe.code}\n{one.out}\n{one.err}"
    if one.recipe.mark != "serve":
        assert "Traceback" not in one.err


@pytest.mark.parametrize("heading", PROMISED)
def test_the_recipes_show_what_they_promise(ran: list[Ran], heading: str) -> None:
    shown = "\n".join(one.out for one in ran if one.recipe.heading == heading)
    position = 0
    for pattern in PROMISED[heading]:
        found = re.compile(pattern).search(shown, position)
        assert found, f"README.md, {heading}: {pattern!r} is not in what follows here:\n{shown[position:]}"
        position = found.end()


def test_every_heading_with_recipes_promises_something_here() -> None:
    assert {recipe.heading for recipe in recipes()} == set(PROMISED)


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)`", README))
    assert {"demo", "test"} <= named <= targets
