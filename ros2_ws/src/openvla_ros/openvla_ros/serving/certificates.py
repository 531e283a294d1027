"""Makes a server's own certificate: signed by itself, known to robots by its fingerprint."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from openvla_ros.errors import InvalidValueError
from openvla_ros.protocols.tls import CERTIFICATE, KEY, fingerprint_of
from openvla_ros.serving.secret_files import write_secret

VALID_DAYS = 3650


def make_certificate(folder: Path, host: str) -> str:
    """Write a certificate for ``host`` and this machine's name, and its key, into ``folder``.

    Returns the fingerprint. Raises ``InvalidValueError`` if there is one already: robots know it.
    """
    if found := [path for path in (folder / CERTIFICATE, folder / KEY) if path.exists()]:
        raise InvalidValueError(f"{found[0]} exists; robots that know its fingerprint would refuse another")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "openvla serve")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # robots' clocks are not always right
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_secret(folder / KEY, private)
        (folder / CERTIFICATE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise InvalidValueError(f"{folder} cannot be written: {error.strerror}") from error
    return fingerprint_of(certificate.public_bytes(serialization.Encoding.DER))


def _names(host: str) -> list[x509.GeneralName]:
    """Return ``host``, this machine and the loopback as a certificate names them."""
    names: list[x509.GeneralName] = []
    for text in dict.fromkeys((host, socket.gethostname(), "localhost", "127.0.0.1")):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            names.append(x509.DNSName(text))
    return names
