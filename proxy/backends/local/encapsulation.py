"""Encapsulate and Decapsulate: ML-KEM (FIPS 203).

A ciphertext of the right length always gives a secret: one that was changed, or made for another key, gives another secret
(implicit rejection, §6.3), and nothing says so.

Order of checks, as AWS's: the key is found · usage · state · the algorithm · the ciphertext's length · DryRun.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import mlkem

from proxy.backends.local.keys import Key
from proxy.backends.local.lookup import check_algorithm, check_use, named_key, stop_dry_run
from proxy.backends.local.specs import ENCAPSULATE_DECAPSULATE
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError


def encapsulate(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key, algorithm = _meant(around, tables, call)
    public = tables.pairs.of(key).public
    if not isinstance(public, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey):
        raise TypeError(f"no key that encapsulates: {type(public).__name__}")
    stop_dry_run(call, key.meant)
    secret, blob = public.encapsulate()
    members = {
        "KeyId": key.arn,
        "SharedSecret": secret,
        "SharedSecretCiphertextBlob": blob,
        "EncapsulationAlgorithm": algorithm,
    }
    return Answer(members, (key.meant,))


def decapsulate(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    key, algorithm = _meant(around, tables, call)
    private = tables.pairs.of(key).private
    if not isinstance(private, mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey):
        raise TypeError(f"no key that decapsulates: {type(private).__name__}")
    try:
        secret = private.decapsulate(call.parameters["SharedSecretCiphertextBlob"])
    except ValueError as fault:  # of its length
        raise KmsError("InvalidCiphertextException", keys=(key.meant,)) from fault
    stop_dry_run(call, key.meant)
    return Answer({"KeyId": key.arn, "SharedSecret": secret, "EncapsulationAlgorithm": algorithm}, (key.meant,))


def _meant(around: Surroundings, tables: Tables, call: KmsCall) -> tuple[Key, str]:
    key = named_key(around, tables, call, call.parameters["KeyId"])
    check_use(key, call, ENCAPSULATE_DECAPSULATE)
    algorithm: str = call.parameters["EncapsulationAlgorithm"]
    check_algorithm(key, algorithm)
    return key, algorithm


READINGS = {"Encapsulate": encapsulate, "Decapsulate": decapsulate}
