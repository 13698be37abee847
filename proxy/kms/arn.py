"""Key ids in their four forms, and the ARNs of keys and aliases. Pure.

The forms: key id, key ARN, alias name (`alias/…`), alias ARN. Messages in AWS's words, recorded unless noted:

- `Invalid keyId 'x'` for what is no form of key id; of a key ARN only the part after `key/` is shown.
- `Invalid arn <region>` for an ARN of another region than the call's; for one of another partition, the partition (by
  analogy).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from proxy.errors import KmsError
from proxy.kms import hosts

ALIAS_PREFIX = "alias/"
RESERVED_ALIAS_PREFIX = "alias/aws/"

_KEY_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|mrk-[0-9a-f]{32}")
_ALIAS_NAME = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}")
_ACCOUNT = re.compile(r"[0-9]{12}")


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A key as a caller named it: `name` is a key id or an alias name; `account_id` is None where no ARN said one."""

    name: str
    account_id: str | None = None

    @property
    def is_alias(self) -> bool:
        return self.name.startswith(ALIAS_PREFIX)


@lru_cache(maxsize=256)
def partition_of(region: str) -> str:
    """The name of the partition that a region belongs to, from the region's name."""
    return hosts.partition_of(region).name


def key_arn(region: str, account_id: str, key_id: str) -> str:
    return f"arn:{partition_of(region)}:kms:{region}:{account_id}:key/{key_id}"


def alias_arn(region: str, account_id: str, alias_name: str) -> str:
    """`alias_name` is with its `alias/`."""
    return f"arn:{partition_of(region)}:kms:{region}:{account_id}:{alias_name}"


def is_alias_name(name: str) -> bool:
    return _ALIAS_NAME.fullmatch(name) is not None


@lru_cache(maxsize=4096)  # services name the same few keys over and over
def parse_key_ref(value: str, region: str) -> KeyRef:
    """Read a key id of any form, in a call to `region`. Raises KmsError where it is none, or of another region."""
    if _KEY_ID.fullmatch(value) or _ALIAS_NAME.fullmatch(value):
        return KeyRef(value)
    if not value.startswith("arn:"):
        raise _invalid_key_id(value)
    parts = value.split(":", 5)
    if len(parts) != 6 or parts[2] != "kms" or not _ACCOUNT.fullmatch(parts[4]):
        raise KmsError("NotFoundException", f"Invalid arn {value}")
    _, partition, _, arn_region, account_id, resource = parts
    if partition != partition_of(region) and arn_region == region:
        raise KmsError("NotFoundException", f"Invalid arn {partition}")
    if arn_region != region:
        raise KmsError("NotFoundException", f"Invalid arn {arn_region}")
    if resource.startswith("key/"):
        key_id = resource.removeprefix("key/")
        if not _KEY_ID.fullmatch(key_id):
            raise _invalid_key_id(key_id)
        return KeyRef(key_id, account_id)
    if not _ALIAS_NAME.fullmatch(resource):
        raise KmsError("NotFoundException", f"Invalid arn {value}")
    return KeyRef(resource, account_id)


def _invalid_key_id(value: str) -> KmsError:
    return KmsError("NotFoundException", f"Invalid keyId '{value}'")
