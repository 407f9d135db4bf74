"""What chance gives beside what the pairs give: depth, selection, stability and concentration.

Chance is the same computation with each group's sign drawn at random: what comes out where nothing differs between the
behaviours. It is no flat line: a mean of absolute values is above zero, and neurons with large activations rank high.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import scipy.stats

from memgen import statistics
from memgen.localization.differences import PairStatistics
from memgen.localization.rankings import RANKINGS, count

BLOCK = 2**23  # numbers held at a time while resampling: 64 MiB


def _blocks(n_draws: int, n_units: int) -> Iterator[slice]:
    """Slices of the draws that fit into memory together."""
    step = max(1, BLOCK // n_units)
    return (slice(start, start + step) for start in range(0, n_draws, step))


def _draws(n_groups: int, n_resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How often each group is drawn in a bootstrap, and random signs: [n_resamples, n_groups] each."""
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
    return counts.astype(float), rng.choice([-1.0, 1.0], size=(n_resamples, n_groups))


def depth_profile(
    accumulated: Mapping[str, PairStatistics],
    n_layer: int,
    rng: np.random.Generator,
    n_resamples: int,
    statistic: str = "nmd",
) -> pd.DataFrame:
    """The mean of |NMD| (or of |r|) over a layer's neurons, beside what chance alone gives.

    An average of absolute values is above zero even where nothing differs. `measure` tells the observed value
    (``pairs``; interval from resampling groups) from that with each group's sign drawn at random (``chance``; the
    middle 95 % of such draws).

    Parameters
    ----------
    statistic
        ``nmd``, in units of the activations, or ``r``, which has no unit: layers of different scale can be compared.

    Returns
    -------
    pandas.DataFrame
        `site, layer, measure, value, low, high`.
    """
    rows = []
    for site, own in accumulated.items():
        n_groups, n_units = own.group_sums.shape
        counts, signs = _draws(n_groups, n_resamples, rng)
        everyone = np.ones_like(signs)

        def profile(weights: np.ndarray, signs: np.ndarray | None = None, own: PairStatistics = own) -> np.ndarray:
            means = np.abs(own.resampled(weights, signs)[statistic])
            return means.reshape(len(weights), n_layer, -1).mean(-1)

        blocks = list(_blocks(n_resamples, n_units))
        observed = profile(everyone[:1])[0]
        resampled = np.concatenate([profile(counts[block]) for block in blocks])
        by_chance = np.concatenate([profile(everyone[block], signs[block]) for block in blocks])
        for measure, value, draws in (("pairs", observed, resampled), ("chance", by_chance.mean(0), by_chance)):
            low, high = np.quantile(draws, [0.025, 0.975], axis=0)
            about = {"site": site, "layer": np.arange(n_layer), "measure": measure}
            rows.append(pd.DataFrame(about | {"value": value, "low": low, "high": high}))
    return pd.concat(rows, ignore_index=True)


