"""The page where a reader picks an input, moves the dose of a shift, and sees the answers' probabilities.

The steering notebooks compute all that the page shows (``tables/try_it.csv``). It travels inside the page, as text that
no prompt can leave, so that the page works from a file and without a network.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from memgen.display import without_formulas
from memgen.manifest import load_manifest
from memgen.place import Place

TABLE = "tables/try_it.csv"
FRAGMENT = "try/inputs.html"  # in the folder of downloads; book/try.md includes it
ENDS = {-1.0: "−1", 0.0: "0", 1.0: "+1"}  # the doses that the page's plain table shows
BEHAVIORS = {"memorization": "memorized", "generalization": "inferred", "other": "other"}
FIELDS = {"prompt": "Prompt", "answer_memorization": "Memorized", "answer_generalization": "Inferred"}
AS_TEXT = dict.fromkeys(FIELDS, str)  # 0011 and nan are answers


def read(places: Iterable[Place]) -> dict[str, Path]:
    """The table of each task that has one among the stages of the book.

    Raises
    ------
    InputError
        If a table was changed after it was made.
    """
    tables = {}
    for place in places:
        outputs = load_manifest(place.folder)["outputs"]
        if TABLE in outputs:
            place.check_files({TABLE: outputs[TABLE]})
            tables[place.task] = place.folder / TABLE
    return tables


def write(tables: Mapping[str, Path], downloads: Path) -> None:
    """Write what the page includes, and the data that it links to, into the folder of downloads."""
    (downloads / FRAGMENT).parent.mkdir(parents=True, exist_ok=True)
    for task, path in tables.items():
        text = without_formulas(path.read_text(encoding="utf-8"))
        (downloads / FRAGMENT).with_name(f"try_it-{task}.csv").write_text(text, encoding="utf-8")
    frames = {task: pd.read_csv(path, dtype=AS_TEXT, keep_default_na=False) for task, path in tables.items()}
    (downloads / FRAGMENT).write_text(fragment(frames), encoding="utf-8")


def fragment(frames: Mapping[str, pd.DataFrame]) -> str:
    """The part of the page that a reader works with; `frames` hold ``try_it.csv`` of each task."""
    data = json.dumps({task: inputs(frame) for task, frame in frames.items()}, ensure_ascii=False)
    script = Path(__file__).with_name("tryit.js").read_text(encoding="utf-8")
    tables = "\n".join(plain_table(task, frame) for task, frame in frames.items())
    return f"""<div class="memgen-try" id="memgen-try">
<noscript><p>Without scripts nothing can be moved here; the tables below show both ends and the middle.</p></noscript>
</div>
<script type="application/json" id="memgen-try-data">{data.replace("<", chr(92) + "u003c")}</script>
<script>
{script}</script>
{tables}
"""


def inputs(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """For each input its words, and for each dose the three probabilities."""
    return [
        {name: str(rows[name].iloc[0]) for name in FIELDS}
        | {"doses": rows.dose.tolist(), "p": {name: rows[f"p_{name}"].tolist() for name in BEHAVIORS}}
        for _, rows in frame.sort_values("dose").groupby("input")
    ]


def plain_table(task: str, frame: pd.DataFrame) -> str:
    """The same at few doses, as a table that needs no scripts."""
    columns = {
        (f"p_{name}", dose): f"p({words}) at dose {ENDS[dose]}" for dose in ENDS for name, words in BEHAVIORS.items()
    }
    wide = frame.pivot(index=["input", *FIELDS], columns="dose", values=[f"p_{name}" for name in BEHAVIORS])
    wide = wide[list(columns)].set_axis(list(columns.values()), axis=1).reset_index([*FIELDS]).rename(columns=FIELDS)
    label = f"All inputs of {escape(task)}, as a table"
    return f"""<details><summary>{label}</summary>
<p><a href="../_static/downloads/try/try_it-{task}.csv" download>data of all doses (CSV)</a></p>
<div class="memgen-table" role="group" aria-label="{label}" tabindex="0">
{wide.to_html(index=False, border=0, float_format="{:.3f}".format)}
</div></details>"""
