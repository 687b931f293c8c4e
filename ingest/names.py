"""The names that files have in archives, folders and manifests.

Such a name never becomes a path of a file system: nothing is opened, written or looked up by it. It tells label and
split, and it is shown in reports. What could mislead there, or elsewhere if somebody did use it as a path, is refused.
"""

from __future__ import annotations

import re
import unicodedata

from ingest.errors import BadArchive

MAX_PART = 255
MAX_PATH = 4096
MAX_SHOWN = 100
JUNK = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"}
UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Persian, Hindi and emoji cannot be written without the two joiners.
JOINERS = {"\u200c", "\u200d"}
DRIVE = re.compile(r"[A-Za-z]:")


def decode_name(raw: bytes) -> str:
    """The text of a name as archives store it: UTF-8, or else code page 437, in which every byte means something.

    Neither zip nor tar say reliably how a name is written. Bytes that are valid UTF-8 are almost never anything
    else. A name in another code page comes out misspelt, but always in the same way, so that classes stay apart.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def clean_path(raw: str) -> str:
    """The relative path of a file that a name stands for: in NFC, with forward slashes, without '.' and empty parts.

    Backslashes count as separators. BadArchive(unsafe_name) for what climbs ('..'), is absolute, begins with the
    letter of a drive, has a part over 255 characters or more than 4096 in all, has a control, format or surrogate
    character or a line separator (the two zero-width joiners are allowed), or is empty.
    """
    if not (path := clean_folder(raw)):
        raise _unsafe(raw, "names no file")
    return path


def clean_folder(raw: str) -> str:
    """The same for the name of a folder, which may be '.': the empty path then."""
    # Lengths first: to normalise a long run of combining marks takes time that grows with the square of its length.
    if len(raw) > MAX_PATH:
        raise _unsafe(raw, f"is longer than {MAX_PATH} characters")
    parts = raw.replace("\\", "/").split("/")
    if len(parts) > 1 and not parts[0]:
        raise _unsafe(raw, "is an absolute path")
    cleaned = [_clean_part(part, raw) for part in parts if part not in {"", "."}]
    if cleaned and DRIVE.match(cleaned[0]):
        raise _unsafe(raw, "begins with the letter of a drive")
    return "/".join(cleaned)


def _clean_part(part: str, raw: str) -> str:
    if len(part) > MAX_PART:
        raise _unsafe(raw, f"has a part longer than {MAX_PART} characters")
    cleaned = unicodedata.normalize("NFC", part)
    if cleaned == "..":
        raise _unsafe(raw, "climbs out of the archive with '..'")
    if len(cleaned) > MAX_PART:
        raise _unsafe(raw, f"has a part longer than {MAX_PART} characters")
    if has_unsafe_character(cleaned):
        raise _unsafe(raw, "has a control or format character, or one that is none")
    return cleaned


def _unsafe(raw: str, fault: str) -> BadArchive:
    message = f'The name "{shown(raw)}" {fault}.'
    return BadArchive("unsafe_name", message, "Rename the file, and pack it by a path relative to the data set.")


def has_unsafe_character(text: str) -> bool:
    """Whether a text has a control, format or surrogate character, a line separator or what is no character at all.

    Joiners are allowed.
    """
    # isprintable() is false for all of these (and for some harmless spaces), and much faster.
    return not text.isprintable() and any(map(_is_unsafe, text))


def _is_unsafe(character: str) -> bool:
    if unicodedata.category(character) in UNSAFE_CATEGORIES:
        return character not in JOINERS
    return _is_noncharacter(ord(character))


def _is_noncharacter(number: int) -> bool:
    """The last two of each plane and 32 between (Unicode, section 23.7): texts have none, and XML may not."""
    return number & 0xFFFE == 0xFFFE or 0xFDD0 <= number <= 0xFDEF


def shown(raw: str) -> str:
    """A name as it may stand in a message: at most 100 characters, and what does not print is replaced."""
    short = raw if len(raw) <= MAX_SHOWN else raw[: MAX_SHOWN - 1] + "…"
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_unsafe(character) else character for character in short)


def is_junk(path: str) -> bool:
    """Whether a clean path leads to or through what desktops add by themselves: hidden files, thumbnails, __MACOSX."""
    return any(part.startswith(".") or part.casefold() in JUNK for part in path.split("/"))
