"""GenerateMac and VerifyMac: HMAC (FIPS 198-1) under the material of an HMAC key.

Order of checks, as AWS's: the key is found · usage · state · the algorithm is the key spec's · the MAC (VerifyMac) · DryRun.
"""

from __future__ import annotations

import hmac

from proxy.backends.local.keys import Key
from proxy.backends.local.lookup import check_algorithm, check_use, named_key, stop_dry_run
from proxy.backends.local.specs import GENERATE_VERIFY_MAC
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError

_DIGESTS = {"HMAC_SHA_224": "sha224", "HMAC_SHA_256": "sha256", "HMAC_SHA_384": "sha384", "HMAC_SHA_512": "sha512"}


def generate_mac(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key, algorithm, mac = _mac(around, tables, call)
    stop_dry_run(call, key.meant)
    return Answer({"Mac": mac, "MacAlgorithm": algorithm, "KeyId": key.arn}, (key.meant,))


def verify_mac(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key, algorithm, mac = _mac(around, tables, call)
    if not hmac.compare_digest(mac, call.parameters["Mac"]):
        raise KmsError("KMSInvalidMacException", keys=(key.meant,))
    stop_dry_run(call, key.meant)
    return Answer({"KeyId": key.arn, "MacValid": True, "MacAlgorithm": algorithm}, (key.meant,))


def _mac(around: Surroundings, tables: Tables, call: KmsCall) -> tuple[Key, str, bytes]:
    parameters = call.parameters
    key = named_key(around, tables, call, parameters["KeyId"])
    check_use(key, call, GENERATE_VERIFY_MAC)
    algorithm = parameters["MacAlgorithm"]
    check_algorithm(key, algorithm)
    return key, algorithm, hmac.digest(key.current.secret, parameters["Message"], _DIGESTS[algorithm])


READINGS = {"GenerateMac": generate_mac, "VerifyMac": verify_mac}
