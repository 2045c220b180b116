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


def test_all_that_is_compared_is_said_of_everyone():
    table = README.partition("## Beside others")[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    assert len(rows) > 12 and {len(row) for row in rows} == {6}
    assert all(cell.strip() for row in rows[2:] for cell in row)
