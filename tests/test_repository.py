"""The repository keeps its rules: imports as designed, pairs of notebooks that agree, pinned packages."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions, version
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from book.build.pairs import KERNEL
from memgen.config import STAGES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
MODULES = sorted((ROOT / "memgen").rglob("*.py"))

# Which module may import which. Beside these, any may raise the error of users' input, and take settings of a type.
ANALYSIS = {"subject", "activations", "behavior", "intervals"}
MAY_IMPORT = {
    "config": set(),
    "intervals": set(),
    "activations": set(),
    "figures": set(),
    "display": {"figures"},  # the words of figures
    "manifest": {"config"},
    "place": {"config", "manifest"},
    "published": {"config", "manifest", "place"},
    "run": {"config", "display", "intervals", "manifest", "place", "published"},
    "fetch": {"config", "place"},
    "pretrained": {"config", "activations"},
    "subject": {"config", "activations", "pretrained"},
    "tasks": {"config", "pretrained"},
    "behavior": {"subject", "activations"},
    "progress": set(),
    "study": set(),
    "resume": {"place"},
    "training": {"config", "subject", "pretrained", "tasks", "behavior", "progress", "resume"},
    "localization": ANALYSIS,
    "prediction": ANALYSIS,
    "steering": ANALYSIS | {"config", "localization"},  # the neurons that come first in its ranking
    "planted": ANALYSIS | {"config", "localization", "steering"},
    "carryover": ANALYSIS | {"config", "localization", "prediction", "steering"},
    "synthesis": {"config", "intervals", "localization", "prediction", "steering", "carryover"},
}
OF_ALL = {"memgen.config.InputError", "memgen.config.require", "memgen.config.fraction_to_count"}
COMMON_PARAMETERS = {"profile": "str", "task": "str", "model": "str", "seed": "int", "results": "str"}


def imported(path: Path) -> set[str]:
    """The full names that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_only_what_the_design_allows(path: Path) -> None:
    module = path.relative_to(ROOT / "memgen").parts[0].removesuffix(".py")
    if module != "__init__":
        names = {name.split(".")[1] for name in imported(path) - OF_ALL if name.startswith("memgen.")}
        assert names - {module} <= MAY_IMPORT[module]


