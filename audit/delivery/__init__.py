"""CloudTrail delivery: the log's records as CloudTrail's own files and digests, in a folder or in S3, for tools made for
CloudTrail.

What is delivered, and what each module keeps:

1. Every sealed record that CloudTrail would have, once, in the log's own bytes — `records`, `deliverer`.
2. Digests at an interval, also for empty ones, each signed and naming the one before — `digest`, `deliverer`.
3. What was begun is finished as it was begun, whatever crashed in between: it is written down first — `state`.
4. A destination is compared with the log, record for record — `check`.

Nothing here is evidence: it is derived from the log, and `check` says whether it is right. Format: docs/delivery.md.
"""
