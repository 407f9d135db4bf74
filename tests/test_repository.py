"""The repository keeps its own rules: who imports whom, pairs, pins, one name for a stage everywhere."""

import ast
import dataclasses
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import pytest
import yaml

from memgen import config
from memgen.report.stages import NEEDS, ONLY, PROFILE_STAGES, STAGES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))

# Which module may import which, as in the design. Beside these, any may raise the one error of users' input.
MAY_IMPORT = {
    "inputs": set(),
    "config": {"inputs"},
    "statistics": set(),
    "tasks": {"config"},
    "training": {"config", "tasks", "behavior"},
    "behavior": {"tasks"},
    "activations": set(),
    "localization": {"activations", "behavior", "statistics"},
    "prediction": {"statistics"},
    "steering": {"config", "activations", "behavior", "statistics"},
    "carryover": {"config", "activations", "behavior", "localization", "prediction", "statistics", "steering"},
    "synthesis": {"statistics"},
    "figures": set(),
    "report": {"config", "statistics"},
}
COMMON_PARAMETERS = {"profile": "str", "task": "str", "model": "str", "seed": "int", "results": "str"}


def imported(path: Path) -> set[str]:
    """The modules of memgen (first name below memgen) that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names - {"memgen.config.InputError"} if name.startswith("memgen.")}


def of_module(path: Path) -> str:
    """The name of a file's module, first below memgen."""
    return path.relative_to(ROOT / "memgen").parts[0].removesuffix(".py")


def test_every_module_of_memgen_is_in_the_design() -> None:
    modules = {of_module(path) for path in (ROOT / "memgen").rglob("*.py")} - {"__init__"}
    assert modules == set(MAY_IMPORT)


