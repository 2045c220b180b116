"""The workflow of the forge, by actionlint: it cannot be run here."""

import json
import shutil
import subprocess

from ..snippets import ROOT
from .clients import install
from .test_client import HERE, node


def test_nothing_is_found_in_it_and_a_mistake_would_be(tmp_path):
    install()
    workflow = ROOT / ".github" / "workflows" / "tests.yml"
    wrong = shutil.copy(workflow, tmp_path / "wrong.yml")
    with open(wrong, "a") as file:
        file.write("      - run: echo ${{ matrix.nothing }}\n")
    command = [node(), HERE / "lint_workflow.mjs", workflow, wrong]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [found] = json.loads(done.stdout)
    assert found["file"] == str(wrong) and "nothing" in found["message"]
