from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit.errors import QueryError
from audit.query.detections.findings import Severity
from audit.query.detections.settings import Settings, Suppression, Tuning, load_settings, parse_settings
from tests.audit.query.builder import KEY_A, LogBuilder
from tests.audit.query.detections.events import NOW, SINCE_S, outcome, past

EXAMPLE = Path(__file__).parents[4] / "config" / "detections.example.toml"
LATER = datetime(2027, 1, 31, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> LogBuilder:
    return LogBuilder(tmp_path)


def test_the_example_is_read() -> None:
    settings = load_settings([EXAMPLE])
    assert settings.tunings == {
        "KT001": Tuning(parameters={"count": 40, "within": timedelta(minutes=10)}),
        "KT020": Tuning(severity=Severity.MEDIUM),
        "KT022": Tuning(enabled=False),
    }
    assert settings.trusted_accounts == ("444455556666",)
    assert [one.until for one in settings.suppressions] == [LATER, LATER]
    assert [one.name[:8] for one in settings.canaries] == ["0f4a6e0c", "alias/ba"]
    assert [one.required for one in settings.contracts] == [("tenant",)]


FINGERPRINT = "ab" * 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", "the file: 'nonsense' is not known; accepted: trusted_accounts, rules, suppress, canary, contract"),
        ("rules = 1", "rules: 1 is no dict"),
        ("[rules.KT999]", "rules: there is no rule 'KT999'"),
        ("[rules.KT001]\nwindow = 1", "rules.KT001: 'window' is not known; accepted: enabled, severity, count, within"),
        ("[rules.KT001]\ncount = 0", "rules.KT001.count: 0 is no number above 0"),
        ("[rules.KT001]\ncount = true", "rules.KT001.count: True is no number above 0"),
        ("[rules.KT001]\ncount = 2.5", "rules.KT001.count: 2.5 is no number above 0"),
        ("[rules.KT001]\nwithin = 5", "rules.KT001.within: not a duration: 5; accepted: 45s"),
        ('[rules.KT001]\nwithin = "0m"', "rules.KT001.within: not a duration: '0m'"),
        ('[rules.KT001]\nseverity = "HIGH"', "rules.KT001.severity: not a severity: 'HIGH'; accepted: informational"),
        ("[rules.KT001]\nenabled = 1", "rules.KT001.enabled: 1 is no bool"),
        ('trusted_accounts = ["1"]', "trusted_accounts: '1' is no account; accepted: 12 digits"),
        ("trusted_accounts = [111122223333]", "trusted_accounts: 111122223333 is no str"),
        ('[[suppress]]\nreason = "x"\nuntil = 2027-01-01', "suppress 1: says of nothing what it suppresses"),
        ('[[suppress]]\nrule = "KT001"\nreason = "x"', "suppress 1: `until` is missing"),
        ('[[suppress]]\nrule = "KT001"\nuntil = 2027-01-01', "suppress 1: `reason` is missing"),
        ('[[suppress]]\nrule = "KT1"\nuntil = 2027-01-01\nreason = "x"', "suppress 1.rule: there is no rule 'KT1'"),
        ('[[suppress]]\nkey = "*"\nuntil = "2027-01-01"\nreason = "x"', "suppress 1.until: '2027-01-01' is no date"),
        ('[[suppress]]\nkey = "*"\nuser = "x"', "suppress 1: 'user' is not known"),
        ('[[canary]]\nnote = "x"', "canary 1: has to have one of"),
        (f'[[canary]]\nkey = "a"\nfingerprint = "{FINGERPRINT}"', "canary 1: has to have one of"),
        ('[[canary]]\nfingerprint = "xyz"', "canary 1.fingerprint: 'xyz' is none; accepted: 64 hex digits"),
        ("[[contract]]\nrequired = []", "contract 1: `key` is missing"),
        ('[[contract]]\nkey = "*"\nforbidden = []', "contract 1: 'forbidden' is not known"),
        ('[[contract]]\nkey = "*"\nrequired = "a"', "contract 1.required: 'a' is no list"),
        ('[[contract]]\nkey = "*"\nvalues = {a = 1}', "contract 1.values.a: 1 is no str"),
        ("suppress = [1]", "suppress 1: 1 is no dict"),
    ],
)
def test_what_is_not_known_is_refused_by_its_place(text: str, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse_settings(tomllib.loads(text))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("content", "message"), [(b"a = ", "not TOML"), (b"\xff", "not TOML"), (b"a = 1", "the file: 'a'")])
def test_faults_name_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(content)
    with pytest.raises(QueryError, match=r"rules\.toml") as refused:
        load_settings([path])
    assert message in str(refused.value)


def test_several_files_are_one(tmp_path: Path) -> None:
    one, two = tmp_path / "1.toml", tmp_path / "2.toml"
    one.write_text('trusted_accounts = ["111122223333"]\n[rules.KT001]\ncount = 1\n[[contract]]\nkey = "a"\n')
    two.write_text('[rules.KT001]\ncount = 2\n[[contract]]\nkey = "b"\n')
    settings = load_settings([one, two])
    assert settings.tunings["KT001"].parameters == {"count": 2}
    assert [contract.key for contract in settings.contracts] == ["a", "b"]
    assert settings.trusted_accounts == ("111122223333",)


def test_severity_and_switch_of_a_rule(log: LogBuilder) -> None:
    log.add(SINCE_S, error="DisabledException")
    [found] = outcome(log, Settings({"KT030": Tuning(severity=Severity.CRITICAL)})).findings
    assert found.severity is Severity.CRITICAL
    assert outcome(log, Settings({"KT030": Tuning(enabled=False)})).findings == ()
    below = outcome(log, least=Severity.HIGH)
    assert (below.findings, below.below) == ((), 1)


@pytest.mark.parametrize(
    ("suppression", "holds"),
    [
        (Suppression(LATER, "x", rule="KT030"), True),
        (Suppression(LATER, "x", rule="KT031"), False),
        (Suppression(LATER, "x", principal="*user/alice"), True),
        (Suppression(LATER, "x", principal="*user/ali"), False),
        (Suppression(LATER, "x", key=KEY_A), True),
        (Suppression(LATER, "x", key=f"{KEY_A}*", principal="*user/bob"), False),
    ],
)
def test_suppressions(log: LogBuilder, suppression: Suppression, holds: bool) -> None:
    log.add(SINCE_S, error="DisabledException")
    answer = outcome(log, Settings(suppressions=(suppression,)))
    assert len(answer.findings) == (0 if holds else 1)
    assert answer.suppressed == (((suppression, 1),) if holds else ())


def test_a_suppression_ends_and_that_is_said(log: LogBuilder) -> None:
    past(log)
    log.add(SINCE_S, error="DisabledException")
    ended, lasting = Suppression(NOW, "change 7", rule="KT030"), Suppression(NOW + timedelta(seconds=1), "y", rule="KT030")
    answer = outcome(log, Settings(suppressions=(ended,)))
    assert len(answer.findings) == 1
    assert "a suppression has expired on 2026-06-01: change 7" in answer.notes
    assert outcome(log, Settings(suppressions=(lasting,))).findings == ()


def test_a_finding_without_a_key_is_not_suppressed_by_one(log: LogBuilder) -> None:
    log.add(SINCE_S, error="AccessDenied")
    settings = Settings({"KT001": Tuning(parameters={"count": 1})}, suppressions=(Suppression(LATER, "x", key="*"),))
    assert [one.rule for one in outcome(log, settings).findings] == ["KT001"]
