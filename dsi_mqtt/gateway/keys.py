"""Who may use the gateway: keys from a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from dsi_mqtt.errors import ConfigError

KEY_MIN: Final = 16
_HASH: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")


class Keys:
    """Holds hashes only."""

    def __init__(self, digests: list[bytes]) -> None:
        self._digests = digests

    @classmethod
    def read(cls, path: Path) -> Keys:
        """A key a line, as it is or as `sha256:` and 64 hex digits; # begins a comment.

        Raises ConfigError.
        """
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise ConfigError(f"{path}: cannot be read: {reason}") from None
        digests = []
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if text and not text.startswith("#"):
                digests.append(_digest(text, f"{path}, line {number}"))
        if not digests:
            raise ConfigError(f"{path}: holds no key; write one a line, like sk-… or sha256:…")
        return cls(digests)

    def owner(self, authorization: str | None) -> str | None:
        """Whose key the header brings, by a name that is no secret; None: it is no key.

        It takes as long whether a key is near or far.
        """
        scheme, _, key = (authorization or "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        # All are compared, so that the time does not tell which one it was.
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != "bearer" or not any(found):
            return None
        return hashlib.sha256(given).hexdigest()


def _digest(text: str, where: str) -> bytes:
    hashed = _HASH.fullmatch(text)
    if hashed:
        return bytes.fromhex(hashed[1])
    if text.startswith("sha256:") or len(text) < KEY_MIN or not text.isascii() or " " in text:
        raise ConfigError(
            f"{where}: no key; write at least {KEY_MIN} characters without spaces, or sha256: and "
            "64 hex digits"
        )
    return hashlib.sha256(text.encode()).digest()
