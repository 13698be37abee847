"""Keys with given ids and material, from a file, so that tests repeat: `keytrail seed`.

The file is TOML or JSON: a list ``keys``, each with ``id`` and ``material``, and where they are not the usual ones the other
members of `SeedKey`. It is read strictly, and what is wrong with it is told without the secrets in it. What is there already as
the file says is left as it is (also in another state, or under further aliases); where something differs, nothing is made. A
key's material has the same id in every store: so a ciphertext made in one is read in another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from audit.instance import Instance
from proxy.authorization import key_policy_fault
from proxy.backends.local import effects
from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import KEY, Key, alias_row, key_of, new_key_body
from proxy.backends.local.specs import ENCRYPT_DECRYPT, SPECS, SYMMETRIC
from proxy.backends.local.wrapping import read_material
from proxy.clock import Clock, clock_of
from proxy.domain import Answer, KeyUse, Operation
from proxy.errors import SetupError
from proxy.host_log import HostLog
from proxy.kms.arn import RESERVED_ALIAS_PREFIX, alias_arn, is_alias_name, key_arn
from proxy.opening import open_store
from proxy.recording import Exchange
from proxy.sealed_store import SealedStore, Secret
from proxy.settings import Settings

_Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}(-[a-z]+)+-[0-9]$")]
_Account = Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")]
_KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class SeedKey(BaseModel):
    """A key of the file. `material` is base64, or hex after ``hex:``: random bytes, or a pair's private key (PKCS #8, DER)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: _KeyId
    material: SecretStr
    spec: str = SYMMETRIC
    usage: str = ENCRYPT_DECRYPT
    account: _Account | None = None  # the instance's
    region: _Region | None = None  # the instance's
    description: Annotated[str, StringConstraints(max_length=8_192)] = ""
    tags: dict[str, str] = Field(default_factory=dict)
    policy: Annotated[str, StringConstraints(min_length=1, max_length=131_072)] | None = None  # its document; the default one
    aliases: list[str] = Field(default_factory=list)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    keys: Annotated[list[SeedKey], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key as it is to be in the store."""

    region: str
    account_id: str
    id: str
    facts: dict[str, Any]  # members of its row, but for the state and the times. Any: JSON
    material_id: str
    secret: Secret
    aliases: tuple[str, ...]

    @property
    def use(self) -> KeyUse:
        return KeyUse(key_arn(self.region, self.account_id, self.id), self.account_id)


@dataclass(frozen=True, slots=True)
class Seeded:
    """How many keys were made, and how many were there."""

    made: int
    there: int


def seed(instance: Instance, settings: Settings, path: Path) -> Seeded:
    """Make the keys of the file `path` that are not there; each on record, and durable when this returns.

    Raises SetupError where the file is not as it must be, or the store has something else; nothing was made then.
    """
    wanted, clock = read(path, instance), clock_of(settings.clock)
    store = open_store(instance, settings)
    try:
        missing = [one for one in wanted if not _is_there(store, one)]
        with HostLog(instance, settings, partial(effects.known, store)) as log:
            for one in missing:
                operation = Operation("SeedKey", mutates=True, request=("keyId", "keySpec", "keyUsage"))
                told = {"keyId": one.use.arn, "keySpec": one.facts["spec"], "keyUsage": one.facts["usage"]}
                arns = tuple(alias_arn(one.region, one.account_id, name) for name in one.aliases)
                exchange = log.exchange(operation, told)
                made = partial(_make, store, clock, one, Answer({}, (one.use,), arns), exchange)
                log.recorded(exchange, "keytrail", made, _told)
        return Seeded(len(missing), len(wanted) - len(missing))
    finally:
        store.close()


def read(path: Path, instance: Instance) -> tuple[Wanted, ...]:
    """The keys of the file. Raises SetupError, without a value of the file."""
    try:
        content = path.read_bytes()
        document = orjson.loads(content) if path.suffix == ".json" else tomllib.loads(content.decode())
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error
    except (orjson.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        # From None, and without its text: it may quote the file.
        raise SetupError(f"{path} is no {'JSON' if path.suffix == '.json' else 'TOML'}") from None
    try:
        keys = _File.model_validate(document).keys
    except ValidationError as error:
        told = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise SetupError(f"{path}: {'; '.join(told)}") from None
    wanted = tuple(_wanted(one, instance, f"{path}: keys.{number}") for number, one in enumerate(keys))
    names = [(one.region, one.id) for one in wanted]
    names += [(one.region, alias_row(one.account_id, name)) for one in wanted for name in one.aliases]
    twice = sorted({name for region, name in names if names.count((region, name)) > 1})
    if twice:
        raise SetupError(f"{path}: {twice[0]} is there twice")
    return wanted


def _wanted(key: SeedKey, instance: Instance, where: str) -> Wanted:
    spec = SPECS.get(key.spec)
    if spec is None:
        raise SetupError(f"{where}.spec: {key.spec} is no key spec; there are {', '.join(SPECS)}")
    if key.usage not in spec.algorithms:
        raise SetupError(f"{where}.usage: a key of {key.spec} is for {' or '.join(spec.algorithms)}")
    for alias in key.aliases:
        if not is_alias_name(alias) or alias.startswith(RESERVED_ALIAS_PREFIX):
            raise SetupError(f"{where}.aliases: {alias!r} is no name of an alias")
    made = read_material(spec, _decoded(key.material.get_secret_value(), where))
    if made is None:
        raise SetupError(f"{where}.material: it is no material of a key of {key.spec}")
    if key.policy is not None and (fault := key_policy_fault(key.policy)) is not None:
        raise SetupError(f"{where}.policy: {fault}")
    region, account_id = key.region or instance.region, key.account or instance.account_id
    arn = key_arn(region, account_id, key.id)
    facts = {
        "account": account_id,
        "spec": key.spec,
        "usage": key.usage,
        "origin": "AWS_KMS",
        "description": key.description,
        "tags": key.tags,
        "policy": key.policy,
        "public": made.public.hex() if made.public else None,
    }
    material_id = hmac.new(made.secret, b"keytrail/seed/1 " + arn.encode(), hashlib.sha256).hexdigest()
    return Wanted(region, account_id, key.id, facts, material_id, Secret(made.secret), tuple(key.aliases))


def _decoded(material: str, where: str) -> bytes:
    try:
        if material.startswith("hex:"):
            return bytes.fromhex(material.removeprefix("hex:"))
        return base64.b64decode(material, validate=True)
    except (ValueError, binascii.Error):
        raise SetupError(f"{where}.material: it is neither base64 nor hex after `hex:`") from None


def _is_there(store: SealedStore, wanted: Wanted) -> bool:
    """Whether the key is there with its aliases, as it is wanted. Raises SetupError where something else is."""
    entry = store.find(KEY, wanted.region, wanted.id)
    aliases = {name: store.find("alias", wanted.region, alias_row(wanted.account_id, name)) for name in wanted.aliases}
    foreign = sorted(name for name, alias in aliases.items() if alias is not None and alias.parent != wanted.id)
    if foreign:
        raise SetupError(f"the alias {foreign[0]} is there, of another key; nothing was made")
    if entry is None:
        return False
    _check_same(key_of(entry), wanted)
    return all(alias is not None for alias in aliases.values())


def _check_same(key: Key, wanted: Wanted) -> None:
    different = [name for name, value in wanted.facts.items() if key.body.get(name) != value]
    if [(one.id, one.secret) for one in key.materials] != [(wanted.material_id, wanted.secret.reveal())]:
        different.append("material")
    if different:
        raise SetupError(f"the key {wanted.use.arn} is there, with another {' and '.join(different)}; nothing was made")


def _told(answer: Answer) -> Answer:
    return answer


def _make(store: SealedStore, clock: Clock, wanted: Wanted, answer: Answer, exchange: Exchange) -> Answer:
    """Make what is lacking of it, in one transaction, and keep that what `exchange` intends was done; gives `answer`."""
    now_s = round(clock(), 3)
    with store.change() as tx:
        keys = KeysInChange(tx)
        key = keys.find_key(wanted.account_id, wanted.region, wanted.id)
        if key is None:
            material = {"id": wanted.material_id, "created_s": now_s, "size": len(wanted.secret.reveal())}
            facts = {name: value for name, value in wanted.facts.items() if name != "account"}
            body = new_key_body(account_id=wanted.account_id, created_s=now_s, materials=[material], **facts)
            key = keys.add_key(wanted.region, wanted.id, body, wanted.secret)
        _check_same(key, wanted)
        for name in wanted.aliases:
            alias = keys.find_alias(wanted.account_id, wanted.region, name)
            if alias is not None and alias.key_id != wanted.id:
                raise SetupError(f"the alias {name} is there, of another key; it was not made")
            if alias is None:
                keys.put_alias(key, name, now_s, now_s)
        if tx.wrote and exchange.intent_id is not None:
            effects.keep(tx, exchange.intent_id, exchange.raw.received_us, answer.keys, answer.aliases)
    return answer
