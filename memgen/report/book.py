"""From executed notebooks to chapters: what failed or was changed never reaches the book."""

import base64
import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import vl_convert

from memgen import config
from memgen.config import InputError
from memgen.report import captions, numbers, stages, tryout
from memgen.report.provenance import digest
from memgen.report.stages import NOTEBOOK, PROFILE_STAGES, Place

PAGES = Path("book")
CHAPTERS = PAGES / "chapters"
DOWNLOADS = Path("book/_static/downloads")  # Sphinx copies what is below book/_static
# What such a cell shows counts, not how: it is folded.
SHOWS = re.compile(r"\brun\.(figure|table|record|record_rows)\(")
LONG = 20  # lines; longer cells are folded, too
SCRIPT = Path("book/_static/vega.js")
METRICS, VERDICTS = "metrics.json", "tables/verdicts.csv"
EMBEDDED = re.compile(  # as display.py writes it
    r'(href|src)="data:[a-z/]+;base64,([A-Za-z0-9+/=]*)" (download|data-name)="([A-Za-z0-9_.-]+)"'
)


def seal(stage_dir: str | os.PathLike, executed_notebook: str | os.PathLike) -> None:
    """Put the executed notebook beside the results that it made, and its sha256 into the manifest.

    Raises
    ------
    InputError
        If the stage did not finish, or the notebook has an error or a cell that was not run.
    """
    stage_dir, executed_notebook = Path(stage_dir), Path(executed_notebook)
    if not stages.finished(stage_dir):
        raise InputError(f"{stage_dir} has no manifest: the stage did not finish; its notebook is {executed_notebook}.")
    _read_executed(executed_notebook)
    manifest = stages.load_manifest(stage_dir)
    beside = stage_dir / f".{NOTEBOOK}.{os.getpid()}"
    shutil.copyfile(executed_notebook, beside)
    beside.replace(stage_dir / NOTEBOOK)
    manifest["outputs"][NOTEBOOK] = digest(stage_dir / NOTEBOOK)
    stages.write_json(stage_dir / "manifest.json", manifest)


def stage_book(profile: str, results: str = "results") -> list[Path]:
    """Copy the finished notebooks of a profile into the book, all of them checked first.

    Each stage has one chapter a task, from the first model and the first seed (:meth:`memgen.config.Profile.shown`);
    a stage of the whole profile has one for all.

    Raises
    ------
    InputError
        If a stage did not finish, or its notebook has errors or is not the one that was sealed.
    """
    loaded = config.load_profile(profile)
    places = {
        f"{stage}-{task}": Place(stage, profile, task, model, seed, results)
        for task, model, seed in loaded.shown()
        for stage in stages.needed(task)
    }
    places |= {stage: Place(stage, profile, results=results) for stage in PROFILE_STAGES}
    notebooks = {chapter: _chapter(place) for chapter, place in places.items()}
    root = config.root()
    wanted = _wanted(root / PAGES)
    for chapter, notebook in notebooks.items():
        _add_numbers(notebook, places[chapter], wanted.get(chapter, set()), loaded)
    for folder in (CHAPTERS, DOWNLOADS):
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / CHAPTERS).mkdir(parents=True)
    for chapter, notebook in notebooks.items():
        captions.number(notebook)
        _extract_downloads(notebook, chapter)
        nbformat.write(notebook, root / CHAPTERS / f"{chapter}.ipynb")
    tryout.write(places.values(), root / DOWNLOADS)
    write_vega_bundle(root / SCRIPT)
    return [CHAPTERS / f"{chapter}.ipynb" for chapter in notebooks]


def write_vega_bundle(path: str | os.PathLike) -> None:
    """Write the one script that draws every figure of the book, unless it is there already."""
    path = Path(path)
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    drawing = Path(__file__).with_name("figures.js").read_text(encoding="utf-8")
    script = f"(() => {{\n{bundle}\n{drawing}}})();\n"  # its names must not meet those of Sphinx's scripts
    if path.is_file() and path.read_text(encoding="utf-8") == script:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(script, encoding="utf-8")
    beside.replace(path)


