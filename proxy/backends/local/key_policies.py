"""GetKeyPolicy, PutKeyPolicy, ListKeyPolicies. A key has one policy, named `default`; who has sent none has AWS's text of it.

A policy is kept and given back as it was sent. What it says is the authoriser's to read. All work in every state of the key.
"""

from __future__ import annotations

from proxy.backends.local.changes import KeysInChange
from proxy.backends.local.keys import Key
from proxy.backends.local.lookup import managed_key
from proxy.backends.local.pages import page
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError
from proxy.kms.arn import partition_of

POLICY_NAME = "default"
MOST_BYTES = 32 << 10


def default_policy(region: str, account_id: str) -> str:
    """What a key that was made without a policy has, in AWS's text: its account's identity policies decide."""
    return f"""{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:{partition_of(region)}:iam::{account_id}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"""


def policy_of(key: Key) -> str:
    return default_policy(key.region, key.account_id) if key.policy is None else key.policy


def check_size(policy: str | None) -> None:
    """Raises KmsError for a policy that is too large for any key."""
    if policy is not None and (size := len(policy.encode("utf-8", "surrogatepass"))) > MOST_BYTES:
        raise KmsError("LimitExceededException", f"The key policy has {size} bytes; the most there can be are {MOST_BYTES}.")


def check_new_policy(around: Surroundings, keys: KeysInChange, call: KmsCall, key: Key) -> None:
    """Raises KmsError where the policy that the call has just given `key` is none that it can have."""
    if key.policy is not None:
        bypass = bool(call.parameters.get("BypassPolicyLockoutSafetyCheck"))
        around.authoriser.check_policy(keys, call, key, bypass=bypass)


def get_key_policy(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key = managed_key(around, tables, call, call.parameters["KeyId"])
    _check_name(call, key)
    return Answer({"Policy": policy_of(key), "PolicyName": POLICY_NAME}, (key.meant,))


def put_key_policy(around: Surroundings, keys: KeysInChange, call: KmsCall) -> Answer:
    key = managed_key(around, keys, call, call.parameters["KeyId"])
    _check_name(call, key)
    policy: str = call.parameters["Policy"]
    check_size(policy)
    check_new_policy(around, keys, call, keys.alter_key(key, policy=policy))
    return Answer({}, (key.meant,))


def list_key_policies(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key = managed_key(around, tables, call, call.parameters["KeyId"])
    names, more = page(
        call,
        lambda after: (name for name in (POLICY_NAME,) if name > after),
        lambda name: name,
        of=key.id,
        default=100,
        most=1000,
    )
    return Answer({"PolicyNames": names, **more}, (key.meant,))


def _check_name(call: KmsCall, key: Key) -> None:
    if call.parameters.get("PolicyName", POLICY_NAME) != POLICY_NAME:
        raise KmsError("NotFoundException", "No such policy exists", keys=(key.meant,))


READINGS = {"GetKeyPolicy": get_key_policy, "ListKeyPolicies": list_key_policies}
CHANGES = {"PutKeyPolicy": put_key_policy}
