"""What is published: its metadata, and the README as package pages show it."""

import importlib.util
import re
import tomllib

import pytest
import yaml
from setuptools import find_packages
from trove_classifiers import classifiers

from .e2e.processes import run_python
from .release import mistakes
from .snippets import ROOT
from .translations import catalogs

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
URL = "https://forge.example/owner/repository"
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
MATRIX = (ROOT / "tests" / "matrix").read_text()


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(text):
    return re.findall(r"!?\[[^\]]*\]\(([^)\s]*)\)", text)


# Metadata


def test_classifiers_are_those_that_indexes_know():
    assert set(PROJECT["classifiers"]) <= set(classifiers)
    assert PROJECT["classifiers"] == sorted(PROJECT["classifiers"])


def ends(prefix):
    """The last parts of the classifiers that begin so, where they are versions."""
    found = [one.removeprefix(prefix) for one in PROJECT["classifiers"] if one.startswith(prefix)]
    return [one for one in found if re.fullmatch(r"\d\.\d+", one)]


def test_every_version_that_is_named_is_tested():
    pythons = ends("Programming Language :: Python :: ")
    assert pythons == re.search(r"for version in (.+?);", MATRIX)[1].split()
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    job = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]
    assert job["python"] == pythons
    tried = {*job["django"], *(one["django"] for one in job["include"])}
    assert tried == {f"django=={one}.*" for one in ends("Framework :: Django :: ")} | {"oldest"}


def test_the_languages_that_are_named_are_those_of_the_catalogs():
    codes = {"German": "de", "Spanish": "es", "French": "fr", "Chinese (Simplified)": "zh_Hans"}
    named = {
        one.removeprefix("Natural Language :: ")
        for one in PROJECT["classifiers"]
        if one.startswith("Natural Language :: ")
    }
    assert {codes.get(name, name) for name in named} == {"English", *catalogs()}


def test_every_extra_is_documented_and_daphne_is_what_is_installed_anyway():
    page = (ROOT / "docs" / "releasing.md").read_text()
    extras = PROJECT["optional-dependencies"]
    for extra in extras:
        assert f"`[{extra}]`" in page
    # "make package" installs them all.
    tried = re.search(r"extras=(.+)", (ROOT / "tests" / "package").read_text())[1]
    assert tried.split(",") == sorted(extras)
    assert set(PROJECT["optional-dependencies"]["daphne"]) <= set(PROJECT["dependencies"])


WITHOUT_DAPHNE = """
import asyncio, sys

for name in ("daphne", "twisted", "autobahn"):
    sys.modules[name] = None  # an import of it fails
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["filtered_websocket", *APPS],
    INSTALLED_FILTERS=["filtered_websocket.filters.broadcast_messages"],
    ROOT_URLCONF="x",
    SECRET_KEY="x",
)
django.setup()
from filtered_websocket.routing import with_websockets
from filtered_websocket.testing import connect

with_websockets(None)

async def main():
    async with connect() as ann, connect() as bob:
        await ann.send("heard")
        print(await bob.receive())

asyncio.run(main())
"""


@pytest.mark.repeats
def test_without_daphne_the_package_serves_on_other_servers():
    apps = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
    code = WITHOUT_DAPHNE.replace("*APPS", ", ".join(map(repr, apps)))
    assert run_python({"DJANGO_SETTINGS_MODULE": ""}, "-c", code) == "heard\n"


