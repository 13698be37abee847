from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import QueryError
from audit.query.detections.cloudtrail import CONTEXTS, FIELDS, LISTS
from audit.query.detections.findings import Severity
from audit.query.detections.questions import ask
from audit.query.detections.run import Outcome, detect
from audit.query.detections.settings import Settings, Suppression
from audit.query.detections.sigma import load
from tests.audit.query.builder import KEY_A, KEY_B, LogBuilder, at, fingerprint
from tests.audit.query.detections.events import NOW, SINCE, SINCE_S, identity, observed, session

RULES = Path(__file__).parent / "sigma"
BASELINE = timedelta(days=10)
HEAD = """title: A rule of ours
id: 00000000-0000-4000-8000-00000000000a
status: test
logsource: {product: aws, service: cloudtrail}
"""


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    return LogBuilder(tmp_path / "data")


def answer_of(database: duckdb.DuckDBPyConnection, *paths: Path) -> Outcome:
    """What Sigma rules alone find."""
    ruleset = load(paths, database, SINCE)
    found = [one for question in ruleset.questions for one in ask(database, question, SINCE, 100)]
    return Outcome(tuple(sorted(found, key=lambda one: one.order)), tuple(ruleset.unevaluated), (), (), 0)


def asked(log: LogBuilder, *paths: Path) -> Outcome:
    with observed(log.data) as database:
        return answer_of(database, *paths)


def written(tmp_path: Path, detection: str, head: str = HEAD) -> Path:
    path = tmp_path / "rule.yml"
    path.write_text(f"{head}detection:\n{indent(dedent(detection).strip(), '  ')}\nlevel: high\n")
    return path


def records(answer: Outcome) -> list[int]:
    assert answer.unevaluated == ()
    return sorted(one.record or 0 for finding in answer.findings for one in finding.evidence)


def matched(database: duckdb.DuckDBPyConnection, tmp_path: Path, detection: str) -> list[int]:
    return records(answer_of(database, written(tmp_path, detection)))


def test_rules_in_the_style_of_the_public_ones(log: LogBuilder) -> None:
    log.add(0, "ScheduleKeyDeletion")  # before --since
    log.add(SINCE_S, "ScheduleKeyDeletion")
    log.add(SINCE_S, "DisableKey", error="AccessDenied")
    log.add(SINCE_S, "DisableKey", userIdentity=session("key-admin", "deployment"))
    log.add(SINCE_S, "DisableKey", user="carol")
    log.add(SINCE_S, "ImportKeyMaterial")
    log.add(SINCE_S, "Encrypt", userIdentity=identity("x", type="Root", arn="arn:aws:iam::111122223333:root"))
    log.add(SINCE_S, "DescribeKey", eventType="AwsServiceEvent", userIdentity=identity("x", type="Root"))
    log.add(SINCE_S, userAgent="aws-cli/2.15 Python/3.11 Linux/6.6-KALI")
    log.add(SINCE_S, userAgent="Boto3/1.44")
    log.add(SINCE_S, "CreateGrant", sourceIPAddress="203.0.113.9")
    log.add(SINCE_S, "CreateGrant", sourceIPAddress="10.4.0.9")
    log.add(SINCE_S, "CreateGrant", sourceIPAddress="s3.amazonaws.com")
    answer = asked(log, RULES)
    found = {(one.title, one.severity.word): [evidence.record for evidence in one.evidence] for one in answer.findings}
    assert found == {
        ("Deletion of a KMS key was scheduled", "high"): [1],
        ("A KMS key was disabled by somebody who does not administer keys", "medium"): [4],
        ("Key material was imported", "low"): [5],
        ("The root user worked with KMS", "critical"): [6],
        ("A tool of intruders called KMS", "high"): [8],
        ("A grant from outside", "medium"): [10],
    }
    [scheduled] = [one for one in answer.findings if one.title.startswith("Deletion")]
    assert scheduled.rule == "7d1f7ad5-6a0c-4c09-9d7c-2c1f5f3e8a01"
    assert scheduled.subject == {"principal": "arn:aws:iam::111122223333:user/alice", "key": KEY_A}
    assert scheduled.why == "1 events match the Sigma rule"
    assert answer.unevaluated == ()


