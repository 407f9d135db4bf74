"""Controls of a shift: other vectors of the same norm; and the study's random baseline, of another norm."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

#: Makes a control from a shift.
Control = Callable[[Tensor, np.random.Generator], Tensor]


def random_neurons(shift: Tensor, rng: np.random.Generator) -> Tensor:
    """The same magnitudes with random signs on as many neurons drawn at random.

    Where there are enough of them, none of the shifted neurons is drawn.
    """
    flat = shift.flatten()
    shifted = torch.nonzero(flat).flatten().numpy()
    others = np.setdiff1d(np.arange(len(flat)), shifted)
    drawn = rng.choice(others if len(others) >= len(shifted) else len(flat), len(shifted), replace=False)
    control = torch.zeros_like(flat)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], len(shifted))).float()
    control[torch.from_numpy(drawn)] = flat[torch.from_numpy(rng.permutation(shifted))].abs() * signs
    return control.reshape(shift.shape)


def random_direction(shift: Tensor, rng: np.random.Generator) -> Tensor:
    """On the same neurons a random direction of the same norm in each layer."""
    noise = torch.from_numpy(rng.standard_normal(tuple(shift.shape))).float() * (shift != 0)
    norm = noise.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return noise / norm * shift.norm(dim=1, keepdim=True)


def least_correlated(table: pd.DataFrame, site: str) -> Control:
    """Make the control on the neurons with the least `|r|`: the same magnitudes with random signs on as many of them.

    Of a shift of all neurons it has the magnitudes, dealt anew.
    """
    ranked = table[table.site == site].sort_values("r", key=abs, kind="stable")
    layers, neurons = torch.tensor(ranked.layer.to_numpy()), torch.tensor(ranked.neuron.to_numpy())

    def draw(shift: Tensor, rng: np.random.Generator) -> Tensor:
        magnitudes = shift[shift != 0].abs()
        dealt = magnitudes[torch.from_numpy(rng.permutation(len(magnitudes)))]
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], len(dealt))).float()
        control = torch.zeros_like(shift)
        control[layers[: len(dealt)], neurons[: len(dealt)]] = dealt * signs
        return control

    return draw


def uniform(shift: Tensor, rng: np.random.Generator) -> Tensor:
    """The study's random baseline: on as many neurons at random, numbers between plus and minus the largest shift.

    It is no control: its norm is about the largest shift times the root of a third of the number of neurons.
    """
    n, largest = int((shift != 0).sum()), float(shift.abs().max())
    baseline = torch.zeros(shift.numel())
    drawn = rng.choice(shift.numel(), n, replace=False)
    baseline[torch.from_numpy(drawn)] = torch.from_numpy(rng.uniform(-largest, largest, n)).float()
    return baseline.reshape(shift.shape)


#: What stands beside the study's shift without its norm, and never counts as its best control.
BASELINES: dict[str, Control] = {"uniform": uniform}


def controls(method: str, table: pd.DataFrame, site: str) -> dict[str, Control]:
    """The controls of a method, by name; `table` is that of neurons.

    Only the study's shift has random neurons among them: the others change whole layers or fitted sets.
    """
    kinds: dict[str, Control] = {"random_neurons": random_neurons} if method == "study" else {}
    return kinds | {"random_direction": random_direction, "least_correlated": least_correlated(table, site)}
