"""A time-stamping authority: `openssl ts`, with certificates made here."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CONFIG = """
[tsa]
default_tsa = here
[here]
dir = {folder}
serial = $dir/serial
crypto_device = builtin
signer_cert = $dir/tsa.pem
signer_key = $dir/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_chain = no
"""


class Authority:
    """Answers requests as RFC 3161 has it. `ca` is the certificate to trust, PEM."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name, name = _name("Test CA"), _name("Test TSA")
        ca = _certificate(ca_name, ca_key.public_key(), ca_name, ca_key, x509.BasicConstraints(ca=True, path_length=0))
        tsa = _certificate(name, key.public_key(), ca_name, ca_key, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]))
        self.ca = ca.public_bytes(Encoding.PEM)
        (folder / "ca.pem").write_bytes(self.ca)
        (folder / "tsa.pem").write_bytes(tsa.public_bytes(Encoding.PEM))
        (folder / "tsa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / "serial").write_text("01\n")
        (folder / "config").write_text(_CONFIG.format(folder=folder))

    def answer(self, request: bytes) -> bytes:
        (self.folder / "request").write_bytes(request)
        subprocess.run(
            [*self._openssl("-reply"), "-queryfile", str(self.folder / "request"), "-out", str(self.folder / "response")],
            check=True,
            capture_output=True,
        )
        return (self.folder / "response").read_bytes()

    def verify(self, response: Path, note: Path) -> bool:
        """By openssl."""
        argv = ["openssl", "ts", "-verify", "-in", str(response), "-data", str(note), "-CAfile", str(self.folder / "ca.pem")]
        return subprocess.run(argv, capture_output=True).returncode == 0

    def _openssl(self, what: str) -> list[str]:
        return ["openssl", "ts", what, "-config", str(self.folder / "config")]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
    return builder.not_valid_after(now + timedelta(days=1)).add_extension(extension, critical=True).sign(key, SHA256())
