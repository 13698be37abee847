"""The group `report`: its commands verify what they report of."""

from __future__ import annotations

from audit.kept_files import kept_receipts
from audit.query.reports.command import make_app
from audit.verify import verify

app = make_app(lambda data, progress, kept: verify(data, progress=progress, acknowledged=kept_receipts(kept)))
