"""Who may ask: a token, of which the server keeps only a hash, and how often an address may be wrong.

The hash is scrypt's (RFC 7914), so that a token which a person chose cannot be guessed from a copy of the
file. A token that was right once is recognised by a fast hash with a key of this process.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path

from openvla_ros.errors import InvalidValueError
from openvla_ros.integrity.text_file import read_text
from openvla_ros.serving.secret_files import is_open_to_others, write_secret

# How a client presents the token: ours, and openpi's.
SCHEMES = ("Bearer ", "Api-Key ")
# Wrong tokens of one address within WINDOW_S; what it presents after that is not looked at.
MOST_WRONG, WINDOW_S = 5, 60.0
MOST_ADDRESSES = 1024  # that are remembered; the oldest are forgotten first
LONGEST = 1024  # characters of a token

_COST = {"n": 2**14, "r": 8, "p": 1}  # 16 MiB and some 50 ms: RFC 7914's choice for interactive use
_MAX_MEMORY = 64 << 20


@dataclass(frozen=True)
class TokenHash:
    """What a server knows of its token."""

    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, token: str) -> TokenHash:
        """Return the hash of a new token's text."""
        salt = secrets.token_bytes(16)
        return cls(salt, _scrypt(token, salt))

    @classmethod
    def from_text(cls, text: str, origin: str) -> TokenHash:
        """Return the hash in ``text``, a line as ``to_text`` writes it; raises ``InvalidValueError``."""
        kind, *numbers = text.strip().split("$")
        wanted = [str(value) for value in _COST.values()]
        try:
            if kind != "scrypt" or numbers[:-2] != wanted:
                raise ValueError
            salt, digest = (base64.b64decode(part, validate=True) for part in numbers[-2:])
        except (ValueError, binascii.Error):
            raise InvalidValueError(
                f"{origin} is not a hashed token; openvla serve --make-token FILE makes one, and prints the "
                "token for the robots"
            ) from None
        return cls(salt, digest)

    def to_text(self) -> str:
        """Return the hash as one line, with the parameters of scrypt."""
        parts = ["scrypt", *map(str, _COST.values())]
        return "$".join([*parts, *(base64.b64encode(part).decode() for part in (self.salt, self.digest))])

    def matches(self, token: str) -> bool:
        """Return whether ``token`` is the one."""
        return hmac.compare_digest(_scrypt(token, self.salt), self.digest)


def make_token(path: Path) -> str:
    """Return a new random token, and write its hash to the new file ``path``.

    Raises ``InvalidValueError`` if that cannot be written or is there already.
    """
    token = secrets.token_urlsafe(32)
    try:
        write_secret(path, TokenHash.of(token).to_text().encode() + b"\n")
    except OSError as error:
        raise InvalidValueError(f"{path} cannot be written: {error.strerror}") from error
    return token


def read_token_hash(path: Path) -> TokenHash:
    """Return the hash in a file; raises ``InvalidValueError`` if it is none or other users may read it."""
    found = TokenHash.from_text(read_text(path, InvalidValueError), str(path))
    if is_open_to_others(path):
        raise InvalidValueError(f"{path} can be read by other users; chmod 600 {path}")
    return found


class DoorKeeper:
    """Decides who presents the right token; an address that was wrong too often is not listened to."""

    def __init__(self, token: TokenHash) -> None:
        self._token = token
        self._key = secrets.token_bytes(32)
        self._known: bytes | None = None  # the right token under this process's key
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()  # by address, when
        self._lock = threading.Lock()  # one scrypt at a time: each takes 16 MiB

    def admits(self, authorization: str, address: str) -> bool:
        """Return whether ``authorization``, a header's value, has the token; ``address`` presents it."""
        scheme = next((scheme for scheme in SCHEMES if authorization.startswith(scheme)), None)
        if scheme is None or len(authorization) > LONGEST:
            return False
        token = authorization.removeprefix(scheme)
        fast = hashlib.blake2b(token.encode(), key=self._key).digest()
        if self._known is not None and hmac.compare_digest(fast, self._known):
            return True
        with self._lock:
            if self._is_shut_out(address):
                return False
            if self._token.matches(token):
                self._known = fast
                return True
            self._note_wrong(address)
            return False

    def _is_shut_out(self, address: str) -> bool:
        times = self._wrong.get(address, deque())
        while times and time.monotonic() - times[0] > WINDOW_S:
            times.popleft()
        return len(times) >= MOST_WRONG

    def _note_wrong(self, address: str) -> None:
        self._wrong.setdefault(address, deque()).append(time.monotonic())
        self._wrong.move_to_end(address)
        while len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)


def _scrypt(token: str, salt: bytes) -> bytes:
    return hashlib.scrypt(token.encode(), salt=salt, **_COST, maxmem=_MAX_MEMORY, dklen=32)
