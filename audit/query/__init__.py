"""Questions asked of the log: filters, the engine that scans it, the story of one ciphertext, and how answers are
shown.

Reads only; needs no running proxy and no lock. Answers are about what passed the proxy and stands in the log, nothing
more.
"""
