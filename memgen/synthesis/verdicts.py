"""A verdict on each claim of the study, by a single rule.

Each task has six primary endpoints, one value a seed. Two questions decide:

- Is there an effect? Student's t-test over seeds against what an empty claim gives, Holm-corrected for the six.
- Is the reported size excluded? It is if the 95 % interval of the mean over seeds ends below it.

|           | reported size not excluded | reported size excluded  |
| --------- | -------------------------- | ----------------------- |
| effect    | replicated                 | smaller than reported   |
| no effect | not testable here          | not replicated          |

These are the criteria of the Open Science Collaboration (2015, Science 349, aac4716), taken together: a null result has
no effect, so it is *replicated* no more often than the tests err, and a wide interval decides nothing. Three seeds or
fewer have no interval, a missing number fulfils nothing, and both are *not testable here*.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats

from memgen import config, intervals

REPLICATED, SMALLER = "replicated", "smaller than reported"
NOT_REPLICATED, NOT_TESTABLE = "not replicated", "not testable here"
LEVEL, POWER = 0.05, 0.8
ROUNDING = 1e-12  # values that differ by less are equal
MAX_LOST = 0.10  # accuracy that steering may cost on either kind of input with one right answer
MATCHED_SHARE = 0.5  # of the effect must be left where both answers have the same format
CHANCE = 0.5  # accuracy of a guess between two behaviours
SITE = "mlp.hook_post"  # of the neurons of claim d
STUDY_RUNS = "base_task in ['inference', 'addition'] and task == base_task and form == 'study'"
ONE_FORMAT = ("inference",)  # tasks of the study whose two answers have one format: they are their own matched form


class Endpoint(NamedTuple):
    """What a claim is judged by.

    `values` takes the metrics of one run and gives a value a seed. `empty` is what it would be if the claim were empty;
    `reported`, by task, what the study reports or, where `source` says so, what its words imply. `seen` are seeds whose
    results were known when the endpoint was decided.
    """

    claim: str
    name: str
    values: Callable[[pd.DataFrame], pd.Series]
    empty: float
    reported: Mapping[str, float]
    source: str
    unit: str = "difference of shares"
    bounds: tuple[float, float] = (-1.0, 1.0)
    seen: frozenset[int] = frozenset()


def on_test_groups(metrics: pd.DataFrame) -> pd.DataFrame:
    """The numbers without those on groups that were trained on: the study's random split, `seen` beside ours."""
    seen = (metrics.split == "seen") | metrics.population.astype(object).fillna("").str.startswith("seen")
    return metrics[~seen]


def by_seed(metrics: pd.DataFrame, query: str, columns: str) -> pd.DataFrame:
    """The values that a query selects: a row a seed, a column for each value of the column `columns`."""
    return metrics.query(query).pivot(index="seed", columns=columns, values="value")


def rarer_behavior(metrics: pd.DataFrame) -> pd.Series:
    """The share of conflicts that show the rarer of the two behaviours."""
    shares = by_seed(metrics, "measure == 'behavior_share'", "behavior")
    return shares.reindex(columns=["memorization", "generalization"]).min(axis=1, skipna=False)


def rise_with_depth(metrics: pd.DataFrame) -> pd.Series:
    """How well the last layer's states separate the members of held-out pairs, minus the first layer's (AUROC)."""
    layers = by_seed(metrics, "measure == 'pair_auroc' and site == 'resid_post'", "layer")
    return layers[layers.columns.max()] - layers[layers.columns.min()] if len(layers) else pd.Series(dtype=float)


def gain(metrics: pd.DataFrame) -> pd.Series:
    """What the best probe gains over the best predictor without states, as a share of what that leaves to be gained.

    A predictor below chance counts as chance. In points a gain over a guess and one over a good predictor would be no
    match: the better the predictor, the less any probe can gain.
    """
    query = "population == 'conflicts' and measure in ['accuracy', 'best_baseline_accuracy']"
    accuracy = by_seed(metrics, query, "measure").reindex(columns=["accuracy", "best_baseline_accuracy"])
    baseline = accuracy.best_baseline_accuracy.clip(lower=CHANCE)
    return ((accuracy.accuracy - baseline) / (1 - baseline.where(baseline < 1))).clip(-1, 1)


def net_effect(metrics: pd.DataFrame, target: str) -> pd.Series:
    """Share of opposite conflicts that the study's shift brings to the target, minus that under its best control."""
    query = "measure == 'net' and method == 'study' and population == 'conflicts'"
    return by_seed(metrics, query, "target").reindex(columns=[target])[target]


