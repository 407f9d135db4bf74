"""The verdicts: planted truths must be told, null results must not pass, and what is missing decides nothing."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from memgen import intervals
from memgen.synthesis import verdicts
from memgen.synthesis.verdicts import NOT_REPLICATED, NOT_TESTABLE, REPLICATED, SMALLER
from tests.synthesis.runs import plant, run, without

NEW = range(10, 18)
NET = "measure == 'net' and population == 'conflicts' and method == 'study' and target == '{}'"
LOST = "measure == 'lost' and method == 'study' and target == '{}' and inputs == '{}'"


def verdict_of(metrics, matched=None) -> pd.Series:
    """The verdicts by claim."""
    matched = run(range(3), "matched") if matched is None else matched
    return verdicts.verdicts(metrics, matched).set_index("claim").verdict


# --- the rule


@pytest.mark.parametrize(
    ("mean", "half", "p", "verdict"),
    [
        (0.8, 0.1, 0.001, REPLICATED),
        (0.8, 0.1, 0.06, NOT_TESTABLE),
        (0.3, 0.1, 0.001, SMALLER),
        (0.3, 0.1, 0.06, NOT_REPLICATED),
        (0.1, 0.9, 0.5, NOT_TESTABLE),
        (-0.5, 0.1, 0.001, NOT_REPLICATED),  # an effect of the other sign is none
        (0.3, np.nan, 0.001, NOT_TESTABLE),
        (np.nan, np.nan, np.nan, NOT_TESTABLE),
    ],
)
def test_two_questions_give_four_verdicts(mean, half, p, verdict):
    assert verdicts.judge(intervals.Estimate(mean, mean - half, mean + half, 8), p, 0.0, 0.7) == verdict


def test_without_a_reported_size_there_is_no_verdict():
    assert verdicts.judge(intervals.Estimate(0.8, 0.7, 0.9, 8), 0.001, 0.0, np.nan) == NOT_TESTABLE


@pytest.mark.parametrize(
    ("collateral", "matched", "verdict"),
    [
        (0.10, 0.45, REPLICATED),
        (0.11, 0.9, SMALLER),  # with damage
        (0.0, 0.44, SMALLER),  # only where the formats differ
        (np.nan, 0.9, NOT_TESTABLE),
        (0.0, np.nan, NOT_TESTABLE),
        (np.nan, 0.1, SMALLER),
    ],
)
def test_steering_is_replicated_only_without_damage_and_in_both_forms(collateral, matched, verdict):
    assert verdicts.with_conditions(REPLICATED, collateral, matched, 0.9) == verdict
    for other in (SMALLER, NOT_REPLICATED, NOT_TESTABLE):
        assert verdicts.with_conditions(other, collateral, matched, 0.9) == other


@pytest.mark.parametrize("scatter", [0.02, 0.3])
@pytest.mark.parametrize("n", [4, 8])
def test_a_null_result_is_not_replicated_beyond_the_level(scatter, n):
    """Six null endpoints at once: the chance that any of them is *replicated* or *smaller* stays below the level."""
    rng, wrong, n_times = np.random.default_rng(0), 0, 400
    for values in rng.normal(0, scatter, (n_times, 6, n)).clip(-1, 1):
        p = intervals.holm([verdicts.p_value(row, 0.0) for row in values])
        found = [
            verdicts.judge(intervals.over_seeds(row, (-1, 1)), corrected, 0.0, 0.3)
            for row, corrected in zip(values, p, strict=True)
        ]
        wrong += any(verdict in (REPLICATED, SMALLER) for verdict in found)
    assert wrong / n_times < verdicts.LEVEL + 3 * np.sqrt(verdicts.LEVEL * (1 - verdicts.LEVEL) / n_times)


def test_an_effect_that_can_be_seen_is_seen_as_often_as_stated():
    rng = np.random.default_rng(0)
    level = verdicts.LEVEL / 6
    effect = verdicts.detectable(scipy.stats.norm.ppf((np.arange(8) + 0.5) / 8))
    scale = np.std(scipy.stats.norm.ppf((np.arange(8) + 0.5) / 8), ddof=1)
    seen = [verdicts.p_value(values, 0.0) <= level for values in rng.normal(effect, scale, (1000, 8))]
    assert np.mean(seen) == pytest.approx(verdicts.POWER, abs=0.04)


def test_p_value():
    values = np.array([0.1, 0.2, 0.35, 0.3])
    assert verdicts.p_value(values, 0.1) == pytest.approx(scipy.stats.ttest_1samp(values, 0.1).pvalue)
    assert verdicts.p_value(np.full(8, 0.3), 0.0) == pytest.approx(scipy.stats.binomtest(8, 8).pvalue)
    assert verdicts.p_value(np.full(8, 0.1), 0.1) == 1.0
    assert np.isnan(verdicts.p_value(values[:3], 0.0))
    assert np.isnan(verdicts.detectable(values[:3]))
    assert np.isnan(verdicts.detectable(np.full(8, 0.3)))


# --- the six endpoints


def test_every_claim_can_be_replicated():
    table = verdicts.verdicts(run(NEW), run(range(3), "matched"))
    assert table.claim.tolist() == ["0", "a", "b", "c1", "c2", "d"]
    assert set(table.verdict) == {REPLICATED}
    assert set(table.status[table.claim != "b"]) == {"confirmatory"}
    assert table.n.tolist() == [8] * 6
    assert table.value.tolist() == pytest.approx([0.4, 0.3, 0.4 / 0.45, 0.9, 0.9, 0.75], abs=0.02)
    assert table[["lost", "matched"]].notna().all(axis=1).tolist() == [False, False, False, True, True, False]
    expected = intervals.holm(table.p)
    assert table.p_holm.to_numpy() == pytest.approx(expected)


PATCHED = "measure == 'patched_units' and ranking == 'attribution' and end == 'top' and share == 0.1"
NOTHING = {
    "0": "behavior == 'generalization'",
    "a": "measure == 'pair_auroc' and layer == 10",
    "b": "stage == 'prediction' and measure == 'accuracy'",
    "c1": NET.format("generalization"),
    "c2": NET.format("memorization"),
    "d": PATCHED,
}
EMPTY = {"0": 0.02, "a": 0.5, "b": 0.5, "c1": 0.0, "c2": 0.0, "d": 0.1}
NOISE = 0.005 * np.array([1, -1, 2, -2, 3, -3, 0.5, -0.5])


@pytest.mark.parametrize("claim", NOTHING)
def test_every_claim_can_fail(claim):
    expected = pd.Series(REPLICATED, ["0", "a", "b", "c1", "c2", "d"])
    expected[claim] = NOT_REPLICATED
    assert verdict_of(plant(run(NEW), NOTHING[claim], EMPTY[claim] + NOISE)).to_dict() == expected.to_dict()


@pytest.mark.parametrize("claim", NOTHING)
def test_every_claim_can_be_smaller(claim):
    small = {"0": 0.2, "a": 0.55, "b": 0.6, "c1": 0.2, "c2": 0.1, "d": 0.3}
    expected = pd.Series(REPLICATED, ["0", "a", "b", "c1", "c2", "d"])
    expected[claim] = SMALLER
    # The control task's baseline of .55 counts: the gain is over it.
    assert verdict_of(plant(run(NEW), NOTHING[claim], small[claim] + NOISE)).to_dict() == expected.to_dict()


@pytest.mark.parametrize("claim", NOTHING)
def test_what_is_missing_or_noisy_is_not_testable(claim):
    """A missing number counts as nothing at all: not as 0, and not as fulfilled."""
    for metrics in (
        without(run(NEW), "measure == 'pair_auroc'" if claim == "a" else NOTHING[claim]),
        plant(run(NEW), NOTHING[claim], np.nan),
        plant(run(NEW), NOTHING[claim], [0.5, *[np.nan] * 7]),
        plant(run(NEW), NOTHING[claim], [0.0, 0.9, 0.1, 0.8, *[np.nan] * 4]),
    ):
        assert verdict_of(metrics)[claim] == NOT_TESTABLE


def test_three_seeds_are_too_few():
    table = verdicts.verdicts(run(range(10, 13)), run(range(3), "matched"))
    assert set(table.verdict) == {NOT_TESTABLE}
    assert table[["ci_low", "ci_high", "p", "detectable"]].isna().all(axis=None)
    assert table.value.notna().all()


def test_smallest_effect_that_could_have_been_seen_grows_with_the_scatter():
    noisy = plant(run(NEW), NET.format("memorization"), np.array([-1, 1, -1, 1, -1, 1, 1, 1]) * 0.9)
    table = verdicts.verdicts(noisy, run(range(3), "matched")).set_index("claim")
    assert table.detectable["c1"] < 0.02 < 0.5 < table.detectable["c2"]
    assert table.verdict["c2"] == NOT_TESTABLE


@pytest.mark.parametrize("inputs", ["memorized_only", "inferred_only"])
def test_damage_to_either_kind_of_input_counts(inputs):
    query = LOST.format("memorization", inputs)
    verdict = verdict_of(plant(run(NEW), query, 0.6 + NOISE))
    assert (verdict["c2"], verdict["c1"]) == (SMALLER, REPLICATED)
    assert verdict_of(plant(run(NEW), query, np.nan))["c2"] == NOT_TESTABLE


def test_damage_is_asked_of_the_kinds_that_a_task_has():
    metrics = run(NEW).replace({"inputs": {"memorized_only": "aligned"}})
    assert set(verdict_of(metrics)) == {REPLICATED}
    query = LOST.format("memorization", "inferred_only")
    assert verdict_of(without(metrics, query))["c2"] == REPLICATED
    assert verdict_of(without(metrics, "measure == 'lost'"))["c2"] == NOT_TESTABLE
    assert verdict_of(plant(metrics, LOST.format("memorization", "aligned"), 0.6 + NOISE))["c2"] == SMALLER


def test_the_matched_form_counts():
    matched = plant(run(range(3), "matched"), NET.format("memorization"), 0.1)
    verdict = verdict_of(run(NEW), matched)
    assert (verdict["c2"], verdict["c1"]) == (SMALLER, REPLICATED)
    for missing in (matched[:0], run(range(3), "matched", task="inference"), run(range(3), "matched", model="other")):
        assert set(verdict_of(run(NEW), missing)[["c1", "c2"]]) == {NOT_TESTABLE}


def test_a_task_whose_answers_have_one_format_needs_no_matched_form():
    table = verdicts.verdicts(run(NEW, task="inference"), run([0], "matched")[:0]).set_index("claim")
    assert set(table.verdict) == {REPLICATED}
    assert table.matched[["c1", "c2"]].tolist() == table.value[["c1", "c2"]].tolist()


@pytest.mark.parametrize(
    "column", [{"task": "addition-half"}, {"form": "both"}, {"task": "graded_addition", "base_task": "graded_addition"}]
)
def test_other_runs_than_the_studys_are_not_judged(column):
    table = verdicts.verdicts(run(NEW).assign(**column), run(range(3), "matched"))
    assert table.empty
    assert list(table) == verdicts.COLUMNS


def test_a_baseline_below_chance_counts_as_chance():
    """A probe at chance gains nothing over a predictor that is worse than a coin."""
    metrics = plant(run(NEW), "stage == 'prediction' and measure == 'accuracy'", 0.5 + NOISE)
    metrics = plant(metrics, "measure == 'best_baseline_accuracy'", 0.4)
    assert verdict_of(metrics)["b"] == NOT_REPLICATED


def test_verdicts_on_seeds_that_were_seen_are_exploratory():
    for seeds, status in ((range(8), "exploratory"), (range(7, 12), "exploratory"), (range(8, 16), "confirmatory")):
        table = verdicts.verdicts(run(seeds), run(range(3), "matched"))
        assert set(table.status[table.claim != "b"]) == {status}


@pytest.mark.parametrize(("seeds", "status"), [(range(12, 20), "exploratory"), (range(22, 30), "confirmatory")])
def test_an_endpoint_that_was_decided_later_is_exploratory_on_the_seeds_of_before(seeds, status):
    table = verdicts.verdicts(run(seeds), run(range(3), "matched"))
    assert table.status[table.claim == "b"].tolist() == [status]
    assert set(table.status[table.claim != "b"]) == {"confirmatory"}


def test_a_gain_is_a_share_of_what_the_best_predictor_leaves():
    """Half of what is left is half of it, however good the predictor; where nothing is left there is no gain."""
    for baseline, accuracy, gained in ((0.5, 0.75, 0.5), (0.9, 0.95, 0.5), (0.9, 0.8, -1.0), (1.0, 1.0, np.nan)):
        metrics = plant(run(NEW), "stage == 'prediction' and measure == 'accuracy'", accuracy)
        metrics = plant(metrics, "measure == 'best_baseline_accuracy'", baseline)
        assert verdicts.gain(metrics).to_numpy() == pytest.approx(np.full(len(NEW), gained), nan_ok=True)


def test_each_task_and_model_is_a_family_of_its_own():
    both = [run(NEW, task="inference"), run(NEW), run(NEW, task="inference", model="llama-3x64"), run(NEW, "matched")]
    table = verdicts.verdicts(pd.concat(both, ignore_index=True), run(range(3), "matched"))
    runs = [("inference", "gpt2-3x64"), ("addition", "gpt2-3x64"), ("inference", "llama-3x64")]
    assert list(table[["task", "model"]].drop_duplicates().itertuples(index=False, name=None)) == runs
    assert table.p_holm[:6].tolist() == pytest.approx(intervals.holm(table.p[:6]).tolist())
    assert table.reported[6:12].tolist() == [0.38, 0.14, 0.68, 0.703, 0.676, 0.5]


def test_verdicts_in_words():
    seen = r"four in five such experiments would see an effect of \d\d points"
    scatter = np.array([-0.45, -0.45, 0.2, 0.3, 0.5, 0.8, 0.85, 0.85])
    wide = 0.95 * np.array([-1, 1, -1, 1, 1, 1, 1, 1])
    for values, expected in ((scatter, seen), (wide, "four in five such experiments would see no possible effect")):
        noisy = plant(run(NEW), NET.format("memorization"), values)
        words = [verdicts.in_words(row) for row in verdicts.verdicts(noisy, run(range(3), "matched")).itertuples()]
        assert words[0] == "replicated"
        assert re.fullmatch(rf"not testable here \({expected}\)", words[4])
    words = [verdicts.in_words(row) for row in verdicts.verdicts(run(NEW), run([0], "matched")[:0]).itertuples()]
    assert words[4] == "not testable here (what it costs, or the matched form, was not measured)"
    (few,) = {verdicts.in_words(row) for row in verdicts.verdicts(run([10]), run([10], "matched")).itertuples()}
    assert few == "not testable here (1 seed)"


def test_a_number_recorded_twice_is_an_error():
    with pytest.raises(ValueError, match="duplicate"):
        verdicts.verdicts(pd.concat([run(NEW), run(NEW)], ignore_index=True), run(range(3), "matched"))
