"""The commands that readers are given: the cheap ones are tried word for word, the others have a reason not to be."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from .conftest import Project

LONG = "takes an hour or more; `make book PROFILE=smoke` is tried in its stead"
NOT_HERE = {
    "make book": LONG,
    "source .venv/bin/activate": "tests run in the environment that they were started in",
    "RUN=graded_addition/gpt2-3x64/seed0": "belongs to the two lines below it",
    "snakemake --cores 2 --config profile=graded -- results/graded/$RUN/log/{prediction,steering}.json": LONG,
    "make check-published PROFILE=graded CELL=$RUN": "needs the run above; tried with what smoke publishes",
    "git diff <commit> -- memgen notebooks config requirements.lock": "the reader fills in the commit",
    "python3 -m venv .venv": "needs the network",
    ".venv/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu": "needs the network",
}
TRIED = ("papermill", "for seed", "make compare")  # the blocks that begin so are tried whole


@pytest.fixture
def project(second: Project) -> Project:
    """A copy of its own: these tests take long, and run beside the others."""
    return second


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def test_every_command_of_the_page_is_tried_or_has_a_reason_not_to_be(project: Project) -> None:
    others = [block for block in blocks(project.read("book/reproduce.md"), "bash") if not block.startswith(TRIED)]
    assert sorted({line for block in others for line in block.splitlines()}) == sorted(NOT_HERE)


def test_the_commands_work_word_for_word_in_their_order(project: Project, tmp_path: Path) -> None:
    """One stage alone, other parameters, a new seed, another profile, a grid of seeds, two runs side by side."""
    runs = project.root / "results/smoke/inference/gpt2-2x32"
    assert (runs / "seed10").is_dir(), "the page names a run of the smoke profile"
    made_by_graph = shutil.copytree(runs / "seed10", tmp_path / "seed10")
    try:
        tried = [block for block in blocks(project.read("book/reproduce.md"), "bash") if block.startswith(TRIED)]
        assert len(tried) == len(TRIED)
        for block in tried:
            make, *words = shlex.split(block)
            done = project.make(*words) if make == "make" else project.run("bash", "-ec", block)
            assert done.returncode == 0, done.stdout + done.stderr
        assert "numbers in both" in done.stdout  # of the last, make compare
        for seed in (4, 5):
            assert all((runs / f"seed{seed}" / stage).is_dir() for stage in ("data", "training")), seed
        for name in ("data/train.parquet", "data/tokenizer/tokenizer.json", "training/model/model.safetensors"):
            assert (runs / "seed10" / name).read_bytes() == (made_by_graph / name).read_bytes(), name
        for stage in ("data", "training"):
            manifests = [
                json.loads((run / stage / "manifest.json").read_text()) for run in (made_by_graph, runs / "seed10")
            ]
            of_graph, of_papermill = (set(manifest["outputs"]) for manifest in manifests)
            assert of_graph - of_papermill == {"notebook.ipynb"}, "papermill was given another place for it"
    finally:
        (project.root / "out.ipynb").unlink(missing_ok=True)
        shutil.rmtree(project.root / "results/full", ignore_errors=True)
        for seed in (4, 5, 10):
            shutil.rmtree(runs / f"seed{seed}", ignore_errors=True)
        shutil.copytree(made_by_graph, runs / "seed10")


def test_two_folders_of_results_are_compared(project: Project) -> None:
    run = next(project.root.glob("results/smoke/inference/*/seed10"))
    done = project.make("compare", f"A={run}", "B=results/smoke")
    assert done.returncode != 0
    assert "no number in common" in done.stderr
    done = project.make("compare", "A=results/smoke", "B=results/smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* numbers in both, 0 with intervals apart", done.stdout, flags=re.MULTILINE)
    assert "make compare A=" in project.make("compare").stderr


def test_the_book_is_packed_in_one_file(project: Project) -> None:
    packed = []
    for _ in range(2):
        done = project.make("dist")
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = project.root.glob("dist/*")
        assert re.fullmatch(r"memgen-book-\d+\.\d+\.\d+\.tar\.gz", path.name)
        packed.append(path.read_bytes())
        shutil.rmtree(project.root / "dist")
    assert packed[0] == packed[1]


def test_the_book_and_its_pages_are_small(project: Project) -> None:
    files = [path for path in (project.root / "_build/html").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    for path in files:
        if path.suffix == ".html":
            assert path.stat().st_size <= 3_000_000, path


def test_the_strict_build_has_no_warning(project: Project) -> None:
    log = project.read("_build/book.log")
    assert "build succeeded" in log.lower() or "Finished generating HTML" in log
    assert not re.search(r"\b(WARNING|ERROR)\b", log)


def test_the_reference_describes_every_module_of_memgen(project: Project) -> None:
    page = project.read("_build/html/book/reference.html")
    for path in sorted((project.root / "memgen").rglob("*.py")):
        module = ".".join(path.relative_to(project.root).with_suffix("").parts).removesuffix(".__init__")
        if module != "memgen":
            assert f'id="module-{module}"' in page, f"book/reference.md does not name {module}"
