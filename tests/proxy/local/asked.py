"""Requests of every operation, from the service model, and a whole worker in this process that answers them.

A request is valid by the model's shapes, or one step off that. What a member means the model does not say: ids, ciphertexts and
tokens are mostly of things that are there. The pipeline, the embedded KMS and the audit log are the real ones.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import botocore.loaders
from hypothesis import strategies as st

from audit.commit import AuditLog, LogPlace, Receipt
from audit.record import AuditRecord, Phase
from audit.segments import create_log
from proxy.authorization import PolicyAuthoriser
from proxy.backends.local.backend import LocalBackend
from proxy.dialect import KmsDialect
from proxy.domain import RawResponse
from proxy.kms.model import ServiceModel
from proxy.permissions import Permissions
from proxy.pipeline import Pipeline
from proxy.recording import Recorder
from proxy.sealed_store import SealedStore
from proxy.sigv4 import Verifier
from tests.proxy.local.world import ACCOUNT, ALICE, BOB, MASTER_KEY, REGION, Clock, World, arn_of
from tests.proxy.pipeline.world import NOW_US, KnownCaller, request

MODEL: Mapping[str, Any] = botocore.loaders.create_loader().load_service_model("kms", "service-2")  # Any: JSON
SHAPES: Mapping[str, Mapping[str, Any]] = MODEL["shapes"]
Json = Any
#: Specs whose pairs are made quickly; of RSA the shortest, and seldom.
_QUICK = ("SYMMETRIC_DEFAULT", "HMAC_256", "ECC_NIST_P256", "ECC_NIST_EDWARDS25519", "ML_DSA_44", "SM2", "ML_KEM_768")
_QUICK_PAIRS = ("ECC_NIST_P256", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519", "SM2")
_KEYS: Mapping[str, Mapping[str, Json]] = {
    "symmetric": {},
    "rsa": {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
    "signing": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
    "edwards": {"KeySpec": "ECC_NIST_EDWARDS25519", "KeyUsage": "SIGN_VERIFY"},
    "agreeing": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
    "mac": {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
    "ml": {"KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY"},
    "everywhere": {"MultiRegion": True},
    "imported": {"Origin": "EXTERNAL"},
    "disabled": {},
    "leaving": {},
}
#: Members that make most requests end in one and the same refusal: one in five of those that the model would have has them.
_SELDOM = ("GrantTokens", "Recipient", "CustomKeyStoreId", "Marker", "NumberOfBytes", "DryRun", "DryRunModifiers")
#: Keys that an operation is for, where it is not for all.
_FIT = {
    "Sign": ("signing", "edwards", "ml"),
    "Verify": ("signing", "edwards", "ml"),
    "GenerateMac": ("mac",),
    "VerifyMac": ("mac",),
    "DeriveSharedSecret": ("agreeing",),
    "GetPublicKey": ("rsa", "signing", "agreeing", "ml"),
    "ReplicateKey": ("everywhere",),
    "UpdatePrimaryRegion": ("everywhere",),
    "GetParametersForImport": ("imported",),
    "ImportKeyMaterial": ("imported",),
    "DeleteImportedKeyMaterial": ("imported",),
    "CancelKeyDeletion": ("leaving",),
    "EnableKey": ("disabled",),
}


@dataclass
class Stock:
    """What there is in a prepared store."""

    keys: dict[str, str] = field(default_factory=dict)  # ids by name
    blobs: list[bytes] = field(default_factory=list)  # ciphertexts, signatures, MACs, public keys
    grants: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


def prepare(path: Path) -> Stock:
    """A store with keys of many kinds and states, grants, aliases, and one key of another account."""
    world, stock = World(path), Stock()
    for name, parameters in _KEYS.items():
        stock.keys[name] = world.new_key(**parameters)
    keys = stock.keys
    world("CreateAlias", AliasName="alias/known", TargetKeyId=keys["symmetric"])
    for number in range(3):
        grant = world(
            "CreateGrant",
            KeyId=keys["symmetric"],
            GranteePrincipal=ALICE.arn,
            RetiringPrincipal=ALICE.arn,
            Operations=["Decrypt", "RetireGrant"],
            Name=f"grant-{number}",
        )
        stock.grants.append(grant["GrantId"])
        stock.tokens.append(grant["GrantToken"])
    for context in ({}, {"tenant": "acme"}):
        stock.blobs.append(world("Encrypt", KeyId=keys["symmetric"], Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"])
    made = world("Encrypt", KeyId=keys["rsa"], Plaintext=b"x", EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    signed = world("Sign", KeyId=keys["signing"], Message=b"x", SigningAlgorithm="ECDSA_SHA_256")
    code = world("GenerateMac", KeyId=keys["mac"], Message=b"x", MacAlgorithm="HMAC_SHA_256")
    public = world("GetPublicKey", KeyId=keys["agreeing"])["PublicKey"]
    stock.blobs += [made["CiphertextBlob"], signed["Signature"], code["Mac"], public]
    world("DisableKey", KeyId=keys["disabled"])
    world("ScheduleKeyDeletion", KeyId=keys["leaving"])
    world.caller = BOB
    keys["foreign"] = world.new_key()
    world.close()
    return stock


# --- a worker


class _CountedLog:
    """The audit log, and what was committed to it."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self.records: list[AuditRecord] = []

    @property
    def fault(self) -> str | None:
        return self._log.fault

    async def commit(self, record: AuditRecord) -> Receipt:
        receipt = await self._log.commit(record)
        self.records.append(record)
        return receipt


