"""`keytrail seal`."""

from __future__ import annotations

import logging
import os
import signal

import typer

from audit.companion import Status
from audit.sealing.process import main as run_sealer
from proxy.command_line import ConfigOption, DataOption, opened_instance
from proxy.companions import sealing_plan

app = typer.Typer()
_log = logging.getLogger("sealer")


@app.command()
def seal(data: DataOption = None, config: ConfigOption = None) -> None:
    """Sign what the logs are, until SIGTERM or Ctrl-C: the sealer by itself, for `sealer = "apart"`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with opened_instance(config, data) as (_, chosen):
        plan = sealing_plan(chosen)
    reading, writing = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(writing, b"."))
    _log.info("seals the logs in %s", chosen.data)
    raise typer.Exit(run_sealer(str(chosen.data), plan, reading, _tell, is_patient=False))


def _tell(status: Status) -> None:
    if status.ready:
        _log.info("every log is sealed")
    else:
        _log.error("%s", status.reason)
