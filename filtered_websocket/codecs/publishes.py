"""
The command that clients send most, read in one pass: a publish, as the clients' libraries write
it. Its data is parsed, by the same parser as all JSON of clients, but not written anew unless
there are spaces to be left out.
"""

import re
from typing import Any, NamedTuple

from .data import PARSER, Data
from .frames import dump_json
from .json import scan

_NUMBER = r'"id": ?([1-9][0-9]{0,8})'
#: Up to its data. Some libraries write the number first, others last; some write spaces.
_HEAD = re.compile(
    rf'\{{(?:{_NUMBER}, ?)?"publish": ?\{{"channel": ?"([^"\\\x00-\x1f]*)", ?"data": ?'
)
#: From the end of its data on, where the number comes last.
_TAIL = re.compile(rf"\}}, ?{_NUMBER}\}}")


class Publish(NamedTuple):
    """A publish with data, and the number of its command."""

    number: int
    channel: str
    data: Data

    @property
    def command(self) -> dict[str, Any]:
        """As any command is."""
        return {"id": self.number, "publish": {"channel": self.channel, "data": self.data}}


def read_publish(line: str) -> Publish | None:
    """The publish in ``line``. None for whatever is written in another way, or is wrong."""
    head = _HEAD.match(line)
    if (
        head is None
        # What has to be looked at more closely.
        or line.count("[") + line.count("{") > PARSER.max_depth
        or line.count(":") > PARSER.max_keys
        or "\\u" in line
    ):
        return None
    number, channel = head.groups()
    start = head.end()
    try:
        value, end = scan(line, start)
    except (ValueError, StopIteration):
        return None
    if number is None:
        tail = _TAIL.fullmatch(line, end)
        if tail is None:
            return None
        number = tail[1]
    elif line[end:] != "}}":
        return None
    written = line[start:end]
    if not isinstance(value, str) and (": " in written or ", " in written):
        written = dump_json(value)  # some libraries put spaces there, which all members would get
    return Publish(int(number), channel, Data(written.encode()))