class Worker:
    """A pipeline on a copy of a prepared store, with its log beside it in `folder`; Alice calls."""

    def __init__(self, prepared: Path, folder: Path) -> None:
        path = folder / "keystore.db"
        shutil.copy(prepared, path)
        self._runner = asyncio.Runner()
        loop = self._runner.get_loop()
        self._store = SealedStore.at(path, MASTER_KEY)
        clock = Clock()
        self._backend = LocalBackend(self._store, clock, os.urandom, PolicyAuthoriser(Permissions(self._store), clock))
        create_log(folder / "w0")
        (folder / "checkpoints").mkdir()
        self._log = AuditLog(LogPlace(folder / "w0", folder / "checkpoints", REGION, ACCOUNT), loop)
        self.log = _CountedLog(self._log)
        numbers = count(1)

        def new_id() -> str:
            return f"id-{next(numbers)}"

        self._pipeline = Pipeline(
            verifier=Verifier({ALICE.access_key_id: KnownCaller()}.get),
            dialect=KmsDialect(ServiceModel(MODEL), forwards=False),
            backend=self._backend,
            recorder=Recorder(ACCOUNT, REGION, "local", "clear", new_id, has_accounts=True),
            log=self.log,
            origin="keytrail/0123456789abcdef/w0",
            now_us=lambda: NOW_US,
            new_id=new_id,
        )

    def post(self, operation: str, body: bytes) -> tuple[RawResponse, list[AuditRecord]]:
        """The response to a signed request, and the records that were committed for it."""
        before = len(self.log.records)
        response = self._runner.run(self._pipeline.walk(request(operation, body, region=REGION)))
        return response, self.log.records[before:]

    def close(self) -> None:
        self._backend.close()
        self._runner.run(self._log.close())
        self._store.close()
        self._runner.close()


# --- requests