def test_a_stage_has_one_name_everywhere() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(STAGES)
    modules = {path.stem for path in (ROOT / "memgen").iterdir()}
    assert set(STAGES) - {"data"} <= modules
    assert set(STAGES) <= {path.stem for path in (ROOT / "memgen/figures").iterdir()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    """Each notebook's source and pair."""

    def test_pair_agrees_and_has_no_outputs(self, path: Path) -> None:
        pair, source = nbformat.read(path.with_suffix(".ipynb"), as_version=4), jupytext.read(path)
        cells, expected = (
            [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in notebook.cells]
            for notebook in (pair, source)
        )
        assert cells == expected, f"{path.name} and its .ipynb differ; the one saved last counts: make format"
        for cell in pair.cells:
            clean = not cell.get("outputs") and cell.get("execution_count") is None
            assert clean, f"{path.stem}.ipynb has outputs; without them: make format"

    def test_pair_is_declared(self, path: Path) -> None:
        metadata = nbformat.read(path.with_suffix(".ipynb"), as_version=4).metadata
        assert metadata == {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": KERNEL}, "make format"

    def test_parameters_are_typed_and_explained(self, path: Path) -> None:
        parameters = papermill.inspect_notebook(path.with_suffix(".ipynb"))
        common = {"profile", "results"} if STAGES[path.stem].of_profile else set(COMMON_PARAMETERS)
        types = {name: parameter["inferred_type_name"] for name, parameter in parameters.items()}
        assert {name: types[name] for name in common} == {name: COMMON_PARAMETERS[name] for name in common}
        assert set(types.values()) <= {"str", "int", "float", "bool"}
        assert all(parameter["help"] for parameter in parameters.values())

    def test_settings_that_it_reads_make_the_graph_run_it_again(self, path: Path) -> None:
        in_path = {"label", "profile", "task", "seed", "model.name"}  # another one is another run
        stage = STAGES[path.stem]
        # A setting that an earlier stage reads changes what that stage leaves, and so makes this one run again, too.
        declared = [name for earlier in (*stage.reads, stage.name) for name in STAGES[earlier].settings]
        if not stage.of_profile:
            for name in settings_read(ast.parse(path.read_text(encoding="utf-8"))) - in_path:
                assert any(f"{name}.".startswith(f"{entry}.") for entry in declared), f"{path.stem} reads {name}"


def settings_read(tree: ast.Module) -> set[str]:
    """The settings that a notebook reads from `run.config`, directly or under a name of its own: ``training.steps``."""
    aliases = {"run.config": ""}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            for target, value in zip(targets, values, strict=False):
                if ast.unparse(value).startswith("run.config."):
                    aliases[ast.unparse(target)] = ast.unparse(value).removeprefix("run.config.")
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {node.value for node in attributes}  # parts of a longer chain
    chains = {ast.unparse(node) for node in attributes if node not in inner}
    read = {
        f"{setting}.{chain.removeprefix(f'{name}.')}".strip(".")
        for name, setting in aliases.items()
        for chain in chains
        if chain.startswith(f"{name}.")
    }
    return read - set(aliases.values())


def requirements() -> dict[str, str]:
    """The packages of requirements.txt and their versions."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==\S+  # .+", pin), f"not pinned, or without its purpose: {pin}"
    return dict(pin.split()[0].split("==") for pin in pins)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_requirements_are_pinned_and_installed() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^(\S+)==(\S+) \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock, flags=re.MULTILINE)
    assert len(entries) == len(re.findall("==", lock)), "a package of the lock has no hash"
    locked = {normalized(name): number for name, number, _ in entries} | {"torch": requirements()["torch"]}
    for name, number in requirements().items():
        assert locked[normalized(name)] == number, f"{name} in requirements.lock"
        assert version(name).split("+")[0] == number, f"{name} as installed"
    assert not [number for number in locked.values() if "+" in number], "a lock names no build of one machine"


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
def test_every_package_takes_the_first_release_of_a_supported_python(python: str) -> None:
    """A package that wants a later one, as of 3.11.5 on, cannot be installed with the Python of some distributions."""
    asked = {each.name: each.metadata.get("Requires-Python", "") for each in distributions()}
    assert asked["numpy"]
    assert [name for name, versions in asked.items() if not SpecifierSet(versions).contains(python)] == []


def test_what_the_code_imports_is_required() -> None:
    required, providing = set(map(normalized, requirements())), packages_distributions()
    for path in [*MODULES, *NOTEBOOKS, *(ROOT / "book/build").glob("*.py")]:
        packages = {name.split(".")[0] for name in imported(path)}
        for name in packages - sys.stdlib_module_names - {"memgen", "book"}:
            assert set(map(normalized, providing[name])) & required, f"{path} imports {name}"


def test_reading_the_configuration_is_quick() -> None:
    """The graph imports the configuration at every start; that must not load torch."""
    code = "import sys, memgen.config; print({'torch', 'pandas', 'altair'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_recorder_loads_no_statistics() -> None:
    """Every stage and every command of the book starts with it; scipy.stats alone takes half a second."""
    code = "import sys, memgen.run; print({'torch', 'scipy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_book_has_a_chapter_of_every_stage_in_their_order() -> None:
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    files = [Path(chapter["file"]) for part in parts for chapter in part["chapters"]]
    expected = []
    for stage in STAGES.values():
        expected += [stage.name] if stage.of_profile else [f"{stage.name}-inference", f"{stage.name}-addition"]
    assert [file.name for file in files if file.parent.name == "chapters"] == expected


def test_what_is_published_is_small_and_has_no_weights_but_the_models() -> None:
    published = ROOT / "book/published"
    files = [
        path for path in published.rglob("*") if path.is_file() and path.relative_to(published).parts[0] != "models"
    ]
    assert {path.suffix for path in files} <= {".csv", ".json", ".parquet"}
    assert sum(path.stat().st_size for path in files) < 10_000_000


def test_what_archives_are_told_agrees() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    archive = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert archive["description"] == citation["abstract"]
    assert [creator["name"] for creator in archive["creators"]] == [author["name"] for author in citation["authors"]]
    for name in ("title", "version", "license", "keywords"):
        assert archive[name] == citation[name], name
    works = {work["identifier"] for work in archive["related_identifiers"]}
    assert works == {work["identifiers"][0]["value"] for work in citation["references"]}


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"] == version("memgen")
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
