"""The counts of workers, and what Prometheus is shown of them."""

from __future__ import annotations

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.kms.operations import OPERATIONS
from proxy.metrics import _COUNTERS, _GAUGES, Counts, Metrics, as_tally
from proxy.supervisor import _MAX_REPORT_BYTES


def told(counts: Counts) -> list[list[str | int]]:
    """What the supervisor reads of what the worker writes."""
    read: list[list[str | int]] = orjson.loads(orjson.dumps(counts.tally()))
    return read


def shown(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Each sample by its name and its labels' values."""
    registry = CollectorRegistry()
    registry.register(metrics)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_calls_of_all_workers_are_added_up() -> None:
    metrics = Metrics(lambda: {"w0": True, "w1": False})
    for worker in ("w0", "w1"):
        counts = Counts()
        counts.observe("Decrypt", "", 900)
        counts.observe("Decrypt", "", 1_100)
        counts.observe("Decrypt", "DisabledException", 40_000_000)
        counts.upstream_failed()
        counts.readings.append(lambda: {"connections": 3, "tunnels": 2})
        metrics.tell(worker, as_tally(told(counts)))
    samples = shown(metrics)
    assert samples["keytrail_calls_total", "", "Decrypt"] == 4
    assert samples["keytrail_calls_total", "DisabledException", "Decrypt"] == 2
    assert samples["keytrail_connections",] == 6
    assert samples["keytrail_tunnels_total",] == 4
    assert samples["keytrail_upstream_failures_total",] == 2
    assert samples["keytrail_call_seconds_count",] == 6
    assert samples["keytrail_call_seconds_sum",] == 80.004
    assert [samples["keytrail_call_seconds_bucket", le] for le in ("0.0005", "0.001", "0.002", "30.0", "+Inf")] == [0, 2, 4, 4, 6]
    assert (samples["keytrail_ready", "w0"], samples["keytrail_ready", "w1"]) == (1, 0)


def test_a_counter_does_not_fall_when_a_worker_is_started_anew_and_a_gauge_does() -> None:
    metrics = Metrics(dict)
    counts = Counts()
    counts.readings.append(lambda: {"connections": 3})
    for _ in range(5):
        counts.observe("Encrypt", "", 1)
    metrics.tell("w0", as_tally(told(counts)))
    metrics.ended("w0")
    assert shown(metrics)["keytrail_calls_total", "", "Encrypt"] == 5
    assert shown(metrics)["keytrail_connections",] == 0
    counts = Counts()
    counts.observe("Encrypt", "", 1)
    metrics.tell("w0", as_tally(told(counts)))
    assert shown(metrics)["keytrail_calls_total", "", "Encrypt"] == 6


def test_no_client_can_make_labels_without_end() -> None:
    counts = Counts()
    for number in range(1_000):
        counts.observe(f"Made{number}", f"Up{number}", 1)
    metrics = Metrics(dict)
    metrics.tell("w0", as_tally(told(counts)))
    calls = {key: value for key, value in shown(metrics).items() if key[0] == "keytrail_calls_total"}
    assert len(calls) <= 202
    assert {key[2] for key in calls} == {"other"}
    assert sum(calls.values()) == 1_000


def test_the_counts_of_a_worker_stay_a_line_that_can_be_told() -> None:
    counts = Counts()
    for operation in OPERATIONS:
        for number in range(150):
            counts.observe(operation, f"LimitOfAnUnheardOfKind{number}ExceededException", 1)
    line = orjson.dumps(counts.tally())
    assert len(line) < _MAX_REPORT_BYTES / 4
    metrics = Metrics(dict)
    metrics.tell("w0", as_tally(orjson.loads(line)))
    calls = {key: value for key, value in shown(metrics).items() if key[0] == "keytrail_calls_total"}
    assert sum(calls.values()) == 150 * len(OPERATIONS)


def test_every_reading_of_a_worker_has_a_name_in_the_tables() -> None:
    names = {str(key[0]) for key in Counts().tally()} - {"bucket", "sum_us"}
    assert names <= set(_COUNTERS) | set(_GAUGES)
