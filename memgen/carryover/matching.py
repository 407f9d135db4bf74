"""Pair the neurons of two models by the correlation of their activations on common inputs.

An index means nothing across seeds: neuron 5 of one model and neuron 5 of another have only the number in common. So
each neuron of a model is matched with the neuron of the other that correlates with it most. Among many neurons some
correlate by chance, and all of them live in a space of few dimensions; so beside each match stands the best one after
a random rotation of the other model's activations, which keeps all that the space knows and nothing of its axes.
Source: Gurnee et al. 2024, "Universal neurons in GPT2 language models" (arXiv 2401.12181).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import localization
from memgen.config import fraction_to_count

TOP = 0.1  # the share of neurons that counts as the top, by |r|
UNIVERSAL = 0.5  # the excess correlation above which a neuron counts as universal, as in the source


def same_vocabulary(tokenizers: Sequence[PreTrainedTokenizerFast]) -> bool:
    """Whether every token has the same number, so that the same input ids say the same to all models."""
    return all(tokenizer.get_vocab() == tokenizers[0].get_vocab() for tokenizer in tokenizers)


def common_prompts(frames: Sequence[pd.DataFrame], n: int, rng: np.random.Generator) -> pd.DataFrame:
    """About `n` conflict prompts, as many from each frame: inputs for models of which none shall be at home alone."""
    share = -(-n // len(frames))
    parts = []
    for frame in frames:
        own = frame[frame.kind == "conflict"]
        parts.append(own.sample(min(share, len(own)), random_state=rng))
    return pd.concat(parts, ignore_index=True)


def states(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    sites: Sequence[str],
    batch_size: int = 256,
) -> dict[str, np.ndarray]:
    """The activations at each prompt's last token: for each site [rows layer neuron]."""
    parts = [state for _, state in localization.read_states(model, frame, tokenizer, sites, batch_size)]
    return {site: np.concatenate([part[site] for part in parts]) for site in sites}


def _standardized(activations: np.ndarray) -> np.ndarray:
    """Columns [rows, units] of mean 0 and length 1, so that products are correlations; constant columns are 0."""
    flat = activations.reshape(len(activations), -1).astype(np.float64)
    flat = flat - flat.mean(0)
    norm = np.linalg.norm(flat, axis=0)
    constant = norm <= 1e-9 * np.sqrt(len(flat))
    return (flat / np.where(constant, np.inf, norm)).astype(np.float32)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlations [units of a, units of b] of activations over the same inputs; 0 for a constant."""
    if len(a) != len(b):
        raise ValueError(f"Both must be of the same inputs, not of {len(a)} and {len(b)}.")
    return _standardized(a).T @ _standardized(b)


def rotated(activations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The activations [rows layer neuron], those of each layer turned by a random rotation about their mean."""
    centred = activations - activations.mean(0)
    result = np.empty_like(centred)
    for layer in range(centred.shape[1]):
        axes, _ = np.linalg.qr(rng.standard_normal((centred.shape[2], centred.shape[2])))
        result[:, layer] = centred[:, layer] @ axes.astype(centred.dtype)
    return result


def site_correlations(table: pd.DataFrame, site: str) -> np.ndarray:
    """Each neuron's `r` from the table of neurons, layer by layer [neurons]."""
    return table[table.site == site].sort_values(["layer", "neuron"]).r.to_numpy()


def top(r: np.ndarray, share: float = TOP) -> np.ndarray:
    """Mask of the given share of the neurons: those of largest `|r|`, the earlier of equals."""
    mask = np.zeros(len(r), dtype=bool)
    mask[np.argsort(-np.abs(r), kind="stable")[: fraction_to_count(share, len(r))]] = True
    return mask


def one_to_one(correlation: np.ndarray) -> np.ndarray:
    """The match [units of a] with the largest sum of correlations, in size, in which no neuron of `b` stands twice."""
    rows, columns = linear_sum_assignment(-np.abs(correlation))
    if len(rows) < len(correlation):
        raise ValueError(f"{len(correlation)} neurons cannot each have one of {correlation.shape[1]} for themselves.")
    return columns


def carried(top_a: np.ndarray, top_b: np.ndarray, match: np.ndarray, layer: np.ndarray) -> tuple[float, float]:
    """The share of the top of `a` whose match is in the top of `b`, and what it would be by chance.

    By chance: the matches dealt anew among the neurons of each `layer` of `a`, of which this is the exact expectation.
    Layers differ in how many top neurons they have, so any match that respects them finds more than one in ten.
    """
    hit = top_b[match].astype(float)
    by_layer = np.bincount(layer, weights=hit) / np.bincount(layer)
    return float(hit[top_a].mean()), float(by_layer[layer][top_a].mean())


def compare_models(
    a: np.ndarray, b: np.ndarray, r_a: np.ndarray, r_b: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, float], pd.DataFrame]:
    """How far the neurons of two models of one size agree at one site.

    Parameters
    ----------
    a, b
        Activations [rows layer neuron] on the same inputs.
    r_a, r_b
        Each neuron's correlation with the behaviour, layer by layer.

    Returns
    -------
    numbers
        Of the top tenth of `a` by `|r|`, the share that is in the top tenth of `b` along a match: `best` (the most
        correlated neuron of `b`), `one_to_one` (each neuron of `b` once), `index` (the neuron of the same number); each
        beside what :func:`carried` says of chance, `best_chance` and so on. `universal`: the share of all neurons whose
        best correlation exceeds that with rotated neurons by more than `UNIVERSAL`.
    matches
        One row a neuron of `a`: its best `correlation` in size, and that after rotation, `rotated`.
    """
    if a.shape != b.shape:
        raise ValueError(f"The models must be of one size and have read the same inputs, not {a.shape} and {b.shape}.")
    correlation = correlations(a, b)
    found, by_rotation = np.abs(correlation).max(1), np.abs(correlations(a, rotated(b, rng))).max(1)
    top_a, top_b, layer = top(r_a), top(r_b), np.arange(len(r_a)) // a.shape[2]
    ways = {
        "best": np.abs(correlation).argmax(1),
        "one_to_one": one_to_one(correlation),
        "index": np.arange(len(r_a)),
    }
    numbers: dict[str, float] = {}
    for name, match in ways.items():
        numbers[name], numbers[f"{name}_chance"] = carried(top_a, top_b, match, layer)
    numbers["universal"] = float((found - by_rotation > UNIVERSAL).mean())
    return numbers, pd.DataFrame({"correlation": found, "rotated": by_rotation})
