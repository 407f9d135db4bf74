"""Match the neurons of two models by the correlation of their activations on common inputs.

An index means nothing across seeds: neuron 5 of two models share only the number. So each neuron is matched with the
neuron of the other model that correlates with it most, after Gurnee et al. 2024, "Universal neurons in GPT2 language
models" (arXiv 2401.12181).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from memgen.steering.shifts import largest

TOP_SHARE = 0.1  # the share of neurons, by |r|, that counts as the top


def common_prompts(frames: Sequence[pd.DataFrame], n: int, rng: np.random.Generator) -> pd.DataFrame:
    """About `n` conflict inputs, equally many from each model's frame, so that no model is favoured."""
    per_frame = -(-n // len(frames))
    conflicts = [frame[frame.kind == "conflict"] for frame in frames]
    sampled = [frame.sample(min(per_frame, len(frame)), random_state=rng) for frame in conflicts]
    return pd.concat(sampled, ignore_index=True)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlations [neurons of a, neurons of b] of activations over the same inputs; 0 for a constant."""
    columns = (activations.reshape(len(activations), -1).T for activations in (a, b))
    return np.nan_to_num(1 - cdist(*columns, "correlation")).astype(np.float32)


def top_overlap(r_a: np.ndarray, r_b: np.ndarray) -> float:
    """The share of the top neurons by `|r_a|` that are top neurons by `|r_b|`, too: two rankings of one model."""
    top_a, top_b = (largest(torch.from_numpy(r), TOP_SHARE).numpy() for r in (r_a, r_b))
    return float(top_b[top_a].mean())


def one_to_one(correlation: np.ndarray) -> np.ndarray:
    """The match [neurons of a] of largest summed `|correlation|` that uses no neuron of `b` twice."""
    return linear_sum_assignment(-np.abs(correlation))[1]
