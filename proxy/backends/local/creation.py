"""CreateKey: what can be asked for, and the row that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.crypto import MATERIAL_ID_BYTES
from proxy.backends.local.desk import Desk
from proxy.backends.local.external_creation import Home, check_home, check_origin, find_home
from proxy.backends.local.key_policies import check_new_policy, check_size
from proxy.backends.local.keys import KeyState, new_key_body
from proxy.backends.local.material import NewSecret, new_secret
from proxy.backends.local.metadata import describe
from proxy.backends.local.specs import ENCRYPT_DECRYPT, SPECS, SYMMETRIC, KeySpec
from proxy.backends.local.stores import EXTERNAL_KEY_STORE
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import View
from proxy.backends.local.tags import read_tags
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.sealed_store import Secret

AWS_KMS, EXTERNAL = "AWS_KMS", "EXTERNAL"

#: What a caller must be allowed besides, where it sends the member.
_ALSO = (("Tags", "kms:TagResource"), ("Policy", "kms:PutKeyPolicy"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What CreateKey asks for, its defaults filled in and its contradictions refused."""

    spec: KeySpec
    usage: str
    origin: str
    is_multi_region: bool
    description: str
    policy: str | None
    tags: dict[str, str] = field(default_factory=dict)


async def create_key(desk: Desk, call: KmsCall) -> Answer:
    asked = read(call)
    check_allowed(desk.around, desk.tables, call)
    made = await desk.aside(new_secret, asked.spec, desk.around.random) if asked.origin != EXTERNAL else None
    home = await find_home(desk, call) if asked.origin == EXTERNAL_KEY_STORE else None
    return await desk.change(lambda around, keys, call: _write(around, keys, call, asked, made, home), call)


def check_allowed(around: Surroundings, view: View, call: KmsCall) -> None:
    around.authoriser.check(view, call, "kms:CreateKey", None)
    for member, action in _ALSO:
        if call.parameters.get(member):
            around.authoriser.check(view, call, action, None)


def read(call: KmsCall) -> Asked:
    """Raises KmsError where what is asked for does not go together, or is not to be had here."""
    parameters = call.parameters
    if "KeySpec" in parameters and "CustomerMasterKeySpec" in parameters:
        raise KmsError(
            "ValidationException",
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.",
        )
    name = parameters.get("KeySpec") or parameters.get("CustomerMasterKeySpec") or SYMMETRIC
    spec = SPECS.get(name)
    if spec is None:
        raise KmsError("UnsupportedOperationException", f"KeySpec {name} is not supported in this region.")
    usage = parameters.get("KeyUsage")
    if usage is None and not spec.is_symmetric:
        raise KmsError(
            "ValidationException", "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
        )
    usage = usage or ENCRYPT_DECRYPT
    if usage not in spec.algorithms:
        raise KmsError("ValidationException", f"KeyUsage {usage} is not compatible with KeySpec {name}")
    origin = parameters.get("Origin") or AWS_KMS
    check_origin(parameters, origin, spec)
    check_size(parameters.get("Policy"))
    tags = read_tags(parameters.get("Tags") or ())
    is_multi_region = bool(parameters.get("MultiRegion"))
    return Asked(spec, usage, origin, is_multi_region, parameters.get("Description", ""), parameters.get("Policy"), tags)


def _write(
    around: Surroundings, keys: KeysInChange, call: KmsCall, asked: Asked, made: NewSecret | None, home: Home | None
) -> Answer:
    if home is not None:
        check_home(around, keys, call, home)
    created_s = round(around.clock(), 3)
    materials = []
    if made is not None:
        materials = [{"id": around.random(MATERIAL_ID_BYTES).hex(), "created_s": created_s, "size": len(made.secret)}]
    body = new_key_body(
        account_id=call.principal.account_id,
        created_s=created_s,
        spec=asked.spec.name,
        usage=asked.usage,
        origin=asked.origin,
        description=asked.description,
        tags=asked.tags,
        materials=materials,
        state=KeyState.ENABLED if made is not None else KeyState.PENDING_IMPORT,
        policy=asked.policy,
        public=made.public.hex() if made is not None and made.public else None,
        multi_region={"primary": call.region, "replicas": []} if asked.is_multi_region else None,
        custom_key_store=None if home is None else home.store_id,
        xks_key=None if home is None else home.xks_key_id,
    )
    key_id = new_key_id(around, is_multi_region=asked.is_multi_region)
    parent = "" if home is None else home.store_id
    key = keys.add_key(call.region, key_id, body, Secret(b"" if made is None else made.secret), parent)
    check_new_policy(around, keys, call, key)
    return Answer({"KeyMetadata": describe(key)}, (key.meant,))


def new_key_id(around: Surroundings, *, is_multi_region: bool) -> str:
    if is_multi_region:
        return "mrk-" + around.random(16).hex()
    return str(UUID(bytes=around.random(16), version=4))


WORKS = {"CreateKey": create_key}
