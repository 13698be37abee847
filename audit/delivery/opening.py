"""From settings to a `Deliverer`: what a plan says, and what lies in the data folder.

delivery/          mode 0700: the digests' key (`keys`), a folder for each destination (`state`)
delivery/lock      held (flock) by the one process that delivers
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audit import durable
from audit.companion import Plan
from audit.delivery.deliverer import Deliverer, Terms
from audit.delivery.destination import Address, Destination, FolderDestination, parse_address
from audit.delivery.keys import DigestKey, open_key
from audit.delivery.layout import Place, Trail
from audit.delivery.logs import Logs
from audit.delivery.state import State, StateFile
from audit.errors import AuditError
from audit.instance import Instance


class NoPlan(AuditError):
    """What is to be delivered where was not said."""


class DeliveryBusy(AuditError):
    """Another process delivers."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the settings say of delivery. `endpoint_url` is that of an S3 which is not AWS's, or ""; 0 days are no retention."""

    destination: str
    endpoint_url: str = ""
    trail: str = "keytrail"
    interval_s: int = 300
    digest_s: int = 3_600
    retention_days: int = 0
    retention_mode: Literal["GOVERNANCE", "COMPLIANCE"] = "GOVERNANCE"

    @classmethod
    def of(cls, plan: Plan) -> Delivery:
        """As a companion's plan has it. Raises `NoPlan`."""
        try:
            return cls(**plan)
        except TypeError as error:
            raise NoPlan("no plan of a delivery: its destination is to be piped to standard input, as JSON") from error

    @property
    def address(self) -> Address:
        """Raises `QueryError`."""
        return parse_address(self.destination)

    def open_trail(self, instance: Instance) -> Trail:
        return Trail(self.trail, Place(instance.account_id, instance.region), self.address.bucket, self.address.prefix)

    def open_destination(self) -> Destination:
        """Raises `QueryError`, `DestinationFault`. Nothing is asked of the destination yet."""
        return open_destination(self.address, self.endpoint_url, self.retention_days, self.retention_mode)


def open_destination(
    address: Address, endpoint_url: str = "", retention_days: int = 0, mode: Literal["GOVERNANCE", "COMPLIANCE"] = "GOVERNANCE"
) -> Destination:
    if address.folder is not None:
        return FolderDestination(address.folder)
    from audit.delivery.bucket import Retention, open_bucket  # here: boto3 takes memory, and a folder needs none of it

    return open_bucket(address.bucket, endpoint_url or None, Retention(retention_days, mode) if retention_days else None)


def delivery_folder(data: Path) -> Path:
    return data / "delivery"


def open_deliverer(data: Path, delivery: Delivery, clock: Callable[[], float]) -> Deliverer:
    """To be used while `held`. Raises `AuditError`, OSError."""
    instance = Instance.load(data)
    folder = delivery_folder(data)

    def key() -> DigestKey:
        return open_key(folder, int(clock()))

    key()  # it is there from the first start on, and one that cannot be used shows now
    return Deliverer(
        delivery.open_trail(instance),
        delivery.open_destination(),
        StateFile(folder, delivery.address.text),
        key,
        Logs(data),
        clock,
        Terms(delivery.interval_s, delivery.digest_s),
    )


def load_state(data: Path, address: Address) -> State | None:
    """How far delivery to `address` has come; None where it never began. Raises `StateInvalid`, OSError."""
    return StateFile(delivery_folder(data), address.text).load()


@contextmanager
def held(data: Path, *, wait: bool) -> Iterator[None]:
    """Be the one that delivers. Raises `DeliveryBusy` where another does and is not waited for, OSError."""
    folder = delivery_folder(data)
    if not folder.exists():
        durable.create_folder(folder)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError as error:
        raise DeliveryBusy(f"{data}: its delivery is under way in another process, which `keytrail serve` runs") from error
    finally:
        os.close(fd)
