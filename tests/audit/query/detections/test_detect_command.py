from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from audit.query.detections.cloudtrail import CONTEXTS, FIELDS, LISTS
from audit.query.detections.command import app
from audit.query.detections.questions import span_text
from audit.query.detections.rules import RULES, Need
from audit.query.detections.run import prepare
from audit.query.detections.settings import parse_settings
from audit.query.events import open_events
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, fingerprint
from tests.audit.query.detections.events import SINCE_S, past

DOCS = Path(__file__).parents[4] / "docs" / "detections.md"
SIGMA = Path(__file__).parent / "sigma"
FROM = "2026-01-12"
BLOB = bytes(range(200)) * 2


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    log = LogBuilder(tmp_path / "data")
    past(log, context={"tenant": "acme"})
    log.add(SINCE_S, "ScheduleKeyDeletion")
    log.add(SINCE_S + 1, user="eve", error="DisabledException")
    return log


def run(log: LogBuilder, *arguments: str, stdin: bytes | None = None, since: str = FROM) -> Result:
    top = typer.Typer()
    top.registered_commands += app.registered_commands
    return CliRunner().invoke(
        top, ["--since", since, *arguments], input=stdin, env={"KEYTRAIL_DATA": str(log.data), "COLUMNS": "160"}
    )


def told(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_findings_are_json_lines_and_exit_1(log: LogBuilder) -> None:
    result = run(log)
    assert result.exit_code == 1
    assert [(one["kind"], one["rule"], one["severity"]) for one in told(result)] == [
        ("finding", "KT032", "high"),
        ("finding", "KT030", "medium"),
    ]
    assert told(result)[1] == {
        "kind": "finding",
        "rule": "KT030",
        "title": "Attempt to use a disabled key",
        "severity": "medium",
        "first": "2026-01-12T00:00:01.000000Z",
        "last": "2026-01-12T00:00:01.000000Z",
        "count": 1,
        "subject": {"principal": "arn:aws:iam::111122223333:user/eve", "key": KEY_A},
        "why": "arn:aws:iam::111122223333:user/eve tried once to use a key that is disabled",
        "evidence": [
            {
                "time": "2026-01-12T00:00:01.000000Z",
                "event_id": "00000000-0000-0000-0000-000000000002",
                "request_id": "00000000-0000-0000-0000-000000000001",
                "origin": "keytrail",
                "log": "w0",
                "record": 2,
            }
        ],
    }
    assert "2 findings (1 high, 1 medium)\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "rules"),
    [
        (["--min-severity", "high"], 1, ["KT032"]),
        (["--min-severity", "critical"], 0, []),
        (["--until", "2026-01-12T00:00:01Z"], 1, ["KT032"]),
        (["--baseline", "1d"], 1, ["KT032", "KT030"]),
        (["--no-index"], 1, ["KT032", "KT030"]),
    ],
)
def test_options(log: LogBuilder, arguments: list[str], code: int, rules: list[str]) -> None:
    result = run(log, *arguments)
    assert (result.exit_code, [one["rule"] for one in told(result)]) == (code, rules)


def test_nothing_found_exits_0(log: LogBuilder) -> None:
    result = run(log, since="2026-02-01")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 findings\n" in result.stderr


def test_fewer_records_are_named_than_there_are(log: LogBuilder) -> None:
    log.add(SINCE_S + 2, user="eve", error="DisabledException")
    found = told(run(log, "--evidence", "1"))[1]
    assert (found["count"], [one["record"] for one in found["evidence"]]) == (2, [2])
    assert told(run(log, "--evidence", "0"))[1]["evidence"] == []


