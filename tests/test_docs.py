"""What the documentation says holds."""

import json
import re
import subprocess

import pytest

from filtered_websocket import conf

from .snippets import PAGES, ROOT, blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_of_a_page_exist(page):
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page):
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


def test_make_commands_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^\$ |`)make ([\w-]+)", page.read_text(), re.MULTILINE):
            assert target in targets


def test_every_setting_has_a_section_with_its_default():
    text = (ROOT / "docs" / "settings.md").read_text()
    sections = dict(re.findall(r"^### `(\w+)`: .*?default `([^`]+)`", text, re.MULTILINE))
    assert sections == {
        key: str(default) if isinstance(default, float | bool | None) else json.dumps(default)
        for key, default in conf.DEFAULTS.items()
    }
    assert list(sections) == sorted(sections)


def test_the_chain_example_prints_what_the_page_says(capsys):
    [code] = [code for code in blocks(ROOT / "docs" / "filters.md", "python") if "AFilter" in code]
    exec("from filtered_websocket import FilterBase, FilterMeta\n" + code, {"__name__": "doc"})
    assert capsys.readouterr().out == "foo\nbar\n"


def test_versions_agree():
    import filtered_websocket

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