def null_discoveries(
    accumulated: Mapping[str, PairStatistics],
    rng: np.random.Generator,
    n_permutations: int,
    n_draws: int = 100,
    level: float = 0.05,
    n_resamples: int = 1000,
) -> pd.DataFrame:
    """How many neurons the selection finds where nothing is to be found: labels shuffled group by group.

    Each draw goes through the whole procedure of :func:`neuron_table`: sign-flip p-values, then Benjamini-Hochberg over
    all neurons of all sites.

    Returns
    -------
    pandas.DataFrame
        `site` (each, and ``all``), `measure` (``selected_share``: the mean share of neurons with a q-value below
        `level`; ``any``: the share of draws with one or more), `value, low, high` (95 % over draws), `n` (draws).
    """
    n_groups = len(next(iter(accumulated.values())).group_pairs)
    labels = rng.choice([-1.0, 1.0], size=(n_draws, n_groups))
    p = {}
    for site, own in accumulated.items():
        # With other labels the permutations stay what they are: products of random signs with the sums. So one set of
        # them serves all draws.
        bar = np.abs(labels @ own.group_sums) * (1 - 1e-9)
        exceeding = np.zeros_like(bar)
        for block in _blocks(n_permutations, own.group_sums.shape[1]):
            size = min(block.stop, n_permutations) - block.start
            drawn = np.abs(rng.choice([-1.0, 1.0], size=(size, n_groups)) @ own.group_sums)
            for draw in range(n_draws):
                exceeding[draw] += (drawn >= bar[draw]).sum(0)
        p[site] = (exceeding + 1) / (n_permutations + 1)
    ends = np.cumsum([one.shape[1] for one in p.values()])[:-1]
    q = np.stack([statistics.benjamini_hochberg(one) for one in np.concatenate(list(p.values()), axis=1)])
    selected = dict(zip(p, np.split(q < level, ends, axis=1), strict=True)) | {"all": q < level}
    rows = []
    for site, found in selected.items():
        share = statistics.clustered_mean(found.mean(1), np.arange(n_draws), rng, n_resamples)
        rows.append({"site": site, "measure": "selected_share", **share._asdict()})
        # Exact: a bootstrap of draws that found nothing would have no width.
        some = scipy.stats.binomtest(int(found.any(1).sum()), n_draws)
        low, high = some.proportion_ci()
        rows.append({"site": site, "measure": "any", "value": some.statistic, "low": low, "high": high, "n": n_draws})
    return pd.DataFrame(rows)


