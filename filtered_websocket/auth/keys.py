"""
The keys of tokens, as text: made, recognised, digested and shortened.

A key is a password of 256 random bits. What is stored of it is its SHA-256, which needs
neither salt nor stretching: there is no dictionary of random bits (OWASP's Password
Storage Cheat Sheet asks for both because people choose passwords).
"""

import hashlib
import re
import secrets
import string

#: Begins every key, so that people and secret scanners know one when they see it.
START = "fws_"
#: Characters of a key: START and 32 bytes as base64url without padding (RFC 4648 section 5).
KEY_LENGTH = len(START) + 43
#: How much of a key is stored and shown.
PREFIX_LENGTH = 12

_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_")
#: A key, or most of one; the group is the part that may be shown.
_LONG = re.compile(rf"({START}[A-Za-z0-9_-]{{{PREFIX_LENGTH - len(START)}}})[A-Za-z0-9_-]{{20,}}")


class Key(str):
    """
    A key that was just made; its ``repr`` shows its prefix only.

    Tracebacks, debuggers and template engines show values by their ``repr``.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<key {self[:PREFIX_LENGTH]}…>"


def new_key() -> Key:
    """A new random key."""
    return Key(START + secrets.token_urlsafe(32))


def is_key(text: str) -> bool:
    """Whether ``text`` has the form of a key; anything else is never looked up."""
    return len(text) == KEY_LENGTH and text.startswith(START) and _ALPHABET.issuperset(text)


def digest_of(key: str) -> str:
    """SHA-256 in hex: what is stored of a key, and of other secrets."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def shorten(text: str) -> str:
    """``text`` with every key in it, or most of one, cut to the part that may be shown."""
    return _LONG.sub(r"\1", text)
