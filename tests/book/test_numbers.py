"""Numbers in the prose: pasted from the results, each the one in ``metrics.json``; none is typed by hand."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup, Tag

from memgen.published import read_metrics
from memgen.study import STEERING

from .conftest import Project
from .made import PROFILE_STAGES, RUN_STAGES

CHAPTERS = [*(f"{stage}-{task}" for stage in RUN_STAGES for task in ("inference", "addition")), *PROFILE_STAGES]
PASTED = re.compile(r"\{glue:text\}`(?:(?P<page>[^`:]+)::)?(?P<key>[^`:]+)(?::s)?`")
NUMBER = re.compile(r"(\S+)( %| points| nats|)(?: \[(?:(\S+), (\S+)|n = (\d+))\])?")
INCLUDE = re.compile(r"```\{include\} (\S+)\n```")
NOT_MEASURED = "not measured"
VERDICTS = {"replicated", "smaller than reported", "not replicated", "not testable here"}

# What the miniature has no runs for: a second seed of addition, the matched form, what is published of `full`;
# and pairs in its test groups.
NOT_IN_SMOKE = re.compile(r"carried_\w+_addition|published_\w+")

# Chapters that show what is published where their profile has nothing to show.
SHOWS_PUBLISHED = ("planted", "carryover")

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
    "names": r"GPT-2|SmolLM2|Jupyter Book [12]|LLaMA-3\.2|LayerNorm-2|Python 3\.\d+|\bv[12]\b|MLP 10 ?%",
    "the study's tables and figures": r"(Table|figure) \d\b",
    "publications": r"arXiv \d{4}\.\d{5}|(EMNLP|ICLR) \d{4}|version [12]\b",
    "the level of every interval and test, and of chance in an AUROC": r"\b95 %|q < 0\.05\b|\b0\.5\b(?! %)",
    "names of runs": r"\bseeds? \d+(( to| and|,) \d+)*\b",
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


def says(text: str, record: dict) -> bool:
    """Whether a pasted text gives the record's value, interval and n, as exactly as its digits tell."""
    match = NUMBER.fullmatch(text)
    if match is None or record["value"] is None:
        return False
    in_percent = match[2] in (" %", " points")
    if in_percent != (record["unit"] in ("share 0-1", "accuracy 0-1", "difference of shares")):
        return False
    bounds = (record["ci_low"], record["ci_high"])
    expected = [record["value"], *(bounds if None not in bounds else (None, None))]
    for shown, value in zip((match[1], match[3], match[4]), expected, strict=True):
        if (shown is None) != (value is None):
            return False
        if shown is not None:
            number = float(shown.replace("\u2212", "-").replace(",", ""))
            half = 0.5001 / 10 ** len(shown.partition(".")[2])
            if abs(number - (100 if in_percent else 1) * value) > half:
                return False
    return match[5] is None or int(match[5]) == record["n"]


def records(project: Project, name: str) -> list[dict]:
    """The numbers that a chapter may show: those of its stage."""
    stage, _, task = name.partition("-")
    model = yaml.safe_load(project.read("config/smoke.yaml"))["runs"][task]["models"][0] if task else ""
    folder = f"results/smoke/{task}/{model}/seed10/{stage}" if task else f"results/smoke/{stage}"
    made_here = json.loads(project.read(f"{folder}/metrics.json"))
    return made_here + (published_records(project, name) if name in SHOWS_PUBLISHED else [])


def published_records(project: Project, stage: str) -> list[dict]:
    """What is published of a stage of the profile `full`."""
    frame = read_metrics(project.root / "book/published/full")
    frame = frame[frame.stage == stage].astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def chapter(project: Project, name: str) -> nbformat.NotebookNode:
    return nbformat.read(project.root / f"book/chapters/{name}.ipynb", as_version=4)


def glued(project: Project, name: str) -> dict[str, str]:
    """The texts that a chapter offers to sentences, by their keys."""
    outputs = [output for cell in chapter(project, name).cells for output in cell.get("outputs", [])]
    return {
        output.metadata.scrapbook.name: ast.literal_eval(next(iter(output.data.values()))).replace("\u00a0", " ")
        for output in outputs
        if "scrapbook" in output.get("metadata", {})
    }


