"""
A codec for JSON (RFC 8259) from strangers: filters see dicts and lists, and nothing that
takes long to read, that two parsers read differently, or that could not be sent on.
"""

import json
import math
import re
from typing import Any, NoReturn

from ..close_codes import BAD_MESSAGE
from ..exceptions import Close
from .frames import BYTES, dump_json

#: A string, also one that does not end: what begins to match always does, in one go.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class JSONCodec:
    """
    Text frames are JSON; what is none, or passes a bound, closes its connection with 4400.

    A subclass may set other bounds. How long a document may be is ``MAX_MESSAGE_SIZE``.
    What ``encode`` gets as bytes is sent as it is, as binary.
    """

    #: How many arrays and objects may stand inside one another.
    max_depth = 32
    #: How many members all objects of a document may have together.
    max_keys = 1000

    def decode(self, frame: bytearray, text: bool) -> Any:
        """The document in ``frame``; :exc:`Close` (4400) where there is none to take."""
        if not text:
            raise Close(BAD_MESSAGE, "JSON is text, not binary")
        try:
            return self.parse(frame.decode())
        except BadDocument as error:
            raise Close(BAD_MESSAGE, str(error)) from None
        except (ValueError, RecursionError):
            # Their words may hold what the client sent.
            raise Close(BAD_MESSAGE, "not JSON") from None

    def encode(self, message: Any, meta: Any) -> str | bytes:
        """JSON of any message but bytes."""
        return bytes(message) if isinstance(message, BYTES) else dump_json(message)

    def parse(self, text: str) -> Any:
        """``text`` read within the bounds; :exc:`ValueError` or RecursionError otherwise."""
        keys = 0

        def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal keys
            keys += len(pairs)
            if keys > self.max_keys:
                raise BadDocument(f"a document has at most {self.max_keys} keys")
            made = dict(pairs)
            if len(made) < len(pairs):
                raise BadDocument("a key comes twice in one object")
            return made

        document = json.loads(
            text, object_pairs_hook=make_object, parse_float=_number, parse_constant=_no_constant
        )
        if text.count("[") + text.count("{") > self.max_depth:
            self._check_depth(text)
        if "\\u" in text:
            _check_text(document)
        return document

    def _check_depth(self, text: str) -> None:
        """Of a document that was parsed: its brackets match."""
        brackets = _STRING.sub("", text).encode().translate(None, _NO_BRACKETS)
        for _ in range(self.max_depth):
            # The innermost level goes, at the speed of C.
            brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if not brackets:
                return
        raise BadDocument(f"a document has at most {self.max_depth} levels")


class BadDocument(ValueError):
    """JSON that is not taken; its words are for the client."""


def _number(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise BadDocument("a number is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise BadDocument("NaN and Infinity are no JSON")


def _check_text(document: Any) -> None:
    """Only an escape can write half a character, which no text frame can hold."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadDocument("half a surrogate pair is no character") from None
