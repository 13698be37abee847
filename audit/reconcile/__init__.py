"""keytrail's log held against AWS's own CloudTrail: which calls did not pass the proxy, which records AWS does not know, and
which pairs disagree.

Two witnesses are compared by request id: AWS gives each call one, keytrail hands it to the client and records it. What AWS does
not log, or did not deliver yet, is counted and is no finding. The words of a report are in `findings`, what is compared in
`rules`, who is judged how in `judge`.

Limits: CloudTrail logs every call that succeeded and only some that failed; a trail can be told to leave KMS, or all reads, out;
a call that was under way when the proxy was killed was never answered, and stands in AWS's log alone, as a bypass would.
With credentials of keytrail's own and no role per caller, AWS knows one caller only, and callers cannot be compared.

Source: AWS CloudTrail record contents; AWS KMS Developer Guide, "Logging AWS KMS API calls with AWS CloudTrail".
"""
