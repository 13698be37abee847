"""Records as a table, as the lines that stand in the log, and as CSV.

What a record holds was written by whoever called: text from it never reaches a terminal or a spreadsheet as a command.
Control and direction characters are shown as escapes, rich markup is not read, and CSV cells that a spreadsheet would
take for a formula begin with ``'``. Only `write_lines` gives the bytes as they are.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable
from typing import BinaryIO, TextIO

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from audit.errors import DamagedLog
from audit.ocsf import NoRecord, encode_event
from audit.query.filters import Record, allowances, contexts, extension, fingerprints, named_keys, resource_arns
from audit.query.lines import Found
from audit.query.trace import caller_of

#: Unicode categories that are never printed as they are: control, format (directions), surrogates, line and paragraph
#: separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_GRANT = len("grant ") + 12
_WIDEST = 1 << 20  # characters
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def clean(text: str) -> str:
    """`text` with what could command a terminal, or mislead its reader, as visible escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(character) if unicodedata.category(character) in _UNPRINTABLE else character for character in text)


def plain(text: str, style: str = "") -> Text:
    """`text` for rich: cleaned, and never read as markup."""
    return Text(clean(text), style=style)


def short_caller(arn: str) -> str:
    """The part of an ARN that people know the caller by: ``user/alice``."""
    return arn.split(":", 5)[5] if arn.startswith("arn:") and arn.count(":") >= 5 else arn


def short_key(name: str) -> str:
    """A key ARN without what all keys of an account share: the id, or ``alias/NAME``."""
    return name.rsplit(":", 1)[-1].removeprefix("key/")


def context_text(context: dict[str, dict[str, str]]) -> str:
    """Encryption contexts as ``k=v k=v``; where source and destination differ, both, with an arrow."""
    texts = [" ".join(f"{key}={value}" for key, value in sorted(pairs.items())) for pairs in context.values()]
    return " → ".join(dict.fromkeys(texts))


# --- CSV --------------------------------------------------------------------------------------------------------------

#: The columns of the CSV form, in order. Lists are divided by blanks; contexts are JSON.
CSV_COLUMNS: dict[str, Callable[[Found, Record], str]] = {
    "time": lambda found, _: found.time,
    "event": lambda _, record: _text(record.get("eventName")),
    "phase": lambda _, record: _text(extension(record).get("phase")),
    "error": lambda _, record: _text(record.get("errorCode")),
    "caller": lambda _, record: caller_of(record),
    "accessKeyId": lambda _, record: _text((record.get("userIdentity") or {}).get("accessKeyId")),
    "sourceIPAddress": lambda _, record: _text(record.get("sourceIPAddress")),
    "userAgent": lambda _, record: _text(record.get("userAgent")),
    "allowedBy": lambda _, record: ", ".join(allowances(record)),
    "keys": lambda _, record: " ".join(resource_arns(record) or dict.fromkeys(named_keys(record))),
    "context": lambda _, record: orjson.dumps(contexts(record)).decode() if contexts(record) else "",
    "fingerprintsIn": lambda _, record: " ".join(fingerprints(record, "fingerprintsIn")),
    "fingerprintsOut": lambda _, record: " ".join(fingerprints(record, "fingerprintsOut")),
    "requestID": lambda _, record: _text(record.get("requestID")),
    "eventID": lambda _, record: _text(record.get("eventID")),
    "log": lambda found, _: found.place.log,
    "segment": lambda found, _: found.place.segment,
    "line": lambda found, _: str(found.place.line),
}


def write_csv(found: Iterable[Found], out: TextIO) -> None:
    """`found` as CSV (RFC 4180) with a heading of `CSV_COLUMNS`. Raises `DamagedLog`, OSError."""
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for one in found:
        record = one.record
        writer.writerow([cell(column(one, record)) for column in CSV_COLUMNS.values()])


