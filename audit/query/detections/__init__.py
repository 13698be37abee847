"""Detections: rules that are asked of the events, their settings, and Sigma rules; docs/detections.md tells each.

A rule selects events as SQL over the view `observed` (`rules`); `questions` makes findings of them, alike for the rules here and
for Sigma's (`sigma`). What a rule needs that SQL cannot tell is looked up once per distinct value (`lookups`, `policies`,
`contracts`). `run` puts it together, `command` is `keytrail detect`.
"""
