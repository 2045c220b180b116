"""Code blocks of the documentation, by the comment above them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]


def all_blocks(path):
    """Label or "", language and code of every block of a page."""
    return re.findall(
        r"(?:^ *<!-- ([^\n]+?) -->\n)?^ *```(\w*)\n(.*?)^ *```$",
        path.read_text(),
        re.DOTALL | re.MULTILINE,
    )


def named(page="README.md"):
    """Name -> code of every block under a comment."""
    return {label: code for label, _, code in all_blocks(ROOT / page) if label}


def blocks(path, language):
    return [code for _, spoken, code in all_blocks(path) if spoken == language]