def _read_executed(path: Path) -> Any:
    """Read a notebook; refuse it if a cell failed or was not run."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError) as error:
        raise InputError(f"The notebook {path} cannot be read ({type(error).__name__}).") from None
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                raise InputError(f"The notebook {path} failed with {output.ename}: {output.evalue}")
        if cell.execution_count is None:
            raise InputError(f"The notebook {path} has a cell that was not run; it begins {cell.source[:40]!r}.")
    return notebook


def _chapter(place: Place) -> Any:
    """Make a finished notebook a chapter: its task named, technical cells marked, provenance added."""
    stages.settle(place)
    path = place.folder / NOTEBOOK
    where = os.path.relpath(path, config.root())
    again = "make it with `make book`"
    if not stages.finished(place.folder):
        raise InputError(
            f"The {place.label} did not finish in {os.path.relpath(place.folder, config.root())}; {again}."
        )
    manifest = stages.load_manifest(place.folder)
    if not path.is_file() or NOTEBOOK not in manifest["outputs"]:
        raise InputError(f"The {place.label} has no sealed notebook in {where}; {again}.")
    if digest(path) != manifest["outputs"][NOTEBOOK]:
        raise InputError(f"{where} was changed after it ran; {again} (to keep the changes, move it away first).")
    for name in (METRICS, VERDICTS):
        expected = manifest["outputs"].get(name)
        if expected and digest(place.folder / name) != expected:
            raise InputError(f"{os.path.relpath(place.folder / name, config.root())} was changed; {again}.")
    notebook = _read_executed(path)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": list(cell.metadata.get("tags", []))})
        if "injected-parameters" in cell.metadata.tags:
            cell.metadata.tags.append("remove-cell")
        is_long = cell.source.count("\n") >= LONG
        if "parameters" in cell.metadata.tags or SHOWS.search(cell.source) or is_long:
            cell.metadata.tags.append("hide-input")
    if place.task:
        _name_run(notebook, place)
    footer = nbformat.v4.new_markdown_cell(_footer(place, manifest))
    footer.id = "provenance"
    notebook.cells.append(footer)
    return notebook


def _wanted(folder: Path) -> dict[str, set[str]]:
    """The numbers that the pages beside the chapters paste, by chapter."""
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.md"):
        for page, key in numbers.pasted(path.read_text(encoding="utf-8")):
            found.setdefault(Path(page).stem, set()).add(key)
    return found


def _add_numbers(notebook: Any, place: Place, wanted: set[str], profile: config.Profile) -> None:
    """Add the cell from which the chapter's sentences, and those of other pages, paste their numbers."""
    shown = {f"{task} ({model})": task for task, model, _ in profile.shown()}
    known = numbers.texts(json.loads((place.folder / METRICS).read_text(encoding="utf-8")), shown)
    if (place.folder / VERDICTS).is_file():
        with (place.folder / VERDICTS).open(encoding="utf-8", newline="") as file:
            known |= numbers.verdicts(csv.DictReader(file), shown)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    own = [key for page, key in numbers.pasted(prose) if not page]
    notebook.cells.append(numbers.glue_cell(known, [*own, *sorted(wanted)]))


def _name_run(notebook: Any, place: Place) -> None:
    """Add the task to the title, so that a stage's chapters can be told apart."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"^# (.+)$", rf"# \1: {place.task}", cell.source, count=1, flags=re.MULTILINE)
            return


def _footer(place: Place, manifest: dict[str, Any]) -> str:
    machine, git = manifest["machine"], manifest["git"]
    changed = " with uncommitted changes" if git["dirty"] else ""
    facts = {
        "Run": f"profile `{place.profile}`"
        + (f", `{place.task}/{place.model}/seed{place.seed}`" if place.task else ""),
        "Parameters": ", ".join(f"`{name} = {value!r}`" for name, value in manifest["parameters"].items()),
        "Code": f"commit `{git['commit'] or 'unknown'}`{changed}",
        "Finished": f"{manifest['finished']}, after {manifest['wall_seconds']:.0f} s; "
        f"at most {manifest['peak_memory_bytes'] / 2**20:.0f} MiB of memory",
        "Machine": ", ".join(
            [
                machine["processor"],
                f"{machine['cores']} cores",
                machine["accelerator"] or "no GPU",
                machine["system"],
            ]
        ),
        "Versions": ", ".join(
            [f"Python {machine['python']}"] + [f"{name} {version}" for name, version in manifest["packages"].items()]
        ),
        "Make it again": f"`make book PROFILE={place.profile}`, or this stage alone: `{place.command}`",
    }
    lines = "\n".join(f"- **{name}:** {fact}" for name, fact in facts.items())
    return f"```{{admonition}} How this page was made\n:class: dropdown\n\n{lines}\n```"


def _extract_downloads(notebook: Any, chapter: str) -> None:
    """Move the data and pictures inside a page into files of their own."""
    folder = config.root() / DOWNLOADS / chapter
    depth = "../" * len(CHAPTERS.parts)

    def to_file(match: re.Match[str]) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / match[4]).write_bytes(base64.b64decode(match[2]))
        return f'{match[1]}="{depth}_static/{DOWNLOADS.name}/{chapter}/{match[4]}" {match[3]}="{match[4]}"'

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = EMBEDDED.sub(to_file, output.data["text/html"])
                output.data.pop("image/png", None)  # the same picture, which has its file now
