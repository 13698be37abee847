"""The inventory of a store: of each object its data keys, what the log says of each, and what the deletion of a KMS key takes.

crawl (which objects there are, and their wrapped keys) → uses (what the logs say of many blobs at once) and keys (what became of
the KMS keys) → status (pure: what that means for an object) → take (in batches) → tell (text, JSON lines, CSV) and command.
"""
