"""Witnesses: others that remember what a log's checkpoints were, and vouch for it (C2SP tlog-witness).

Both sides are here. `protocol`, `judgement` (pure), `memory`, `server`: the witness that another host runs; it needs no data
folder of keytrail. `gathering` (pure), `submission`, `notes`, `courier`: the process beside `serve` that has each new
checkpoint witnessed.
"""
