"""`keytrail shred` and `keytrail stored-form`: private values of encryption contexts, by the operator on the host."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated

import typer

from audit.subjects import PrivacyFault, Subjects, load_privacy_key, subjects_path
from proxy.command_line import ConfigOption, DataOption, opened_instance
from proxy.domain import Answer, Operation
from proxy.errors import SetupError
from proxy.host_log import HostLog

app = typer.Typer()
_SHRED = Operation("ShredSubject", mutates=True, request=("subject",))


@app.command()
def shred(
    subject: Annotated[str, typer.Option(help="Whose: NAME=VALUE, as in the encryption context, such as patient-id=123.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete a subject's key: what the logs hold encrypted under it is unreadable from then on, and every proof still holds.

    On record in the log `admin`, by the subject's HMAC. Later calls of the subject get a new key. Exits 1 where it had none.
    """
    with opened_instance(config, data) as (instance, settings):
        name, value = _pair(subject)
        key = load_privacy_key(instance)
        digest = key.digest(name, value)
        if not subjects_path(instance).exists():
            raise SetupError(f"{subjects_path(instance)} is not there: nothing was encrypted")
        subjects = Subjects(subjects_path(instance), key, os.urandom)
        try:
            with HostLog(instance, settings) as log:
                exchange = log.exchange(_SHRED, {"subject": f"{name}={digest}"})
                had_one = log.recorded(exchange, "keytrail", partial(_shredded, subjects, digest), lambda _: Answer({}))
        finally:
            subjects.close()
    if not had_one:
        typer.echo(f"keytrail: the subject has no key: nothing is encrypted under one; its HMAC is {digest}", err=True)
        raise typer.Exit(1)
    typer.echo(f"The key of the subject {name}={digest} is gone. Backups of {subjects_path(instance)} still hold it.")


@app.command("stored-form")
def stored_form(
    pair: Annotated[str, typer.Argument(metavar="NAME=VALUE", help="As in the encryption context, such as patient-id=123.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the text that stands in records for a value that is private by HMAC: for SQL, and for tools of your own."""
    with opened_instance(config, data) as (instance, _):
        typer.echo(load_privacy_key(instance).digest(*_pair(pair)))


def _pair(text: str) -> tuple[str, str]:
    name, divider, value = text.partition("=")
    if not divider or not name:
        raise SetupError("a subject is NAME=VALUE")  # without the text: it may be private
    return name, value


def _shredded(subjects: Subjects, digest: str) -> bool:
    try:
        return subjects.shred(digest)
    except PrivacyFault as error:
        raise SetupError(str(error)) from error
