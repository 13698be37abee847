"""AWS STS for the callers of the embedded KMS: who one is, sessions of roles, and sessions of a user's own.

operations: the table of them · dialect: AWS's Query protocol, form in and XML out · roles: which there are, and who may assume
them · service: what answers. Sessions stand beside the callers (`proxy.callers`), and sign calls to KMS as these do.
"""
