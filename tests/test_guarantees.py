"""Every promise of docs/guarantees.md has a test, and its close codes are those that are sent."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import filtered_websocket
from filtered_websocket import close_codes

from .snippets import ROOT

pytestmark = pytest.mark.repeats
PAGE = ROOT / "docs" / "guarantees.md"
PACKAGE = Path(filtered_websocket.__file__).parent
#: "| promise | where | proof |"
ROWS = re.findall(r"^\| ([A-Z`6].*?) \| (.+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
LINKS = re.findall(r"\]\(\.\./(tests/[^)]*)\)", PAGE.read_text())
PLACES = {"everywhere", "stand-alone", "daphne", "uvicorn"}


@cache
def find_tests(path):
    tree = ast.parse((ROOT / path).read_text())
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize("promise", ROWS, ids=lambda row: row[0][:60])
def test_a_promise_has_a_place_and_a_proof(promise):
    words, where, proof = promise
    assert words.endswith(".") and set(where.split(", ")) <= PLACES
    # Of what runs for minutes, the link comes with it.
    assert "](../tests/" in proof or "<!-- proof: " in proof


@pytest.mark.parametrize("link", LINKS)
def test_a_proof_is_a_test_that_exists(link):
    path, _, name = link.partition("#")
    assert name.startswith("test_") and name in find_tests(path)


def test_every_line_of_a_table_is_a_promise_or_a_close_code():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    heads = [line for line in lines if re.match(r"\| (promise|code) \||\|---", line)]
    codes = [line for line in lines if re.match(r"\| \d{4} \|", line)]
    assert len(lines) == len(heads) + len(codes) + len(ROWS) and len(ROWS) > 40


def test_no_file_of_tests_links_to_nothing():
    assert LINKS and len(LINKS) == PAGE.read_text().count("(../tests/")


def sent_codes():
    """Names of close_codes that a module of the package uses."""
    known = {name for name in vars(close_codes) if name.isupper()}
    used = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "close_codes.py":
            continue
        tree = ast.parse(path.read_text())
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).endswith("close_codes")
            for alias in node.names
        }
        loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= imported & loaded
        literals = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and type(node.value) is int
            and 4100 <= node.value < 4600
        ]
        # Those of another protocol may be the same numbers.
        if path.name != "codes.py":
            assert [value for value in literals if value in vars(close_codes).values()] == [], path
    assert used <= known
    return used


def test_the_table_of_close_codes_names_every_code_that_is_sent_and_no_other():
    table = re.findall(r"^\| (\d{4}) \| (\w+) \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert {name for _, name in table} == sent_codes()
    for code, name in table:
        assert getattr(close_codes, name) == int(code)
    assert [code for code, _ in table] == sorted(code for code, _ in table)
