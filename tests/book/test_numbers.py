"""Numbers in the prose: pasted from the results, each the one in ``metrics.json``; none is typed by hand."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup, Tag

from memgen.report import numbers

from .conftest import Project

STAGES = ("data", "training", "localization", "prediction", "steering")
TASKS = ("inference", "addition")
CHAPTERS = [*(f"{stage}-{task}" for stage in STAGES for task in TASKS), "carryover", "synthesis"]
PARTS = ("What is asked", "How", "Controls", "In this chapter we have seen")
VERDICTS = {"holds", "holds in part", "does not hold"}

# What the miniature has no runs for: a second seed of inference, and the matched forms.
NOT_IN_SMOKE = re.compile(r"seeds_\w+_inference_mlp\.hook_post|forms_late_\w+_left")

# Pages of which no run could give the numbers.
NOT_OF_THIS_BOOKS_RUNS = {
    "tried.html": "notes on earlier trials, whose runs were not kept",
    "reference.html": "docstrings of the code",
    "references.html": "the bibliography",
}

# No sentence: tables, figures, captions, code, formulas, what cells print, the provenance of a page, lists of links.
NO_PROSE = "table, figure, figcaption, pre, code, math, script, style, footer, nav, .cell_output, .dropdown"
# A number that has its source in a sentence of its own: pasted; marked as the study's (or another work's); marked as
# set beforehand, such as a limit. Links to references and figures bear numbers, too.
HAS_A_SOURCE = ".pasted-text, .study, .set, a[href*='references.html'], a[href^='#']"
ALLOWED = {
    "names": r"GPT-2|LLaMA-3\.2|Python 3\.\d+|\bv[12]\b|MLP 10 ?%",
    "publications": r"arXiv \d{4}\.\d{5}|(EMNLP|ICLR) \d{4}|version [12]\b",
    "the level of every interval": r"\b95 %",
    "labels, bounds, the temperature, and the number of a claim": r"(?<![\w.,])[+\-−]?[01](?![\w%]|[.,]\d| %)",
}


def typed_by_hand(html: str) -> list[str]:
    """What is left of the digits in an article's sentences, each with its surroundings."""
    found = []
    for block in blocks(html):
        for part in block.select(HAS_A_SOURCE):
            part.decompose()
        text = " ".join(block.get_text().split())
        for pattern in ALLOWED.values():
            text = re.sub(pattern, "", text)
        found += [text[max(0, match.start() - 40) : match.end() + 20] for match in re.finditer(r"\d[\d.,]*", text)]
    return found


def blocks(html: str) -> Iterator[Tag]:
    """The paragraphs, list items and definitions of an article, without what is no prose."""
    article = BeautifulSoup(html, "html.parser").find("article")
    assert article is not None
    for part in article.select(NO_PROSE):
        part.decompose()
    for block in article.select("p, li, dt, dd"):
        if not block.find(["p", "li"]):
            yield block


def pasted_texts(html: str) -> list[str]:
    """The pasted numbers of an article, in order."""
    return [
        span.get_text().replace("\u00a0", " ") for span in BeautifulSoup(html, "html.parser").select(".pasted-text")
    ]


def says(text: str, metric: dict) -> bool:
    """Whether a pasted text gives the metric's value, interval and n, as exactly as its digits tell."""
    if metric["value"] is None:
        return text == "not measured"
    match = re.fullmatch(r"(\S+)( %| points| nats|)(?: \[(?:(\S+), (\S+); )?n = (\d+)\])?", text)
    if match is None:
        return False
    in_percent = match[2] in (" %", " points")
    if in_percent != (metric["unit"] in ("share 0-1", "accuracy 0-1", "difference of shares")):
        return False
    bounds = (metric["ci_low"], metric["ci_high"])
    expected = [metric["value"], *(bounds if None not in bounds else (None, None))]
    for shown, value in zip((match[1], match[3], match[4]), expected, strict=True):
        if (shown is None) != (value is None):
            return False
        if shown is not None:
            number = float(shown.replace("\u2212", "-").replace(",", ""))
            half = 0.5001 / 10 ** len(shown.partition(".")[2])
            if abs(number - (100 if in_percent else 1) * value) > half:
                return False
    return match[5] is None or int(match[5]) == metric["n"]


def folder_of(chapter: str, project: Project) -> Path:
    """Where the stage of a chapter left its results."""
    stage, _, task = chapter.partition("-")
    if not task:
        return project.root / "results/smoke" / stage
    model = yaml.safe_load(project.read("config/smoke.yaml"))["runs"][task][0]
    return project.root / "results/smoke" / task / model / "seed0" / stage


