"""From executed notebooks to chapters: a notebook that failed or was changed never reaches the book."""

import base64
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import vl_convert
from bs4 import BeautifulSoup

from book.build import meaning
from memgen.config import InputError, Profile, load_profile, require, root, stages_of
from memgen.manifest import digest, load_manifest, load_metrics, write_json
from memgen.place import NOTEBOOK, Place, sync
from memgen.published import OF_PROFILE, published

PAGES = Path("book")
CHAPTERS = PAGES / "chapters"
DOWNLOADS = PAGES / "_static/downloads"  # Sphinx copies what is below book/_static
SCRIPT = PAGES / "_static/vega.js"
TO_DOWNLOADS = "../" * len(CHAPTERS.parts) + "_static/downloads"  # from the page of a chapter
MEANING = "## What this means"  # the heading above the sentences of `book/meaning.yaml`
MAIN_FIGURE = "main-figure"  # the tag of the cell whose figure opens the chapter
REFERENCE = re.compile(r"\[[^\]]*\]\(#((?:figure|table)-[\w-]+)\)")  # such as [the heat map](#figure-heat_map)


def seal(folder: Path, executed: Path) -> None:
    """Put an executed notebook beside the results that it made, and its sha256 into their manifest.

    A stage that did not finish, and a notebook with an error or a cell that was not run, is an InputError.
    """
    manifest = load_manifest(folder)
    read_executed(executed)
    beside = folder / f".{NOTEBOOK}.{os.getpid()}"
    shutil.copyfile(executed, beside)
    sync(beside)
    beside.replace(folder / NOTEBOOK)
    manifest["outputs"][NOTEBOOK] = digest(folder / NOTEBOOK)
    write_json(folder / "manifest.json", manifest)


