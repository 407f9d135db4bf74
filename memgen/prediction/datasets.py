"""The inputs of one split, and what a probe may see of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd

from memgen import behavior
from memgen.subject import Subject

ALL_LAYERS = "all layers"  # of all sites that were read, as if they were a single layer


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs of one split with their hidden states.

    Attributes
    ----------
    frame
        Columns `input_ids` (prompts of one length; of any length where `words` has those of one), `behavior` (+1 or
        -1), `group`, `memorized_share` (NaN where no training text is a conflict), `evidence`.
    states
        For each site the activations at the last prompt token [rows layer neuron], in the order of the frame.
    readouts
        For each reading of :func:`memgen.prediction.readouts` the log-odds [rows layer].
    """

    frame: pd.DataFrame
    states: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    readouts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        """The behaviour [rows]."""
        return self.frame.behavior.to_numpy()

    @property
    def groups(self) -> np.ndarray:
        """The group [rows]."""
        return self.frame.group.to_numpy(dtype=str)

    @property
    def token_ids(self) -> np.ndarray:
        """The prompts [rows pos], in the words of the task where a model reads them in tokens of its own."""
        return np.stack(self.frame.get("words", self.frame.input_ids).to_list())

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray) -> Self:
        """The dataset of a few rows: a mask [rows], or row numbers in any order."""
        parts = [{name: array[rows] for name, array in arrays.items()} for arrays in (self.states, self.readouts)]
        return type(self)(self.frame.iloc[rows], *parts)

    def query(self, rule: str) -> Self:
        """The dataset of the rows for which `rule` holds, as ``DataFrame.query`` takes it."""
        return self.take(self.frame.eval(rule).to_numpy(dtype=bool))

    def sample(self, n: int, rng: np.random.Generator) -> Self:
        """At most `n` rows at random, as evenly over the groups as can be, in their order."""
        shuffled = rng.permutation(len(self))
        turn = self.frame.iloc[shuffled].groupby("group", sort=False).cumcount().to_numpy()
        return self.take(np.sort(shuffled[turn.argsort(kind="stable")][:n]))

    def can_be_probed(self) -> bool:
        """Whether there are two groups or more, and both behaviours."""
        return len(np.unique(self.groups)) > 1 and len(np.unique(self.labels)) > 1


def read_states(subject: Subject, frame: pd.DataFrame, sites: Sequence[str]) -> dict[str, np.ndarray]:
    """The activations of each site [rows layer neuron], and of ``all layers`` of these sites [rows 1 neuron]."""
    states = behavior.states(subject, frame, sites)
    return states | {ALL_LAYERS: np.hstack([state.reshape(len(state), -1) for state in states.values()])[:, None]}
