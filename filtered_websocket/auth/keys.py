"""
The keys of tokens, as text: made, recognised, digested and shortened; and other secrets in a
text, which are hidden.

A key is a password of 256 random bits. What is stored of it is its SHA-256, which needs
neither salt nor stretching: there is no dictionary of random bits (OWASP's Password
Storage Cheat Sheet asks for both because people choose passwords).
"""

import hashlib
import re
import secrets
import string
from collections.abc import Iterable

#: Begins every key, so that people and secret scanners know one when they see it.
START = "fws_"
#: Characters of a key: START and 32 bytes as base64url without padding (RFC 4648 section 5).
KEY_LENGTH = len(START) + 43
#: How much of a key is stored and shown.
PREFIX_LENGTH = 12

_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_")
#: A key, or most of one; the group is the part that may be shown.
_LONG = re.compile(rf"({START}[A-Za-z0-9_-]{{{PREFIX_LENGTH - len(START)}}})[A-Za-z0-9_-]{{20,}}")


#: What is shown instead of a secret.
HIDDEN = "***"
#: A name that says that its value is one.
_SECRET_NAME = re.compile(
    r"token|secret|passw|passphrase|cookie|ticket|session|csrf|signature|credential|jwt"
    r"|authori[sz]ation|(?:api|private|access|auth|signing)[_-]?key|(?:^|[_-])(?:auth|pass|pwd|sid)$",
    re.IGNORECASE,
)
#: Ways to write a value behind its name, which is the group: no text takes long to look through.
_NAMED = [
    (re.compile(name), re.compile(value))
    for name, value in (
        # in JSON, also without its end; and in JSON that is a string of JSON
        (r'"([\w-]{1,64})"\s{0,8}:\s{0,8}', r'"(?:[^"\\]|\\.)*+"?|[^\s,}\]"\[{]+'),
        (r'\\"([\w-]{1,64})\\"\s{0,8}:\s{0,8}\\"', r'[^"\\]+'),
        # as Python writes it
        (r"'([\w-]{1,64})'\s{0,8}:\s{0,8}b?", r"'(?:[^'\\]|\\.)*+'?|[^\s,}\]'\[{]+"),
        # in a header, up to the end of its line; in a query, a form or a cookie
        (r"(?<![\w-])([\w-]{1,64}):\s{0,8}", r'"[^"]*"?|[^\r\n"]+'),
        (r"(?<![\w-])([\w-]{1,64})=", r"""[^\s&;,"']+"""),
    )
]
#: What has the form of a secret.
_SHAPED = [
    # of an Authorization header
    re.compile(r"(\b(?:bearer|basic|token) {1,8})[\w.~+/=:-]{8,}", re.IGNORECASE),
    # a ticket; what Django has signed, as a session in a cookie
    re.compile(r"((?<![\w-]))[\w-]{43}\.\w{5,8}\.[\w-]{20,}"),
    re.compile(r"((?<![\w.=-]))[\w.=-]+:\w{5,8}:[\w-]{27,}"),
    # the session of a stream; in Protobuf, its length is a letter before it
    re.compile(r"()[\w-]{32}\.[\w-]{43}"),
    # a subprotocol that is a key
    re.compile(r"(\bfws\.token\.)[^\s,;\"']+", re.IGNORECASE),
    # a JSON Web Token
    re.compile(r"(\b)eyJ[\w-]{5,}(?:\.[\w-]*){0,4}"),
]


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


def hide_secrets(text: str, known: Iterable[str] = ()) -> str:
    """
    ``text`` without keys, tickets, JSON Web Tokens, signed values, and values whose names say
    that they are secret (``token``, ``password``, ``cookie`` and the like, in JSON, a query or a
    header); and without those that are ``known``. What has neither such a form nor such a name
    stays.
    """
    for secret in known:
        text = text.replace(secret, HIDDEN)
    for name, value in _NAMED:
        text = _hide_named(text, name, value)
    for pattern in _SHAPED:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return shorten(text)


def _hide_named(text: str, name: re.Pattern[str], value: re.Pattern[str]) -> str:
    parts: list[str] = []
    at = 0
    for found in name.finditer(text):
        if found.start() >= at and _SECRET_NAME.search(found[1]):
            hidden = value.match(text, found.end())
            if hidden is not None:
                quote = hidden[0][0] if hidden[0][0] in "\"'" else ""
                parts += text[at : found.end()], quote, HIDDEN, quote
                at = hidden.end()
    return "".join([*parts, text[at:]]) if parts else text
