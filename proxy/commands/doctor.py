"""`keytrail doctor`."""

from __future__ import annotations

import os
import sys

import typer
from rich.text import Text

from audit.query.render import make_console
from proxy import doctor
from proxy.command_line import ConfigOption, DataOption, chosen_settings, errors

app = typer.Typer()


@app.command("doctor")
def diagnose(data: DataOption = None, config: ConfigOption = None) -> None:
    """Look for what stands in the way of calls: names, certificates, clock, proxies, rights, disk. Exits 1 where it found any."""
    with errors():
        checks = doctor.run(chosen_settings(config, data), os.environ)
    styles = {doctor.Verdict.OK: "green", doctor.Verdict.WARNING: "yellow", doctor.Verdict.FAILED: "red"}
    console = make_console(sys.stdout)
    for number, check in enumerate(checks, 1):
        seen = check.seen + (f" → {check.advice}" if check.advice else "")
        console.print(Text(f"{number:2}. {check.verdict.value:14} {check.name}: {seen}", styles.get(check.verdict, "dim")))
    raise typer.Exit(1 if any(check.verdict is doctor.Verdict.FAILED for check in checks) else 0)
