"""A notebook's source is run with papermill, its parameters checked first, its end told in one line."""

from pathlib import Path

import nbformat
import pytest

from book.build.__main__ import main
from book.build.execute import check_parameters
from memgen.config import InputError

from . import made

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
DECLARED = {name: {"inferred_type_name": kind} for name, kind in {"a": "str", "n": "int", "x": "float"}.items()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 1}, "The parameter 'sed' is unknown; this notebook has a, n, x."),
        ({"n": "1"}, "The parameter n must be a whole number, not '1'."),
        ({"n": 1.0}, "The parameter n must be a whole number, not 1.0."),
        ({"n": True}, "The parameter n must be a whole number, not True."),
        ({"x": "0.1"}, "The parameter x must be a number, not '0.1'."),
        ({"a": 1}, "The parameter a must be text, not 1."),
    ],
)
def test_unknown_names_and_wrong_types_are_refused(given: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        check_parameters(given, DECLARED)
    assert str(error.value) == message


def test_fitting_parameters_are_taken() -> None:
    check_parameters({"a": "", "n": 0, "x": 1}, DECLARED)


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
