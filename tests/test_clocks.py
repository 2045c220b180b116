"""
No test says how fast something is, as another machine, or a busy one, is slower.

A test fails here that compares what it read from a clock, or waits for less than a busy
machine may need. What to do instead: ``tests/waiting.py`` says it. Costs are counted (calls,
queries, bytes), or measured in ``benchmarks/``.
"""

import ast
from pathlib import Path

import pytest

from .snippets import ROOT
from .waiting import LEAST

TESTS = ROOT / "tests"
#: Those of the simulated world have a clock of its own, which stands still while code runs.
SIMULATED = {TESTS / "history" / name for name in ("simulation.py", "simulated.py")}
FILES = sorted(set(TESTS.rglob("*.py")) - SIMULATED - {TESTS / "waiting.py"})
#: What reads a clock, by the name it is called by; and what is made of such readings.
CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time", "now"}
CLOCKS |= {f"{name}_ns" for name in CLOCKS}
CLOCKS |= {"p99", "percentile"}
#: Calls that give up after so many seconds: the place of the seconds among the arguments.
WAITS = {
    "get": None,
    "get_message": None,
    "join": 0,
    "result": 0,
    "run": None,
    "said": 1,
    "settimeout": 0,
    "timeout": 0,
    "urlopen": None,
    "wait": 0,
    "wait_for": 1,
}
#: What may stay, by file and function, and why.
ALLOWED = {
    ("e2e/test_limits.py", "send_until_it_stalls"): "ends a flood; if too early, nothing fails",
    ("e2e/test_memory.py", "flood"): "ends a flood; if too early, nothing fails",
}

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(function):
    """The last part of what is called."""
    return getattr(function, "attr", getattr(function, "id", ""))


class Readings:
    """Which names of a file hold, or return, what was read from a clock."""

    def __init__(self, tree):
        self._tree = tree
        #: (where, name): where is a function, "" for the module, "function" or "attribute".
        self._names = set()
        self._scopes = {}
        self._enter(tree, "")
        size = -1
        while size != len(self._names):
            size = len(self._names)
            for node in ast.walk(tree):
                self._follow(node)

    def _enter(self, node, scope):
        for child in ast.iter_child_nodes(node):
            inside = scope
            if isinstance(child, FUNCTIONS) and not scope:
                inside = f"{child.name}:{child.lineno}"
            self._scopes[child] = inside
            self._enter(child, inside)

    def _key(self, node):
        if isinstance(node, ast.Name):
            return self._scopes[node], node.id
        return "attribute", getattr(node, "attr", "")

    def _note(self, target):
        for node in ast.walk(target):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                self._names.add(self._key(node))

    def _follow(self, node):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr | ast.For):
            value = node.iter if isinstance(node, ast.For) else node.value
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if value is not None and self.within(value):
                for target in targets:
                    self._note(target)
        elif isinstance(node, ast.comprehension) and self.within(node.iter):
            self._note(node.target)
        elif isinstance(node, ast.Call) and name_of(node.func) in ("append", "extend", "add"):
            if any(map(self.within, node.args)):
                self._names.add(self._key(node.func.value))
        elif isinstance(node, FUNCTIONS):
            returned = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
            if any(self.within(value) for value in returned if value is not None):
                self._names |= {("function", node.name), ("attribute", node.name)}

    def within(self, expression):
        """Whether a reading is in ``expression``; how many there are is none."""
        if isinstance(expression, ast.Call):
            name = name_of(expression.func)
            if name in CLOCKS or name == "len":
                return name != "len"
        elif isinstance(expression, ast.Name):
            keys = {self._key(expression), ("", expression.id), ("function", expression.id)}
            if keys & self._names:
                return True
        elif isinstance(expression, ast.Attribute) and (
            expression.attr == "seconds" or self._key(expression) in self._names
        ):
            return True
        return any(map(self.within, ast.iter_child_nodes(expression)))