EVENTS: list[dict[str, Any]] = [
    {"userAgent": "Boto3/1.44 100% a_b c\\d o'clock"},
    {"userAgent": "boto3/1.44 100x aXb c\\\\d oclock", "error": "AccessDenied"},
    {"userAgent": None, "sourceIPAddress": "2001:db8::7"},
]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    log = LogBuilder(tmp_path_factory.mktemp("three"))
    for event in EVENTS:
        log.add(SINCE_S, **event)
    with observed(log.data) as database:
        yield database


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("userAgent: 'BOTO3/1.44 100% A_B C\\d O''CLOCK'", [0]),  # without regard to case
        ("userAgent|cased: 'BOTO3*'", []),
        ("userAgent|cased: 'Boto3*'", [0]),
        ("userAgent|contains: '100%'", [0]),
        ("userAgent|contains: 'a_b'", [0]),
        ('userAgent|contains: "o\'c"', [0]),
        ("userAgent|contains: 'c\\d'", [0]),
        ("userAgent|contains: 'c\\\\\\\\d'", [1]),  # four for two, which is what is there
        ("userAgent|startswith: 'boto3/'", [0, 1]),
        ("userAgent|endswith: 'CLOCK'", [0, 1]),
        ("userAgent: 'Boto?/*clock'", [0, 1]),
        ("userAgent: 'Boto3'", []),
        ("userAgent|contains|all: ['boto3', '100%']", [0]),
        ("userAgent|contains: ['100%', '100x']", [0, 1]),
        ("userAgent|re: '^Boto3/[0-9.]+ 100'", [0]),
        ("userAgent|re|i: '^BOTO3/'", [0, 1]),
        ('userAgent|re: "o\'clock$"', [0]),
        ("userAgent|re: 'c.d'", [0]),
        ("userAgent|contains: \"' OR '1'='1\"", []),
        ('userAgent|contains: "\'); DROP VIEW observed; --"', []),
        ("userAgent|re: \"', true OR .' ~ --\"", []),
        ("userAgent|contains: '$since'", []),
        ("userAgent|contains: '{field} %s ?'", []),
        ("userAgent: null", [2]),
        ("userAgent|exists: true", [0, 1]),
        ("userAgent|exists: false", [2]),
        ("sourceIPAddress|cidr: '10.0.0.0/9'", [0, 1]),
        ("sourceIPAddress|cidr: '2001:db8::/32'", [2]),
        ("sourceIPAddress|cidr: '10.0.0.8/32'", []),
        ("errorCode: AccessDenied", [1]),
        ("errorCode: null", [0, 2]),
        ("userIdentity.accountId: 111122223333", [0, 1, 2]),
        ("userIdentity.accountId: '111122223333'", [0, 1, 2]),
        ("userIdentity.accountId|gt: 111122223333", []),
        ("userIdentity.accountId|gte: 111122223333", [0, 1, 2]),
        ("userIdentity.userName|gt: 1", []),
        ("readOnly: true", [0, 1, 2]),
        ("readOnly: 'true'", [0, 1, 2]),
        ("readOnly: false", []),
        ("eventTime|hour: 0", [0, 1, 2]),
        ("eventTime|hour: 1", []),
        ("userAgent|fieldref: eventName", []),
        (f"resources.ARN: '{KEY_A}'", [0, 1, 2]),
        ("resources.ARN|endswith: 'bbbb-1111-2222-3333-444455556666'", []),
        ("resources.accountId|contains: '1111'", [0, 1, 2]),
    ],
)
def test_modifiers_and_hostile_values(
    three: duckdb.DuckDBPyConnection, tmp_path: Path, selection: str, expected: list[int]
) -> None:
    assert matched(three, tmp_path, f"selection:\n  {selection}\ncondition: selection") == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("denied", [1]),
        ("not denied", [0, 2]),  # what has no error is not denied
        ("boto and not denied", [0]),
        ("not (denied or ipv6)", [0]),
        ("not (boto and denied)", [0, 2]),
        ("not not denied", [1]),
        ("1 of select*", []),
        ("all of b*", [0, 1]),
        ("1 of them", [0, 1, 2]),
        ("all of them", []),
        ("(boto or ipv6) and not 1 of filter_*", [0, 2]),
    ],
)
def test_conditions(three: duckdb.DuckDBPyConnection, tmp_path: Path, condition: str, expected: list[int]) -> None:
    detection = f"""
    boto:
      userAgent|startswith: boto3
    denied:
      errorCode|contains: Denied
    ipv6:
      sourceIPAddress|contains: ':'
    filter_denied:
      errorCode: [AccessDenied, Other]
    select_none:
      eventName: [CreateKey]
    condition: {condition}
    """
    assert matched(three, tmp_path, detection) == expected


