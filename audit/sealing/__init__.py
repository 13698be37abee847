"""The sealer: a process of its own that signs what the logs' trees are, and the only holder of the signing key."""
