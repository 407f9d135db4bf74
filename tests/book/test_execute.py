"""A notebook's source is run with papermill, its parameters checked first, its end told in one line."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from book.build.__main__ import main

from . import made

ROOT = Path(__file__).resolve().parents[2]

SOURCE = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
profile: str = "tiny"  # a profile
seed: int = 0  # 0 or more
rate: float = 0.5  # a rate

# %%
print("▶ step 1 of 1")
print("a line for the log")
assert seed < 5, "too large"
"""


@pytest.fixture
def run(tmp_path: Path):
    """Run the source with parameters; the stage's folder is finished already."""
    (tmp_path / "source.py").write_text(SOURCE)
    folder, copy = made.stage(tmp_path / "results/data"), tmp_path / "log/data.ipynb"

    def execute(parameters: str) -> tuple[int, Path, Path]:
        paths = [str(path) for path in (tmp_path / "source.py", copy, folder)]
        return main(["execute", *paths, "--parameters", parameters, "--label", "data"]), copy, folder

    return execute


def test_success_seals_the_copy_and_shows_progress(run, capfd: pytest.CaptureFixture[str]) -> None:
    status, copy, folder = run('{"seed": 3}')
    printed = capfd.readouterr().out
    assert status == 0, printed
    assert "▶ step 1 of 1" in printed
    assert "a line for the log" not in printed
    assert "▶ data: done in" in printed
    assert (folder / "notebook.ipynb").read_bytes() == copy.read_bytes()
    assert "a line for the log" in copy.with_suffix(".log").read_text()
    assert "seed = 3" in nbformat.read(copy, as_version=4).cells[1].source


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('{"seed": 7}', "AssertionError: too large"),
        ('{"seed": "x"}', "InputError: The parameter seed must be a whole number, not 'x'."),
        ('{"sed": 1}', "InputError: The parameter 'sed' is unknown; this notebook has profile, seed, rate."),
    ],
)
def test_failure_is_told_in_one_line_and_seals_nothing(run, capfd, parameters: str, message: str) -> None:
    status, copy, folder = run(parameters)
    assert status == 1
    assert f"✗ data failed: {message}" in capfd.readouterr().out
    assert copy.exists()
    assert not (folder / "notebook.ipynb").exists()


def test_what_surrounds_a_run_does_not_reach_it(tmp_path: Path) -> None:
    """No home, a long path for temporary files, a locale without ▶, another kernel named python3, start-up files."""
    (tmp_path / "source.py").write_text(
        SOURCE.replace("python3", "of_an_editor") + 'assert "startup" not in globals()\n'
    )
    made.stage(tmp_path / "results/data")
    long = tmp_path / ("long " * 20 + "é")
    kernel, startup = tmp_path / "jupyter/kernels/python3", tmp_path / "ipython/profile_default/startup"
    for folder in (long, kernel, startup):
        folder.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["false"], "display_name": "another", "language": "python"}')
    for path in (startup / "a.py", tmp_path / "startup.py"):
        path.write_text("startup = 1")
    others = {
        "HOME": "/proc/nowhere",
        "TMPDIR": str(long),
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONSTARTUP": str(tmp_path / "startup.py"),
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
    }
    command = [sys.executable, "-m", "book.build", "execute", "source.py", "log/data.ipynb", "results/data"]
    environment = {**os.environ, **others, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    printed = done.stdout.decode()
    assert done.returncode == 0, printed + done.stderr.decode()
    assert "▶ step 1 of 1" in printed
    assert "▶ source.py: done in" in printed
    assert not list(long.iterdir()), "nothing stays"