def test_pairs_of_contexts_and_lists(log: LogBuilder, tmp_path: Path) -> None:
    log.add(SINCE_S, context={"it's": "a", "tenant": "acme"}, blobs_in=["one", "two"])
    log.add(
        SINCE_S,
        "ReEncrypt",
        resources=[{"ARN": KEY_A}, {"ARN": KEY_B}],
        requestParameters={"sourceEncryptionContext": {"tenant": "x"}},
    )
    cases = [
        ("requestParameters.encryptionContext.tenant: ACME", [0]),
        ("requestParameters.encryptionContext.it's: a", [0]),
        ("requestParameters.encryptionContext.none: a", []),
        ("requestParameters.sourceEncryptionContext.tenant|re: '^x$'", [1]),
        (f"resources.ARN|endswith: '{KEY_B[-12:]}'", [0, 1]),
        (f"resources.ARN: '{KEY_B}'", [1]),
        (f"additionalEventData.keytrail.fingerprintsIn: '{fingerprint('two')}'", [0]),
        ("additionalEventData.keytrail.fingerprintsIn|re: '^[0-9a-f]{64}$'", [0]),
    ]
    with observed(log.data) as database:
        for selection, expected in cases:
            assert matched(database, tmp_path, f"selection:\n  {selection}\ncondition: selection") == expected, selection


def test_every_field_can_be_asked_for(log: LogBuilder, tmp_path: Path) -> None:
    log.add(SINCE_S)
    names = [*FIELDS, *LISTS, *(f"{prefix}x" for prefix in CONTEXTS)]
    path = written(tmp_path, "selection:\n" + "".join(f"  {name}: 'no such value'\n" for name in names) + "condition: selection")
    assert asked(log, path) == Outcome((), (), (), (), 0)


@pytest.mark.parametrize(
    ("detection", "reason"),
    [
        ("selection: {userIdentity.invokedBy: x}\ncondition: selection", "field userIdentity.invokedBy"),
        ("selection: {eventname: x}\ncondition: selection", "field eventname"),
        ("selection: {'x\" OR true --': x}\ncondition: selection", 'field x" OR true --'),
        ("selection: {eventName|fieldref: nonsense}\ncondition: selection", "field nonsense"),
        ("selection: {one of the values: x}\ncondition: selection", "Binder Error"),
        ("selection: [keyword]\ncondition: selection", "Value-only string expressions"),
        ("selection: {eventName|re: '(?=x)'}\ncondition: selection", "invalid perl operator"),
        ("selection: {eventName|nonsense: x}\ncondition: selection", "Unknown modifier 'nonsense'"),
        ("selection: {eventName: x}\ncondition: other", "Detection 'other' not defined"),
        ("selection: {eventName: .inf}\ncondition: selection", ""),
        ("selection: {eventName: x}\ncondition: selection | count() > 3", ""),
    ],
)
def test_what_cannot_be_asked_is_named_and_does_not_pass_for_nothing(
    log: LogBuilder, tmp_path: Path, detection: str, reason: str
) -> None:
    log.add(SINCE_S)
    path = written(tmp_path, detection)
    answer = asked(log, path)
    assert answer.findings == ()
    [one] = answer.unevaluated
    assert reason in one.reason
    assert "\n" not in one.reason
    assert (one.title, one.where) == ("A rule of ours", str(path))


def test_files_that_are_no_rules_are_named_and_take_nothing_with_them(log: LogBuilder, tmp_path: Path) -> None:
    log.add(SINCE_S)
    folder = tmp_path / "rules"
    (folder / "below").mkdir(parents=True)
    (folder / "list.yml").write_text("- 1\n- 2\n")
    (folder / "broken.yml").write_text("title: [\n")
    (folder / "binary.yml").write_bytes(b"\xff\xfe\x00\x81")
    (folder / "notes.txt").write_text("not one")
    (folder / "folder.yml").mkdir()
    os.mkfifo(folder / "pipe.yml")
    (folder / "windows.yml").write_text("title: w\nlogsource: {product: windows}\ndetection: {s: {Image: x}, condition: s}\n")
    (folder / "below" / "good.yaml").write_text(
        "title: good\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: {eventName: Decrypt}, condition: s}\n"
    )
    answer = asked(log, folder)
    assert [(one.rule, one.severity) for one in answer.findings] == [("good", Severity.MEDIUM)]
    assert sorted(Path(one.where).name for one in answer.unevaluated) == ["binary.yml", "broken.yml", "list.yml"]
    with observed(log.data) as database:
        assert load([folder], database, SINCE).elsewhere == 1
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(QueryError, match="no Sigma rule in"):
            load([empty], database, SINCE)
        with pytest.raises(FileNotFoundError):
            load([tmp_path / "none"], database, SINCE)


