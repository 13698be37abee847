"""What is done on the host, by whoever may read the data folder: `init`, the callers' life, the CA. None of it without a record.

Each change commits its intent to the log `admin` first, and its outcome afterwards, as a call through the proxy does. A running
`serve` sees the change at its next call, since the store's generation moves.
"""

from __future__ import annotations

import asyncio
import base64
import configparser
import io
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from audit import durable
from audit.instance import Instance
from audit.record import JsonValue
from audit.sealing.keys import KeyPlace, create_key
from proxy import authority
from proxy.authorization import PolicyAuthoriser, check_identity_policy
from proxy.backends.local import effects
from proxy.backends.local.backend import LocalBackend
from proxy.callers import Caller, Callers
from proxy.clock import clock_of
from proxy.companions import sealing_plan
from proxy.domain import Answer, KmsCall, Operation
from proxy.errors import SetupError
from proxy.host_log import HostLog
from proxy.kms.arn import partition_of
from proxy.kms.operations import OPERATIONS
from proxy.kms.principals import owner_of
from proxy.opening import create_store, is_shared, open_shared, open_store, read_master_key, shared_place
from proxy.permissions import Permissions
from proxy.recording import Exchange
from proxy.sealed_store import MASTER_KEY_BYTES, Transaction
from proxy.settings import Settings
from proxy.sts.roles import Role, Roles

T = TypeVar("T")
DEMO_ALIAS = "alias/demo"
_FIRST_CALLER = "arn:{partition}:iam::{account}:user/demo"


def initialise(settings: Settings) -> Instance:
    """Make the data folder: master key, key store with `alias/demo`, log, first caller and its credentials.

    A key store on a server may be there already, another host's too: it is opened then, and left as it is. Raises `SetupError`
    where the folder is there and not empty, `SealBroken` where the master key does not open the store that is there; nothing is
    touched then. Raises `StoreFailed`.
    """
    data = settings.data
    is_joining = is_shared(settings) and shared_place(settings).is_made()
    if is_joining and settings.master_key is None:
        raise SetupError("the key store is there already: name the file with its master key by the setting master_key")
    key = secrets.token_bytes(MASTER_KEY_BYTES) if settings.master_key is None else read_master_key(settings.master_key)
    place = KeyPlace.of(sealing_plan(settings))
    if settings.sealer_key and not (data / "keytrail.json").exists():
        place.require_new()
    if is_joining:
        open_shared(settings, key).close()
    try:
        data.mkdir(0o700, parents=True)
    except FileExistsError as error:
        if (data / "keytrail.json").exists():
            raise SetupError(f"{data} is initialised already; nothing was changed") from error
        if not data.is_dir() or any(data.iterdir()):
            raise SetupError(f"{data} is not an empty folder; nothing was changed") from error
        data.chmod(0o700)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    instance = Instance.create(data, settings.account_id, settings.region, created)
    if settings.master_key is None:
        durable.create(instance.master_key, base64.b64encode(key) + b"\n")
    create_key(instance, place)
    if is_joining:
        _record_joining(instance, settings)
    else:
        create_store(instance, settings, key).close()
        _fill(instance, settings)
    instance.save()  # last: until then the folder is not initialised, and nothing takes it for whole
    return instance


def _fill(instance: Instance, settings: Settings) -> None:
    """The first key and the first caller of a new store."""
    with Host(instance, settings) as host:
        key_id = host.call("CreateKey", {"Description": "Made by keytrail init, for trying things out"}).members["KeyMetadata"][
            "KeyId"
        ]
        host.call("CreateAlias", {"AliasName": DEMO_ALIAS, "TargetKeyId": key_id})
        partition = partition_of(instance.region)
        host.add_caller(_FIRST_CALLER.format(partition=partition, account=instance.account_id), None, "default")


def _record_joining(instance: Instance, settings: Settings) -> None:
    """The first record of an instance whose store was there: no log `admin` is empty, so that one that was emptied shows."""
    with HostLog(instance, settings) as log:
        exchange = log.exchange(Operation("JoinKeyStore", mutates=True), {})
        log.recorded(exchange, "keytrail", lambda: None, lambda _: Answer({}))


