"""``python -m tests.release v1.0.0``: whether tag, version and changelog agree."""

import re
import sys

import filtered_websocket

from .snippets import ROOT


def mistakes(tag, version, changelog):
    """What a release with this tag has wrong, in words."""
    if tag != f"v{version}":
        yield f"the tag is {tag!r}, and __version__ is {version!r}: they must be the same"
    newest = re.search(r"^## (\S+) \((.+)\)$", changelog, re.MULTILINE)
    if newest is None or newest[1] != version:
        found = newest and newest[1]
        yield f"the newest section of CHANGELOG.md is of {found}, not of {version}"
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2]):
        yield f"CHANGELOG.md says {newest[2]!r} where the day of the release should be"


def main(tag):
    found = list(mistakes(tag, filtered_websocket.__version__, (ROOT / "CHANGELOG.md").read_text()))
    print("\n".join(found) or f"{tag}: tag, version and changelog agree")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
