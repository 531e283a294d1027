"""TLS whose certificate a robot knows by its fingerprint: contexts for both sides, no sockets.

A server on a robot's network seldom has a name that an authority would certify. So the server's certificate
may be its own, and the robot is told the SHA-256 of it: a connection with any other is ended before anything
is sent.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import ssl
from pathlib import Path
from typing import Any

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.protocols.tls_socket import DuplexTlsSocket

CERTIFICATE, KEY = "certificate.pem", "key.pem"  # in a server's folder
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def fingerprint_of(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate in DER, 64 hexadecimal digits."""
    return hashlib.sha256(certificate).hexdigest()


def parse_fingerprint(text: str) -> str:
    """Return a fingerprint as ``fingerprint_of`` writes it, from any common way to write one.

    Raises ``InvalidValueError`` if it is none.
    """
    plain = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if not _FINGERPRINT.fullmatch(plain):
        raise InvalidValueError(
            f"fingerprint {text[:100]!r}: expected the SHA-256 of a certificate, 64 hexadecimal digits; "
            "openvla serve prints its own at start"
        )
    return plain


class PinnedContext(ssl.SSLContext):
    """A client's context that accepts one certificate, whoever signed it and whatever name is in it."""

    address: str
    fingerprint: str

    def __new__(cls, address: str, fingerprint: str) -> PinnedContext:
        """Return a context for ``address``, which must have the certificate with this ``fingerprint``."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The fingerprint says more than an authority's signature and a name would.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslsocket_class = DuplexTlsSocket
        context.address, context.fingerprint = address, parse_fingerprint(fingerprint)
        return context

    def __init__(self, address: str, fingerprint: str) -> None:
        """Do nothing: the context is made in ``__new__``, as that of the standard library is."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Return the socket after the handshake; raises ``PolicyError`` if the certificate is another."""
        wrapped = super().wrap_socket(sock, *args, **options)
        certificate = wrapped.getpeercert(binary_form=True)
        found = "none" if certificate is None else fingerprint_of(certificate)
        if not hmac.compare_digest(found, self.fingerprint):
            wrapped.close()
            raise PolicyError(
                f"{self.address} has another certificate than expected: its fingerprint is {found}, the "
                f"parameter fingerprint is {self.fingerprint}; if the server's certificate was renewed, "
                "copy the fingerprint that openvla serve prints on the server itself"
            )
        return wrapped


def client_context(address: str, fingerprint: str, *, is_tls: bool) -> ssl.SSLContext | None:
    """Return how to connect to ``address``; without a ``fingerprint`` an authority must have signed.

    None is for an address without TLS; a fingerprint there raises ``InvalidValueError``.
    """
    if is_tls and fingerprint:
        return PinnedContext(address, fingerprint)
    if is_tls:
        context = ssl.create_default_context()
        context.sslsocket_class = DuplexTlsSocket
        return context
    if fingerprint:
        raise InvalidValueError(
            f"{address} is not encrypted, so it has no certificate with a fingerprint; use wss://, "
            "openpis:// or act+https://"
        )
    return None


def tls_failure(address: str, error: ssl.SSLError) -> str:
    """Return what to say when the handshake with ``address`` failed."""
    said = getattr(error, "verify_message", "") or error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        said += "; if the server's certificate is its own, set the parameter fingerprint to the one it prints"
    return f"{address}: TLS failed: {said}"


def server_context(folder: Path) -> tuple[ssl.SSLContext, str]:
    """Return the context of a server whose certificate and key are in ``folder``, and the fingerprint.

    Raises ``InvalidValueError`` if they are not there, do not belong together, or the key is open to others.
    """
    certificate, key = folder / CERTIFICATE, folder / KEY
    for path in (certificate, key):
        if not path.is_file():
            raise InvalidValueError(
                f"{path} does not exist; openvla serve --make-certificate {folder} makes it"
            )
    if key.stat().st_mode & 0o077:
        raise InvalidValueError(f"{key} can be read by other users; chmod 600 {key}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = DuplexTlsSocket
    # No session is resumed, and a client that writes while it reads a ticket can lose what it writes.
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text(encoding="ascii"))
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InvalidValueError(f"{certificate} and {key.name} cannot be used: {error}") from error
    return context, fingerprint_of(der)
