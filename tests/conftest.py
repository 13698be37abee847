"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from audit.query import searches
from tests.integration.components.postgresql import PostgreSQL
from tests.integration.components.postgresql import postgresql as running_postgresql


@pytest.fixture(scope="session", autouse=True)
def _commands_that_run_within_the_tests_do_not_make_them_modest() -> Iterator[None]:
    """A command that asks a served log takes spare time only from then on; the tests, and the servers that they start, do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searches, "be_modest", lambda: None)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for all tests of this process: each takes a database of its own."""
    with running_postgresql() as server:
        yield server
