"""CloudTrail's API, as far as reading goes, over the logs of this keytrail and the trail that is delivered.

Parts: `operations` (the table), `dialect` (JSON 1.1 in and out), `permission` (whose policies decide), `page_token` (NextToken),
`service` (the answers), `process` (the companion of `serve` that puts them together), `place` (where that listens). All else is
the proxy's one walk (`proxy.pipeline`): a call is authenticated, authorised, and recorded before it is answered. docs/adr/0029.
"""
