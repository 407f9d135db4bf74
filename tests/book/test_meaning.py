"""What pages say the results mean: each sentence holds in every published seed; what does not is marked and told."""

from pathlib import Path

import pandas as pd
import pytest

from book.build import meaning
from memgen.published import Published, published

SENTENCES = meaning.read(Path(__file__).resolve().parents[2] / "book/meaning.yaml")


@pytest.fixture(scope="module")
def full() -> Published:
    """What is published of the study's protocol."""
    found = published("full")
    assert found is not None
    return found


def numbers(full: Published, page: str) -> list[pd.DataFrame]:
    """The numbers that a page is about: of a stage over all runs, or of each seed of a task's stage."""
    stage, _, task = ("synthesis" if page == "index" else page).partition("-")
    if not task:
        joint = published("joint")  # of which carry-over speaks, too
        assert joint is not None
        of_stage = [full.stage_metrics(stage), *([joint.stage_metrics(stage)] if stage == "carryover" else [])]
        return [pd.concat(of_stage, ignore_index=True)]
    metrics = full.metrics.query("stage == @stage and task == @task")
    return [of_seed for _, of_seed in metrics.groupby("seed")]


@pytest.mark.parametrize("page", SENTENCES)
def test_published_results_hold_every_sentence(full: Published, page: str) -> None:
    found = numbers(full, page)
    assert len(found) == (4 if "-" in page else 1)
    for sentence in SENTENCES[page]:
        assert [meaning.verdict(sentence, metrics) for metrics in found] == [meaning.HOLDS] * len(found), sentence


NUMBERS = pd.DataFrame(
    {"measure": ["top", "top", "random", "none"], "value": [0.6, 0.8, 0.3, None], "ci_low": [0.5, 0.7, -0.1, None]}
)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"these": "measure == 'top'", "above": 0.5}, meaning.HOLDS),
        ({"these": "measure == 'top'", "above": 0.5, "below": 0.7}, meaning.CONTRADICTED),
        ({"these": "measure == 'top'", "use": "ci_low", "above": 0.5}, meaning.CONTRADICTED),
        ({"these": "measure == 'top'", "than": "measure == 'random'", "above": 0.25}, meaning.HOLDS),
        ({"these": "measure == 'top'", "than": "measure == 'random'", "times": 2.5, "above": 0}, meaning.CONTRADICTED),
        ({"these": "measure == 'none'", "above": 0}, meaning.NOT_MEASURED),
        ({"these": "measure == 'another'", "above": 0}, meaning.NOT_MEASURED),
        ({"these": "layer == 3", "above": 0}, meaning.NOT_MEASURED),
    ],
)
def test_a_sentence_holds_where_all_its_conditions_are_met(
    condition: dict, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = {"says": "It does.", "holds": [{"these": "measure == 'random'", "below": 0.5}, condition]}
    assert meaning.verdict(sentence, NUMBERS) == found
    assert meaning.as_list([sentence], NUMBERS, "a page") == f"- {found}It does."
    told = capsys.readouterr().out
    assert told == (
        "The results do not bear out a sentence of a page: It does.\n" if found == meaning.CONTRADICTED else ""
    )


@pytest.mark.parametrize(
    ("measure", "mark"),
    [("top", meaning.HOLDS_IN_PUBLISHED), ("none", meaning.NOT_MEASURED), ("random", meaning.NOT_MEASURED)],
)
def test_what_is_not_measured_may_hold_in_published_numbers(measure: str, mark: str) -> None:
    sentence = {"says": "It does.", "holds": [{"these": f"measure == '{measure}'", "above": 0.5}]}
    assert meaning.as_list([sentence], NUMBERS[:0], "a page", NUMBERS) == f"- {mark}It does."


@pytest.fixture(scope="module")
def graded() -> pd.DataFrame:
    """The published main runs of the graded design, of which pages speak without numbers."""
    found = published("graded")
    assert found is not None
    return found.metrics.query("task in ['graded_inference', 'graded_addition'] and model == 'gpt2-3x64'")


def test_both_behaviors_are_learned(graded: pd.DataFrame) -> None:
    accuracy = graded.query("stage == 'training' and measure == 'accuracy'")
    assert len(accuracy) == 2 * 2 * 8
    assert (accuracy.value >= 0.98).all()


def test_inference_does_not_hang_on_the_top_tenth_of_the_neurons(graded: pd.DataFrame) -> None:
    ablated = graded.query("measure == 'ablation' and ranking == 'attribution' and inputs == 'inferred_only'")
    assert len(ablated) == 2 * 8
    assert (ablated.value >= 0.9).all()


def test_a_fitted_shift_costs_the_accuracy_of_the_other_behavior(graded: pd.DataFrame) -> None:
    lost = graded.query("measure == 'lost' and method == 'fitted_mlp'")
    other_kind = lost.query("(target == 'memorization') == (inputs == 'inferred_only')")
    mean = other_kind.groupby(["base_task", "target"]).value.mean()
    assert len(mean) == 4
    assert (mean > 0.5).all()


def test_a_random_tenth_can_be_steered_too(graded: pd.DataFrame) -> None:
    reached = graded.query(
        "measure == 'reached' and method == 'fitted_random_tenth' and control.isna() and population == 'conflicts'"
    )
    assert (reached.groupby(["base_task", "target"]).value.mean() > 0.5).all()