def stability(
    accumulated: Mapping[str, PairStatistics],
    attributions: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    share: float = 0.1,
    n_splits: int = 200,
) -> pd.DataFrame:
    """How far the top neurons of one half of the groups are those of the other half.

    Parameters
    ----------
    attributions
        For each site the sums of attributions of each group [groups, units].

    Returns
    -------
    pandas.DataFrame
        `site, ranking, measure` (``pairs``, or ``chance``: the same splits with each group's sign drawn at random),
        `value` (the overlap of the top `share` by absolute value, 0-1, a mean over random splits), `low, high` (the
        middle 95 % of the splits), `n` (groups). One group alone has no halves: NaN, with n = 0.
    """
    rows = []
    for site, own in accumulated.items():
        n_groups, n_units = own.group_sums.shape
        n = n_groups if n_groups > 1 else 0
        overlaps: dict[tuple[str, str], list[np.ndarray]] = {}
        for block in _blocks(n_splits if n else 0, 2 * n_units):
            size = min(block.stop, n_splits) - block.start
            place = rng.permuted(np.tile(np.arange(n_groups), (size, 1)), axis=1)
            halves = [(side < n_groups // 2).astype(float) for side in (place, n_groups - 1 - place)]
            for measure, signs in (("pairs", np.ones(place.shape)), ("chance", rng.choice([-1.0, 1.0], place.shape))):
                values = [
                    own.resampled(half, signs) | {"attribution": half * signs @ attributions[site]} for half in halves
                ]
                for ranking in RANKINGS:
                    top = [_top(np.abs(half[ranking]), count(share, n_units)) for half in values]
                    overlaps.setdefault((ranking, measure), []).append((top[0] & top[1]).sum(1) / top[0].sum(1))
        for ranking in RANKINGS:
            for measure in ("pairs", "chance"):
                drawn = np.concatenate(overlaps.get((ranking, measure), [np.array([np.nan])]))
                low, high = np.quantile(drawn, [0.025, 0.975])
                about = {"site": site, "ranking": ranking, "measure": measure, "value": drawn.mean()}
                rows.append(about | {"low": low, "high": high, "n": n})
    return pd.DataFrame(rows)


def _top(values: np.ndarray, k: int) -> np.ndarray:
    """Mark the `k` largest of each row: truth values in the shape of `values`."""
    chosen = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(chosen, np.argpartition(-values, k - 1, axis=1)[:, :k], True, axis=1)
    return chosen


#: Measures of how few neurons carry a whole: what they say of N equal effects, and of one neuron alone.
CONCENTRATION = {
    "top1": "share of the sum in the top 1 % of the neurons (equal effects: 0.01)",
    "top5": "share of the sum in the top 5 % of the neurons (equal effects: 0.05)",
    "top10": "share of the sum in the top 10 % of the neurons (equal effects: 0.1)",
    "gini": "Gini coefficient (equal effects: 0; one neuron alone: 1 - 1/N)",
    "participation": "participation ratio over the number of neurons (equal effects: 1; one neuron alone: 1/N)",
}


def concentration(
    attributions: Mapping[str, np.ndarray], rng: np.random.Generator, n_resamples: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the sum of |attribution| is spread over a site's neurons: a few distinct ones, or all of them a little.

    Parameters
    ----------
    attributions
        For each site the sums of attributions of each group [groups, units].

    Returns
    -------
    measures
        `site, statistic` (of :data:`CONCENTRATION`), `measure` (``pairs``, with an interval from resampling groups, or
        ``chance``, with each group's sign drawn at random), `value, low, high`.
    curve
        `site, measure, share` (of the neurons, largest first), `value` (their share of the sum).
    """
    rows, curves = [], []
    for site, sums in attributions.items():
        n_groups, n_units = sums.shape
        counts, signs = _draws(n_groups, n_resamples, rng)
        blocks = list(_blocks(n_resamples, n_units))
        observed = _cumulated(sums.sum(0, keepdims=True))
        draws = {
            name: [_cumulated(weights[block] @ sums) for block in blocks]
            for name, weights in (("pairs", counts), ("chance", signs))
        }
        shares = np.unique(np.linspace(0, n_units, 51).round().astype(int))
        for name, parts in draws.items():
            numbers = {s: np.concatenate([_concentrated(part)[s] for part in parts]) for s in CONCENTRATION}
            means = _concentrated(observed) if name == "pairs" else numbers
            for one, drawn in numbers.items():
                low, high = np.quantile(drawn, [0.025, 0.975])
                about = {"site": site, "statistic": one, "measure": name, "value": means[one].mean()}
                rows.append(about | {"low": low, "high": high})
            line = observed[0] if name == "pairs" else np.concatenate(parts).mean(0)
            about = {"site": site, "measure": name, "share": shares / n_units}
            curves.append(pd.DataFrame(about | {"value": np.append(0.0, line)[shares]}))
        ends = {"site": site, "measure": "equal effects", "share": [0.0, 1.0], "value": [0.0, 1.0]}
        curves.append(pd.DataFrame(ends))
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def around_values(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """The rows with their `n`, and with intervals that hold the value.

    Resampling adds noise, which only enlarges a mean of absolute values: a bootstrap interval may lie above it.
    """
    low, high = table[["low", "value"]].min(axis=1), table[["high", "value"]].max(axis=1)
    return table.assign(low=low, high=high, n=n)


def _cumulated(effects: np.ndarray) -> np.ndarray:
    """The share of the sum of absolute effects [draws, units] in the 1, 2, ... largest."""
    sizes = -np.sort(-np.abs(effects), axis=1)
    total = sizes.sum(1, keepdims=True)
    equal = np.full_like(sizes, 1 / sizes.shape[1])  # no effect at all is spread evenly
    return np.cumsum(np.divide(sizes, total, out=equal, where=total > 0), axis=1)


def _concentrated(cumulated: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of :data:`CONCENTRATION`, one a draw, from :func:`_cumulated`."""
    n_units = cumulated.shape[1]
    shares = np.diff(cumulated, axis=1, prepend=0.0)
    result = {f"top{percent}": cumulated[:, count(percent / 100, n_units) - 1] for percent in (1, 5, 10)}
    result["gini"] = (2 * cumulated.sum(1) - 1) / n_units - 1
    result["participation"] = 1 / (n_units * (shares**2).sum(1))
    return result
