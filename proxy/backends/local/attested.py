"""Calls with a Recipient: the operation as ever, but its plaintext goes to who is attested, and to nobody else.

The document is verified before the operation, since policies may ask for what it measures; the handlers know nothing of it. What
they answer in the clear is taken out of the answer here, in one place, by a table; an operation that does not stand in it is
refused, though the service model should come to know a Recipient there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy.backends.local.attestation.document import BadDocument
from proxy.backends.local.attestation.envelope import envelop
from proxy.backends.local.attestation.verification import verify
from proxy.backends.local.desk import Desk
from proxy.domain import Answer, KmsCall
from proxy.errors import KmsError

#: The member of an answer that is plaintext, by operation.
PLAINTEXT = {
    "Decrypt": "Plaintext",
    "GenerateDataKey": "Plaintext",
    "GenerateDataKeyPair": "PrivateKeyPlaintext",
    "GenerateRandom": "Plaintext",
    "DeriveSharedSecret": "SharedSecret",
}
#: By the API reference, their KeyMaterialId is omitted where the request has a Recipient.
_WITHOUT_MATERIAL_ID = frozenset({"Decrypt", "GenerateDataKey"})


async def answer_attested(desk: Desk, call: KmsCall, answer: Callable[[KmsCall], Awaitable[Answer]]) -> Answer:
    """What `answer` answers, without its plaintext. Raises KmsError: also its own refusals, and a dry run's."""
    recipient, roots = call.parameters["Recipient"], desk.around.attestation_roots
    member = PLAINTEXT.get(call.operation.name)
    if member is None:
        raise KmsError("UnsupportedOperationException", f"{call.operation.name} has no answer for a Recipient.")
    if not roots:
        raise KmsError(
            "UnsupportedOperationException",
            "Recipient is not supported: this KMS has no root certificate for attestation documents (setting attestation_root).",
        )
    for name in ("AttestationDocument", "KeyEncryptionAlgorithm"):
        if name not in recipient:
            raise KmsError("ValidationException", f"Recipient must have {name}.")
    try:
        verified = await desk.aside(verify, recipient["AttestationDocument"], roots, desk.around.clock())
    except BadDocument as fault:
        raise KmsError("ValidationException", str(fault)) from fault
    call.attested = verified.attested
    answered = await answer(call)
    members = dict(answered.members)
    plaintext = members.pop(member)
    if call.operation.name in _WITHOUT_MATERIAL_ID:
        members.pop("KeyMaterialId", None)
    members["CiphertextForRecipient"] = await desk.aside(envelop, verified.key, verified.key_der, plaintext, desk.around.random)
    return replace(answered, members=members)
