"""The numbered steps of a log, as docs/verify.md has them. Those of what is derived, from 20 on, stand where they are checked."""

from __future__ import annotations

PRESENT, DENSE_SEGMENTS, DENSE_LINES = 1, 2, 3
SIGNED, HISTORY, LATEST, SAVED = 4, 5, 6, 7
OUTCOMES, MARK, RECEIPTS, COSIGNED, STAMPED, SILENCE, FRESH = 8, 9, 10, 11, 12, 13, 14

TITLES = {
    PRESENT: "the log is there",
    DENSE_SEGMENTS: "its segments follow each other without a gap",
    DENSE_LINES: "every line is a record of this log, numbered densely",
    SIGNED: "every checkpoint in the history is signed by the log's key, and each is larger than the one before",
    HISTORY: "the tree over the lines has the root of every checkpoint in the history, and of every change of the sealer's key",
    LATEST: "`latest` is the last checkpoint of the history",
    SAVED: "every saved checkpoint is of this tree",
    OUTCOMES: "every call that changes state has its outcome",
    MARK: "the mark agrees with the lines",
    RECEIPTS: "every receipt that was given is of a record that is here, under a checkpoint",
    COSIGNED: "the newest cosigned checkpoint fulfils the policy, and is of this tree",
    STAMPED: "every time stamp is genuine, and of a checkpoint of this tree",
    SILENCE: "while it was served it was never silent for longer than its heartbeats' interval, and its time never went back",
    FRESH: "its newest record, and its newest checkpoint, are not older than the maximum age",
}
