"""Ids made by the server: a prefix and a ULID, so that they sort by time and say what they are of."""

from __future__ import annotations

import re
import secrets
import time
from typing import Literal

Prefix = Literal["job", "mdl", "fam", "ds", "msg"]

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_PATTERN = re.compile(r"(job|mdl|fam|ds)_[0-9a-z_]{1,64}")


def may_name(reference: str) -> bool:
    """Whether there can be anything of this id or name: PostgreSQL cannot even be asked for a text with a NUL."""
    return "\0" not in reference


def new_id(prefix: Prefix) -> str:
    """A new id: 48 bits of milliseconds, 80 random bits, in Crockford's base 32 (ULID specification)."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    digits = [ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5)]
    return f"{prefix}_{''.join(digits)}"