def test_every_file_of_the_package_is_in_the_wheel():
    """Modules by their packages, what else there is by a pattern of package-data."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = find_packages(ROOT, include=config["packages"]["find"]["include"])
    packed = {path for name in packages for path in (ROOT / name.replace(".", "/")).glob("*.py")}
    [(name, patterns)] = config["package-data"].items()
    for pattern in patterns:
        found = [path for path in (ROOT / name).glob(pattern) if path.is_file()]
        assert found, pattern
        packed.update(found)
    files = [path for path in (ROOT / name).rglob("*") if path.is_file()]
    assert {path for path in files if "__pycache__" not in path.parts} == packed


# The README on a package page


def test_its_links_lead_to_the_files_of_this_version(setup):
    text = setup.for_package_pages(README, URL)
    assert len(links(text)) == len(links(README)) > 30
    for target in links(text):
        if target.startswith(URL):
            kind = "raw" if target.endswith(".png") else "blob"
            path = target.removeprefix(f"{URL}/{kind}/HEAD/").partition("#")[0]
            assert (ROOT / path).exists(), target
        else:
            assert target.startswith("https://")


def test_of_a_release_they_lead_to_its_tag(setup, monkeypatch):
    monkeypatch.setattr(setup, "version", lambda: "1.2.3")
    text = setup.for_package_pages("[a](docs/a.md#b) [c](#d) ![e](f.svg)", URL)
    assert links(text) == [
        f"{URL}/blob/v1.2.3/docs/a.md#b",
        f"{URL}/blob/v1.2.3/README.md#d",
        f"{URL}/raw/v1.2.3/f.svg",
    ]
    assert setup.project_urls(URL)["Changelog"] == f"{URL}/blob/v1.2.3/CHANGELOG.md"


def test_the_labels_of_the_package_lead_to_files_and_headings_that_exist(setup):
    files = [url for url in setup.project_urls(URL).values() if "/blob/" in url]
    assert len(files) == 3
    for target in files:
        path, _, heading = target.removeprefix(f"{URL}/blob/HEAD/").partition("#")
        text = (ROOT / path).read_text()
        assert not heading or f"## {heading}\n" in text.lower(), target


def test_where_nobody_says_where_the_repository_is_no_link_leads_nowhere(setup):
    text = setup.for_package_pages(README, "")
    assert all(target.startswith("https://") for target in links(text))
    assert "Write a filter" in text and setup.project_urls("") == {}


def test_a_wheel_that_is_built_from_a_source_archive_leads_where_that_does(
    setup, monkeypatch, tmp_path
):
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.delenv("REPOSITORY_URL", raising=False)
    assert setup.repository() == ""
    (tmp_path / "PKG-INFO").write_text(f"Name: x\nProject-URL: Source, {URL}\n")
    assert setup.repository() == URL
    monkeypatch.setenv("REPOSITORY_URL", "https://elsewhere.example/")
    assert setup.repository() == "https://elsewhere.example"


# A release


CHANGES = "# Changes\n\n## 1.2.3 (2027-01-31)\n\n- a\n\n## 1.2.2 (2026-12-31)\n"


@pytest.mark.parametrize(
    ("tag", "version", "changes", "words"),
    [
        ("v1.2.3", "1.2.3", CHANGES, []),
        ("1.2.3", "1.2.3", CHANGES, ["the tag is '1.2.3'"]),
        ("v1.2.4", "1.2.4", CHANGES, ["of 1.2.3, not of 1.2.4"]),
        ("v1.2.3", "1.2.3.dev0", CHANGES, ["must be the same", "not of 1.2.3.dev0"]),
        ("v1.2.3", "1.2.3", "## 1.2.3 (unreleased)\n", ["says 'unreleased'"]),
        ("v1.2.3", "1.2.3", "nothing", ["of None"]),
    ],
)
def test_a_release_whose_tag_version_and_changelog_do_not_agree_is_refused(
    tag, version, changes, words
):
    found = list(mistakes(tag, version, changes))
    assert len(found) == len(words)
    assert all(word in mistake for word, mistake in zip(words, found, strict=True))


def test_only_a_tag_is_published_and_by_no_password():
    triggers = WORKFLOW[True]  # in YAML 1.1 "on" is true
    assert triggers["push"]["tags"] == ["v*"]
    publish = WORKFLOW["jobs"]["publish"]
    assert publish["if"] == "github.ref_type == 'tag'"
    assert publish["needs"] == ["tests", "package"]
    assert publish["permissions"] == {"id-token": "write"}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "secrets." not in (ROOT / ".github/workflows/tests.yml").read_text()


# Before a commit


def test_the_hooks_run_what_make_check_runs():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text()
    # What could not be installed where nothing but package registries is reached.
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program, *arguments = hook["entry"].split()
        assert program.startswith(".venv/bin/")
        assert f"$(BIN)/{program.rpartition('/')[2]}" in makefile
        assert all((ROOT / one).exists() for one in arguments if one.startswith("tests/"))
