"""What the documentation says is true."""

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

import filtered_websocket
from filtered_websocket import conf

from .snippets import PAGES, ROOT, blocks, named

pytestmark = pytest.mark.repeats


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@cache
def anchors(page):
    """As GitHub makes them of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist_on_this_page_and_on_others(page):
    for target, anchor in re.findall(r"\]\(([^)#\s:]*\.md)?#([^)]+)\)", page.read_text()):
        assert anchor in anchors((page.parent / target).resolve() if target else page)


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = Path(filtered_websocket.__file__).parent


def test_every_file_that_the_architecture_names_exists():
    """By its path from the package, or from the project, as for ``tests/e2e/faults/``."""
    paths = set(re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?|\w+\.py)`", ARCHITECTURE))
    missing = {
        path for path in paths if not (PACKAGE / path).exists() and not (ROOT / path).exists()
    }
    assert len(paths) > 15 and missing == set()


def test_the_picture_of_the_parts_is_what_import_linter_holds():
    picture = named("docs/architecture.md")["the layers of pyproject.toml"]
    # After two names come at least three spaces, and what they are for.
    drawn = [re.split(r" {3,}", line)[0].split() for line in picture.splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [row.split(" | ") for row in contracts["contracts"][0]["layers"]]
    assert [[name.rstrip("/") for name in row] for row in drawn] == layers
    for name in {name for row in drawn for name in row}:
        assert (PACKAGE / name if name.endswith("/") else PACKAGE / f"{name}.py").exists()


def test_what_has_changed_since_0_4_is_told_on_one_page():
    #: Names of a release, a bench, a licence: not how a thing of today works.
    own = {"CHANGELOG.md", "SECURITY.md", "coming-from-0.4.md", "performance.md"}
    for page in PAGES:
        told = [line for line in page.read_text().splitlines() if "2014" in line]
        assert page.name in own or all("coming-from-0.4.md" in line for line in told), page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page):
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


def test_every_setting_has_a_section_with_its_default():
    text = (ROOT / "docs" / "settings.md").read_text()
    sections = dict(re.findall(r"^### `(\w+)`: .*?default `([^`]+)`", text, re.MULTILINE))
    assert sections == {
        key: str(default) if isinstance(default, float | bool | None) else json.dumps(default)
        for key, default in conf.DEFAULTS.items()
    }
    assert list(sections) == sorted(sections)


def test_the_chain_example_prints_what_the_page_says(capsys):
    code = named("docs/filters.md")["chain"]
    exec("from filtered_websocket import FilterBase, FilterMeta\n" + code, {"__name__": "doc"})
    assert capsys.readouterr().out == "foo\nbar\n"


def test_versions_agree():
    version = filtered_websocket.__version__.partition(".dev")[0]
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()


def test_no_path_of_a_machine_is_in_the_tree():
    listed = subprocess.run(
        ["git", "grep", "-nEI", r"(^|[^A-Za-z0-9_.])/(home|root|work)/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert [line for line in listed if not line.startswith("tests/test_docs.py:")] == []


#: Words that a reader would have to guess; docs/architecture.md lists those that stay.
COINED = re.compile(
    r"\b(the house|patience|forsakes?|obeys?|unsaid|outlasts?|inquir\w+|surroundings|farewell"
    r"|turn(s|ed)? away|seldom|tamed?|judg(e|ed|ing)|one too many|the word travels|in 2014"
    r"|nobody in particular)\b",
    re.IGNORECASE,
)


def test_no_file_has_coined_words():
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.html", "*.js", "*.css", "*.toml", "Makefile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = []
    for name in set(listed) - {"tests/test_docs.py"}:
        # A sentence may go on in the next line, of a comment too.
        text = re.sub(r"\s+((#:?|\*) )?", " ", (ROOT / name).read_text())
        found += [(name, match[0]) for match in COINED.finditer(text)]
    assert len(listed) > 200 and found == []