def sources(project: Project) -> Iterator[tuple[str, list[tuple[str, str]], str]]:
    """Of every page: its name, what it pastes (chapter, key), and its HTML."""
    for name in CHAPTERS:
        prose = "\n".join(cell.source for cell in chapter(project, name).cells if cell.cell_type == "markdown")
        wanted = [(Path(match["page"] or name).stem, match["key"]) for match in PASTED.finditer(prose)]
        yield name, wanted, project.read(f"_build/html/book/chapters/{name}.html")
    for path in sorted((project.root / "book").glob("*.md")):
        text = path.read_text()
        for included in INCLUDE.findall(text):
            text = text.replace(f"```{{include}} {included}\n```", (path.parent / included).read_text())
        wanted = [(Path(match["page"]).stem, match["key"]) for match in PASTED.finditer(text)]
        yield path.stem, wanted, project.read(f"_build/html/book/{path.stem}.html")


def test_every_sentence_shows_what_the_notebook_glued(project: Project) -> None:
    texts = {name: glued(project, name) for name in CHAPTERS}
    for name, wanted, html in sources(project):
        assert pasted_texts(html) == [texts[page][key] for page, key in wanted], name


def test_every_glued_number_is_that_of_the_results(project: Project) -> None:
    compared = 0
    for name in CHAPTERS:
        known = records(project, name)
        for key, text in glued(project, name).items():
            match = NUMBER.fullmatch(text)
            if key.startswith("reported_"):
                about = {"setting": "scratch", "task": name.partition("-")[2], "target": key.removeprefix("reported_")}
                (reported,) = (cell for cell in STEERING if about.items() <= cell.items())
                assert text == f"{100 * reported['reached']:.1f} %"
            elif text == NOT_MEASURED:
                assert NOT_IN_SMOKE.fullmatch(key), f"{name} has no number for {key}"
            elif match and (match[2] or match[3] or match[5]):  # others are words, and sizes such as that of a layer
                assert any(says(text, record) for record in known), f"{name} says {text} for {key}"
                compared += 1
            elif "verdict" in key:
                assert text.partition(" (")[0] in VERDICTS, f"{name} says {text} for {key}"
    assert compared >= 80


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
        ('<p>The probe tells <span class="pasted-text">97.4 % [95.1, 99.1]</span> of them.</p>', []),
        ('<p>The study reports <span class="study">83.7 %</span>.</p>', []),
        ("<p>GPT-2, the label +1 (or 0), an interval of 95 %, seeds 0 to 7</p>", []),
        ("<p>a share of 0.7</p>", ["a share of 0.7"]),
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
        ("97.4 % [95.1, 99.1]", True),
        ("97.5 % [95.1, 99.1]", False),
        ("97.4 % [95.1, 99.2]", False),
        ("97.4 % [n = 1002]", False),
        ("0.974 [0.951, 0.991]", False),
        ("not measured", False),
    ],
)
def test_another_number_than_that_of_the_results_is_noticed(text: str, right: bool) -> None:
    record = {"value": 0.97444, "ci_low": 0.951, "ci_high": 0.991, "n": 1002, "unit": "accuracy 0-1"}
    assert says(text, record) is right


@pytest.mark.parametrize("name", CHAPTERS)
def test_results_come_first_and_their_meaning_last(project: Project, name: str) -> None:
    page = BeautifulSoup(project.read(f"_build/html/book/chapters/{name}.html"), "html.parser").find("article")
    assert page is not None
    first, *_, last = page.find_all("h2")
    opening = first.find_all_previous(["figure", "span"])
    assert [tag for tag in opening if "memgen" in tag.get("class", [])], "the main figure"
    assert [tag for tag in opening if "pasted-text" in tag.get("class", [])], "the answer, with numbers"
    assert last.get_text().startswith("What this means")
    assert page.select(".dropdown"), "how the page was made"