def concentration(metrics: pd.DataFrame, ranking: str = "attribution") -> pd.Series:
    """What patching the top tenth of the MLP neurons turns beyond a random tenth, as a share of what all neurons turn.

    The top is by a `ranking`. Both directions are averaged; missing where all neurons together turn no pair.
    """
    patched = metrics.query(f"measure == 'patched_units' and site == '{SITE}'")

    def turned(query: str) -> pd.Series:
        return patched.query(query).groupby("seed").value.mean()

    top, everything = (turned(f"ranking == '{ranking}' and end == 'top' and share == {share}") for share in (0.1, 1))
    return ((top - turned("ranking == 'random' and share == 0.1")) / everything.where(everything > 0)).clip(-1, 1)


def lost(metrics: pd.DataFrame, target: str, method: str = "study") -> pd.Series:
    """Accuracy that steering costs on inputs with one right answer, the worst of the kinds that the task has."""
    kinds = by_seed(metrics, f"measure == 'lost' and method == '{method}' and target == '{target}'", "inputs")
    return kinds.max(axis=1, skipna=False)


ENDPOINTS = (
    Endpoint(
        "0",
        "rarer behaviour, share of conflicts",
        rarer_behavior,
        0.1,  # a tenth could be errors
        {"inference": 0.28, "addition": 0.38},
        "where the study stops training",
        "share 0-1",
        (0.0, 1.0),
    ),
    Endpoint(
        "a",
        "AUROC of within-pair differences, last layer minus first",
        rise_with_depth,
        0.0,
        {"inference": 0.14, "addition": 0.14},
        "no number; a medium effect (Cohen's d = .5) that is absent in the first layer",
        "AUROC 0-1",
    ),
    Endpoint(
        "b",
        "accuracy gained over the best predictor without hidden states, of what that leaves",
        gain,
        0.0,
        {"inference": 0.76, "addition": 0.68},
        "accuracy .88 and .84 on pairs, of which a guess leaves half",
        "ratio",
        seen=frozenset(range(10, 16)),
    ),
    Endpoint(
        "c1",
        "study's shift to generalization, net",
        functools.partial(net_effect, target="generalization"),
        0.0,
        {"inference": 0.837, "addition": 0.703},
        "random baseline 0",
    ),
    Endpoint(
        "c2",
        "study's shift to memorization, net",
        functools.partial(net_effect, target="memorization"),
        0.0,
        {"inference": 0.358, "addition": 0.676},
        "random baseline 0",
    ),
    Endpoint(
        "d",
        "top tenth of MLP neurons minus a random tenth, of all, patched",
        concentration,
        0.0,
        {"inference": 0.5, "addition": 0.5},
        "no number; a tenth of the neurons does half of what all do",
        "ratio",
    ),
)


STEERED = {"c1": "generalization", "c2": "memorization"}  # the target of a claim about steering
#: Of the table of verdicts.
COLUMNS = (
    "task model claim endpoint status reported source unit value ci_low ci_high n detectable p p_holm lost matched "
    "verdict"
).split()


def status(seeds: Iterable[int], seen: Iterable[int] = ()) -> str:
    """*exploratory* if a seed's test results were known before choices were made, else *confirmatory*."""
    return "exploratory" if config.SEEN_SEEDS.union(seen).intersection(seeds) else "confirmatory"


def p_value(values: np.ndarray, empty: float) -> float:
    """Student's two-sided t-test over seeds; an exact sign test where all seeds agree; nan without an interval."""
    if len(values) < intervals.LEAST_SEEDS:
        return np.nan
    if np.ptp(values) < ROUNDING:
        return 1.0 if abs(values[0] - empty) < ROUNDING else 2.0 ** (1 - len(values))
    return float(scipy.stats.ttest_1samp(values, empty).pvalue)


def detectable(values: np.ndarray) -> float:
    """The smallest effect that a t-test sees with a power of `POWER`, given the scatter of the seeds.

    At the strictest level that Holm's correction can ask for; nan without an interval or scatter.
    """
    n = len(values)
    if n < intervals.LEAST_SEEDS or np.ptp(values) < ROUNDING:
        return np.nan
    critical = scipy.stats.t.ppf(1 - LEVEL / len(ENDPOINTS) / 2, n - 1)
    shift = scipy.optimize.brentq(lambda shift: scipy.stats.nct.sf(critical, n - 1, shift) - POWER, 0, 4 * critical)
    return float(shift * scipy.stats.sem(values))


