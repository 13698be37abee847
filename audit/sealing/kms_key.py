"""A signing key that never leaves its KMS: AWS KMS, or the embedded KMS of another keytrail host.

Ed25519 signs a message as it is (RAW), of at most 4,096 bytes: enough for any checkpoint. ECDSA on P-256 signs a digest, and so
has no such limit. What comes back is verified before it is used: a KMS that answers with something else signs nothing here.

The KMS may not be the keytrail whose log is signed: each signature would be a record, and each record would need a signature. It
tells so itself, by the receipt in its answers, whatever name or proxy leads to it.

boto3 finds the credentials as for everything else on the host. Source: AWS KMS API reference, Sign, GetPublicKey.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from audit.checkpoint import VerifierKey, is_public_key
from audit.errors import CheckpointInvalid, SigningUnavailable
from audit.receipts import RECEIPT_HEADER

_LONGEST_RAW_BYTES = 4_096
_CONNECT_S, _READ_S = 3, 5


@dataclass(frozen=True, slots=True)
class KmsAccess:
    """How the KMS is reached. What is empty, boto3 chooses. `egress_proxy` may hold a password."""

    region: str = ""
    endpoint_url: str = ""
    profile: str = ""
    fips: bool = False
    dual_stack: bool = False
    ca_bundle: str = ""
    egress_proxy: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class KmsPublicKey:
    """The public part, in the form of `audit.checkpoint.PublicKey`."""

    data: bytes

    def public_bytes_raw(self) -> bytes:
        return self.data


class KmsKey:
    """The key `key_id` (ARN, id, alias or alias ARN) of a KMS, as an `audit.checkpoint.SigningKey`.

    An alias is looked up once: whoever moves it changes the key of the next start, which then has to be that of the chain.
    `instance` is the id of the instance that it signs for. Raises `SigningUnavailable` where the KMS does not answer, or refuses,
    or is that instance's own; `CheckpointInvalid` where the key is none to sign notes with.
    """

    def __init__(self, key_id: str, access: KmsAccess, instance: str = "") -> None:
        self._own_receipts = f"keytrail/{instance}/" if instance else None
        self._client = _connect(key_id, access)
        answer = self._ask("get_public_key", KeyId=key_id)
        self._arn = str(answer["KeyId"])
        self._public = KmsPublicKey(_note_form(answer["PublicKey"]))
        if answer.get("KeyUsage") != "SIGN_VERIFY" or not is_public_key(self._public.data):
            raise CheckpointInvalid(f"{self._arn} signs no notes: it should be ECC_NIST_EDWARDS25519 or ECC_NIST_P256")
        self._verifier = VerifierKey(self._arn, self._public.data)
        self._is_ed25519 = len(self._public.data) == 32

    def public_key(self) -> KmsPublicKey:
        return self._public

    def sign(self, data: bytes, /) -> bytes:
        if self._is_ed25519 and len(data) > _LONGEST_RAW_BYTES:
            raise CheckpointInvalid(
                f"{len(data)} bytes: a KMS signs no more than {_LONGEST_RAW_BYTES} by Ed25519; use ECC_NIST_P256"
            )
        how = (data, "RAW", "ED25519_SHA_512") if self._is_ed25519 else (sha256(data).digest(), "DIGEST", "ECDSA_SHA_256")
        message, message_type, algorithm = how
        asked = {"Message": message, "MessageType": message_type, "SigningAlgorithm": algorithm}
        signature = bytes(self._ask("sign", KeyId=self._arn, **asked)["Signature"])
        try:
            self._verifier.verify(signature, data)
        except InvalidSignature:
            raise SigningUnavailable(f"{self._arn}: what the KMS answered is no signature of it") from None
        return signature

    def _ask(self, operation: str, **parameters: object) -> Any:  # Any: boto3 makes its clients at run time
        try:
            answer = getattr(self._client, operation)(**parameters)
            self._require_another(answer, parameters["KeyId"])
            return answer
        except ClientError as error:
            self._require_another(error.response, parameters["KeyId"])
            told = error.response.get("Error", {})
            reason = f"{str(told.get('Code', ''))[:128]}: {str(told.get('Message', '')).partition(chr(10))[0][:512]}"
        except BotoCoreError as error:  # its text may show the URL of the proxy
            reason = type(error).__name__
        raise SigningUnavailable(f"the KMS of the signing key ({parameters['KeyId']}): {reason}")

    def _require_another(self, answer: Any, key_id: object) -> None:  # Any: as above
        receipt = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(RECEIPT_HEADER, "")
        if self._own_receipts is not None and receipt.startswith(self._own_receipts):
            raise SigningUnavailable(
                f"the KMS of the signing key ({key_id}) is this very keytrail: each signature would be a record, and each record"
                " would need a signature; the key has to be in another KMS"
            )


def _connect(key_id: str, access: KmsAccess) -> Any:  # Any: as above
    region = key_id.split(":")[3] if key_id.startswith("arn:") and key_id.count(":") >= 5 else access.region
    proxies = {"http": access.egress_proxy, "https": access.egress_proxy} if access.egress_proxy else None
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"total_max_attempts": 1},  # the sealer tries again by itself
        proxies=proxies,
        use_fips_endpoint=access.fips or None,
        use_dualstack_endpoint=access.dual_stack or None,
        # A shell that calls this keytrail would have it sign by itself.
        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg] # types of botocore lack it
    )
    try:
        session = boto3.Session(profile_name=access.profile or None, region_name=region or None)
        return session.client(
            "kms",
            endpoint_url=access.endpoint_url.replace("{region}", region) or None,
            verify=access.ca_bundle or None,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:  # no such profile, no region, no URL
        raise SigningUnavailable(f"the KMS of the signing key ({key_id}): {error}") from error


def _note_form(der: bytes) -> bytes:
    """A public key as notes have it. Raises `CheckpointInvalid`."""
    try:
        key = load_der_public_key(der)
    except ValueError as error:
        raise CheckpointInvalid("the KMS gave no public key") from error
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else der
