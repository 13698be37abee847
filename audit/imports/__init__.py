"""What AWS's own CloudTrail logged, kept beside the log: asked together with it, marked by its origin, and no evidence.

`reading` takes the events out of CloudTrail's files, `rows` makes rows of them as the index does of the log's lines, `store`
keeps both so that nothing is ever half there or twice, `bypasses` finds the calls that keytrail never saw.

Limits: an import is as true as whoever could write to the files was honest. keytrail does not check CloudTrail's digests; `aws
cloudtrail validate-logs` does.
"""
