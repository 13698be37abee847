"""Each front runs on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
import uvloop

from tests.proxy.listeners.loops import Run

LIMIT_S = 20.0


@pytest.fixture(params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both event loops: production runs on uvloop, whose transports are not asyncio's."""

    def run(scenario: Awaitable[None]) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(scenario, LIMIT_S)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run
