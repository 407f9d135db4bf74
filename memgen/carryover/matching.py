"""Match the neurons of two models by the correlation of their activations on common inputs.

An index means nothing across seeds: neuron 5 of two models share only the number. So each neuron is matched with the
neuron of the other model that correlates with it most, after Gurnee et al. 2024, "Universal neurons in GPT2 language
models" (arXiv 2401.12181).
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from memgen.config import fraction_to_count

TOP_SHARE = 0.1  # the share of neurons, by |r|, that counts as the top

#: For each seed and site an array: activations [rows layer neuron], or a number for each neuron, layer by layer.
BySeed = Mapping[int, Mapping[str, np.ndarray]]


def common_prompts(frames: Sequence[pd.DataFrame], n: int, rng: np.random.Generator) -> pd.DataFrame:
    """About `n` conflict inputs, equally many from each model's frame, so that no model is favoured."""
    per_frame = -(-n // len(frames))
    conflicts = [frame[frame.kind == "conflict"] for frame in frames]
    sampled = [frame.sample(min(per_frame, len(frame)), random_state=rng) for frame in conflicts]
    return pd.concat(sampled, ignore_index=True)


def _standardized(activations: np.ndarray) -> np.ndarray:
    """Columns [rows, neurons] of mean 0 and length 1, so that products are correlations; constant columns are 0."""
    flat = activations.reshape(len(activations), -1).astype(np.float64)
    flat = flat - flat.mean(0)
    norm = np.linalg.norm(flat, axis=0)
    constant = norm <= 1e-9 * np.sqrt(len(flat))
    return (flat / np.where(constant, np.inf, norm)).astype(np.float32)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlations [neurons of a, neurons of b] of activations over the same inputs; 0 for a constant."""
    return _standardized(a).T @ _standardized(b)


def top(r: np.ndarray) -> np.ndarray:
    """Mask of the `TOP_SHARE` of the neurons of largest `|r|`; ties go to the earlier neuron."""
    mask = np.zeros(len(r), dtype=bool)
    mask[np.argsort(-np.abs(r), kind="stable")[: fraction_to_count(TOP_SHARE, len(r))]] = True
    return mask


def top_overlap(r_a: np.ndarray, r_b: np.ndarray) -> float:
    """The share of the top neurons by `r_a` that are top neurons by `r_b`, too: two rankings of one model."""
    return float(top(r_b)[top(r_a)].mean())


def one_to_one(correlation: np.ndarray) -> np.ndarray:
    """The match [neurons of a] of largest summed `|correlation|` that uses no neuron of `b` twice."""
    return linear_sum_assignment(-np.abs(correlation))[1]


def matched_overlap(top_a: np.ndarray, top_b: np.ndarray, match: np.ndarray, layer: np.ndarray) -> tuple[float, float]:
    """The share of the top neurons of `a` whose match is a top neuron of `b`, and the share expected by chance.

    Chance permutes the matches among the neurons of each `layer` of `a`; the expectation is exact. Layers differ in how
    many top neurons they have, so any match that respects layers finds more than the top share.
    """
    hit = top_b[match].astype(float)
    by_layer = np.bincount(layer, weights=hit) / np.bincount(layer)
    return float(hit[top_a].mean()), float(by_layer[layer][top_a].mean())


def top_overlaps(states: BySeed, r: BySeed) -> pd.DataFrame:
    """How many top neurons of each model, by `|r|`, are matched with top neurons of each other model.

    Returns
    -------
    pandas.DataFrame
        `seed, other_seed, site, match, value, chance`, the last two from :func:`matched_overlap`. `match`: ``best``
        (the most correlated neuron), ``one_to_one`` (:func:`one_to_one`) or ``index`` (the neuron of the same number).
    """
    rows = []
    for seed, other_seed in itertools.permutations(states, 2):
        for site, activations in states[seed].items():
            correlation = correlations(activations, states[other_seed][site])
            layer = np.arange(len(correlation)) // activations.shape[2]
            matches = {
                "best": np.abs(correlation).argmax(1),
                "one_to_one": one_to_one(correlation),
                "index": np.arange(len(correlation)),
            }
            tops = top(r[seed][site]), top(r[other_seed][site])
            for name, match in matches.items():
                rows.append((seed, other_seed, site, name, *matched_overlap(*tops, match, layer)))
    return pd.DataFrame(rows, columns=["seed", "other_seed", "site", "match", "value", "chance"])
