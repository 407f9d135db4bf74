"""Effect sizes of layers: how well they tell a pair's members, and how far the members lie apart."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.covariance import ledoit_wolf

from memgen import behavior, intervals
from memgen.localization.differences import paired_states
from memgen.subject import Subject

OBSERVED, NULL = "observed", "null (group sign flips)"  # the values of the column `labels`


def pair_differences(
    subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sites: Sequence[str]
) -> dict[str, np.ndarray]:
    """Activations of the memorized member minus those of the generalized one: for each site [pairs layer neuron]."""
    parts: dict[str, list[np.ndarray]] = {site: [np.zeros((0, *subject.shape(site)))] for site in sites}
    for _, plus, minus in paired_states(subject, frame, pairs, sites):
        for site in sites:
            parts[site].append(plus[site].astype(np.float64) - minus[site])
    return {site: np.concatenate(batches) for site, batches in parts.items()}


def fisher_direction(differences: np.ndarray) -> np.ndarray:
    """Fisher's discriminant [neurons] of differences [pairs neurons]: their mean over their Ledoit-Wolf covariance."""
    covariance, _ = ledoit_wolf(differences, assume_centered=True)
    return np.linalg.solve(covariance, differences.mean(0))


def pair_auroc(
    training: Mapping[str, np.ndarray],
    held_out: Mapping[str, np.ndarray],
    held_out_pairs: pd.DataFrame,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> pd.DataFrame:
    """How well each layer tells which member of an unseen pair is the memorized one.

    Each held-out difference is projected on a direction fitted on the training pairs, once in the right order of its
    members and once in the wrong order. The AUROC is the probability that a right order scores above a wrong one: 0.5
    if the direction tells nothing. Unlike |NMD| over its null, it does not grow with the number of groups.

    Parameters
    ----------
    training, held_out
        From :func:`pair_differences`; pairs of the two share no group.

    Returns
    -------
    pandas.DataFrame
        `site, layer, measure` (``pair_auroc``; ``null_pair_auroc`` flips the signs of held-out groups), `labels, value,
        ci_low, ci_high` (clustered by held-out group, for the direction as fitted), `n` (held-out pairs).
    """
    (groups, names), n_pairs = pd.factorize(held_out_pairs.group, sort=True), len(held_out_pairs)
    signs = rng.choice([-1.0, 1.0], size=(n_draws, len(names)))[:, groups]
    order = np.repeat([1, -1], n_pairs)
    rows = []
    for site, differences in training.items():
        for layer in range(differences.shape[1]):
            scores = held_out[site][:, layer] @ fisher_direction(differences[:, layer])
            observed = intervals.auroc(order, order * np.tile(scores, 2), np.tile(groups, 2))._replace(n=n_pairs)
            null = np.array([intervals.auroc_value(order, order * np.tile(scores * draw, 2)) for draw in signs])
            low, high = np.quantile(null, [0.025, 0.975])
            flipped = intervals.Estimate(null.mean(), low, high, n_pairs)
            estimates = (("pair_auroc", OBSERVED, observed), ("null_pair_auroc", NULL, flipped))
            for measure, labels, estimate in estimates:
                rows.append([site, layer, measure, labels, *estimate])
    return pd.DataFrame(rows, columns=["site", "layer", "measure", "labels", *intervals.Estimate._fields])


def variant_pairs(frame: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """Conflict inputs with their variants: pairs that flip, and pairs that show the same behaviour.

    Returns
    -------
    pandas.DataFrame
        `original, variant` (the index in `frame`), `group` and `pairs` (``flip`` or ``same``). Pairs with another
        answer than the two (`labels` of 0) are left out.
    """
    variants = frame[(frame.kind == "conflict") & (frame.variant_of >= 0)]
    product = labels[variants.index].to_numpy() * labels[variants.variant_of].to_numpy()
    pairs = pd.DataFrame(
        {
            "original": variants.variant_of.to_numpy(),
            "variant": variants.index,
            "group": variants.group.to_numpy(),
            "pairs": np.where(product == behavior.MEMORIZATION * behavior.GENERALIZATION, "flip", "same"),
        }
    )
    return pairs[product != behavior.OTHER].reset_index(drop=True)


def pair_distance(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, sites: Sequence[str]) -> pd.DataFrame:
    """How far the members of pairs lie apart in each layer: pairs that flip against pairs that do not.

    A distance is Euclidean, over the root mean square distance between two members of any pairs: 0 for equal states, 1
    for states as far apart as those of two inputs drawn at random. It has no scale, so layers can be compared.

    Parameters
    ----------
    pairs
        From :func:`variant_pairs`.

    Returns
    -------
    pandas.DataFrame
        `site, layer, pairs, value` (the mean), `ci_low, ci_high` (clustered by group), `n` (pairs).
    """
    distance = {site: np.zeros((len(pairs), subject.n_layer)) for site in sites}
    total = {site: np.zeros(subject.shape(site)) for site in sites}
    squares = {site: np.zeros(subject.n_layer) for site in sites}
    for rows, first, second in paired_states(subject, frame, pairs, sites):
        for site in sites:
            members = np.stack([first[site], second[site]]).astype(np.float64)
            distance[site][rows] = np.linalg.norm(members[0] - members[1], axis=-1)
            total[site] += members.sum((0, 1))
            squares[site] += (members**2).sum((0, 1, 3))
    tables = []
    for site in sites:
        n_members = 2 * len(pairs)
        variance = squares[site] / n_members - ((total[site] / n_members) ** 2).sum(-1)  # summed over neurons
        scale = np.sqrt(2 * variance.clip(min=0))
        for layer in range(subject.n_layer):
            value = distance[site][:, layer] / scale[layer] if scale[layer] > 0 else 0.0
            rows = pairs[["pairs", "group"]].assign(site=site, layer=layer, value=value)
            tables.append(intervals.estimate_by(rows, ["site", "layer", "pairs"], kind="mean"))
    return pd.concat(tables, ignore_index=True)