CORRELATION = """
title: Denied
name: denied
logsource: {product: aws, service: cloudtrail}
detection: {s: {errorCode: AccessDenied}, condition: s}
---
title: Deleted
name: deleted
logsource: {product: aws, service: cloudtrail}
detection: {s: {eventName: ScheduleKeyDeletion}, condition: s}
---
title: Correlated
id: 00000000-0000-4000-8000-00000000000c
level: critical
correlation:
"""


def correlated(log: LogBuilder, tmp_path: Path, correlation: str) -> Outcome:
    path = tmp_path / "correlation.yml"
    path.write_text(CORRELATION + indent(dedent(correlation), "  "))
    return asked(log, path)


def test_event_count_slides(log: LogBuilder, tmp_path: Path) -> None:
    for second in (-5, 0, 4, 40, 50, 60):
        log.add(SINCE_S + second, error="AccessDenied", user="eve")
        log.add(SINCE_S + second, error="AccessDenied", user=f"user{second}")
    log.add(SINCE_S + 2, user="eve")
    correlation = "type: event_count\nrules: denied\ngroup-by: [userIdentity.userName]\ntimespan: 10s\ncondition: {%s}\n"
    answer = correlated(log, tmp_path, correlation % "gte: 3")
    assert answer.unevaluated == ()
    [found] = answer.findings  # the rule that is referred to finds nothing by itself
    assert (found.rule, found.severity) == ("00000000-0000-4000-8000-00000000000c", Severity.CRITICAL)
    assert found.subject == {"userIdentity.userName": "eve"}
    assert (found.first, found.last, found.count) == (at(SINCE_S - 5), at(SINCE_S + 4), 3)
    assert found.why == "3 events match the Sigma correlation; 3 within 10s are enough"
    assert correlated(log, tmp_path, correlation % "gt: 3").findings == ()
    assert len(correlated(log, tmp_path, correlation % "gt: 2").findings) == 1


def test_value_count_counts_different_values(log: LogBuilder, tmp_path: Path) -> None:
    for second, key in enumerate((KEY_A, KEY_A, KEY_B)):
        log.add(SINCE_S + second, error="AccessDenied", requestParameters={"keyId": key})
    correlation = """
        type: value_count
        rules: [denied]
        group-by: userIdentity.arn
        timespan: 1m
        condition: {gte: %d, field: requestParameters.keyId}
    """
    [found] = correlated(log, tmp_path, correlation % 2).findings
    assert found.count == 3
    assert correlated(log, tmp_path, correlation % 3).findings == ()


def test_temporal_wants_all_rules_within_the_time_span(log: LogBuilder, tmp_path: Path) -> None:
    log.add(SINCE_S, error="AccessDenied", user="eve")
    log.add(SINCE_S + 60, "ScheduleKeyDeletion", user="eve", sourceIPAddress="10.0.0.7")
    log.add(SINCE_S + 30, "ScheduleKeyDeletion", user="bob")
    correlation = """
        type: temporal
        rules: [denied, deleted]
        group-by: [who]
        aliases:
          who:
            denied: userIdentity.arn
            deleted: userIdentity.arn
        timespan: %s
    """
    [found] = correlated(log, tmp_path, correlation % "60s").findings
    assert (found.subject, found.count) == ({"who": "arn:aws:iam::111122223333:user/eve"}, 2)
    assert correlated(log, tmp_path, correlation % "59s").findings == ()
    [ungrouped] = correlated(log, tmp_path, "type: temporal\nrules: [denied, deleted]\ntimespan: 30s\n").findings
    assert ungrouped.subject == {}


def test_generate_lets_the_rules_find_by_themselves_too(log: LogBuilder, tmp_path: Path) -> None:
    log.add(SINCE_S, error="AccessDenied")
    correlation = "type: event_count\nrules: [denied]\ntimespan: 1m\ncondition: {gte: 5}\n"
    assert correlated(log, tmp_path, correlation).findings == ()
    assert [one.rule for one in correlated(log, tmp_path, correlation + "generate: true\n").findings] == ["denied"]


