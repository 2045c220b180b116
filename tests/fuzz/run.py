"""
Fuzz the inbound path: ``python -m tests.fuzz.run [SECONDS]`` (needs ``atheris``).

What it finds and what it learns is written to ``.fuzz``; a finding (``crash-...``), once
mended, becomes a seed in ``tests/fuzz/corpus``.
"""

import logging
import os
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent


def main(seconds):
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    with atheris.instrument_imports(include=["filtered_websocket"]):
        import django

        django.setup()
        from tests.fuzz.targets import one_input
    # Dropped messages are logged: that is no finding.
    logging.disable(logging.CRITICAL)
    found = HERE.parents[1] / ".fuzz"
    learned = found / "corpus"
    learned.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "max_len": 4096,
        "timeout": 20,
        "rss_limit_mb": 2048,
        "artifact_prefix": f"{found}/",
    }
    words = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *words, str(learned), str(HERE / "corpus")], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