def write_lines(found: Iterable[Found], out: BinaryIO) -> None:
    """`found` as JSON lines, byte for byte as they stand in the log. Raises OSError."""
    for one in found:
        out.write(one.line + b"\n")


def write_ocsf(found: Iterable[Found], out: BinaryIO) -> None:
    """`found` as OCSF events, JSON lines. Raises `DamagedLog`, OSError."""
    for one in found:
        try:
            out.write(encode_event(one.line) + b"\n")
        except NoRecord as error:
            raise DamagedLog(one.place.segment, one.place.line, str(error)) from error


# --- for people -------------------------------------------------------------------------------------------------------


def write_table(found: Iterable[Found], console: Console) -> None:
    """`found` as a table, a page of rows at a time. Raises `DamagedLog`."""
    page: list[Found] = []
    whole = not console.is_terminal
    for one in found:
        page.append(one)
        if len(page) == 500:
            print_table(_table(page, whole), console)
            page = []
    if page:
        print_table(_table(page, whole), console)


def print_table(table: Table, console: Console) -> None:
    """A terminal's lines are as wide as it is. Elsewhere a line is as long as what it says: no text in it is broken or cut."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().removesuffix("\n").split("\n")))


def record_line(one: Found) -> Text:
    """A record on one line, for `tail`. Raises `DamagedLog`."""
    record = one.record
    parts = [
        plain(one.time[:23] + "Z", "dim"),
        plain(_text(record.get("eventName")), "bold"),
        plain(short_caller(caller_of(record))),
    ]
    if failure := _failure(record):
        parts.append(plain(failure, "red"))
    parts.append(plain(" ".join(map(short_key, resource_arns(record) or dict.fromkeys(named_keys(record))))))
    parts.append(plain(context_text(contexts(record)), "cyan"))
    return Text("  ").join(part for part in parts if part)


class _Console(Console):
    """rich's ends the program with 1 where its reader goes away, which here is a finding."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(out: TextIO, width: int | None = None) -> Console:
    """A console on `out` that reads no markup and colours a terminal only. Where it is piped it breaks no line: who reads it
    there looks for ids and ARNs, and a broken one is none."""
    if width is None and not out.isatty():
        width = _WIDEST
    return _Console(file=out, markup=False, highlight=False, emoji=False, width=width)


def _table(page: list[Found], whole: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("time (UTC)", no_wrap=True, min_width=23)
    for heading, ratio in (("event", 3), ("caller", 3), ("key", 4), ("context", 4), ("result", 2)):
        table.add_column(heading, overflow="fold", ratio=ratio)
    for one in page:
        record = one.record
        keys = " ".join(map(short_key, resource_arns(record) or dict.fromkeys(named_keys(record))))
        failure = _failure(record)
        result = failure or " ".join(["ok", *(f"by {grant}" for grant in _grants(record, whole))])
        table.add_row(
            plain(one.time[:23].replace("T", " ")),
            plain(_text(record.get("eventName"))),
            plain(short_caller(caller_of(record))),
            plain(keys),
            plain(context_text(contexts(record))),
            plain(result, "red" if failure else ""),
        )
    return table


def _failure(record: Record) -> str:
    """Of a record that is no answered call: its phase, its error code, and what is known of the effect."""
    phase, effect = _text(extension(record).get("phase")), _text(extension(record).get("effect"))
    return " ".join(filter(None, (phase if phase != "outcome" else "", _text(record.get("errorCode")), effect and f"({effect})")))


def _grants(record: Record, whole: bool) -> Iterable[str]:
    """The grants that allowed the call, `whole` or by as many of their 64 digits as tell them apart. The policies are in the
    other forms."""
    grants = dict.fromkeys(one for one in allowances(record) if one.startswith("grant "))
    return (one if whole or len(one) <= _GRANT else one[:_GRANT] + "…" for one in grants)


def cell(text: str) -> str:
    """`text` for a CSV: no formula to a spreadsheet, and nothing that a terminal obeys."""
    return ("'" if text.startswith(_FORMULA) else "") + clean(text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
