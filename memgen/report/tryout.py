"""The page where a reader picks an input, moves the strength of a shift, and sees the answers' probabilities.

All that the page shows was computed by the steering notebooks (``tables/try_it.csv``). It travels inside the page, as
text that no prompt can leave, so that the page works from a file and without a network.
"""

import json
import shutil
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from memgen import config
from memgen.config import InputError
from memgen.report import stages
from memgen.report.provenance import digest
from memgen.report.stages import Place

TABLE = "tables/try_it.csv"
FRAGMENT = "try/inputs.html"  # in the folder of downloads; book/try.md includes it
ENDS = (-1.0, 0.0, 1.0)  # the strengths that the page's plain table shows
BEHAVIORS = ("memorization", "generalization", "other")
FIELDS = ["input", "prompt", "answer_memorization", "answer_generalization"]


def write(places: Iterable[Place], downloads: Path) -> None:
    """Write what the page *Try it* includes, and the data that it links to, into the folder of downloads.

    Parameters
    ----------
    places
        The stages that the book shows; those of steering have the data.

    Raises
    ------
    InputError
        If a table was changed after it was made.
    """
    tables = {place.task: table for place in places if place.stage == "steering" and (table := _table(place))}
    (downloads / FRAGMENT).parent.mkdir(parents=True, exist_ok=True)
    for task, path in tables.items():
        shutil.copyfile(path, (downloads / FRAGMENT).with_name(f"try_it-{task}.csv"))
    frames = {task: pd.read_csv(path) for task, path in tables.items()}
    (downloads / FRAGMENT).write_text(fragment(frames), encoding="utf-8")


def fragment(frames: dict[str, pd.DataFrame]) -> str:
    """The part of the page that a reader works with; `frames` hold `try_it.csv` of each task."""
    if not frames:
        return "<p>These runs were made before there was anything to try here; make the book again.</p>\n"
    data = json.dumps({task: _inputs(frame) for task, frame in frames.items()}, ensure_ascii=False)
    script = Path(__file__).with_name("tryout.js").read_text(encoding="utf-8")
    parts = [
        '<div class="memgen-try" id="memgen-try">',
        "<noscript><p>Without scripts nothing can be moved here; the tables below show both ends and the middle.</p>"
        "</noscript>",
        "</div>",
        f'<script type="application/json" id="memgen-try-data">{data.replace("<", chr(92) + "u003c")}</script>',
        f"<script>\n{script}</script>",
    ]
    return "\n".join([*parts, *(_plain(task, frame) for task, frame in frames.items())]) + "\n"


def _table(place: Place) -> Path | None:
    """A stage's table, as it was made; None where the stage has none."""
    expected = stages.load_manifest(place.folder)["outputs"].get(TABLE)
    if expected is None:
        return None
    path = place.folder / TABLE
    if not path.is_file() or digest(path) != expected:
        raise InputError(f"{path.relative_to(config.root())} was changed after it was made; make it with `make book`.")
    return path


def _inputs(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """For each input its words, and for each strength the three probabilities."""
    result = []
    for _, own in frame.groupby("input", sort=False):
        own = own.sort_values("alpha")
        about = {name: str(own[name].iloc[0]) for name in FIELDS[1:]}
        numbers = {name: own[f"p_{name}"].tolist() for name in BEHAVIORS}
        result.append(about | {"alphas": own.alpha.tolist(), "p": numbers})
    return result


def _plain(task: str, frame: pd.DataFrame) -> str:
    """The same at few strengths, as a table that needs no scripts."""
    columns = ["Prompt", "Memorized", "Inferred"] + [
        f"{name} at α = {_signed(alpha)}" for alpha in ENDS for name in ("p(memorized)", "p(inferred)", "p(other)")
    ]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    rows = []
    for _, own in frame.groupby("input", sort=False):
        at = own.set_index("alpha")
        cells = [escape(str(own[name].iloc[0])) for name in FIELDS[1:]]
        cells += [f"{at.loc[alpha, f'p_{name}']:.3f}" for alpha in ENDS for name in BEHAVIORS]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    link = f'<a href="../_static/downloads/try/try_it-{task}.csv" download>data of all strengths (CSV)</a>'
    label = f"All inputs of {escape(task)}, as a table"
    body = "\n".join(rows)
    return f"""<details><summary>{label}</summary><p>{link}</p>
<div class="memgen-table" role="group" aria-label="{label}" tabindex="0">
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div></details>"""


def _signed(alpha: float) -> str:
    return f"{alpha:+g}".replace("-", "−") if alpha else "0"
