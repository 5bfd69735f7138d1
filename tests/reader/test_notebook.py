"""docs/notebook.ipynb does what it says: its cells run in their order, in a process of their own, on what a training has logged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracker import environment, running

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
EXAMPLE = ROOT / "examples" / "digits.py"

KERNEL = """
import ast, json, sys
# As a kernel does: one namespace for all cells, and of each the value of a last expression is shown.
names = {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    body = ast.parse(source).body
    shown = None
    if body and isinstance(body[-1], ast.Expr):
        shown = ast.Expression(body.pop().value)
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)
    if shown is not None:
        value = eval(compile(shown, f"cell {number}", "eval"), names)
        # A terminal's text leaves columns out; a notebook's table does not.
        print(f"[{number}]", value.to_string() if hasattr(value, "to_string") else value)
"""


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["language"]) == (4, "python")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    # Nothing of whoever ran it last.
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    return ["".join(cell["source"]) for cell in code]


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="the notebook's libraries are the extra `notebook`")
    pytest.importorskip("matplotlib", reason="the notebook's libraries are the extra `notebook`")
    with running(tmp_path / "data") as tracker:
        training = [sys.executable, str(EXAMPLE), "--tracker", tracker.url, "--epochs", "10"]
        subprocess.run(training, env=environment(), capture_output=True, timeout=120, check=True)
        done = subprocess.run(
            [sys.executable, "-c", KERNEL],
            input=json.dumps(cells()),
            env=environment(TRACKER=tracker.url, MPLBACKEND="Agg", MPLCONFIGDIR=str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "hparams.learning_rate" in done.stdout
    assert 'metrics.accuracy {"subset": "test"}' in done.stdout
    assert "Figure(800x400)" in done.stdout
    assert "epoch 9" in done.stdout
    assert re.search(r"[0-9,]+ bytes", done.stdout)
    # Two metrics of two subsets, an image, three log records or more; and the lines that it printed.
    found = re.search(r"([0-9]+) points, objects and log lines", done.stdout)
    assert found is not None
    assert int(found[1]) > 43
