"""Code blocks of the documentation, by the comment above them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]


def named(page="README.md"):
    """Name -> code of every block under a comment."""
    text = (ROOT / page).read_text()
    return dict(re.findall(r"<!-- (.+?) -->\n```\w+\n(.*?)```", text, re.DOTALL))


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)
