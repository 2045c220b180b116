"""
A codec for JSON (RFC 8259) from untrusted clients: filters get dicts and lists.

It refuses documents that take long to parse, that two parsers could read differently, and
that could not be sent again.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from ..close_codes import BAD_MESSAGE
from ..exceptions import Close
from .frames import BYTES, dump_json

#: A string, also one without an end: a match that has begun never fails, so no backtracking.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?')
#: What JSON allows around a document.
SPACES = " \t\n\r"
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class JSONCodec:
    """
    Text frames are JSON. A frame that is not, or that exceeds a limit, closes the connection
    with 4400.

    A subclass may set other limits. The length of a document is limited by
    ``MAX_MESSAGE_SIZE``. ``encode`` sends bytes unchanged, as a binary frame.
    """

    #: How deep arrays and objects may be nested.
    max_depth = 32
    #: How many keys all objects of a document may have together.
    max_keys = 1000

    def decode(self, frame: bytearray, text: bool) -> Any:
        """The document in ``frame``. Raises :exc:`Close` (4400) if it is refused."""
        if not text:
            raise Close(BAD_MESSAGE, "JSON is text, not binary")
        try:
            return self.parse(frame.decode())
        except BadDocument as error:
            raise Close(BAD_MESSAGE, str(error)) from None
        except (ValueError, RecursionError):
            # Their messages may hold client input.
            raise Close(BAD_MESSAGE, "not JSON") from None

    def encode(self, message: Any, meta: Any) -> str | bytes:
        """``message`` as JSON; bytes unchanged."""
        return bytes(message) if isinstance(message, BYTES) else dump_json(message)

    def parse(self, text: str) -> Any:
        """``text`` parsed within the limits. Raises :exc:`ValueError` or RecursionError."""
        # There is a colon for each key, at least.
        has_many = text.count(":") > self.max_keys
        document = self._decoder_that_counts().decode(text) if has_many else _decode(text)
        if text.count("[") + text.count("{") > self.max_depth:
            self._check_depth(text)
        if "\\u" in text:
            _check_text(document)
        return document

    def _decoder_that_counts(self) -> json.JSONDecoder:
        """One for a document that may have too many keys."""
        keys = 0

        def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal keys
            keys += len(pairs)
            if keys > self.max_keys:
                raise BadDocument(f"a document has at most {self.max_keys} keys")
            return _object(pairs)

        return _decoder(make_object)

    def _check_depth(self, text: str) -> None:
        """Check the depth of a document that was parsed, so its brackets match."""
        brackets = _STRING.sub("", text).encode().translate(None, _NO_BRACKETS)
        for _ in range(self.max_depth):
            # Remove the innermost level, without a loop in Python.
            brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if not brackets:
                return
        raise BadDocument(f"a document has at most {self.max_depth} levels")


class BadDocument(ValueError):
    """JSON that is refused; its message is sent to the client."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise BadDocument("a key comes twice in one object")
    return made


def _number(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise BadDocument("a number is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise BadDocument("NaN and Infinity are no JSON")


def _decoder(make_object: Callable[[list[tuple[str, Any]]], Any]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=make_object, parse_float=_number, parse_constant=_no_constant
    )


#: To make one for each document takes longer than to parse a short one.
DECODER = _decoder(_object)
#: The value that begins at a place, and where it ends. StopIteration where there is none.
scan: Callable[[str, int], tuple[Any, int]] = DECODER.scan_once  # type: ignore[attr-defined]


def _decode(text: str) -> Any:
    """As ``DECODER.decode``, which looks for spaces around a document for half of its time."""
    try:
        document, end = scan(text, 0)
    except StopIteration:
        if text[:1] not in SPACES:
            raise ValueError("a value is missing") from None
        return DECODER.decode(text)
    if end < len(text) and text[end:].strip(SPACES):
        raise ValueError("something follows the document")
    return document


def _check_text(document: Any) -> None:
    """Refuse lone surrogates (written as escapes): no text frame can hold them."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadDocument("half a surrogate pair is no character") from None
