"""Attestation documents of AWS Nitro Enclaves and of NitroTPM, and the envelope that only their maker can open. Pure.

`verification.verify` is the whole of it, as a numbered list; `cbor`, `document`, `chain` are its parts, `envelope` the answer's.

What is not checked, as AWS KMS does not: how old a document is (the certificate that signed it is valid for some hours), its
nonce and its user data; and no revocation list (the specification says so). Which measurements may have an answer is for
policies to say, by the condition keys kms:RecipientAttestation:….

Source: AWS, "Nitro Enclaves Attestation Process" (aws-nitro-enclaves-nsm-api, docs/attestation_process.md); EC2 user guide,
"Validate a NitroTPM Attestation Document"; RFC 8949 (CBOR), RFC 9052 (COSE), RFC 5280 (certificates), RFC 5652 (CMS).
"""
