"""Every block of code in the documentation runs in a test, or says why not."""

import re
import subprocess
from functools import cache

import pytest

from ..snippets import PAGES, ROOT, all_blocks

pytestmark = pytest.mark.repeats

NOT_RUN = "not run: "
#: Pictures, and what a program prints.
NO_CODE = "text"


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@cache
def sources():
    # Not what npm installs there, perhaps now.
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "tests/*.py"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    return [(ROOT / name).read_text() for name in listed if (ROOT / name).exists()]


def files_of(page):
    """The tests that read blocks of this page, or of all; the README's by default."""
    calls = {f'"{page}"', "named(page.", *(["named()"] if page == "README.md" else [])}
    return [text for text in sources() if any(call in text for call in calls)]


def is_used(label, text):
    """By its name, or a test makes the name of its first word and another."""
    first, _, rest = label.partition(" ")
    return f'"{label}"' in text or (bool(rest) and f'f"{first} {{' in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_has_a_name_that_a_test_uses_or_says_why_not(page):
    for label, language, code in all_blocks(page):
        if language == NO_CODE and not label:
            continue
        where = f"{page.name}: {label or code.splitlines()[0]!r}"
        assert label, f"{where} has neither a name nor a reason why it is not run"
        if label.startswith(NOT_RUN):
            assert len(label.removeprefix(NOT_RUN).split()) >= 3, f"{where} has no reason"
        else:
            found = any(is_used(label, text) for text in files_of(name_of(page)))
            assert found, f"no test runs the block {where}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_is_overlooked_and_names_are_unique(page):
    text = page.read_text()
    found = all_blocks(page)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found)
    labels = [label for label, _, _ in found if label and not label.startswith(NOT_RUN)]
    assert len(labels) == len(set(labels))
    # What a reader sees coloured, and a test can run by it.
    assert "" not in [language for _, language, _ in found]
