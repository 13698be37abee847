"""What is counted of the work: kept by each worker, told to the supervisor, and shown there as Prometheus metrics.

A worker's counts begin at nothing when it starts; the supervisor keeps what the workers before it had, so that a counter never
falls. Labels come from tables or are bounded, since a client can call anything by any name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.kms.operations import OPERATIONS

#: A name of the table below and the values of its labels; how often, or how much.
Tally: TypeAlias = "Counter[tuple[str, ...]]"

OTHER = "other"
_MAX_CODES = 200
_MAX_PAIRS = 1_000  # of operation and error code; all counts are told in one line
_BUCKETS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
_BUCKETS_US = tuple(int(bucket * 1_000) for bucket in _BUCKETS_MS)

#: Counters, and what they say; the labels that they have.
_COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "calls": ("Calls that were answered, by operation and error code (empty: none).", ("operation", "error")),
    "upstream_failures": ("Attempts to reach AWS KMS that got no answer.", ()),
    "tunnels": ("Connections to other hosts that were tunnelled.", ()),
    "tunnel_bytes_from_clients": ("Bytes that went through tunnels to other hosts.", ()),
    "tunnel_bytes_to_clients": ("Bytes that came back through tunnels from other hosts.", ()),
    "connect_refused": ("CONNECT requests that were refused.", ()),
    "connect_intercepted": ("CONNECT requests to KMS or STS, whose calls keytrail answers.", ()),
    "handshakes_failed": ("Connections that ended before they were a client's: TLS, PROXY protocol, CONNECT.", ()),
}
#: Values that rise and fall.
_GAUGES: dict[str, str] = {
    "calls_under_way": "Calls that have no answer yet.",
    "connections": "Connections of clients.",
    "tunnels_open": "Tunnels to other hosts that are open.",
    "descriptors": "Open file descriptors of the workers.",
    "tasks": "Tasks on the workers' event loops.",
}
#: Values of the logs that companions tell, by log; not there where none is told.
_LOG_GAUGES: dict[str, str] = {
    "cosigned_timestamp_seconds": "When the quorum of witnesses last stood by the log's newest cosigned checkpoint (0: never).",
}
#: Values of what is shipped, by sink.
_SINK_GAUGES: dict[str, str] = {
    "shipping_lag_records": "Durable records that the sink has not got.",
    "shipping_lag_seconds": "Age of the first record that the sink has not got (0: it has all).",
    "shipping_refused": "Records that the sink did not take.",
}


class Counts:
    """The counts of one worker. For one thread. `observe` is on the way of every call; the rest is read when asked for.

    `readings` give the values of other parts, by the names of the tables above.
    """

    def __init__(self) -> None:
        self.readings: list[Callable[[], Mapping[str, int]]] = []
        self._calls: dict[tuple[str, str], int] = {}
        self._codes: set[str] = {""}
        self._buckets = [0] * (len(_BUCKETS_US) + 1)
        self._sum_us = 0
        self._upstream_failures = 0

    def upstream_failed(self) -> None:
        """Count an attempt to reach AWS that got no answer."""
        self._upstream_failures += 1

    def observe(self, operation: str, code: str, latency_us: int) -> None:
        """Count a call that was answered."""
        key = (operation, code)
        if key not in self._calls:
            key = self._bounded(operation, code)
        self._calls[key] = self._calls.get(key, 0) + 1
        self._buckets[bisect_left(_BUCKETS_US, latency_us)] += 1
        self._sum_us += latency_us

    def _bounded(self, operation: str, code: str) -> tuple[str, str]:
        if code not in self._codes:
            if len(self._codes) >= _MAX_CODES:
                code = OTHER
            self._codes.add(code)
        operation = operation if operation in OPERATIONS else OTHER
        return (operation, code) if len(self._calls) < _MAX_PAIRS or (operation, code) in self._calls else (operation, OTHER)

    def tally(self) -> list[list[str | int]]:
        """All counts, for the supervisor: each a list of its key's parts and its value."""
        counts: list[list[str | int]] = [["calls", *key, count] for key, count in self._calls.items()]
        counts += [["bucket", str(number), count] for number, count in enumerate(self._buckets)]
        counts += [["sum_us", self._sum_us], ["upstream_failures", self._upstream_failures]]
        for reading in self.readings:
            counts += [[name, value] for name, value in reading().items()]
        return counts


def as_tally(counts: Iterable[list[str | int]]) -> Tally:
    """What `Counts.tally` gave, as it was told."""
    return Counter({tuple(str(part) for part in count[:-1]): int(count[-1]) for count in counts})


class Metrics(Collector):
    """The counts of all workers together. `ready` tells of each process whether it is ready."""

    def __init__(self, ready: Callable[[], Mapping[str, bool]]) -> None:
        self._ready = ready
        self._now: dict[str, Tally] = {}
        self._before: Tally = Counter()

    def tell(self, worker: str, tally: Tally) -> None:
        """The counts of `worker` as they are now."""
        self._now[worker] = tally

    def ended(self, worker: str) -> None:
        """`worker` has ended; the next one of its name begins at nothing."""
        last = self._now.pop(worker, None)
        if last is not None:
            self._before.update({key: value for key, value in last.items() if key[0] not in _GAUGES | _LOG_GAUGES | _SINK_GAUGES})

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus-client wants them."""
        total: Tally = Counter(self._before)
        for tally in self._now.values():
            total.update(tally)
        for name, (words, labels) in _COUNTERS.items():
            counter = CounterMetricFamily(f"keytrail_{name}", words, labels=labels)
            for key, value in total.items():
                if key[0] == name:
                    counter.add_metric(list(key[1:]), value)
            yield counter
        for name, words in _GAUGES.items():
            yield GaugeMetricFamily(f"keytrail_{name}", words, value=total[(name,)])
        labelled = [("log", *item) for item in _LOG_GAUGES.items()] + [("sink", *item) for item in _SINK_GAUGES.items()]
        for label, name, words in labelled:
            gauge = GaugeMetricFamily(f"keytrail_{name}", words, labels=(label,))
            for key, value in total.items():
                if key[0] == name:
                    gauge.add_metric(list(key[1:]), value)
            yield gauge
        yield self._latency(total)
        ready = GaugeMetricFamily("keytrail_ready", "Whether the process is ready.", labels=("process",))
        for process, is_ready in self._ready().items():
            ready.add_metric([process], int(is_ready))
        yield ready

    @staticmethod
    def _latency(total: Tally) -> HistogramMetricFamily:
        buckets, so_far = [], 0
        for number, bucket_ms in enumerate((*_BUCKETS_MS, None)):
            so_far += total[("bucket", str(number))]
            buckets.append(("+Inf" if bucket_ms is None else str(bucket_ms / 1_000), float(so_far)))
        family = HistogramMetricFamily("keytrail_call_seconds", "From a call's arrival to the building of its record.")
        family.add_metric([], buckets, total[("sum_us",)] / 1e6)
        return family
