"""Numbers in the prose of the book: each is pasted from ``metrics.json``, so that no sentence can drift from a result.

A sentence pastes ``accuracy_all_conflicts``, a number of its own chapter, with the role ``glue:text`` of myst-nb, and
``chapters/prediction-inference.ipynb::accuracy_all_conflicts:s``, one of another chapter. The numbers join a
chapter when it is staged, in one cell that no reader sees: executed notebooks stay free of them, and nothing has to run
again when only their form changes.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import nbformat

NOT_MEASURED = "not measured"
GLUED = "application/papermill.record/"  # myst-nb keeps such an output for `glue` and shows nothing
PASTED = re.compile(r"\{glue:text\}`(?:(?P<page>[^`:]+)::)?(?P<key>[^`:]+)(?::s)?`")
DIFFERENCE = re.compile(r"\b(minus|lost|above)\b")  # in the definition of a difference between two shares
LAYER = re.compile(r"_layer(\d+)(?=_|$)")
COUNTED = ("inputs", "entities", "pairs", "steps", "neurons")


def glue_key(name: str) -> str:
    """The name under which prose pastes a metric: its own, with ``_`` for what a role cannot hold, such as ``:``."""
    return re.sub(r"[^\w.%-]+", "_", name).strip("_")


def in_words(metric: Mapping[str, Any]) -> str:
    """A metric as a sentence says it: ``97.4 % [95.1, 99.1; n = 1002]``.

    Shares are in percent, differences of shares in percentage points; a number that was estimated has its interval
    and n. Spaces do not break, so that a number stays on one line with its unit.

    Parameters
    ----------
    metric : mapping
        An entry of ``metrics.json``.
    """
    value, low, high = (_none(metric[field]) for field in ("value", "ci_low", "ci_high"))
    if value is None:
        return NOT_MEASURED
    unit, form = metric["unit"], _plain
    is_share = unit in ("share 0-1", "accuracy 0-1", "difference of shares")
    if unit in COUNTED:
        form = _count
    elif is_share:
        form = _percent
    text = form(value)
    if is_share:
        is_difference = unit == "difference of shares" or DIFFERENCE.search(metric["definition"])
        text += " points" if is_difference else " %"
    elif unit == "nats":
        text += " nats"
    n = f"n = {int(metric['n'])}"
    if low is not None and high is not None:
        text += f" [{form(low)}, {form(high)}; {n}]"
    elif unit not in COUNTED:
        text += f" [{n}]"
    return text.replace(" ", "\u00a0").replace(";\u00a0", "; ")


def texts(metrics: Iterable[Mapping[str, Any]], called: Mapping[str, str] | None = None) -> dict[str, str]:
    """What each metric's key stands for; the deepest layer of the stage goes by ``last_layer``, too.

    Parameters
    ----------
    metrics : iterable of mappings
        The entries of ``metrics.json``.
    called : mapping, optional
        What to write for a part of the names: a profile with several models of a task names the shown one with its
        model, and a sentence cannot know it.

    Raises
    ------
    ValueError
        If two metrics would have one key.
    """
    found: dict[str, str] = {}
    for metric in metrics:
        name = metric["name"]
        for long, short in (called or {}).items():
            name = name.replace(long, short)
        key = glue_key(name)
        if key in found:
            raise ValueError(f"two metrics would be pasted as {key!r}; one of them is {metric['name']!r}.")
        found[key] = in_words(metric)
    depths = [int(layer) for key in found for layer in LAYER.findall(key)]
    last = f"_layer{max(depths, default=0)}"
    return found | {
        key.replace(last, "_last_layer"): text for key, text in found.items() if LAYER.search(key) and last in key
    }


def verdicts(table: Iterable[Mapping[str, str]], called: Mapping[str, str] | None = None) -> dict[str, str]:
    """The verdict on each claim by the key ``verdict_<claim>_<task>``.

    A claim goes by its letter, and by what follows a colon where there are several:
    ``verdict_c_the_study_s_shift_addition``.
    """
    found = {}
    for row in table:
        letter, _, words = row["claim"].partition(".")
        variant = words.partition(": ")[2]
        for run, verdict in row.items():
            if run != "claim":
                found[glue_key(f"verdict {letter} {variant} {(called or {}).get(run, run)}")] = verdict or NOT_MEASURED
    return found


def pasted(source: str) -> list[tuple[str, str]]:
    """The numbers that a text pastes, in order: the page that has them (empty: its own) and their keys."""
    return [(match["page"] or "", match["key"]) for match in PASTED.finditer(source)]


def glue_cell(known: Mapping[str, str], wanted: Iterable[str]) -> Any:
    """A cell from which myst-nb pastes; what is wanted and unknown was not measured in this run.

    So it is where a run has too few pairs for a number, or shows one behaviour only.
    """
    outputs = []
    for key, text in (dict.fromkeys(wanted, NOT_MEASURED) | dict(known)).items():
        outputs.append(
            nbformat.v4.new_output(
                "display_data",
                data={f"{GLUED}text/plain": repr(text)},  # quoted, as IPython shows text: "1,234" is no tuple
                metadata={"scrapbook": {"name": key, "mime_prefix": GLUED}},
            )
        )
    cell = nbformat.v4.new_code_cell("# The numbers that sentences paste", outputs=outputs, execution_count=1)
    cell.id, cell.metadata = "numbers", nbformat.from_dict({"tags": ["remove-cell"]})
    return cell


def _none(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _percent(value: float) -> str:
    return _signed(f"{100 * value:.1f}")


def _count(value: float) -> str:
    return _signed(f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.1f}")


def _plain(value: float) -> str:
    return _signed(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")


def _signed(text: str) -> str:
    """With a minus sign, and without one before a zero."""
    return text.removeprefix("-") if not float(text.replace(",", "")) else text.replace("-", "\u2212")
