"""`keytrail verify --delivery`: opens a destination, and compares it with the logs of a data folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from audit.delivery.check import check
from audit.delivery.destination import Destination, parse_address
from audit.delivery.keys import parse_public_keys, read_public_keys
from audit.delivery.layout import DigestKey, Place, Trail
from audit.delivery.logs import Logs
from audit.delivery.opening import delivery_folder, load_state, open_destination
from audit.instance import Instance
from audit.report import DeliveryReport

_DEFAULT_NAME = "keytrail"


def compare_delivery(data: Path, where: str, key_file: Path | None, endpoint_url: str = "") -> DeliveryReport:
    """Compare what is at `where` with the logs in `data`. Digests are to be signed with a key in `key_file`, by default the data
    folder's own.

    Raises `QueryError` where `where` is no place, `DestinationFault`, `DigestKeyInvalid`, OSError.
    """
    instance = Instance.load(data)
    address = parse_address(where)
    destination = open_destination(address, endpoint_url)
    if key_file is None:
        keys = read_public_keys(delivery_folder(data))
    else:
        keys = parse_public_keys(key_file.read_bytes(), str(key_file))
    state = load_state(data, address)  # before anything is listed: what it says was delivered is there by then
    trail = Trail(_DEFAULT_NAME, Place(instance.account_id, instance.region), address.bucket, address.prefix)
    name = state.trail if state is not None else _trail_of(trail, destination)
    return check(replace(trail, name=name), destination, Logs(data)(), keys, state)


def _trail_of(trail: Trail, destination: Destination) -> str:
    """The name of the trail whose digests are there; where there are none, its default."""
    for key in destination.keys(f"{trail.root}{trail.home.account_id}/CloudTrail-Digest/"):
        if isinstance(name := trail.parse(key), DigestKey) and name.home_region == trail.home.region:
            return name.trail
    return _DEFAULT_NAME
