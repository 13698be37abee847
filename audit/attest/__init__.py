"""Attestations of absence: no record of a kind is in an instance's logs, for an interval of time; as a signed document.

`statement` is what such a document says, `parsing` reads it, `envelope` signs it: all pure. `reading` goes once over a log, for
the hashes and for the question. `make` and `check` are the two sides, `command` their commands.

Limits: a signature proves who says so. That no line matches is proved by the lines alone, so `check` reads them again where it is
given them. Format: docs/attestation.md; why it is so: docs/adr/0012-attestation-of-absence.md.
"""
