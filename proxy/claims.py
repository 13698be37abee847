"""Who says that they call, where the signature is for AWS to verify (pass-through). Pure.

The access key id in the signature is all that there is to go by. Whose it is, is looked for in this order: in a map that the
operator gives; in what AWS itself said of that key when it denied something, since its text names the ARN; and in the key id
itself, which encodes the account. None of it is proof: a record says so, until AWS has accepted the call.

Source for the account in a key id: AWS re:Post and the research of Aidan Steele and Tal Be'ery; AccessDenied texts as recorded.
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from proxy.domain import Principal, RawRequest
from proxy.errors import SetupError
from proxy.kms.principals import Kind, parse_principal
from proxy.sigv4 import Verified, Verifier

MAX_LEARNT = 10_000
#: Principal.type, as CloudTrail calls it, of those that call; a role itself never does.
_TYPES = {
    Kind.USER: "IAMUser",
    Kind.ROOT: "Root",
    Kind.SESSION: "AssumedRole",
    Kind.FEDERATED_USER: "FederatedUser",
}
_DENIED = re.compile(r"User: (\S+) is not authorized to perform: ")
_ACCESS_KEY_ID = re.compile(r"\w{16,128}", re.ASCII)
_OWN_KEY_ID = re.compile(r"A[KS]IA[A-Z2-7]{16}")


class ClaimReader:
    """An authenticator that believes: `known` is access key id → ARN, `learnt` what AWS told before. For one thread."""

    def __init__(self, known: Mapping[str, str], learnt: OrderedDict[str, Principal] | None = None) -> None:
        self._known = {key: _principal(key, arn) for key, arn in known.items()}
        self._learnt: OrderedDict[str, Principal] = OrderedDict() if learnt is None else learnt
        self._reader = Verifier(lambda _: None)

    def verify(self, raw: RawRequest, now_us: int) -> Verified:
        """Who `raw` says that signed it. The time is for AWS to judge. Raises AuthenticationFailed where it cannot be read."""
        claimed = self._reader.read(raw)
        key = claimed.access_key_id
        principal = self._known.get(key) or self._learnt.get(key) or _stranger(key)
        return Verified(principal, claimed.region, claimed.signature)

    def learn(self, access_key_id: str, message: str) -> None:
        """AWS denied a call of `access_key_id` with `message`, which names whose key it is."""
        told = _DENIED.match(message)
        if access_key_id in self._known or told is None or not _is_caller(told[1]):
            return
        self._learnt[access_key_id] = _principal(access_key_id, told[1])
        self._learnt.move_to_end(access_key_id)
        if len(self._learnt) > MAX_LEARNT:
            self._learnt.popitem(last=False)


def read_access_keys(path: Path) -> dict[str, str]:
    """The map of access key ids to ARNs in the TOML file `path`, its table [access_keys]. Raises SetupError."""
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: {error}") from error
    table = document.get("access_keys")
    if set(document) != {"access_keys"} or not isinstance(table, dict):
        raise SetupError(f"{path}: it must hold one table, [access_keys]")
    for number, (key, arn) in enumerate(table.items(), 1):
        # What stands in the wrong place may be a secret: it is named by its place.
        if not _ACCESS_KEY_ID.fullmatch(key):
            raise SetupError(f"{path}: entry {number} does not begin with an access key id")
        if not isinstance(arn, str) or not _is_caller(arn):
            raise SetupError(f"{path}: what stands behind {key} is not the ARN of a user, a role session, or a root")
    return table


def account_of(access_key_id: str) -> str | None:
    """The account that an access key id of AWS encodes; None for a key id of another kind."""
    if not _OWN_KEY_ID.fullmatch(access_key_id) or access_key_id[4] < "Q":  # keys before 2019 encode none
        return None
    try:
        decoded = base64.b32decode(access_key_id[4:])
    except binascii.Error:
        return None
    account = f"{(int.from_bytes(decoded[:6], 'big') & 0x7FFFFFFFFF80) >> 7:012d}"
    return account if len(account) == 12 else None


def _is_caller(arn: str) -> bool:
    found = parse_principal(arn)
    return found is not None and found.kind in _TYPES


def _principal(access_key_id: str, arn: str) -> Principal:
    found = parse_principal(arn)
    if found is None or found.kind not in _TYPES:
        raise SetupError(f"{arn!r} is not the ARN of a user, a role session, or a root")
    user_name = found.name if found.kind is Kind.USER else None
    return Principal(_TYPES[found.kind], arn, found.account_id, access_key_id, "", user_name)  # AWS's id of it is not known here


@lru_cache(maxsize=1_024)
def _stranger(access_key_id: str) -> Principal:
    return Principal("Unknown", "", account_of(access_key_id) or "", access_key_id, "")