def is_measured(node):
    """Whether it runs in ``make stress`` alone: under ``if sizes.full``, ``if MEASURED``."""
    return isinstance(node, ast.If) and name_of(node.test) in ("full", "MEASURED")


def comparisons(tree):
    """Each comparison of a reading with anything, by its order."""
    readings = Readings(tree)
    orders = ast.Lt | ast.LtE | ast.Gt | ast.GtE

    def look(node):
        if is_measured(node):
            return
        if isinstance(node, ast.Compare) and any(isinstance(one, orders) for one in node.ops):
            if readings.within(node):
                yield node
            return
        for child in ast.iter_child_nodes(node):
            yield from look(child)

    yield from look(tree)


def short_waits(tree):
    """Each wait that gives up sooner than ``LEAST`` seconds, by a number or its name."""
    numbers = {
        name_of(node.targets[0]): node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or name_of(node.func) not in WAITS:
            continue
        given = [one.value for one in node.keywords if one.arg in ("timeout", "limit")]
        place = WAITS[name_of(node.func)]
        if place is not None:
            given += node.args[place : place + 1]
        for value in given:
            seconds = getattr(numbers.get(name_of(value), value), "value", None)
            if isinstance(seconds, int | float) and 0 < seconds < LEAST:
                yield node


def found(path):
    source = path.read_text()
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    name = str(path.relative_to(TESTS))
    for node in [*comparisons(tree), *short_waits(tree)]:
        around = [one.name for one in functions if one.lineno <= node.lineno <= one.end_lineno]
        if not {(name, function) for function in around} & ALLOWED.keys():
            yield f"tests/{name}:{node.lineno}: {ast.get_source_segment(source, node)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_fails_because_a_machine_is_busy(path):
    assert list(found(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "assert time.monotonic() - begin < 2",
        "begin = time.monotonic()\nassert 1 <= loop.time() - begin",
        "def f():\n waits = []\n waits.append(time.time())\n assert sorted(waits)[-2] < 1.0",
        "def took():\n return perf_counter()\nasync def test():\n assert await took() < 1",
        "class A:\n def f(self):\n  self.worst = time.time()\n\nassert A.worst < 1",
        "a, took = time.time(), 1\nwhile took < 3:\n pass",
        "assert p99(beside) < 2 * p99(alone)",
        "watch = Watch()\nassert watch.seconds < 3",
        "async def test():\n async with asyncio.timeout(5):\n  pass",
        "process.wait(10)",
        "BOUND = 2\nprocess.wait(BOUND)",
        "asyncio.wait([task], timeout=0.1)",
    ],
)
def test_what_would_fail_on_a_busy_machine_is_found(tmp_path, source):
    tree = ast.parse(source)
    assert [*comparisons(tree), *short_waits(tree)]


@pytest.mark.parametrize(
    "source",
    [
        "assert number < 3",
        "end = timezone.now() + HOUR\nassert record.expires_at == end",
        "if sizes.full:\n assert p99(beside) < 2 * p99(alone)",
        "process.wait(60)\nprocess.wait()\nasyncio.wait([task])",
        "def a():\n end = time.time()\ndef b(end):\n assert end < 3",
        "','.join(words)\nevent.wait(LIMIT)",
        "times.append(time.time())\nassert len(times) < 3",
    ],
)
def test_what_would_not_is_left_alone(source):
    tree = ast.parse(source)
    assert not [*comparisons(tree), *short_waits(tree)]


def test_what_is_promised_has_the_mark_by_which_make_stress_finds_it():
    for path in TESTS.glob("e2e/**/test_*.py"):
        source = path.read_text()
        calls = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Call)]
        if {"within", "measure"} & {name_of(call.func) for call in calls}:
            assert "mark.promise" in source, path


def test_each_exception_has_a_reason_and_is_needed():
    for (name, function), reason in ALLOWED.items():
        assert function in (Path(TESTS) / name).read_text() and len(reason.split()) > 3
