"""The site that ``make docs`` builds: its links, its navigation, and what GitHub shows of it."""

import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml

from ..snippets import PAGES, ROOT
from ..test_docs import anchors

pytestmark = pytest.mark.repeats

#: Pages beside docs/, which is not where the site has them.
BESIDE = {
    **{"README": "index", "CHANGELOG": "changes"},
    **{"CONTRIBUTING": "contributing", "SECURITY": "security"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """As ``make docs`` builds it; a link or an anchor that leads nowhere fails it."""
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        # Not quiet: nothing that is not said is counted as a warning.
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0 and "WARNING" not in build.stderr, build.stdout + build.stderr
    return folder


class Article(HTMLParser):
    """The ids of a page, and its text that is neither code nor a script."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.words, self.links, self._code = set(), [], [], 0
        self.feed(page.partition("<article")[2].partition("</article>")[0])

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        self.links.append(attributes.get("href", ""))
        self._code += tag == "code"

    def handle_endtag(self, tag):
        self._code -= tag == "code"

    def handle_data(self, data):
        if not self._code:
            self.words.append(data)


def article(site, page):
    name = BESIDE.get(page.stem, page.stem)
    folder = site if name == "index" else site / name
    return Article((folder / "index.html").read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_read_as_github_reads_it(site, page):
    shown = article(site, page)
    # What an anchor of GitHub leads to is there.
    assert anchors(page) <= shown.ids
    # No list, table, link or block was taken for words.
    text = "".join(shown.words)
    assert re.findall(r"^\s*(?:- |\| |```).*|.*\]\(.*|.*\|---.*", text, re.MULTILINE) == []
    # A link into docs/ is one to a page of the site.
    assert [link for link in shown.links if link.endswith(".md")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_its_title(page):
    assert re.match(r"# \S", page.read_text())


def paths_of(parts):
    for part in parts:
        [value] = part.values()
        yield from [value] if isinstance(value, str) else paths_of(value)


def test_the_navigation_has_every_page_once():
    # Its one tag of Python's is for mkdocs alone.
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    listed = list(paths_of(yaml.safe_load(text)["nav"]))
    pages = {f"{BESIDE.get(page.stem, page.stem)}.md" for page in PAGES}
    assert len(listed) == len(set(listed))
    assert pages == set(listed)


def test_the_table_of_contents_of_settings_has_their_names(site):
    page = (site / "settings" / "index.html").read_text()
    contents = page.partition('<nav class="md-nav md-nav--secondary"')[2].partition("</nav>")[0]
    assert "RECHECK" in contents and "float, default" not in contents


def test_a_picture_beside_the_pages_is_shown(site):
    page = (site / "performance" / "index.html").read_text()
    shown = re.findall(r'<img[^>]* src="\.\./(pictures/[^"]+)"', page)
    assert shown and all((site / picture).exists() for picture in shown)


def test_checks_and_lines_of_the_log_are_words_of_the_search(site):
    """And the page that explains them comes before those that name them."""
    index = json.loads((site / "search" / "search_index.json").read_text())
    separator = index["config"]["separator"]
    found = {entry["location"]: entry for entry in index["docs"]}
    words = set(re.split(separator, html.unescape(found["checks/"]["text"])))
    assert {f"E{number:03}" for number in range(1, 31)} <= words
    assert found["log/"]["boost"] > found["checks/"]["boost"] > 1
    assert "boost" not in found["settings/"]


#: What one sees, as one would search for it.
CASES = [
    "1006",
    "403",
    "4400",
    "4401",
    "reconnects for ever",
    "nothing arrives",
    "one process only",
]


@pytest.mark.parametrize("words", CASES)
def test_a_case_of_troubleshooting_is_the_title_of_its_section(site, words):
    """Titles count most in the search: who types these words finds that section."""
    index = json.loads((site / "search" / "search_index.json").read_text())
    titles = [
        entry["title"].lower()
        for entry in index["docs"]
        if entry["location"].startswith("troubleshooting/#")
    ]
    assert any(words in title for title in titles), titles


def test_a_block_of_a_file_says_its_name(site):
    page = (site / "tutorial" / "index.html").read_text()
    for name in ("end of settings.py", "mysite/groups.py", "mysite/templates/room.html"):
        assert f'<span class="filename">{name}</span>' in page


def test_what_is_not_a_page_is_left_to_the_repository(site):
    """The proofs of what is promised are files of tests."""
    shown = article(site, ROOT / "docs" / "guarantees.md")
    assert "two processes" in "".join(shown.words)
    assert [link for link in shown.links if "../tests/" in link] == []
