"""GetKeyLastUsage, from what `last_uses` has noted and saved."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.backends.local.desk import Desk
from proxy.backends.local.last_uses import saved
from proxy.backends.local.lookup import managed_key
from proxy.domain import Answer, KmsCall


async def get_key_last_usage(desk: Desk, call: KmsCall) -> Answer:
    """Works in every state of the key."""
    key = managed_key(desk.around, desk.tables, call, call.parameters["KeyId"])
    if desk.around.uses.catching_up is not None:
        await asyncio.shield(desk.around.uses.catching_up)
    kept, since_s = await desk.write(saved, key.region, key.id)
    found = max(filter(None, (kept, desk.around.uses.find(key.arn))), key=lambda use: use.time_us, default=None)
    members: dict[str, Any] = {  # Any: as `Members`
        "KeyId": key.id,
        "KeyLastUsage": {},
        "KeyCreationDate": key.created_s,
        "TrackingStartDate": max(key.created_s, desk.around.clock() if since_s is None else since_s),
    }
    if found is not None:
        members["KeyLastUsage"] = {
            "Operation": found.operation,
            "Timestamp": round(found.time_us / 1_000_000, 3),
            "CloudTrailEventId": found.event_id,
            **({} if found.request_id is None else {"KmsRequestId": found.request_id}),
        }
    return Answer(members, (key.meant,))


WORKS = {"GetKeyLastUsage": get_key_last_usage}