def stage_book(profile: str, results: str = "results") -> list[Path]:
    """Copy the finished notebooks of a profile into the book, all of them checked first.

    A stage that did not finish, and a notebook with an error or another one than was sealed, is an InputError.
    """
    places = chapter_places(load_profile(profile), results)
    notebooks = {chapter: make_chapter(place) for chapter, place in places.items()}
    sentences = meaning.read(root() / PAGES / "meaning.yaml")
    for folder in (root() / CHAPTERS, root() / DOWNLOADS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for chapter, notebook in notebooks.items():
        finish_figures(notebook, chapter)
        say_what_it_means(notebook, sentences.get(chapter, []), places[chapter], chapter)
        nbformat.write(notebook, root() / CHAPTERS / f"{chapter}.ipynb")
    answer = meaning.as_list(sentences.get("index", []), load_metrics(places["synthesis"].folder), "index")
    (root() / DOWNLOADS / "answer.md").write_text(answer, encoding="utf-8")  # the first page includes it
    write_vega_bundle(root() / SCRIPT)
    return [CHAPTERS / f"{chapter}.ipynb" for chapter in notebooks]


def chapter_places(profile: Profile, results: str) -> dict[str, Place]:
    """Of each chapter the stage whose notebook it is; a stage of the whole profile has one for all tasks."""
    of_runs = {
        f"{stage}-{cell.task}": Place(stage, profile.name, *cell, results)
        for cell in profile.shown()
        for stage in stages_of(profile.spec(cell.task))
    }
    return of_runs | {stage: Place(stage, profile.name, results=results) for stage in OF_PROFILE}


def read_executed(path: Path) -> Any:
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
        was_run, begins = cell.execution_count is not None, repr(cell.source[:40])
        require(was_run, f"The notebook {path} has a cell that was not run; it begins {begins}.")
    return notebook


def make_chapter(place: Place) -> Any:
    """A finished notebook as a chapter: its task in the title, its main figure first, its provenance at the end."""
    place.settle()
    manifest, where = load_manifest(place.folder), os.path.relpath(place.folder, root())
    # A reader may open and save the notebook beside the results; where it was executed, there is another copy.
    copies = [place.folder / NOTEBOOK, place.run_folder / "log" / f"{place.stage}.ipynb"]
    sealed = [path for path in copies if path.is_file() and digest(path) == manifest["outputs"].get(NOTEBOOK)]
    require(
        len(sealed) > 0,
        f"{where}/{NOTEBOOK} is not the one that was sealed, nor is its copy in log/; delete {where} and make it again "
        f"with `make book PROFILE={place.profile}`.",
    )
    notebook = read_executed(sealed[0])
    notebook.metadata.pop("papermill", None)
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    hidden = {"parameters": "hide-input", "injected-parameters": "remove-cell"}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": [*tags, *(hidden[tag] for tag in tags if tag in hidden)]})
    if place.task:
        title, *text = notebook.cells[0].source.splitlines()
        notebook.cells[0].source = "\n".join([f"{title}: {place.task}", *text])
    open_with_main_figure(notebook)
    notebook.cells.append(nbformat.v4.new_markdown_cell(footer(manifest), id="provenance"))
    return notebook


def open_with_main_figure(notebook: Any) -> None:
    """Move what the cell tagged `main-figure` shows below the first cell of the page, and say so where it was."""
    for i, cell in enumerate(notebook.cells):
        if MAIN_FIGURE in cell.metadata.tags:
            # Of a cell without source, myst-nb would leave out the output, too.
            first = nbformat.v4.new_code_cell("# The code stands below.", outputs=cell.outputs, id="main")
            first.metadata["tags"] = ["remove-input"]
            names = [figure["id"] for output in cell.outputs for figure in figures_of(output)]
            cell.outputs = []
            pointers = [f"This is [the figure](#{name}) at the top of the page." for name in names]
            notebook.cells.insert(i + 1, nbformat.v4.new_markdown_cell("\n".join(pointers), id="main-figure"))
            notebook.cells.insert(1, first)
            return


def say_what_it_means(notebook: Any, sentences: list[dict[str, Any]], place: Place, chapter: str) -> None:
    """Put the sentences of a chapter below their heading, each held against the numbers of the stage.

    A stage of the whole profile shows what is published where it has nothing itself; so do its sentences.
    """
    shelf = published() if not place.task and place.profile != "full" else None
    elsewhere = shelf.stage_metrics(place.stage) if shelf else None
    for cell in notebook.cells:
        if sentences and cell.cell_type == "markdown" and cell.source.startswith(MEANING):
            cell.source += "\n\n" + meaning.as_list(sentences, load_metrics(place.folder), chapter, elsewhere)


def footer(manifest: dict[str, Any]) -> str:
    """How the page was made, as Markdown."""
    machine, git, parameters = (manifest[name] for name in ("machine", "git", "parameters"))
    versions = {"Python": machine["python"]} | manifest["packages"]
    facts = {
        "Parameters": ", ".join(f"`{name} = {value!r}`" for name, value in parameters.items()),
        "Code": f"commit `{git['commit'] or 'unknown'}`{' with uncommitted changes' if git['dirty'] else ''}",
        "Finished": f"{manifest['finished']}, after {manifest['wall_seconds']:.0f} s"
        f"{' (resumed: an interrupted run had done a part before)' if manifest.get('resumed') else ''}; "
        f"at most {manifest['peak_memory_bytes'] / 2**20:.0f} MiB of memory",
        "Machine": f"{machine['processor']}, {machine['cores']} cores, {machine['accelerator'] or 'no GPU'}, "
        f"{machine['system']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Made by": f"`make book PROFILE={parameters['profile']}`, or this stage alone: `{manifest['command']}`",
    }
    lines = "\n".join(f"- **{name}:** {fact}" for name, fact in facts.items())
    return f"```{{admonition}} How this page was made\n:class: dropdown\n\n{lines}\n```"


def figures_of(output: Any) -> list[Any]:
    """The figures and tables in an output, as :mod:`memgen.display` writes them."""
    return list(BeautifulSoup(output.get("data", {}).get("text/html", ""), "html.parser").select("figure.memgen"))


def finish_figures(notebook: Any, chapter: str) -> None:
    """Number figures and tables in the order of the page; move the files inside them into files of their own.

    A link in the prose, such as ``[the heat map](#figure-heat_map)``, becomes *Figure 1*.
    """
    counts: Counter[str] = Counter()
    labels: dict[str, str] = {}
    folder = root() / DOWNLOADS / chapter
    for output in [output for cell in notebook.cells for output in cell.get("outputs", [])]:
        figures = figures_of(output)
        for figure in figures:
            kind = "Table" if figure.select(".memgen-table") else "Figure"
            counts[kind] += 1
            labels[figure["id"]] = label = f"{kind} {counts[kind]}"
            figure.figcaption.strong.string = f"{label}:"
            for element in figure.select("a[download], img[data-name]"):
                extract(element, folder, f"{TO_DOWNLOADS}/{chapter}")
        if figures:
            output.data["text/html"] = "\n".join(map(str, figures))
            output.data.pop("image/png", None)  # the same picture, which has its file now

    def reference(match: re.Match[str]) -> str:
        if match[1] not in labels:
            raise ValueError(f"{chapter} points to {match[1]}; it has {', '.join(labels) or 'no figure or table'}.")
        return f'<a class="reference internal" href="#{match[1]}">{labels[match[1]]}</a>'

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = REFERENCE.sub(reference, cell.source)


def extract(element: Any, folder: Path, address: str) -> None:
    """Write the data of a link or picture to a file of `folder`, which the page finds at `address`."""
    name = Path(element.get("download") or element["data-name"]).name
    attribute = "src" if element.name == "img" else "href"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(base64.b64decode(element[attribute].partition(",")[2]))
    element[attribute] = f"{address}/{name}"


def write_vega_bundle(path: Path) -> None:
    """Write the script that draws every figure of the book."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    drawing = Path(__file__).with_name("figures.js").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The names of the bundle must not meet those of Sphinx's scripts.
    path.write_text(f"(() => {{\n{bundle}\n{drawing}}})();\n", encoding="utf-8")
