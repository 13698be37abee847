"""The other keys of a multi-Region key: one id, one material, a row in each region."""

from __future__ import annotations

from proxy.backends.local.keys import Key
from proxy.backends.local.tables import View


def related(view: View, key: Key) -> tuple[Key, ...]:
    """The primary and the replicas of which `key` is one, without `key`."""
    if key.multi_region is None:
        return ()
    regions = (key.multi_region.primary, *key.multi_region.replicas)
    found = (view.find_key(key.account_id, region, key.id) for region in regions if region != key.region)
    return tuple(one for one in found if one is not None)
