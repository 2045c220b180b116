"""
The layout of the package: a hall of what users import, and wings below it.

Which wing may import which is checked by import-linter (``pyproject.toml``, ``make check``).
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import filtered_websocket

from .snippets import ROOT

PACKAGE = Path(filtered_websocket.__file__).parent
FOLDERS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
#: Django's own folders are where Django looks for them.
OF_DJANGO = {"admin", "management", "migrations", "models", "static", "templates"}
#: The folders of the hall: users import what is in them, at paths that stay.
OF_USERS = {"filters", "storage_objects"}
WINGS = sorted(FOLDERS - OF_DJANGO - OF_USERS)
SMALL = sorted(FOLDERS - OF_DJANGO)
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_HALL, MAX_WINGS, MAX_FILES, MAX_LINES, MAX_FUNCTION = 24, 20, 10, 300, 40
#: What says in a comment why a function is longer.
LONGER = re.compile(r"# .*\bin one function\b", re.IGNORECASE)


def name_of(path):
    return str(path.relative_to(PACKAGE))


def test_the_hall_and_its_wings_can_be_seen_at_a_glance():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_HALL
    assert len(WINGS) <= MAX_WINGS
    assert OF_USERS <= FOLDERS
    assert not [path for folder in SMALL for path in (PACKAGE / folder).glob("*/*.py")], (
        "no wing has wings"
    )


def test_the_architecture_says_which_folders_are_wings():
    words = (ROOT / "docs" / "architecture.md").read_text()
    words = words.partition("## The parts")[2].partition("```")[0]
    assert set(re.findall(r"`(\w+)/`", words)) == FOLDERS - set(WINGS)
    assert f"The other {len(WINGS)} folders" in words


@pytest.mark.parametrize("folder", SMALL)
def test_a_wing_is_small_and_says_in_one_sentence_what_it_is_for(folder):
    files = [path for path in (PACKAGE / folder).glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MAX_FILES
    words = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))
    sentence = words.partition("\n\n")[0]
    assert re.fullmatch(r"[A-Z`][^.]+\.", sentence.replace("\n", " ")), sentence


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_and_its_functions_are_short(path):
    source = path.read_text()
    lines = source.splitlines()
    assert len(lines) <= MAX_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            around = lines[node.lineno - 4 : node.end_lineno]
            assert length <= MAX_FUNCTION or any(map(LONGER.search, around)), (
                f"{node.name} has {length} lines, and no comment says why"
            )


def test_tests_mirror_the_wings():
    tests = ROOT / "tests"
    assert {name for name in SMALL if not list((tests / name).glob("test_*.py"))} == set()


# Floors


def lint(folder):
    """import-linter's answer for a copy of the package in ``folder``."""
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "filtered_websocket", ignore=lambda *_: ["__pycache__"])
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        (
            "layer/link.py",
            "from ..hub import hub",
            ["filtered_websocket.layer.link", "filtered_websocket.hub"],
        ),
        (
            "exceptions.py",
            "from .layer import envelope",
            ["filtered_websocket.exceptions", "filtered_websocket.layer.envelope"],
        ),
        ("types.py", "import django", ["filtered_websocket.types", "django"]),
        (
            "filters/broadcast_messages.py",
            "from ..connections import connection",
            ["filtered_websocket.filters.broadcast_messages", "filtered_websocket.connections"],
        ),
        (
            "disconnect.py",
            "from .api import urls",
            ["filtered_websocket.disconnect", "filtered_websocket.api.urls"],
        ),
        (
            "layer/envelope.py",
            "from . import link",
            ["filtered_websocket.layer", ".envelope->.link"],
        ),
        ("newcomer.py", "import os", ["filtered_websocket.newcomer"]),
    ],
)
def test_an_import_that_goes_up_is_found_and_both_files_are_named(copy, file, line, words):
    path = copy / "filtered_websocket" / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    done = lint(copy)
    # Where the line is wide, import-linter breaks it.
    said = re.sub(r"\s+", "", done.stdout)
    assert done.returncode == 1 and all(word in said for word in words), done.stdout


def contracts():
    """The layers from top to bottom, and the other contracts."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    first, *others = linter["contracts"]
    return [row.split(" | ") for row in first["layers"]], others


def listed(contract, key):
    return {name.partition(".")[2] for name in contract[key]}


def test_what_stands_above_the_http_apis_needs_none_of_them():
    """But the control events beside them, which are sent without a request."""
    layers, (_, _, of_apis, *_) = contracts()
    modules = {f"api.{path.stem}" for path in (PACKAGE / "api").glob("[!_]*.py")}
    events = {"api.control", "api.listener"}
    above = {name for row in layers[: layers.index(["api"])] for name in row}
    assert listed(of_apis, "source_modules") == above | events
    assert listed(of_apis, "forbidden_modules") == modules - events


def test_a_new_wing_below_the_bundled_filters_is_not_theirs_to_import():
    layers, (_, of_filters, *_) = contracts()
    below = {name for row in layers[layers.index(["filters"]) + 1 :] for name in row}
    forbidden = listed(of_filters, "forbidden_modules")
    # What a user imports in filters of a site's own.
    assert below - forbidden == {"close_codes", "exceptions", "groups", "json_codec", "types"}


def test_as_it_is_no_import_goes_up(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout
