"""``client.d.ts`` by the compiler of TypeScript: right uses pass, and wrong ones do not."""

import shutil
import subprocess

from .clients import PACKAGES, install
from .test_client import HERE, SCRIPT, node

OPTIONS = [
    *("--noEmit", "--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes"),
    *("--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"),
    # Two thirds of its time went into the compiler's own declarations of the DOM.
    "--skipDefaultLibCheck",
]


def test_the_types_say_how_the_client_is_used(tmp_path):
    install()
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(SCRIPT.with_suffix(".d.ts"), tmp_path / "client.d.ts")
    uses = shutil.copy(HERE / "types.ts", tmp_path / "types.ts")
    compiler = PACKAGES / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [node(), compiler, *OPTIONS, uses], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
