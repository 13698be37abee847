"""What a command of the evidence side has done on the host, on record in the log `admin`: it changes nothing else, so that one
record is enough."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping

from audit.commit import BlockingLog, EffectOf, LogPlace, Receipt
from audit.instance import ADMIN_LOG, Instance, host_user
from audit.record import AuditRecord, IdentityProof, JsonValue, UserIdentity


def commit_host_event(
    instance: Instance,
    name: str,
    parameters: Mapping[str, JsonValue],
    private_context: Mapping[str, str] | None = None,
    effect_of: EffectOf | None = None,
) -> Receipt:
    """Record that whoever is logged in on the host did this; durable when it returns. `effect_of` as in `BlockingLog`. Raises
    AuditError, OSError."""
    record = AuditRecord(
        time_us=time.time_ns() // 1_000,
        event_id=str(uuid.uuid4()),
        event_name=name,
        event_source="keytrail",
        identity=UserIdentity("Unknown", f"host:{os.getuid()}", user_name=host_user()),
        identity_proof=IdentityProof.HOST,
        aws_region=instance.region,
        source_ip="localhost",
        user_agent="keytrail",
        request_parameters=parameters,
        recipient_account_id=instance.account_id,
        topology="host",
        private_context=private_context,
    )
    folders = instance.log_folder(ADMIN_LOG), instance.checkpoint_folder(ADMIN_LOG)
    with BlockingLog(LogPlace(*folders, instance.region, instance.account_id), effect_of=effect_of) as log:
        return log.commit(record)
