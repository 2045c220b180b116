"""
The keys of tokens, as text: how one is made, recognised and remembered.

A key is a password of 256 random bits. What is stored of it is its SHA-256, which needs
neither salt nor stretching: there is no dictionary of random bits (OWASP's Password
Storage Cheat Sheet asks for both because people choose passwords).
"""

import hashlib
import secrets
import string

#: Begins every key, so that people and secret scanners know one when they see it.
START = "fws_"
#: Characters of a key: START and 32 bytes as base64url without padding (RFC 4648 section 5).
KEY_LENGTH = len(START) + 43
#: How much of a key is stored and shown.
PREFIX_LENGTH = 12

_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_")


def new_key() -> str:
    """A key that nobody has seen."""
    return START + secrets.token_urlsafe(32)


def is_key(text: str) -> bool:
    """Whether ``text`` has the form of a key; what has not is never looked up."""
    return len(text) == KEY_LENGTH and text.startswith(START) and _ALPHABET.issuperset(text)


def digest_of(key: str) -> str:
    """SHA-256 in hex: what is stored of a key, and of other secrets."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
