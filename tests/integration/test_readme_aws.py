"""README.md's recipes for standing in front of AWS, run as they stand there, with stand-ins for what a company has.

moto, and a stub that verifies signatures, are AWS; Squid is the proxy on the way out; a client's own look-up of names plays the
private DNS.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.audit.fixtures.reconcile import World as ReconcileWorld
from tests.integration.components.certificates import CertificateAuthority
from tests.integration.components.moto import KMS, MotoServer, moto_server
from tests.integration.components.ports import free_ports
from tests.integration.components.squid import SquidOptions, squid
from tests.integration.components.stub import Credential, StubUpstream, stub_upstream
from tests.integration.conftest import keytrail_command
from tests.integration.test_readme import Ran, Reader, recipes
from tests.integration.test_topologies import ALICE, CREDENTIALS, PRIVATE_DNS, REGION

RECIPES = recipes(elsewhere="aws")


@dataclass
class Company:
    folder: Path
    authority: CertificateAuthority
    moto: MotoServer
    stub: StubUpstream


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    folder = tmp_path_factory.mktemp("company")
    authority = CertificateAuthority(folder)
    known = {**CREDENTIALS, "AKIAUPSTREAM": Credential("upstream-secret")}
    with (
        moto_server(folder, authority) as moto,
        stub_upstream(folder, authority.server(KMS, "127.0.0.1"), known) as stub,
    ):
        yield Company(folder, authority, moto, stub)


def follow(folder: Path, heading: str, places: dict[str, str], environment: dict[str, str], *, init: bool = True) -> str:
    """Run the recipes below `heading`, in a folder that `keytrail init` was run in; what they printed."""
    chosen = [recipe for recipe in RECIPES if recipe.heading == heading]
    assert chosen, f"README.md has no recipe below {heading!r}"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    reader = Reader(folder, places, {"PATH": path, **environment})
    if init:
        subprocess.run([keytrail_command(), "init"], cwd=folder, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    ran: list[Ran] = []
    try:
        ran += [one for recipe in chosen if (one := reader.run(recipe)) is not None]
    finally:
        if (served := reader.stop()) is not None:
            ran.append(served)
    for one in ran:
        assert one.exit_code == 0, f"README.md:{one.recipe.line}\n{one.recipe.code}\n{one.out}\n{one.err}"
    return "".join(one.out for one in ran)


def clients_own(company: Company) -> dict[str, str]:
    """What a client of the company has: its own credentials, a region, and trust in the company's CA."""
    return {
        "AWS_ACCESS_KEY_ID": ALICE[0],
        "AWS_SECRET_ACCESS_KEY": ALICE[1],
        "AWS_DEFAULT_REGION": REGION,
        "KEYTRAIL_AWS_CA_BUNDLE": str(company.authority.bundle),
    }


def records(printed: str) -> list[dict[str, object]]:
    """The records that `keytrail query --format json` printed."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith('{"eventVersion"')]


def proofs(printed: str) -> set[str]:
    return set(re.findall(r'"identityProof":"([a-z-]+)"', printed))


def test_as_an_endpoint_signing_anew(company: Company, tmp_path: Path) -> None:
    environment = clients_own(company) | {
        "AWS_ACCESS_KEY_ID": "AKIAUPSTREAM",
        "AWS_SECRET_ACCESS_KEY": "upstream-secret",
        "KEYTRAIL_AWS_HOSTS": f"{KMS}=127.0.0.1:{company.moto.port}",
    }
    printed = follow(tmp_path, "As an endpoint, signing anew", {}, environment)
    assert '"CiphertextBlob"' in printed
    assert (len(records(printed)), proofs(printed)) == (1, {"signature-verified"})


def test_under_kmss_own_names_by_private_dns(company: Company, tmp_path: Path) -> None:
    certificate = company.authority.server(KMS)
    shutil.copy(certificate.chain, tmp_path / "kms.pem")
    shutil.copy(certificate.key, tmp_path / "kms.key")
    (port,) = free_ports(1)
    (tmp_path / "sitecustomize.py").write_text(PRIVATE_DNS.format(kms=KMS, port=port))
    places = {
        "0.0.0.0:443": f"127.0.0.1:{port}",
        'aws_nameservers = ["169.254.169.253"]': f'aws_hosts = ["{KMS}=127.0.0.1:{company.stub.port}"]',
    }
    environment = clients_own(company) | {"AWS_CA_BUNDLE": str(company.authority.bundle), "PYTHONPATH": str(tmp_path)}
    before = len(company.stub.journal)
    printed = follow(tmp_path, "Under KMS's own names, by private DNS", places, environment)
    assert (len(records(printed)), proofs(printed)) == (1, {"accepted-by-upstream"})
    (entry,) = company.stub.journal[before:]
    assert (entry.refused, entry.access_key_id) == (None, ALICE[0])


def test_as_the_companys_https_proxy(company: Company, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environment = clients_own(company) | {"KEYTRAIL_AWS_HOSTS": f"{KMS}=127.0.0.1:{company.stub.port}"}
    before = len(company.stub.journal)
    printed = follow(tmp_path, "As the company's HTTPS proxy", {"127.0.0.1:4597": f"127.0.0.1:{port}"}, environment)
    assert re.search(r"(?m)^200$", printed)
    assert (len(records(printed)), proofs(printed)) == (1, {"accepted-by-upstream"})
    assert [(entry.operation, entry.refused) for entry in company.stub.journal[before:]] == [
        ("GenerateDataKey", None),
        ("ListKeys", None),
    ]


def test_out_through_another_proxy(company: Company, tmp_path: Path) -> None:
    shutil.copy(company.authority.bundle, tmp_path / "corporate-ca.pem")
    with squid(tmp_path, SquidOptions(users={"keytrail": "password"}, hosts={KMS: "127.0.0.1"})) as proxy:
        environment = clients_own(company) | {
            "AWS_ACCESS_KEY_ID": "AKIAUPSTREAM",
            "AWS_SECRET_ACCESS_KEY": "upstream-secret",
            "KEYTRAIL_AWS_ENDPOINT": f"https://{KMS}:{company.moto.port}",
        }
        printed = follow(tmp_path, "Out through another proxy", {"proxy.example:3128": proxy.address}, environment)
    assert "made by way of two proxies" in printed
    assert {(access.method, access.user) for access in proxy.accesses} == {("CONNECT", "keytrail")}


def test_reconcile_with_awss_own_trail(tmp_path: Path) -> None:
    world = ReconcileWorld(tmp_path / "data", tmp_path / "aws-cloudtrail")
    world.call(0)
    bypass = world.event(60, userIdentity=world.user("eve"))
    world.call(120)
    world.deliver()
    printed = follow(tmp_path, "Did anything bypass keytrail?", {}, {"KEYTRAIL_DATA": str(world.data)}, init=False)
    assert "user/eve" in printed
    compared, imported = printed.split("FINDINGS.\n")
    assert re.search(r"bypass[^\n]*", compared) and bypass["requestID"][:13] in compared
    assert "1 call did not pass keytrail." in imported
    assert re.search(r"^cloudtrail +3 *\nkeytrail +2 *$", imported, re.MULTILINE)
    assert '"eventSource":"kms.amazonaws.com"' in imported


def test_every_recipe_for_aws_is_run_here() -> None:
    assert {recipe.heading for recipe in RECIPES} == {
        "As an endpoint, signing anew",
        "Under KMS's own names, by private DNS",
        "As the company's HTTPS proxy",
        "Out through another proxy",
        "Did anything bypass keytrail?",
    }