def _by_name(stock: Stock, operation: str, member: str, shape: str) -> st.SearchStrategy[Json] | None:
    """Values of members that mean something that is there."""
    ids = list(stock.keys.values())
    fitting = [stock.keys[name] for name in _FIT.get(operation, ("symmetric", "rsa"))]
    strange = [
        "alias/known",
        "alias/none",
        arn_of(ids[0]),
        arn_of(ids[0], "eu-west-1"),
        "x" * 2_048,
        "arn:",
        "ALIAS/known",
        ids[0].upper(),
    ]
    names: dict[str, st.SearchStrategy[Json]] = {
        "KeyIdType": st.sampled_from(fitting) | st.sampled_from(fitting) | st.sampled_from(ids) | st.sampled_from(strange),
        "AliasNameType": st.sampled_from(["alias/known", "alias/new", "alias/aws/kms", "alias/", "known", "alias/a:b"]),
        "GrantIdType": st.sampled_from([*stock.grants, "none"]),
        "GrantTokenType": st.sampled_from([*stock.tokens, "rubbish"]),
        "PrincipalIdType": st.sampled_from([ALICE.arn, BOB.arn, "alice", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root"]),
        "ServicePrincipalType": st.sampled_from(["ec2.amazonaws.com", "a.b.c"]),
        "RegionType": st.sampled_from(["eu-west-1", REGION, "xx-none-9"]),
        "KeySpec": st.sampled_from(_QUICK),
        "CustomerMasterKeySpec": st.sampled_from(("SYMMETRIC_DEFAULT", "HMAC_256", "ECC_NIST_P256")),
        "SigningAlgorithmSpec": st.sampled_from(["ECDSA_SHA_256", "ED25519_SHA_512", "ML_DSA_SHAKE_256", "SM2DSA"]),
        "EncryptionAlgorithmSpec": st.sampled_from(["SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1"]),
        "MacAlgorithmSpec": st.sampled_from(["HMAC_SHA_256", "HMAC_SHA_512"]),
        "DataKeyPairSpec": st.sampled_from(_QUICK_PAIRS),
        "PolicyNameType": st.sampled_from(["default", "other"]),
        "PolicyType": st.sampled_from(["{}", "no JSON", '{"Version": "2012-10-17", "Statement": []}', "\u00ff"]),
        "BackingKeyIdType": st.just("ab" * 32),
        "TrustAnchorCertificateType": st.just("-----BEGIN CERTIFICATE-----"),
        "XksProxyUriEndpointType": st.just("https://xks.invalid"),
        "XksProxyUriPathType": st.just("/kms/xks/v1"),
        "XksProxyVpcEndpointServiceNameType": st.just("com.amazonaws.vpce.us-east-1.vpce-svc-0example"),
        "XksProxyAuthenticationAccessKeyIdType": st.just("ABCDEFGHIJKLMNOPQRST"),
        "XksProxyAuthenticationRawSecretAccessKeyType": st.just("a" * 43),
        "CloudHsmClusterIdType": st.just("cluster-abcdefghijk"),
        "GrantConstraintSourceArnType": st.just(f"arn:aws:s3:us-east-1:{ACCOUNT}:bucket"),
        "AccountIdType": st.just(ACCOUNT),
    }
    if SHAPES[shape]["type"] == "blob":
        return st.sampled_from(stock.blobs).map(_base64) | st.binary(min_size=1, max_size=200).map(_base64)
    return names.get(shape)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def valid(stock: Stock, operation: str, member: str, name: str) -> st.SearchStrategy[Json]:
    """Values of the shape `name`, as JSON."""
    known = _by_name(stock, operation, member, name)
    if known is not None:
        return known
    shape = SHAPES[name]
    low, high = shape.get("min", 0), shape.get("max", 1 << 20)
    match shape["type"]:
        case "structure":
            required = set(shape.get("required", ()))
            members = {one: valid(stock, operation, one, ref["shape"]) for one, ref in shape["members"].items()}
            return st.fixed_dictionaries(
                {one: members[one] for one in members if one in required},
                optional={one: members[one] for one in members if one not in required},
            )
        case "list":
            return st.lists(valid(stock, operation, member, shape["member"]["shape"]), min_size=low, max_size=min(high, 3))
        case "map":
            return st.dictionaries(st.sampled_from(["tenant", "object", "é"]), st.text(max_size=5), max_size=2)
        case "string" if "enum" in shape:
            return st.sampled_from(shape["enum"])
        case "string" if "pattern" in shape:
            return st.from_regex(shape["pattern"], fullmatch=True).filter(lambda text: low <= len(text) <= high)
        case "string":
            return st.text(st.characters(exclude_categories=["Cs"]), min_size=low, max_size=min(high, low + 12))
        case "integer":
            return st.integers(low, min(high, 1 << 31))
        case "boolean":
            return st.booleans()
        case "timestamp":
            return st.sampled_from([0, 1_700_000_600, 1_800_000_000, 253_402_300_799, 1.5])
        case other:
            raise NotImplementedError(f"the service model's shape {name} is a {other}")


def _off(name: str) -> Sequence[Json]:
    """Values one step off the shape `name`."""
    shape = SHAPES[name]
    wrong: list[Json] = [None, True, 1, -1, 1 << 70, 1.5, "", "x", [], [None], {}, {"x": None}]
    low, high = shape.get("min", 0), shape.get("max")
    if high is not None and shape["type"] == "string":
        wrong.append("a" * (high + 1))
    if high is not None and shape["type"] == "blob":
        wrong.append(_base64(bytes(high + 1)))
    if shape["type"] == "integer":
        wrong += [low - 1, (high or 0) + 1]
    if shape["type"] == "list":
        wrong.append(["x"] * ((high or 10) + 1))
    return wrong


def requests(stock: Stock, operation: str) -> st.SearchStrategy[bytes]:
    """Bodies of requests, half of them valid."""
    row = MODEL["operations"][operation]
    name = row["input"]["shape"] if "input" in row else ""
    if not name or not SHAPES[name]["members"]:
        return st.just(b"{}")
    base, shapes = valid(stock, operation, "", name), {one: ref["shape"] for one, ref in SHAPES[name]["members"].items()}

    @st.composite
    def made(draw: st.DrawFn) -> bytes:
        members: dict[str, Json] = draw(base)
        for one in _SELDOM:
            if one in members and one not in SHAPES[name].get("required", ()) and draw(st.integers(0, 4)):
                del members[one]
        if draw(st.booleans()):
            one = draw(st.sampled_from(sorted(shapes)))
            if one in members and draw(st.booleans()):
                del members[one]
            else:
                members[one] = draw(st.sampled_from(_off(shapes[one])))
        return json.dumps(members).encode()

    return made()


# --- what an answer may be


#: Codes that any operation may answer, and those that some answer although the model has them for others only.
_ANYWHERE = {"ValidationException", "SerializationException", "AccessDeniedException", "UnsupportedOperationException"}
_BESIDES = {
    "DeleteAlias": {"InvalidAliasNameException"},
    "DescribeKey": {"InvalidGrantTokenException"},
    "UpdateAlias": {"InvalidAliasNameException"},
    "ListKeyPolicies": {"InvalidMarkerException"},
}
#: "KeySpec and CustomerMasterKeySpec have the same value", says the model, whose enum of the older name has the older specs only.
_ENUMS = {"CustomerMasterKeySpec": SHAPES["KeySpec"]["enum"]}


def errors_of(operation: str) -> set[str]:
    """The error codes that an operation may answer, by the model."""
    found = {ref["shape"] for ref in MODEL["operations"][operation].get("errors", ())}
    codes = {SHAPES[shape].get("error", {}).get("code", shape) for shape in found}
    return codes | _ANYWHERE | _BESIDES.get(operation, set())


def faults_of_answer(name: str, value: Json, path: str = "") -> list[str]:
    """What of an answer is not of the shape `name`."""
    shape = SHAPES[name]
    match shape["type"]:
        case "structure":
            if not isinstance(value, dict):
                return [f"{path} is no structure"]
            members = shape["members"]
            found = [f"{path}.{one} is not in the model" for one in value if one not in members]
            found += [f"{path}.{one} is missing" for one in shape.get("required", ()) if one not in value]
            for one, item in value.items():
                found += faults_of_answer(members[one]["shape"], item, f"{path}.{one}") if one in members else []
            return found
        case "list":
            return [fault for item in value for fault in faults_of_answer(shape["member"]["shape"], item, f"{path}[]")]
        case "map":
            return [] if isinstance(value, dict) else [f"{path} is no map"]
        case "string":
            ok = isinstance(value, str) and ("enum" not in shape or value in _ENUMS.get(name, shape["enum"]))
            return [] if ok else [f"{path} is {value!r}"]
        case "blob":
            return [] if isinstance(value, str) and base64.b64decode(value, validate=True) is not None else [f"{path} is no blob"]
        case "boolean":
            return [] if isinstance(value, bool) else [f"{path} is no boolean"]
        case _:
            return [] if isinstance(value, int | float) and not isinstance(value, bool) else [f"{path} is no number"]


def phases(records: Sequence[AuditRecord]) -> list[Phase]:
    return [record.phase for record in records]