def recorded(folder: Path) -> dict[str, dict]:
    """The metrics of a stage by the key under which a sentence pastes them."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    found = {numbers.glue_key(re.sub(r"(inference|addition) \([\w-]+\)", r"\1", one["name"])): one for one in metrics}
    depths = [int(match[1]) for match in map(re.compile(r"_layer(\d+)").search, found) if match]
    deepest = f"_layer{max(depths, default=0)}"
    return found | {key.replace(deepest, "_last_layer"): one for key, one in found.items() if deepest in key}


def sources(project: Project) -> Iterator[tuple[str, list[tuple[str, str]], str]]:
    """Of every page: its name, what it pastes (chapter, key), and its HTML."""
    for name in CHAPTERS:
        notebook = nbformat.read(project.root / f"book/chapters/{name}.ipynb", as_version=4)
        prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        yield name, numbers.pasted(prose), project.read(f"_build/html/book/chapters/{name}.html")
    for path in sorted((project.root / "book").glob("*.md")):
        html = project.read(f"_build/html/book/{path.stem}.html")
        yield path.stem, numbers.pasted(path.read_text(encoding="utf-8")), html


def test_every_pasted_number_is_that_of_the_results(project: Project) -> None:
    metrics = {chapter: recorded(folder_of(chapter, project)) for chapter in CHAPTERS}
    verdicts = pd.read_csv(folder_of("synthesis", project) / "tables/verdicts.csv").set_index("claim")
    compared = 0
    for name, wanted, html in sources(project):
        shown = pasted_texts(html)
        assert len(shown) == len(wanted), f"{name} pastes {len(wanted)} numbers and shows {len(shown)}"
        for (page, key), text in zip(wanted, shown, strict=True):
            chapter = Path(page).stem or name
            if match := re.fullmatch(r"verdict_([0a-d])_?(\w*)_(inference|addition)", key):
                own = verdicts[[numbers.glue_key(claim).startswith(match[1]) for claim in verdicts.index]]
                own = own[[numbers.glue_key(claim).endswith(match[2]) for claim in own.index]]
                (column,) = (column for column in own if column.partition(" ")[0] == match[3])
                assert text in VERDICTS
                assert [text] == own[column].to_list(), key
            elif key in metrics[chapter]:
                assert says(text, metrics[chapter][key]), f"{name} says {text} for {key}: {metrics[chapter][key]}"
            else:
                assert text == "not measured", f"{name} says {text} for {key}, which {chapter} did not record"
            compared += 1
    assert compared >= 80


def test_every_number_that_is_pasted_exists(project: Project) -> None:
    """No key is misspelt: if not this run, then one of another task recorded it."""
    known = {
        stage: set().union(
            *(recorded(path.parent) for path in project.root.glob(f"results/smoke/**/{stage}/metrics.json"))
        )
        for stage in (*STAGES, "carryover", "synthesis")
    }
    for name, wanted, _ in sources(project):
        for page, key in wanted:
            stage = (Path(page).stem or name).partition("-")[0]
            is_known = key in known[stage] or key.startswith("verdict_") or NOT_IN_SMOKE.fullmatch(key)
            assert is_known, f"{name} pastes {key}, which no {stage} records"


def test_no_number_is_typed_by_hand(project: Project) -> None:
    for path in sorted((project.root / "_build/html/book").rglob("*.html")):
        if path.name not in NOT_OF_THIS_BOOKS_RUNS:
            assert typed_by_hand(path.read_text(encoding="utf-8")) == [], path.name


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("<p>The probe tells 97.4 % of them.</p>", ["The probe tells 97.4 % of them."]),
        ("<ul><li>of 1002 inputs</li></ul>", ["of 1002 inputs"]),
        ("<p>in 11 % of the cases</p>", ["in 11 % of the cases"]),
        ('<p>The probe tells <span class="pasted-text">97.4 % [95.1, 99.1; n = 1002]</span> of them.</p>', []),
        ('<p>The study reports <span class="study">83.7 %</span>.</p>', []),
        ("<p>GPT-2, the label +1 (or 0), an interval of 95 %</p>", []),
        ("<p>a share of 0.5</p>", ["a share of 0.5"]),
        ("<p>a share of 1 %</p>", ["a share of 1 %"]),
        ("<table><tr><td><p>0.97</p></td></tr></table><figure><figcaption><p>0.97</p></figcaption></figure>", []),
        ("<pre>x = 17</pre><p><code>alpha=17</code></p>", []),
    ],
)
def test_a_typed_number_is_noticed(sentence: str, found: list[str]) -> None:
    assert typed_by_hand(f"<html><p>17</p><article>{sentence}</article></html>") == found


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("97.4 % [95.1, 99.1; n = 1002]", True),
        ("97.5 % [95.1, 99.1; n = 1002]", False),
        ("97.4 % [95.1, 99.2; n = 1002]", False),
        ("97.4 % [95.1, 99.1; n = 1003]", False),
        ("97.4 % [n = 1002]", False),
        ("0.974 [0.951, 0.991; n = 1002]", False),
        ("not measured", False),
    ],
)
def test_another_number_than_that_of_the_results_is_noticed(text: str, right: bool) -> None:
    metric = {"value": 0.97444, "ci_low": 0.951, "ci_high": 0.991, "n": 1002, "unit": "accuracy 0-1"}
    assert says(text, metric) is right


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapters_have_the_same_parts(project: Project, name: str) -> None:
    page = BeautifulSoup(project.read(f"_build/html/book/chapters/{name}.html"), "html.parser").find("article")
    assert page is not None
    headings = [heading.get_text().rstrip("#") for heading in page.find_all("h2")]
    assert [heading for heading in headings if heading in PARTS] == list(PARTS) or name.startswith("data")
    assert set(PARTS) <= set(headings)
    assert headings[-1] == PARTS[-1]
    end = page.find(id="in-this-chapter-we-have-seen")
    assert isinstance(end, Tag)
    assert len(end.select(".pasted-text")) >= 4
    assert end.select(".dropdown"), "the provenance stands at the foot of the page"
