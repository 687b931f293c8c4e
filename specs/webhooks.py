"""Where ends of jobs may be told, and what messages are signed with."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlsplit

SECRET_PREFIX = "whsec_"  # noqa: S105 - says of what follows that it is a secret
LEAST_BYTES, MOST_BYTES = 24, 64


def check_webhook(url: str, *, secret: str | None) -> None:
    """Raises ValueError, with the fix and without the values, unless messages can be signed and sent there."""
    if not _is_address(url):
        raise ValueError(
            "PRUNEYARD_WEBHOOK_URL is not an address that messages can be sent to. Give one such as "
            "https://example.org/hooks/pruneyard, without a user name."
        )
    if secret is None:
        raise ValueError(
            "PRUNEYARD_WEBHOOK_URL is set and PRUNEYARD_WEBHOOK_SECRET is not: receivers could not tell our messages "
            f"from others. Set it to {SECRET_PREFIX} and the output of `openssl rand -base64 32`."
        )
    if not LEAST_BYTES <= _length(secret) <= MOST_BYTES:
        raise ValueError(
            f"PRUNEYARD_WEBHOOK_SECRET is not {SECRET_PREFIX} and {LEAST_BYTES} to {MOST_BYTES} bytes in base64. "
            "`openssl rand -base64 32` makes them."
        )


def _is_address(url: str) -> bool:
    if not url.isprintable() or any(letter.isspace() for letter in url):
        return False  # some parsers leave these out, and others do not
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None and port != 0


def _length(secret: str) -> int:
    """How many bytes of key a secret holds; -1 if it holds none."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        return -1
    return len(key) if secret.startswith(SECRET_PREFIX) else -1
