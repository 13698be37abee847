"""Sign and Verify.

Order of checks, as AWS's: the key is found · usage · state · the algorithm is one of the key spec's · the message type goes with
it · the digest's length · DryRun. For Verify the signature comes before DryRun.
"""

from __future__ import annotations

from proxy.backends.local import signatures
from proxy.backends.local.desk import Desk
from proxy.backends.local.keys import Key
from proxy.backends.local.loaded import Pair
from proxy.backends.local.lookup import check_algorithm, check_use, named_key, stop_dry_run
from proxy.backends.local.specs import SIGN_VERIFY
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError


async def sign(desk: Desk, call: KmsCall) -> Answer:
    key, pair, algorithm, message_type = _meant(desk, call)
    stop_dry_run(call, key.meant)
    is_slow = key.about.is_slow or algorithm == signatures.ED25519_PH
    signature = await desk.beside(is_slow, signatures.sign, pair.private, algorithm, message_type, call.parameters["Message"])
    return Answer({"KeyId": key.arn, "Signature": signature, "SigningAlgorithm": algorithm}, (key.meant,))


async def verify(desk: Desk, call: KmsCall) -> Answer:
    key, pair, algorithm, message_type = _meant(desk, call)
    message, signature = call.parameters["Message"], call.parameters["Signature"]
    is_slow = algorithm == signatures.ED25519_PH
    if not await desk.beside(is_slow, signatures.is_valid, pair.public, algorithm, message_type, message, signature):
        raise KmsError("KMSInvalidSignatureException", keys=(key.meant,))
    stop_dry_run(call, key.meant)
    return Answer({"KeyId": key.arn, "SignatureValid": True, "SigningAlgorithm": algorithm}, (key.meant,))


def _meant(desk: Desk, call: KmsCall) -> tuple[Key, Pair, str, str]:
    """The key, its pair, the algorithm and the message type."""
    parameters, tables = call.parameters, desk.tables
    key = named_key(desk.around, tables, call, parameters["KeyId"])
    check_use(key, call, SIGN_VERIFY)
    algorithm, message_type = parameters["SigningAlgorithm"], parameters.get("MessageType", signatures.RAW)
    check_algorithm(key, algorithm)
    fault = signatures.message_fault(key.about, algorithm, message_type, len(parameters["Message"]))
    if fault is not None:
        raise KmsError("ValidationException", fault, keys=(key.meant,))
    return key, tables.pairs.of(key), algorithm, message_type


WORKS = {"Sign": sign, "Verify": verify}