def judge(estimate: intervals.Estimate, p: float, empty: float, reported: float) -> str:
    """The verdict on an endpoint; `p` is corrected for multiplicity."""
    if np.isnan(estimate.ci_high) or np.isnan(reported):
        return NOT_TESTABLE
    effect, excluded = p <= LEVEL and estimate.value > empty, estimate.ci_high < reported
    if effect:
        return SMALLER if excluded else REPLICATED
    return NOT_REPLICATED if excluded else NOT_TESTABLE


def with_conditions(verdict: str, collateral: float, matched: float, net: float) -> str:
    """The verdict on steering: *replicated* also asks that it costs little and does not rest on the answers' format.

    The numbers are means over seeds: of :func:`lost`, and of the net effect in the matched and in the study's form; nan
    if missing.
    """
    if verdict != REPLICATED:
        return verdict
    if collateral > MAX_LOST or matched < MATCHED_SHARE * net:
        return SMALLER
    return NOT_TESTABLE if np.isnan([collateral, matched]).any() else REPLICATED


def verdicts(metrics: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """The verdict on each claim, for each task and model of the study's runs; no row where there are none.

    `metrics` has the numbers of the runs to judge; among those of `matched` are runs in the matched form, for tasks
    whose answers differ in format. The result has `COLUMNS`: `value, ci_low, ci_high, n` are over seeds, `detectable`
    is that of the function of this name, and `lost` and `matched` are means, of claim c alone.
    """
    metrics, matched = on_test_groups(metrics), on_test_groups(matched)
    rows = []
    for (task, model), run in metrics.query(STUDY_RUNS).groupby(["base_task", "model"], sort=False):
        partner = matched.query("form == 'matched' and base_task == @task and model == @model")
        partner = run if task in ONE_FORMAT else partner
        tested = [_tested(endpoint, run, partner, str(task)) for endpoint in ENDPOINTS]
        corrected = intervals.holm([1.0 if np.isnan(row["p"]) else row["p"] for row in tested])
        for row, p in zip(tested, corrected, strict=True):
            rows.append({"task": task, "model": model, **row, "p_holm": p, "verdict": _verdict(row, p)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _verdict(row: Mapping[str, Any], p: float) -> str:
    """The verdict on an endpoint as :func:`_tested` gives it; `p` is corrected for the six."""
    estimate = intervals.Estimate(*(row[name] for name in intervals.Estimate._fields))
    verdict = judge(estimate, p, row["empty"], row["reported"])
    return with_conditions(verdict, row["lost"], row["matched"], row["value"]) if row["claim"] in STEERED else verdict


def in_words(row: Any) -> str:
    """The verdict of a row of the table; *not testable here* with the effect that would be seen at the power asked."""
    if row.verdict != NOT_TESTABLE:
        return row.verdict
    if row.n == 0:
        return f"{NOT_TESTABLE} (not measured)"
    if row.n < intervals.LEAST_SEEDS:
        return f"{NOT_TESTABLE} ({row.n} {'seed' if row.n == 1 else 'seeds'})"
    if row.p_holm <= LEVEL:
        return f"{NOT_TESTABLE} (what it costs, or the matched form, was not measured)"
    if row.detectable > 1:
        return f"{NOT_TESTABLE} (four in five such experiments would see no possible effect)"
    in_points = row.unit in ("share 0-1", "difference of shares")
    size = f"{100 * row.detectable:.0f} points" if in_points else f"{row.detectable:.2f}"
    return f"{NOT_TESTABLE} (four in five such experiments would see an effect of {size})"


def _tested(endpoint: Endpoint, run: pd.DataFrame, partner: pd.DataFrame, task: str) -> dict[str, Any]:
    """An endpoint of one run: its estimate, its test, and what a verdict on steering asks besides."""
    values = endpoint.values(run).dropna()
    target = STEERED.get(endpoint.claim)
    return {
        "claim": endpoint.claim,
        "endpoint": endpoint.name,
        "status": status(run.seed, endpoint.seen),
        "reported": endpoint.reported.get(task, np.nan),
        "source": endpoint.source,
        "unit": endpoint.unit,
        "empty": endpoint.empty,
        **intervals.over_seeds(values, endpoint.bounds)._asdict(),
        "detectable": detectable(values.to_numpy()),
        "p": p_value(values.to_numpy(), endpoint.empty),
        "lost": lost(run, target).mean() if target else np.nan,
        "matched": endpoint.values(partner).mean() if target else np.nan,
    }