def test_table_for_people_carries_no_command_to_the_terminal(log: LogBuilder) -> None:
    log.add(SINCE_S + 2, user="\x1b[31mred\u202e[bold]x[/bold]", error="DisabledException")
    result = run(log, "--format", "table", "--evidence", "1")
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert "\\x1b[31mred\\u202e[bold]x[/bold]" in result.stdout.replace("\n", "")
    assert "Key scheduled for deletion" in result.stdout
    assert "records w0 1" in result.stdout
    assert "\\u001b" in run(log).stdout
    assert "\x1b" not in run(log).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "long"], "--baseline: not a duration: 'long'"),
        (["--min-severity", "grave"], "--min-severity: not a severity: 'grave'"),
        (["--until", "2026-01-01"], "--until is not after --since"),
        (["--until", "later"], "not a time: 'later'"),
        (["--canary", "no such thing"], "no file of that name, and neither a fingerprint nor base64"),
        (["--time-limit", "0.001"], "interrupted after 0.001 s"),
    ],
)
def test_what_is_asked_wrongly_is_usage(log: LogBuilder, arguments: list[str], message: str) -> None:
    result = run(log, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_settings_that_are_not_known_are_usage_and_a_file_that_is_not_there_is_io(log: LogBuilder, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("[rules.KT001]\nwindow = 1\n")
    result = run(log, "--rules", str(path))
    assert result.exit_code == 2
    assert result.stderr == f"error: {path}: rules.KT001: 'window' is not known; accepted: enabled, severity, count, within\n"
    for option in ("--rules", "--sigma"):
        result = run(log, option, str(tmp_path / "none"))
        assert (result.exit_code, result.stdout) == (3, "")


def test_settings_apply(log: LogBuilder, tmp_path: Path) -> None:
    one, two = tmp_path / "1.toml", tmp_path / "2.toml"
    one.write_text('[rules.KT032]\nenabled = false\n[[contract]]\nkey = "*"\nrequired = ["tenant"]\n')
    two.write_text('[[suppress]]\nprincipal = "*/eve"\nrule = "KT030"\nuntil = 2999-01-01\nreason = "known \\u001b"\n')
    result = run(log, "--rules", str(one), "--rules", str(two))
    assert [(one["rule"], one["subject"].get("name")) for one in told(result)] == [("KT040", "tenant")]
    assert "1 finding suppressed until 2999-01-01: known \\x1b\n" in result.stderr


def test_damaged_lines_are_told_and_exit_1(log: LogBuilder) -> None:
    log.raw(b"{\n")
    result = run(log, "--min-severity", "critical")
    assert result.exit_code == 1
    assert "WARNING: 1 damaged place in the log" in result.stderr


def test_sigma_rules_and_those_that_cannot_be_asked(log: LogBuilder, tmp_path: Path) -> None:
    result = run(log, "--sigma", str(SIGMA), "--min-severity", "high")
    assert [one["title"] for one in told(result)] == ["Deletion of a KMS key was scheduled", RULES_BY_ID["KT032"]]
    rule = tmp_path / "rule.yml"
    rule.write_text(
        "title: t\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: {userIdentity.invokedBy: x}, condition: s}\n"
        "---\ntitle: w\nlogsource: {product: windows}\ndetection: {s: {a: x}, condition: s}\n"
    )
    result = run(log, "--sigma", str(rule), since="2026-02-01")
    assert result.exit_code == 1  # finding nothing would mean nothing
    assert told(result) == [
        {
            "kind": "unevaluated",
            "rule": "t",
            "title": "t",
            "where": str(rule),
            "reason": "field userIdentity.invokedBy is not in the events",
        }
    ]
    assert "1 rule could not be asked" in result.stderr
    assert "1 Sigma rule is for another log source" in result.stderr
    assert "not asked" in run(log, "--sigma", str(rule), "--format", "table").stdout


RULES_BY_ID: Mapping[str, str] = {rule.id: rule.title for rule in RULES}


def test_canaries_by_fingerprint_blob_file_and_standard_input(log: LogBuilder, tmp_path: Path) -> None:
    digest = hashlib.sha256(BLOB).hexdigest()
    extension = {"keytrail": {"phase": "outcome", "fingerprintsIn": [digest]}}
    log.add(SINCE_S + 5, user="eve", additionalEventData=extension, error="AccessDenied")
    (tmp_path / "blob").write_bytes(BLOB)
    (tmp_path / "text").write_text(f"{digest}\n")
    for way in (digest, digest.upper(), base64.b64encode(BLOB).decode(), str(tmp_path / "blob"), str(tmp_path / "text"), "-"):
        result = run(log, "--canary", way, "--min-severity", "critical", stdin=BLOB)
        assert result.exit_code == 1
        [found] = told(result)
        assert (found["rule"], found["severity"], found["subject"]["canary"]) == ("KT050", "critical", digest)
    assert run(log, "--canary", fingerprint("other"), "--min-severity", "critical").exit_code == 0
    (tmp_path / "empty").write_bytes(b"")
    result = run(log, "--canary", str(tmp_path / "empty"))
    assert (result.exit_code, "no data key in" in result.stderr) == (2, True)


def test_contracts_that_were_learned_can_be_given_back(log: LogBuilder, tmp_path: Path) -> None:
    for number in range(20):
        log.add(SINCE_S + 10 + number, "Encrypt", context={"tenant": f"tenant-{number}"})
        log.add(SINCE_S + 10 + number, "Encrypt", key=KEY_B, context={"a\x1b": "x"} if number else {})
    learned = run(log, "--learn-contracts", since=FROM)
    assert learned.exit_code == 0
    assert "\x1b" not in learned.stdout
    contracts = parse_settings(tomllib.loads(learned.stdout)).contracts
    assert [(one.key, one.required, one.allowed) for one in contracts] == [(KEY_A, ("tenant",), ()), (KEY_B, (), ("a\x1b",))]
    path = tmp_path / "contracts.toml"
    path.write_text(learned.stdout)
    log.add(SINCE_S + 100, "Encrypt", user="eve")
    found = [one for one in told(run(log, "--rules", str(path))) if one["rule"] == "KT040"]
    assert [(one["subject"]["name"], one["count"], one["subject"]["principal"][-4:]) for one in found] == [("tenant", 2, "/eve")]
    assert run(log, "--learn-contracts", "--min-uses", "1000").stdout == ""


def test_imported_events_of_calls_that_passed_here_count_once(log: LogBuilder) -> None:
    """An event of CloudTrail's counts where no record has its request id: it is of a call that went past the proxy."""
    with open_events(log.data) as events:
        database = events.database
        database.execute("CREATE TABLE both_trails AS SELECT * FROM calls")
        database.execute("INSERT INTO both_trails SELECT * REPLACE ('cloudtrail' AS origin) FROM calls")
        database.execute("INSERT INTO both_trails SELECT * REPLACE ('cloudtrail' AS origin, 'bypass' AS request_id) FROM calls")
        database.execute("CREATE OR REPLACE VIEW calls AS SELECT * FROM both_trails")
        prepare(database)
        counted = database.execute(
            "SELECT origin, request_id = 'bypass', count(*) FROM observed GROUP BY ALL ORDER BY 1"
        ).fetchall()
    assert counted == [("cloudtrail", True, 3), ("keytrail", False, 3)]


# --- The page


def test_the_page_tells_each_rule_as_it_is() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| KT")]
    assert rows == [_row(rule.id) for rule in RULES]


def _row(id: str) -> str:
    rule = next(rule for rule in RULES if rule.id == id)
    parameters = ", ".join(
        f"`{name}` {value if isinstance(value, int) else span_text(value)}" for name, value in rule.parameters.items()
    )
    needs = "; needs a baseline" if rule.needs is Need.BASELINE else ""
    cells = (
        id,
        rule.severity.word,
        f"**{rule.title}.** {rule.meaning}",
        rule.action,
        rule.innocent,
        f"{parameters or '–'}{needs}",
    )
    return f"| {' | '.join(cells)} |"


def test_the_page_names_every_field_of_sigma_rules() -> None:
    text = DOCS.read_text().partition("## Sigma")[2]
    named = set(re.findall(r"`([A-Za-z.]+)`", text))
    assert {*FIELDS, *LISTS, *(f"{prefix}NAME" for prefix in CONTEXTS)} <= named


def test_ids_are_unique_and_in_order() -> None:
    ids = [rule.id for rule in RULES]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"KT[0-9]{3}", id) for id in ids)
