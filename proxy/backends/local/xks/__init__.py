"""The client of external key store proxies: AWS's XKS proxy API, version 1.

`messages` makes requests and reads answers, `faults` says what each failure is to a caller, `blob` is the ciphertext that comes
of it; all pure. `client` sends.

Source: AWS, "External Key Store Proxy API Specification" (aws-kms-xksproxy-api-spec).
"""
