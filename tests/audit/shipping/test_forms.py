"""What goes out, byte by byte, and what the settings make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from audit.ocsf import NoRecord, Severity
from audit.shipping.jetstream import JetStreamSink
from audit.shipping.messages import Message, message_of
from audit.shipping.otlp import OtlpSink, request_of
from audit.shipping.plan import NoShipping, Shipping, Target, Tls, open_sink, parse_headers
from audit.shipping.sink import SinkFault
from audit.shipping.syslog import SyslogSink, frame
from proxy.companions import COMPANIONS, shipping_plan, ships
from proxy.errors import SetupError
from proxy.settings import load

MESSAGE = Message("w0", 7, "e-1", "Decrypt", 1_767_323_045_000_006, Severity.INFORMATIONAL, '{"a":"ü"}'.encode())


def test_a_syslog_message() -> None:
    text = '<110>1 2026-01-02T03:04:05.000006Z host-1 keytrail w0 Decrypt - {"a":"ü"}'.encode()
    assert frame(MESSAGE, "host-1") == b"%d " % len(text) + text


@pytest.mark.parametrize(("severity", "priority"), [(Severity.INFORMATIONAL, 110), (Severity.LOW, 109), (Severity.MEDIUM, 108)])
def test_the_priority_is_that_of_log_audit(severity: Severity, priority: int) -> None:
    text = frame(replace(MESSAGE, severity=severity), "h").partition(b" ")[2]
    assert text.startswith(f"<{priority}>1 ".encode())


def test_what_a_client_wrote_makes_no_field_of_the_header() -> None:
    odd = replace(MESSAGE, event_name="De crypt\n<1>" + "x" * 40)
    header = frame(odd, "a b\x00é" * 100).decode().split(" ", 8)
    assert header[3] == ("a?b??" * 100)[:255]
    assert header[6] == ("De?crypt?<1>" + "x" * 40)[:32]
    assert frame(MESSAGE, "").decode().split(" ")[3] == "-"


def test_a_log_record_of_opentelemetry() -> None:
    request = request_of([MESSAGE, replace(MESSAGE, sequence=8, severity=Severity.MEDIUM)], Resource(), 5)
    (resource,) = request.resource_logs
    (scope,) = resource.scope_logs
    one, two = scope.log_records
    assert scope.scope.name == "keytrail"
    assert one.time_unix_nano == 1_767_323_045_000_006_000 and one.observed_time_unix_nano == 5
    assert one.body.string_value.encode() == MESSAGE.body and one.event_name == "Decrypt"
    assert one.severity_number == SeverityNumber.SEVERITY_NUMBER_INFO
    assert two.severity_number == SeverityNumber.SEVERITY_NUMBER_ERROR
    attributes = {pair.key: pair.value for pair in two.attributes}
    assert attributes["keytrail.log"].string_value == "w0" and attributes["keytrail.sequence"].int_value == 8
    assert attributes["keytrail.event_id"].string_value == "e-1"


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"eventID":1}'])
def test_a_line_that_is_no_record_is_no_message(line: bytes) -> None:
    with pytest.raises(NoRecord):
        message_of(line, "cloudtrail")


# --- settings


def test_nothing_is_shipped_unless_it_is_asked_for() -> None:
    assert not ships(load(None, {}))
    (row,) = (row for row in COMPANIONS if row.name == "shipping")
    assert not row.is_wanted(load(None, {}))


@pytest.mark.parametrize(
    "given",
    [
        {"ship_otlp": "collector:4318"},
        {"ship_otlp": "https://user:canary@collector"},
        {"ship_syslog": "udp://h:514"},
        {"ship_nats": "http://canary@h"},
        {"ship_nats": "nats://h:4222/a.*"},
        {"ship_nats": "nats://h:4222/a b"},
        {"ship_headers": "a=canary"},
        {"ship_certificate": "c.pem"},
        {"ship_form": "cef"},
    ],
)
def test_settings_that_cannot_be(given: dict[str, str]) -> None:
    with pytest.raises(SetupError) as told:
        load(None, {}, **given)
    assert "canary" not in str(told.value)


def test_the_plan_is_read_as_the_settings_made_it() -> None:
    settings = load(
        None,
        {},
        ship_otlp="https://collector.test",
        ship_syslog="tls://logs.test",
        ship_nats="tls://u:canary@nats.test:4222/audit.kms",
        ship_form="ocsf",
        ship_headers="Authorization=Bearer%20canary, x-team=keys",
        ship_ca_bundle="/ca.pem",
    )
    assert "canary" not in repr(settings)
    shipping = Shipping.of(shipping_plan(settings))
    assert "canary" not in repr(shipping)
    assert shipping.form == "ocsf"
    assert [(one.kind, one.address) for one in shipping.targets] == [
        ("otlp", "https://collector.test"),
        ("syslog", "tls://logs.test"),
        ("nats", "tls://nats.test:4222/audit.kms"),
    ]
    assert [one.headers for one in shipping.targets] == [(("Authorization", "Bearer canary"), ("x-team", "keys")), (), ()]
    assert {one.tls for one in shipping.targets} == {Tls("/ca.pem")}


@pytest.mark.parametrize("plan", [{}, {"form": "ocsf"}, {"otlp": "x"}])
def test_a_plan_that_is_none(plan: dict[str, str]) -> None:
    with pytest.raises(NoShipping, match="no plan of shipping"):
        Shipping.of(plan)


@pytest.mark.parametrize("text", ["canary", "=canary", "a b=canary", "a=canary%0d%0ax: y", "a=%ffcanary"])
def test_headers_that_are_none_are_not_told(text: str) -> None:
    with pytest.raises(NoShipping) as told:
        parse_headers(text)
    assert "canary" not in str(told.value)


def test_no_secret_is_in_the_name_or_the_address_of_a_sink() -> None:
    target = Target("nats", "tls://user:canary@nats.test:4222/audit", headers=(("Authorization", "canary"),))
    assert target.address == "tls://nats.test:4222/audit"
    assert "canary" not in repr(target)
    assert target.name == Target("nats", "tls://other:word@nats.test:4222/audit").name, "a new password is the same sink"
    assert target.name != Target("nats", "tls://nats.test:4222/other").name


async def test_each_kind_of_sink_is_opened_and_asks_nobody_yet() -> None:
    for kind, url, expected in (
        ("otlp", "http://127.0.0.1:1", OtlpSink),
        ("otlp", "https://127.0.0.1:1/otlp/v1/logs", OtlpSink),
        ("syslog", "tls://127.0.0.1", SyslogSink),
        ("syslog", "tcp://127.0.0.1", SyslogSink),
        ("nats", "nats://token@127.0.0.1:1", JetStreamSink),
    ):
        sink = open_sink(Target(kind, url), "i", "h")
        assert isinstance(sink, expected)
        await sink.close()


def test_certificates_that_cannot_be_read_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("none")
    for tls in (
        Tls(ca_bundle=str(tmp_path / "gone.pem")),
        Tls(ca_bundle=str(tmp_path / "no.pem")),
        Tls(None, str(tmp_path / "no.pem"), None),
    ):
        with pytest.raises(SinkFault, match="ship_ca_bundle"):
            open_sink(Target("syslog", "tls://127.0.0.1", tls), "i", "h")
