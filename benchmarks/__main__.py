"""
``python -m benchmarks``: run everything, or some of it.

A whole run writes its figures to ``results/``, the plots beside them, and the tables of
``docs/performance.md`` and ``docs/scale.md``. A part of it prints, and saves its figures in
``partial.json``; with ``--again`` whole scenarios take the place of those of the last whole
run, and the page says so: contenders are only compared within a scenario.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import machine, report
from .bench import Bench, make_sessions
from .contenders import BY_NAME, Contender
from .needs import peer_versions
from .processes import ROOT, Valkey
from .results import Results
from .scenarios import SCENARIOS, Scenario

RESULTS = Path(__file__).resolve().parent / "results"
PAGES = [ROOT / "docs" / "performance.md", ROOT / "docs" / "scale.md"]
#: Who have a session; clients share them out.
USERS = 5000


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    def names(known: Sequence[str]):
        def split(text: str) -> list[str]:
            chosen = text.split(",")
            for name in chosen:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
            return chosen

        return split

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure.")
    parser.add_argument("--only", type=names([*BY_NAME]), help="contenders, by commas")
    parser.add_argument(
        "--scenario", type=names([s.name for s in SCENARIOS]), help="scenarios, by commas"
    )
    parser.add_argument("--rounds", type=int, help="rounds of every scenario")
    parser.add_argument("--quick", action="store_true", help="short, and less exact")
    parser.add_argument("--list", action="store_true", help="name contenders and scenarios")
    parser.add_argument(
        "--report", action="store_true", help="only write plots and tables from the last whole run"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="have these scenarios take the place of those of the last whole run",
    )
    options = parser.parse_args(arguments)
    if options.again and (options.only or options.rounds or options.quick or not options.scenario):
        parser.error("--again needs --scenario, and all contenders and rounds of it")
    return options


def plan(options: argparse.Namespace, results: Results) -> list[tuple[Scenario, int, Contender]]:
    """Every measurement, rounds interleaved; notes why a contender cannot take part."""
    steps = []
    for scenario in SCENARIOS:
        if options.scenario and scenario.name not in options.scenario:
            continue
        able = []
        for contender in scenario.contenders:
            if options.only and contender.name not in options.only:
                continue
            reason = contender.missing() or scenario.excuse(contender)
            if reason is None:
                able.append(contender)
            else:
                results.skip(scenario.name, contender.name, reason)
        rounds = options.rounds or (1 if options.quick else scenario.rounds)
        steps += [(scenario, number, one) for number in range(rounds) for one in able]
    return steps


def run(options: argparse.Namespace) -> Results:
    from tqdm import tqdm

    # Its own thread would wake up in the middle of a measurement.
    tqdm.monitor_interval = 0
    results = Results()
    about = machine.describe()
    machine.raise_file_limit()
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    steps = plan(options, results)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Valkey(machine.LOAD_CORE) as valkey,
    ):
        database = os.path.join(folder, "db.sqlite3")
        cookies = make_sessions(database, 500 if options.quick else USERS)
        bench = Bench(valkey, cookies, database, quick=options.quick)
        if options.quick:
            bench.seconds = 0.5
        versions = machine.python_versions() | {"valkey": valkey.version()} | peer_versions()
        results.about = {"date": machine.now(), "machine": about, "versions": versions}
        with tqdm(steps, unit="run") as bar:
            for scenario, number, contender in bar:
                bar.set_description(f"{scenario.name} {number + 1}, {contender.name}")
                try:
                    figures = scenario.measure(bench, contender)
                # Whatever failed: it must not cost the figures of all others.
                except Exception as error:
                    words = (str(error) or repr(error)).replace(f"{ROOT}{os.sep}", "")
                    reason = f"failed in round {number + 1}: {words}"
                    results.skip(scenario.name, contender.name, reason)
                    bar.write(f"{scenario.name}, {contender.name}: {error!r}")
                else:
                    results.add(scenario.name, contender.name, number, figures)
    results.about["minutes"] = round((time.monotonic() - started) / 60, 1)
    return results


def write(results: Results) -> None:
    """Plots and tables of a whole run."""
    for name, picture in report.pictures(results).items():
        (RESULTS / name).write_text(picture)
    for page in PAGES:
        page.write_text(report.fill(page.read_text(), results))


def main() -> None:
    options = parse()
    if options.list:
        for name, contender in BY_NAME.items():
            print(f"{name:20} {contender.title}  {contender.missing() or ''}".rstrip())
        for scenario in SCENARIOS:
            print(f"{scenario.name:20} {scenario.title}, {scenario.rounds} rounds")
        return
    if options.report:
        results = Results.load(RESULTS / "latest.json")
        write(results)
    else:
        results = run(options)
        whole = not (options.only or options.scenario or options.rounds or options.quick)
        if options.again:
            results = Results.load(RESULTS / "latest.json").with_again(results)
        is_kept = whole or options.again
        results.save(RESULTS / ("latest.json" if is_kept else "partial.json"))
        if is_kept:
            write(results)
    print(*report.lines(results), sep="\n")


if __name__ == "__main__":
    main()
