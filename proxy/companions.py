"""The processes that `serve` runs beside its workers: ONE table.

A new one is a row here: its module (`audit.companion` says how such a process is spoken to), whether the settings want it, and
what it needs to know of them. When serving ends, the companions end in turns: those that follow what others leave come last.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Any

import orjson

from proxy.errors import SetupError
from proxy.policy.folder import read_folder
from proxy.settings import Settings


class Ends(IntEnum):
    """When a companion is told to end."""

    WITH_THE_WORKERS = 1
    AFTER_THE_WORKERS = 2  # so that it sees their last record
    LAST = 3  # so that it sees the last checkpoint


@dataclass(frozen=True, slots=True)
class Companion:
    """A row of the table. `plan` may hold a secret: it goes by the process's standard input. `log` is one of its own, if it has
    one: it is made before the process starts."""

    name: str
    module: str
    ends: Ends
    is_wanted: Callable[[Settings], bool] = lambda settings: True
    plan: Callable[[Settings], dict[str, Any]] = lambda settings: {}
    log: str | None = None

    def command(self, settings: Settings) -> tuple[str, ...]:
        return (sys.executable, "-m", self.module, str(settings.data))

    def encode_plan(self, settings: Settings) -> bytes:
        """As a line, for the process's pipe."""
        return orjson.dumps(self.plan(settings), option=orjson.OPT_APPEND_NEWLINE)


def delivery_plan(settings: Settings) -> dict[str, Any]:
    """`audit.delivery.opening.Delivery`, of the settings."""
    return {
        "destination": settings.delivery,
        "endpoint_url": settings.delivery_endpoint,
        "trail": settings.delivery_trail,
        "interval_s": settings.delivery_interval_s,
        "digest_s": settings.delivery_digest_s,
        "retention_days": settings.delivery_retention_days,
        "retention_mode": settings.delivery_retention_mode,
    }


def sealing_plan(settings: Settings) -> dict[str, Any]:  # Any: JSON
    """What the sealer is told: whom it runs as, where its key and its state are, and how the KMS is reached that may have the
    key."""
    is_elsewhere = bool(settings.sealer_kms_endpoint)
    kms = {
        "region": settings.region,
        "endpoint_url": settings.sealer_kms_endpoint or settings.aws_endpoint,
        "profile": settings.sealer_kms_profile,
        "fips": settings.aws_fips and not is_elsewhere,
        "dual_stack": settings.aws_dual_stack and not is_elsewhere,
        "ca_bundle": str(settings.aws_ca_bundle or ""),
        "egress_proxy": "" if is_elsewhere else settings.aws_egress_proxy.get_secret_value(),
    }
    return {"user": settings.sealer_user, "key": settings.sealer_key, "state": str(settings.sealer_state or ""), "kms": kms}


def trail_plan(settings: Settings) -> dict[str, Any]:  # Any: JSON
    """Of what answers CloudTrail's API: the settings, what is delivered, and which guardrails are in the folder, so that it is
    started anew when they change."""
    return {
        "settings": settings.model_dump(mode="json"),
        "delivery": delivery_plan(settings) if settings.delivery else None,
        "guardrails": _digest_of(settings),
    }


def _digest_of(settings: Settings) -> str | None:
    """None where there are none, or they cannot be read: that is for whoever goes by them to say."""
    try:
        return None if settings.policies is None else sha256(repr(read_folder(settings.policies)).encode()).hexdigest()
    except SetupError:
        return None


def shipping_plan(settings: Settings) -> dict[str, Any]:
    """`audit.shipping.plan.Shipping`, of the settings."""
    paths = {"ca_bundle": settings.ship_ca_bundle, "certificate": settings.ship_certificate, "key": settings.ship_key}
    return {
        "otlp": settings.ship_otlp,
        "syslog": settings.ship_syslog,
        "nats": settings.ship_nats.get_secret_value(),
        "form": settings.ship_form,
        "headers": settings.ship_headers.get_secret_value(),
        **{name: None if path is None else str(path) for name, path in paths.items()},
    }


def ships(settings: Settings) -> bool:
    return bool(settings.ship_otlp or settings.ship_syslog or settings.ship_nats.get_secret_value())


COMPANIONS = (
    Companion(
        "sealer",
        "audit.sealing",
        Ends.AFTER_THE_WORKERS,
        is_wanted=lambda settings: settings.sealer == "here",
        plan=sealing_plan,
    ),
    Companion("indexer", "audit.query.index.follow", Ends.WITH_THE_WORKERS, is_wanted=lambda settings: settings.index),
    Companion(
        "witnesses",
        "audit.witnessing",
        Ends.LAST,
        is_wanted=lambda settings: settings.witness_policy is not None or bool(settings.timestamp_urls),
        plan=lambda settings: {
            "policy": settings.witness_policy and str(settings.witness_policy),
            "timestamp_urls": settings.timestamp_urls,
            "timestamp_ca": settings.timestamp_ca and str(settings.timestamp_ca),
            "timestamp_every_s": settings.timestamp_every_s,
        },
    ),
    Companion("delivery", "audit.delivery", Ends.LAST, is_wanted=lambda settings: bool(settings.delivery), plan=delivery_plan),
    Companion(
        "trail",
        "proxy.cloudtrail",
        Ends.WITH_THE_WORKERS,
        is_wanted=lambda settings: settings.cloudtrail_api,
        plan=trail_plan,
        log="trail",
    ),
    Companion("shipping", "audit.shipping", Ends.AFTER_THE_WORKERS, is_wanted=ships, plan=shipping_plan),
)
