"""GenerateMac and VerifyMac."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any  # members of requests: JSON values, as in `proxy.domain.Members`

import pytest

from proxy.backends.local.specs import GENERATE_VERIFY_MAC
from proxy.domain import KeyUse
from tests.proxy.local.given import given_key
from tests.proxy.local.world import ACCOUNT, World, arn_of

MESSAGE = b"what is to be vouched for"
SPECS = [("HMAC_224", 28), ("HMAC_256", 32), ("HMAC_384", 48), ("HMAC_512", 64)]


@pytest.mark.parametrize(("spec", "size_bytes"), SPECS)
def test_a_mac_is_the_hmac_under_the_keys_material(world: World, spec: str, size_bytes: int) -> None:
    secret = bytes(range(size_bytes))
    key, algorithm = given_key(world, spec, GENERATE_VERIFY_MAC, secret), spec.replace("_", "_SHA_")
    answer = world.ask("GenerateMac", KeyId=key, MacAlgorithm=algorithm, Message=MESSAGE)
    mac = hmac.new(secret, MESSAGE, getattr(hashlib, f"sha{spec[-3:]}")).digest()
    assert answer.members == {"Mac": mac, "MacAlgorithm": algorithm, "KeyId": arn_of(key)} and len(mac) == size_bytes
    assert answer.keys == (KeyUse(arn_of(key), ACCOUNT),)
    verified = world.ask("VerifyMac", KeyId=key, MacAlgorithm=algorithm, Message=MESSAGE, Mac=mac)
    assert verified.members == {"KeyId": arn_of(key), "MacValid": True, "MacAlgorithm": algorithm}
    assert verified.keys == answer.keys


@pytest.mark.parametrize("spec", [spec for spec, _ in SPECS])
def test_a_wrong_mac_is_refused_without_a_word(world: World, spec: str) -> None:
    key, algorithm = world.new_key(KeySpec=spec, KeyUsage=GENERATE_VERIFY_MAC), spec.replace("_", "_SHA_")
    other = world.new_key(KeySpec=spec, KeyUsage=GENERATE_VERIFY_MAC)
    mac = world("GenerateMac", KeyId=key, MacAlgorithm=algorithm, Message=MESSAGE)["Mac"]
    foreign = world("GenerateMac", KeyId=other, MacAlgorithm=algorithm, Message=MESSAGE)["Mac"]
    for tried in (mac[:-1], mac + b"\0", bytes((mac[0] ^ 1,)) + mac[1:], mac[:-1] + bytes((mac[-1] ^ 128,)), b"x", foreign):
        refusal = world.refused("VerifyMac", KeyId=key, MacAlgorithm=algorithm, Message=MESSAGE, Mac=tried)
        assert (refusal.code, refusal.message) == ("KMSInvalidMacException", None)
        assert refusal.keys == (KeyUse(arn_of(key), ACCOUNT),)
    assert world.refused("VerifyMac", KeyId=key, MacAlgorithm=algorithm, Message=b"x", Mac=mac).code == "KMSInvalidMacException"


@pytest.mark.parametrize("operation", ["GenerateMac", "VerifyMac"])
def test_the_algorithm_is_the_one_of_the_key_spec(world: World, operation: str) -> None:
    key = world.new_key(KeySpec="HMAC_256", KeyUsage=GENERATE_VERIFY_MAC)
    refusal = world.refused(operation, KeyId=key, MacAlgorithm="HMAC_SHA_512", Message=MESSAGE, Mac=b"m")
    assert refusal.code == "InvalidKeyUsageException"
    assert refusal.message == "Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256."


def test_a_dry_run_of_verify_mac_says_whether_the_mac_is_valid(world: World) -> None:
    key = world.new_key(KeySpec="HMAC_256", KeyUsage=GENERATE_VERIFY_MAC)
    sent: dict[str, Any] = {"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": MESSAGE}
    assert world.refused("GenerateMac", **sent, DryRun=True).code == "DryRunOperationException"
    mac = world("GenerateMac", **sent)["Mac"]
    assert world.refused("VerifyMac", **sent, Mac=mac, DryRun=True).code == "DryRunOperationException"
    assert world.refused("VerifyMac", **sent, Mac=b"x", DryRun=True).code == "KMSInvalidMacException"