@pytest.mark.parametrize(
    ("correlation", "reason"),
    [
        ("type: temporal_ordered\nrules: [denied, deleted]\ntimespan: 1m\n", "temporal_ordered are not supported"),
        ("type: event_count\nrules: denied\ntimespan: 1m\ncondition: {lt: 3}\n", "gte and gt are supported"),
        ("type: event_count\nrules: denied\ntimespan: 1m\ncondition: {eq: 3}\n", "gte and gt are supported"),
        (
            "type: temporal\nrules: [denied, deleted]\ntimespan: 1m\ncondition: denied and not deleted\n",
            "gte and gt are supported",
        ),
        ("type: event_count\nrules: nowhere\ntimespan: 1m\ncondition: {gte: 3}\n", "'nowhere' not found"),
        ("type: event_count\nrules: denied\ngroup-by: [nonsense]\ntimespan: 1m\ncondition: {gte: 3}\n", "field nonsense"),
        ("type: value_count\nrules: denied\ntimespan: 1m\ncondition: {gte: 3, field: nonsense}\n", "field nonsense"),
        ("type: value_count\nrules: denied\ntimespan: 1m\ncondition: {gte: 3, field: [a, b]}\n", "one field"),
        ("type: event_count\nrules: denied\ntimespan: soon\ncondition: {gte: 3}\n", "imespan"),
    ],
)
def test_correlations_that_are_not_supported_are_refused_by_name(
    log: LogBuilder, tmp_path: Path, correlation: str, reason: str
) -> None:
    log.add(SINCE_S, error="AccessDenied")
    [one] = correlated(log, tmp_path, correlation).unevaluated
    assert one.title == "Correlated"
    assert reason in one.reason


def test_filters_of_sigma_apply(log: LogBuilder, tmp_path: Path) -> None:
    log.add(SINCE_S, user="alice")
    log.add(SINCE_S, user="backup")
    (tmp_path / "rules").mkdir()
    rule = HEAD + "name: used\ndetection: {s: {eventName: Decrypt}, condition: s}\n"
    (tmp_path / "rules" / "rule.yml").write_text(rule)
    (tmp_path / "rules" / "z_filter.yml").write_text(
        "title: known\nlogsource: {product: aws, service: cloudtrail}\n"
        "filter: {rules: [used], known: {userIdentity.userName: backup}, condition: not known}\n"
    )
    assert records(asked(log, tmp_path / "rules")) == [0]


def test_suppressions_name_sigma_rules_by_their_ids(log: LogBuilder, tmp_path: Path) -> None:
    log.add(SINCE_S)
    path = written(tmp_path, "selection: {eventName: Decrypt}\ncondition: selection")
    suppression = Suppression(NOW + timedelta(days=1), "known", rule="00000000-0000-4000-8000-00000000000a")
    with observed(log.data) as database:
        more = load([path], database, SINCE).questions
        answer = detect(database, Settings(suppressions=(suppression,)), SINCE, BASELINE, now=NOW, more=more)
    assert answer.suppressed == ((suppression, 1),)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> LogBuilder:
    log = LogBuilder(tmp_path_factory.mktemp("hostile"))
    log.add(SINCE_S, userAgent="x")
    return log


VALUES = st.text(st.sampled_from("'\"%_\\$;-(){}[]a\n?*"), min_size=1, max_size=10)


def test_no_value_gets_out_of_its_quotes(hostile: LogBuilder, tmp_path: Path) -> None:
    """A value matches the event that has it, and no other."""
    with observed(hostile.data) as database:

        @settings(max_examples=60, deadline=None)
        @given(VALUES)
        def check(value: str) -> None:
            escaped = value.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
            text = escaped.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")  # in YAML's double quotes
            path = written(tmp_path, f'selection: {{userAgent|contains: "{text}"}}\ncondition: selection')
            [question] = load([path], database, SINCE).questions
            condition = question.hits.partition(" AND ")[2].replace("user_agent", "agent")
            select = f"SELECT {condition} FROM (SELECT ? AS agent)"  # noqa: S608 - what is tested
            assert database.execute(select, [f"<{value}>"]).fetchall() == [(True,)]
            assert database.execute(select, ["<zzz>"]).fetchall() == [(False,)]

        check()
