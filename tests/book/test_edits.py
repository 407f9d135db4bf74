"""The three edits of the page Reproduce: each changes a single line of a notebook, and what the page says follows."""

import json
import re
import shutil
from pathlib import Path

import pytest

from .conftest import Project

ROW = re.compile(r"^\| (another [\w ]+) \| `(\w+)` \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
PAGE = (Path(__file__).resolve().parents[2] / "book/reproduce.md").read_text(encoding="utf-8")
EDITS = {what: (stage, old, new) for what, stage, old, new in ROW.findall(PAGE)}
RUN = "smoke/inference/gpt2-2x32/seed10"


@pytest.fixture
def project(second: Project) -> Project:
    """A copy of its own: these tests take long, and run beside the others."""
    return second


def test_the_page_has_three_edits() -> None:
    assert list(EDITS) == ["another probe", "another ranking of neurons", "another figure"]


@pytest.fixture
def edited(project: Project, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """The folders of a stage as it was made, and as the notebook with the edit makes it."""
    stage, old, new = EDITS[request.param]
    lines = project.read(f"notebooks/{stage}.py").splitlines()
    (place,) = [i for i, line in enumerate(lines) if old in line and not line.startswith("#")]
    lines[place] = lines[place].replace(old, new)
    source = tmp_path / f"{stage}.py"
    source.write_text("\n".join(lines), encoding="utf-8")
    for earlier in ("data", "training", "localization"):
        shutil.copytree(project.root / "results" / RUN / earlier, tmp_path / "edited" / RUN / earlier)
    folder = tmp_path / "edited" / RUN / stage
    profile, task, _, seed = RUN.split("/")
    parameters = {"profile": profile, "task": task, "seed": int(seed.removeprefix("seed"))}
    parameters |= {"results": str(tmp_path / "edited")}
    command = ["python", "-m", "book.build", "execute", str(source), str(tmp_path / "out.ipynb"), str(folder)]
    done = project.run(*command, "--parameters", json.dumps(parameters))
    assert done.returncode == 0, done.stdout + done.stderr
    return project.root / "results" / RUN / stage, folder


@pytest.mark.parametrize("edited", ["another probe", "another ranking of neurons"], indirect=True)
def test_numbers_follow(edited: tuple[Path, Path]) -> None:
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in edited)
    assert {record["measure"] for record in after} == {record["measure"] for record in before}
    assert after != before


@pytest.mark.parametrize("edited", ["another figure"], indirect=True)
def test_the_figure_follows_and_its_data_stay(edited: tuple[Path, Path]) -> None:
    before, after = ({path.name: path.read_bytes() for path in (folder / "figures").iterdir()} for folder in edited)
    changed = {name for name in before if before[name] != after[name]}
    assert len(changed) == 2
    assert {"".join(Path(name).suffixes) for name in changed} == {".vl.json", ".png"}
    assert (edited[0] / "metrics.json").read_bytes() == (edited[1] / "metrics.json").read_bytes()