class Host:
    """The data folder, open for commands of whoever is logged in on the host. A context manager; it blocks.

    Every method that changes something raises `SetupError` or `KmsError` where it is refused (recorded too), and `AuditError`
    where it cannot be recorded.
    """

    def __init__(self, instance: Instance, settings: Settings) -> None:
        self.instance = instance
        self.settings = settings
        self._store = open_store(instance, settings)
        self._log = HostLog(instance, settings, partial(effects.known, self._store))
        self._noting: Exchange | None = None
        self._clock = clock_of(settings.clock)
        self.callers = Callers(self._store, self._clock, os.urandom, self._note)
        self.roles = Roles(self._store, self._clock, os.urandom, self._note)
        self.permissions = Permissions(self._store, self._note)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._log.close()

    def _note(self, tx: Transaction) -> None:
        """Keep that the change was made which the command under way intends."""
        if self._noting is not None and self._noting.intent_id is not None:
            effects.keep(tx, self._noting.intent_id, self._noting.raw.received_us, ())

    def _changed(
        self, operation: Operation, parameters: Mapping[str, JsonValue], change: Callable[[], T], answer: Callable[[T], Answer]
    ) -> T:
        """Intent, change of callers, roles or policies, outcome."""
        self._noting = exchange = self._log.exchange(operation, parameters)
        try:
            return self._log.recorded(exchange, "keytrail", change, answer)
        finally:
            self._noting = None

    def call(self, operation: str, parameters: Mapping[str, JsonValue]) -> Answer:
        """Make a KMS call on the embedded backend, in the instance's region."""
        row = OPERATIONS[operation]
        exchange = self._log.exchange(row, parameters)
        call = KmsCall(row, self.instance.region, self._log.operator, parameters, exchange.raw.received_us)
        exchange.allowed_by = call.allowed_by

        async def answer() -> Answer:
            call.intent_id = exchange.intent_id
            backend = LocalBackend(self._store, self._clock, os.urandom, PolicyAuthoriser(self.permissions, self._clock))
            try:
                return await backend.call(call)
            finally:
                backend.close()

        return self._log.recorded(exchange, "kms.amazonaws.com", lambda: asyncio.run(answer()), lambda made: made)

    def add_caller(self, arn: str, type: str | None, profile: str, policies: Mapping[str, str] | None = None) -> Caller:
        """A new caller, of any account; its credentials go to `profile` in the data folder's `credentials`.

        Its identity policies, if any are given, are there before it is.
        """
        self._require_partition(arn)
        if policies:
            self.callers.require_new(arn)
            for name, document in policies.items():
                self.put_policy(owner_of(arn), name, document)
        return self._changed_caller("AddCaller", {"principalArn": arn}, lambda: self._saved(self.callers.add(arn, type), profile))

    def rotate_caller(self, access_key_id: str, profile: str, *, keep_old: bool) -> Caller:
        """A new access key for the same principal; its credentials go to `profile`."""
        return self._changed_caller(
            "RotateCaller",
            {"accessKeyId": access_key_id},
            lambda: self._saved(self.callers.rotate(access_key_id, keep_old), profile),
        )

    def disable_caller(self, access_key_id: str) -> None:
        """Refuse the access key from the next call on."""
        self._changed_caller("DisableCaller", {"accessKeyId": access_key_id}, lambda: self.callers.disable(access_key_id))

    def enable_caller(self, access_key_id: str) -> None:
        """Accept the access key again."""
        self._changed_caller("EnableCaller", {"accessKeyId": access_key_id}, lambda: self.callers.enable(access_key_id))

    def owner_of(self, caller: str) -> str:
        """The user or role that `caller` (its ARN, a session's, or an access key) means. Raises SetupError."""
        if caller.startswith("arn:"):
            return owner_of(caller)
        for one in self.callers.list():
            if one.principal.access_key_id == caller:
                return owner_of(one.principal.arn)
        raise SetupError(f"there is no caller with the access key {caller}")

    def put_policy(self, owner: str, name: str, document: str) -> tuple[str, ...]:
        """Give a user or role an identity policy; returns what may not be as its author thinks."""
        self._require_partition(owner)
        parameters = {"principalArn": owner, "policyName": name, "policy": document}

        def change() -> tuple[str, ...]:
            warnings = check_identity_policy(name, document)
            self.permissions.put(owner, name, document)
            return warnings

        return self._changed_policies("PutCallerPolicy", parameters, change)

    def remove_policy(self, owner: str, name: str) -> None:
        """Take an identity policy from a user or role, be it the built-in one."""
        parameters = {"principalArn": owner, "policyName": name}
        self._changed_policies("DeleteCallerPolicy", parameters, lambda: self.permissions.remove(owner, name))

    def reset_policies(self, owner: str) -> None:
        """Give a user or role the built-in identity policy, and no other."""
        self._changed_policies("ResetCallerPolicies", {"principalArn": owner}, lambda: self.permissions.reset(owner))

    def _changed_policies(self, event: str, parameters: Mapping[str, JsonValue], change: Callable[[], T]) -> T:
        operation = Operation(event, mutates=True, request=("principalArn", "policyName", "policy"))
        return self._changed(operation, parameters, change, lambda _: Answer({}))

    def add_role(self, arn: str, trust_policy: str, max_session_s: int, *, replace: bool) -> Role:
        """A role that may be assumed, of any account, or with `replace` another trust policy for it."""
        self._require_partition(arn)
        return self._changed_role(
            "UpdateRole" if replace else "AddRole",
            {"roleArn": arn, "policy": trust_policy, "maxSessionDuration": max_session_s},
            lambda: self.roles.add(arn, trust_policy, max_session_s, replace=replace),
        )

    def remove_role(self, arn: str) -> Role:
        """The role is gone, and its sessions have ended."""
        return self._changed_role("RemoveRole", {"roleArn": arn}, lambda: self.roles.remove(arn))

    def _changed_role(self, event: str, parameters: Mapping[str, JsonValue], change: Callable[[], Role]) -> Role:
        operation = Operation(event, mutates=True, request=("roleArn", "policy", "maxSessionDuration"))
        return self._changed(operation, parameters, change, lambda _: Answer({}))

    def _require_partition(self, arn: str) -> None:
        """Raises SetupError for an ARN of another partition than that of the instance's region; accounts are not shared."""
        partition = partition_of(self.instance.region)
        if arn.split(":")[1:2] not in ([], [partition]):
            raise SetupError(f"{arn} is not of the partition {partition}, to which the region {self.instance.region} belongs")

    def make_ca(self, certificate: Path, key: Path) -> None:
        """A CA for the forward proxy, as new files; durable when this returns."""
        operation = Operation("CreateCertificateAuthority", mutates=True)
        self._log.recorded(
            self._log.exchange(operation, {}), "keytrail", lambda: write_ca(certificate, key), lambda _: Answer({})
        )

    def _changed_caller(self, event: str, parameters: Mapping[str, str], change: Callable[[], T]) -> T:
        operation = Operation(event, mutates=True, request=("principalArn", "accessKeyId"), response=("accessKeyId",))

        def answer(made: T) -> Answer:
            return Answer({"accessKeyId": made.principal.access_key_id} if isinstance(made, Caller) else {})

        return self._changed(operation, parameters, change, answer)

    def _saved(self, caller: Caller, profile: str) -> Caller:
        write_credentials(self.instance.credentials, profile, caller)
        return caller


