"""GetPublicKey: the public half of a key pair, also while the key is disabled."""

from __future__ import annotations

from proxy.backends.local.keys import KeyState
from proxy.backends.local.lookup import check_state, named_key
from proxy.backends.local.specs import ALGORITHMS_MEMBER
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError

#: As Disabled, Updating does not matter (developer guide, "Key states of AWS KMS keys").
_WITHOUT = tuple(state for state in KeyState if state not in (KeyState.ENABLED, KeyState.DISABLED, KeyState.UPDATING))


def get_public_key(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    """The state comes before the key spec, and a key that is no pair is refused without a message: as AWS does."""
    key = named_key(around, tables, call, call.parameters["KeyId"])
    check_state(key, *_WITHOUT)
    if not key.about.is_pair:
        raise KmsError("UnsupportedOperationException", keys=(key.meant,))
    members = {
        "KeyId": key.arn,
        "PublicKey": key.public,
        "CustomerMasterKeySpec": key.spec,
        "KeySpec": key.spec,
        "KeyUsage": key.usage,
        ALGORITHMS_MEMBER[key.usage]: list(key.algorithms),
    }
    return Answer(members, (key.meant,))


READINGS = {"GetPublicKey": get_public_key}
