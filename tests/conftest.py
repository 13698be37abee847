"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from hypothesis import strategies as st

from audit.query import searches
from tests.integration.components.postgresql import PostgreSQL
from tests.integration.components.postgresql import postgresql as running_postgresql

#: Where the tests put what Python runs at the start of each process of theirs.
EAGER = str(Path(__file__).parent / "eager")


@pytest.fixture(scope="session", autouse=True)
def _nobody_takes_spare_time_only() -> Iterator[None]:
    """Neither the tests, which run commands that do, nor the servers that they start: on a busy machine there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searches, "be_modest", lambda: None)
        patch.setenv("PYTHONPATH", EAGER, prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_knows_all_characters() -> None:
    """The table of them takes a second, once in a checkout. A test that draws text must not be the one that makes it: within a
    second, Hypothesis wants ten examples (`HealthCheck.too_slow`)."""
    st.text().validate()


@pytest.fixture(scope="module", autouse=True)
def _no_file_goes_on_with_what_another_told_boto3() -> None:
    """boto3's default session keeps the credentials, the profile and the configuration that it found first."""
    boto3.DEFAULT_SESSION = None


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up ones, and a region, where every SDK of AWS finds them."""
    for name, value in (("ACCESS_KEY_ID", "made-up"), ("SECRET_ACCESS_KEY", "made-up"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """AWS, as moto has it within this process, behind a socket: the URL of all its services. Signatures are not looked at."""
    from moto.server import ThreadedMotoServer  # here: it takes long to import

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for all tests of this process: each takes a database of its own."""
    with running_postgresql() as server:
        yield server