@pytest.mark.parametrize("path", sorted((ROOT / "memgen").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_only_what_the_design_allows(path: Path) -> None:
    module = of_module(path)
    if module != "__init__":
        assert imported(path) - {module} <= MAY_IMPORT[module]


def test_files_are_short() -> None:
    for path in [*(ROOT / "memgen").rglob("*.py"), ROOT / "Snakefile"]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path


def test_a_stage_has_one_name_everywhere() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(STAGES)
    for stage in set(NEEDS) - {"data"}:
        assert (ROOT / f"memgen/{stage}.py").is_file() or (ROOT / f"memgen/{stage}/__init__.py").is_file()
    for stage in STAGES:
        assert (ROOT / f"memgen/figures/{stage}.py").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    """Each notebook's source and pair."""

    def test_pair_agrees_and_has_no_outputs(self, path: Path) -> None:
        pair = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
        source = jupytext.read(path)
        cells = [
            [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in book.cells] for book in (source, pair)
        ]
        assert cells[0] == cells[1], f"make lab, or: jupytext --sync notebooks/{path.name}"
        for cell in pair.cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None

    def test_as_many_cells_as_a_reader_takes(self, path: Path) -> None:
        assert 15 <= len(jupytext.read(path).cells) <= 25

    def test_pair_is_declared(self, path: Path) -> None:
        metadata = jupytext.read(path).metadata
        assert metadata["jupytext"]["formats"] == "ipynb,py:percent"
        assert metadata["kernelspec"]["name"] == "python3"

    def test_parameters_are_typed_and_explained(self, path: Path) -> None:
        parameters = papermill.inspect_notebook(path.with_suffix(".ipynb"))
        common = {"profile": "str", "results": "str"} if path.stem in PROFILE_STAGES else COMMON_PARAMETERS
        assert {name: parameters[name]["inferred_type_name"] for name in common} == common
        for name, parameter in parameters.items():
            assert parameter["inferred_type_name"] in ("str", "int", "float", "bool"), name
            assert parameter["help"], name

    def test_begins_and_finishes(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert f'report.begin("{path.stem}", globals()' in text
        assert re.search(r"^run\.finish\(\)$", text, flags=re.MULTILINE)

    def test_settings_that_it_reads_make_the_graph_run_it_again(self, path: Path) -> None:
        """Every `run.config.…` of a notebook is in the Snakefile's table, or is part of the run's path."""
        if path.stem not in NEEDS:
            return
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^analysis\b.* = run\.config\.analysis\b", "", text, flags=re.M)  # the one alias in use
        text = re.sub(r"(?<![\w.])analysis\.(?=\w)", "run.config.analysis.", text)
        read = re.findall(r"run\.config((?:\.\w+)*)", text)
        in_path = {"label", "profile", "task", "seed", "model.name"}
        known = table("SETTINGS")[path.stem]
        for name in {name.removeprefix(".") for name in read if name} - in_path:
            assert any(name == entry or name.startswith(f"{entry}.") for entry in known), f"{path.stem} reads {name}"


def table(name: str) -> Any:
    """A table of the Snakefile."""
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    match = re.search(rf"^{name} = (\{{.*?^}}|\[.*?\])$", text, flags=re.M | re.S)
    assert match is not None
    return ast.literal_eval(match[1])


def test_the_graph_and_the_stages_agree_on_who_needs_whom() -> None:
    assert table("NEEDS") == {stage: list(earlier) for stage, earlier in NEEDS.items()}
    assert table("ONLY") == {task: list(stages) for task, stages in ONLY.items()}
    assert table("PROFILE_STAGES") == list(PROFILE_STAGES)


def test_requirements_are_pinned_and_installed() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    lock = dict(
        line.split("==")
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    normal = {re.sub(r"[-_.]+", "-", name).lower(): number for name, number in lock.items()}
    for pin in pins:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)  # .+", pin)
        assert match is not None, f"not pinned, or without its purpose: {pin}"
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        assert normal[name] == match[2], f"{pin}: the lock has {normal.get(name)}"
        assert version(match[1]).split("+")[0] == match[2], f"{pin} is not what is installed"
    assert not [number for number in lock.values() if "+" in number], "a lock names no build of one machine"


def test_what_memgen_and_notebooks_import_is_required() -> None:
    required = {
        re.split(r"==", line)[0].lower()
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    }
    known = {
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "vl_convert": "vl-convert-python",
        "IPython": "ipython",
        "PIL": "pillow",
    }
    for path in [*(ROOT / "memgen").rglob("*.py"), *NOTEBOOKS]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"memgen"}:
                assert known.get(name, name).lower() in required, f"{path} imports {name}"


def test_nothing_is_unpickled_and_no_remote_code_is_trusted() -> None:
    for path in [*(ROOT / "memgen").rglob("*.py"), *NOTEBOOKS]:
        text = path.read_text(encoding="utf-8")
        for word in (
            "import pickle",
            "trust_remote_code=True",
            "weights_only=False",
            "np.random.seed",
            "allow_pickle=True",
        ):
            assert word not in text, f"{path}: {word}"


def test_reading_the_configuration_is_quick() -> None:
    """The graph imports the configuration at every start; that must not load torch."""
    code = "import sys, memgen.config, memgen.report.stages; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "False"
    )


def test_the_book_has_a_chapter_of_every_stage_and_loads_nothing_from_elsewhere() -> None:
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    for name in [*(f"{stage}-{task}" for stage in NEEDS for task in ("inference", "addition")), *PROFILE_STAGES]:
        assert f"book/chapters/{name}\n" in toc
    assert toc.count("book/chapters/") == 2 * len(NEEDS) + len(PROFILE_STAGES)
    places = [toc.index(f"book/chapters/{stage}") for stage in STAGES]
    assert places == sorted(places), "chapters stand in the order in which stages read one another"
    text = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert re.findall(r"https?:\S*", text) == ["https://mybinder.org"], "where a button leads"
    settings = yaml.safe_load(text)
    assert settings["execute"]["execute_notebooks"] == "off"
    assert settings["only_build_toc_files"] is True
    assert settings["sphinx"]["config"]["html_math_renderer"] == "mathml"


def test_every_profile_fills_the_chapters_of_the_book(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in config.profiles():
        assert {task for task, _, _ in config.load_profile(name).shown()} == {"inference", "addition"}, name


def test_the_full_profile_has_every_run_of_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cells = config.load_profile("default").cells()
    assert set(cells) <= set(config.load_profile("full").cells())
    for cell in cells:
        default, full = (config.resolve(profile, *cell) for profile in ("default", "full"))
        assert dataclasses.replace(full, profile="default") == default, cell


def test_what_is_published_is_small_and_has_no_weights() -> None:
    files = [path for path in (ROOT / "book/published").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".csv", ".json"}
    assert sum(path.stat().st_size for path in files) < 10_000_000


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert {reference["year"] for reference in citation["references"]} == {2024, 2025}


def test_pairs_in_the_repository_are_small() -> None:
    for path in NOTEBOOKS:
        assert path.with_suffix(".ipynb").stat().st_size < 100_000, path


def test_sections_that_the_page_of_limits_names_exist() -> None:
    named = re.findall(r"\b([A-Z][a-z]+), \*([^*]+)\*", (ROOT / "book/findings.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    for stage, section in named:
        prose = (ROOT / f"notebooks/{stage.lower()}.py").read_text(encoding="utf-8")
        assert re.search(rf"^# ##+ {re.escape(section)}$", prose, re.MULTILINE), f"{stage}, {section}"
