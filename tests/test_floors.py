"""Imports only go down the floors of the house, or level; never in a circle."""

import ast
from pathlib import Path

import filtered_websocket

ROOT = Path(filtered_websocket.__file__).parent

FLOORS = [
    ["exceptions", "close_codes", "types"],
    [
        "conf",
        "transports",
        "envelope",
        "codecs",
        "blocking",
        "logs",
        "queues",
        "filters.base",
        "keys",
        "credentials",
        "guesses",
        "queries",
        "handshakes",
        "json_codec",
        "output",
    ],
    [
        *("connection", "batches", "layer", "memberships", "outages", "storage_objects", "models"),
        *("judging", "drain", "limits", "watchdog"),
    ],
    [
        *("auth", "inquiries", "tickets", "rights", "token_groups", "evictions", "census"),
        *("hub", "hub_view", "publish", "filters.entries", "filters.options", "filters.pipeline"),
    ],
    ["consumers", "signals"],
    ["routing", "checks", "surroundings", "testing", "views", "standalone"],
    ["apps", "admin", "urls", "server", "server_options", "servers", "pipe", "management"],
]
BUNDLED = 3
STANDARD_LIBRARY_ONLY = FLOORS[0]


def modules():
    """Dotted name inside the package -> path."""
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def floor(name):
    for number, names in enumerate(FLOORS):
        if any(name == known or name.startswith(known + ".") for known in names):
            return number
    assert name.startswith("filters."), f"{name} has no floor: give it one"
    return BUNDLED


def imported(name, path):
    """Names of this package's modules that one module imports."""
    known = dict(modules())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parts = ["filtered_websocket", *name.split(".")]
            if path.name == "__init__.py":
                parts.append("__init__")
            base = parts[: -node.level] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            names = [target, *(f"{target}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for candidate in names:
            inside = candidate.removeprefix("filtered_websocket.")
            if inside != candidate and inside in known:
                yield inside


def graph():
    return {
        name: {target for target in imported(name, path) if target != name}
        for name, path in modules()
        if name not in ("__init__", "filters", "management", "management.commands")
        and not name.startswith("migrations")
    }


def test_imports_only_go_down_or_level():
    wrong = [
        f"{name} (floor {floor(name)}) imports {target} (floor {floor(target)})"
        for name, targets in graph().items()
        for target in targets - {"filters"}
        if floor(target) > floor(name)
    ]
    assert wrong == []


def test_no_imports_go_in_a_circle():
    edges, done = graph(), set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in edges.get(name, ()):
                visit(target, [*path, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_the_ground_floor_needs_only_the_standard_library():
    import sys

    for name in STANDARD_LIBRARY_ONLY:
        for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level or node.module.split(".")[0] in sys.stdlib_module_names
            elif isinstance(node, ast.Import):
                assert all(a.name.split(".")[0] in sys.stdlib_module_names for a in node.names)


def test_the_package_can_be_imported_and_chains_run_before_django_is_set_up():
    import subprocess
    import sys

    script = (
        "from filtered_websocket import WebSocketMessageFilter as F\n"
        "class A(F):\n"
        "    @classmethod\n"
        "    def filter(cls, i, data): return data.upper()\n"
        "assert F.run(None, b'a') == b'A'\n"
        "import django.conf; assert not django.conf.settings.configured\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
