"""What results mean: sentences of the pages, each with the inequalities by which it holds.

``book/meaning.yaml`` has a list for each page: what the sentence `says`, and under `holds` its conditions, all of which
must be met. A condition selects numbers of the stage with a query, `these`; each of them must lie `above` or `below` a
number, after what `than` selects was taken away (the mean of it, times `times` if given). `use` names another column
than `value`, such as `ci_low`.
"""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

HOLDS, CONTRADICTED, NOT_MEASURED = "", "**Not borne out by these results:** ", "*Not measured here:* "
HOLDS_IN_PUBLISHED = "*In the published runs:* "


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The sentences of every page; none where there is no such file."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def verdict(sentence: dict[str, Any], metrics: pd.DataFrame) -> str:
    """Whether the numbers of a stage hold a sentence: HOLDS, CONTRADICTED, or NOT_MEASURED if a number is missing."""
    met = [_met(condition, metrics) for condition in sentence["holds"]]
    return CONTRADICTED if False in met else NOT_MEASURED if None in met else HOLDS


def _met(condition: dict[str, Any], metrics: pd.DataFrame) -> bool | None:
    column = condition.get("use", "value")
    try:
        values = metrics.query(condition["these"])[column].astype(float)
        if "than" in condition:
            values = values - condition.get("times", 1) * metrics.query(condition["than"])[column].astype(float).mean()
    except pd.errors.UndefinedVariableError:  # a coordinate that no number of the stage has
        return None
    if values.isna().any() or values.empty:
        return None
    above, below = condition.get("above", -math.inf), condition.get("below", math.inf)
    return bool(values.between(above, below, inclusive="neither").all())


def as_list(
    sentences: list[dict[str, Any]], metrics: pd.DataFrame, page: str, published: pd.DataFrame | None = None
) -> str:
    """Sentences as a Markdown list; those that the numbers do not bear out are marked, and printed.

    What they do not measure is held against `published` numbers, if given, and marked as such.
    """
    lines = []
    for sentence in sentences:
        found, words = verdict(sentence, metrics), " ".join(sentence["says"].split())
        if found == NOT_MEASURED and published is not None and verdict(sentence, published) == HOLDS:
            found = HOLDS_IN_PUBLISHED
        lines.append(f"- {found}{words}")
        if found == CONTRADICTED:
            print(f"The results do not bear out a sentence of {page}: {words}")
    return "\n".join(lines)
