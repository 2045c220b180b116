"""What the README says of others is what was measured."""

import re

import pytest

from ..snippets import ROOT

README = (ROOT / "README.md").read_text()
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text()
#: Column of the README's table, what it says, and the row of performance.md.
FIGURES = [
    (1, r"(\d+) µs", "**ours, daphne, Redis**"),
    (2, r"(\d+) µs", "stock Channels, daphne, channels_redis.pubsub"),
    (5, r"Node (\d+) µs", "socket.io (Node), Redis"),
    (5, r"Python (\d+) µs", "python-socketio, uvicorn, Redis"),
]


def cells(text, first):
    [row] = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize(("column", "pattern", "row"), FIGURES)
def test_a_figure_is_the_measured_one(column, pattern, row):
    shown = cells(README, "CPU per delivery to 200 clients, through Redis")[column]
    table = PERFORMANCE.partition("<!-- generated: table -->")[2].partition("<!-- end -->")[0]
    assert cells(table, "")[2].startswith("one at a time")
    measured = float(cells(table, row)[2].split()[0])
    assert int(re.search(pattern, shown)[1]) == pytest.approx(measured, rel=0.25)


def table(text):
    """The cells of its first table, without the headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


COMPARED = table(README.partition("## Beside others")[2].partition("**Take something else**")[0])


def test_all_that_is_compared_is_said_of_everyone():
    assert len(COMPARED) > 12 and {len(row) for row in COMPARED} == {6}
    assert all(cell for row in COMPARED for cell in row)


def test_each_claim_about_others_has_a_source():
    sources = table((ROOT / "docs" / "comparison.md").read_text())
    # What each of them is needs none.
    assert [row[0] for row in sources] == [row[0] for row in COMPARED[1:]]
    assert {len(row) for row in sources} == {5}
    assert all(cell for row in sources for cell in row)


def test_the_picture_is_small_enough_for_a_first_page():
    [name] = re.findall(r"^!\[.+\]\((.+\.png)\)$", README, re.M)
    picture = (ROOT / name).read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) <= 150 * 1024
