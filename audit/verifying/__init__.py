"""The steps of `keytrail verify`, each where it can be read alone. The front door is `audit.verify`; docs/verify.md numbers them.

`titles` names the steps · `faults` collects what is wrong · `acknowledged`: what of it people have explained (13) ·
`subject`: which log, and what was asked of it · `signed` reads the signed notes (steps 4, 6, 7, 11, 12) · `lines` reads the log
(1, 2, 3, 9) · `comparison` holds the tree over the lines against the notes (5, 7, 11, 12) · `calls` (8), `collected` (10),
`silence` (13), `freshness` (14) look at each record · `log_check` runs them all.
"""