def write_ca(certificate: Path, key: Path, **options: Any) -> None:  # Any: of `authority.make`
    """Make a CA and put it into new files, PEM, the key's 0600; durable when this returns.

    Raises SetupError where either is there already; nothing is changed then.
    """
    for path in (certificate, key):
        if path.exists():
            raise SetupError(f"{path} is there already; nothing was changed")
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
    certificate_pem, key_pem = authority.make(**options)
    try:
        durable.create(key, key_pem)  # the key first: who makes one at the same time stops here
    except FileExistsError as error:
        raise SetupError(f"{key} is there already; nothing was changed") from error
    durable.create(certificate, certificate_pem, mode=0o644)


def write_bundle(path: Path, certificate: Path) -> None:
    """What clients of the forward proxy are to trust: the system's certificates and the CA's; durable when this returns."""
    durable.replace(path, authority.bundle(certificate, authority.system_bundles()), mode=0o644)


def write_credentials(path: Path, profile: str, caller: Caller) -> None:
    """Put the caller's credentials into `profile` of the file at `path` (AWS's format, 0600); durable when this returns."""
    file = configparser.RawConfigParser()
    if path.exists():
        file.read_string(path.read_text())
    file[profile] = {
        "aws_access_key_id": caller.principal.access_key_id,
        "aws_secret_access_key": caller.secret_access_key,
    }
    if caller.session_token is not None:
        file[profile]["aws_session_token"] = caller.session_token
    text = io.StringIO()
    file.write(text)
    durable.replace(path, text.getvalue().encode(), mode=0o600)


def profile_of(path: Path, access_key_id: str) -> str:
    """The profile that holds `access_key_id` in the credentials file at `path`; `default` where none does."""
    file = configparser.RawConfigParser()
    if path.exists():
        file.read_string(path.read_text())
    for profile in file.sections():
        if file.get(profile, "aws_access_key_id", fallback=None) == access_key_id:
            return profile
    return "default"
