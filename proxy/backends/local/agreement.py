"""DeriveSharedSecret: ECDH (SP 800-56A r3 §5.7.1.2; the NIST curves have cofactor 1) with a peer's public key.

The peer's key is a SubjectPublicKeyInfo (RFC 5480) with a named curve and an uncompressed point, byte for byte as GetPublicKey
gives it; anything else is refused, and so is a point that is not on the curve.

Order of checks, as AWS's: the key is found · usage · state · the algorithm · the peer's key · DryRun.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from proxy.backends.local.cryptographic import refuse_recipient
from proxy.backends.local.keys import Key
from proxy.backends.local.lookup import check_algorithm, check_use, named_key, stop_dry_run
from proxy.backends.local.specs import KEY_AGREEMENT
from proxy.backends.local.surroundings import Surroundings
from proxy.backends.local.tables import Tables
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError


def derive_shared_secret(around: Surroundings, tables: Tables, call: KmsCall) -> Answer:
    parameters = call.parameters
    refuse_recipient(call)
    key = named_key(around, tables, call, parameters["KeyId"])
    check_use(key, call, KEY_AGREEMENT)
    algorithm = parameters["KeyAgreementAlgorithm"]
    check_algorithm(key, algorithm)
    private = tables.pairs.of(key).private
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError(f"no key that agrees: {type(private).__name__}")
    peer = _peer(key, private.curve, parameters["PublicKey"])
    if peer is None:
        message = f"The public key is not a valid public key of key spec {key.spec}."
        raise KmsError("ValidationException", message, keys=(key.meant,))
    secret = private.exchange(ec.ECDH(), peer)
    stop_dry_run(call, key.meant)
    members = {"KeyId": key.arn, "SharedSecret": secret, "KeyAgreementAlgorithm": algorithm, "KeyOrigin": key.origin}
    return Answer(members, (key.meant,))


def _peer(key: Key, curve: ec.EllipticCurve, given: bytes) -> ec.EllipticCurvePublicKey | None:
    """The peer's key, or None where it is none, or of another curve. Its frame is that of the key's own public half."""
    point_bytes = 1 + 2 * ((curve.key_size + 7) // 8)
    frame = key.public[:-point_bytes]
    if len(given) != len(key.public) or not given.startswith(frame):
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, given[len(frame) :])
    except ValueError:
        return None


READINGS = {"DeriveSharedSecret": derive_shared_secret}
