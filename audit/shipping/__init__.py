"""Shipping: every durable record, in order, to sinks beside the log: OpenTelemetry logs, syslog, NATS JetStream.

What is kept, and by which module:

1. No record is lost to a sink while the log has it: the cursor moves behind what the sink said it has — `shipper`, `cursor`.
2. A record is shipped twice only after a crash, or where the sink's answer was lost — `shipper`.
3. A sink that is down, slow, or refuses a record, holds up no other sink, and no call: each has its own task — `process`.
4. A record that a sink refuses is set aside with its place, and told; where a sink refuses all, none is — `shipper`.
5. Memory is bounded: the log is the queue — `feed`.

Form of what goes out: docs/shipping.md. Nothing here is evidence: it is derived from the log.
"""
