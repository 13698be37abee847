"""What can be proved: the audit log, its Merkle tree and signed checkpoints, verification, and the questions asked of it.

`audit` never imports `proxy`: a reviewer can read and run the evidence side alone.

Guarantees, each with the module that keeps it and the tests that prove it:

1. A record is on disk before what depends on it is released — audit/commit.py — tests/audit/commit/
2. No secret in a record: the record type is an allow-list — audit/record.py — tests/audit/test_record.py
3. Records of one log are numbered densely; a gap is detected — audit/log.py — tests/audit/test_log.py
4. Any edit, deletion, reordering, cut or rollback shows against a saved checkpoint — audit/verify.py — tests/audit/verifying/
5. Every record can be proved to be in the log, offline, to anyone — audit/proofs/proving.py — tests/audit/proofs/test_command.py

Limits, just as plainly: root on this host can cut off what no checkpoint elsewhere speaks of; times are this host's clock; who
has stolen the sealer's key can sign another history, which only a checkpoint saved elsewhere gives away.
"""
