"""`keytrail explain`: which statement or grant decides whether a caller may do something, and what else was looked at.

It asks what a call would ask, of the store as it is, and changes nothing in it. What a call would tell and the question does not
(the client's address, whether it comes by TLS) is not known, and counts against the caller; the answer names it. The guardrails
of these settings are asked first, as before a call, and what they do not let pass is denied whatever else allows it.

Each service has a module that says what its own policies decide: `kms` (key policies, identity policies, grants), `sts` (trust
policies of roles), `cloudtrail` (identity policies). Where AWS decides behind the guardrails, they alone are told of.
"""
