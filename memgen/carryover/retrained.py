"""Apply the study's shift of one seed to the model of another: the same neurons, by index or by match.

An index means nothing across models that were trained from scratch. So a shift is carried by ``index``, as the study
does with a retrained adapter, and ``matched``: within each layer every neuron's part goes to its partner in the
one-to-one pairing of largest summed correlation, in size (:func:`memgen.carryover.matching.one_to_one`). Magnitudes and
signs are the source's; where partners correlate negatively, the sign turns. Nothing is fitted or chosen anew.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.behavior import TARGETS
from memgen.carryover.matching import correlations, one_to_one
from memgen.config import AnalysisConfig
from memgen.steering.controls import random_neurons
from memgen.steering.interventions import Intervention
from memgen.steering.outcomes import OUTCOMES
from memgen.steering.shifts import Candidate
from memgen.steering.sweep import sweep
from memgen.steering.trials import Trials, by_group, showing_opposite
from memgen.subject import Subject

CONTROLS = {"random_neurons": random_neurons}
COLUMNS = ["source_seed", "match", "target", "control", "measure", "value", "n"]


def carried(shift: Tensor, source: NDArray, receiver: NDArray) -> Tensor:
    """A shift [n_layer, d] of one model on the matched neurons of another.

    `source` and `receiver` are the two models' activations [rows layer neuron] on the same inputs.
    """
    result = torch.zeros_like(shift)
    for layer in torch.nonzero(shift.abs().sum(1)).flatten().tolist():
        correlation = correlations(source[:, [layer]], receiver[:, [layer]])
        partner = one_to_one(correlation)
        sign = np.sign(correlation[np.arange(len(partner)), partner])
        result[layer, partner] = shift[layer] * torch.from_numpy(sign)
    return result


def from_other_seeds(
    subject: Subject,
    frame: pd.DataFrame,
    seed: int,
    interventions: Mapping[int, Intervention],
    states: Mapping[int, NDArray],
    config: AnalysisConfig,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """What the interventions of all seeds do to the model of one, the receiver: `subject, frame, seed`.

    Its inputs have the column `behavior`; at most ``config.sweep_rows`` conflicts are taken. `interventions` and
    `states` are, of each seed, its intervention, all at one site, and its activations there on common inputs.

    The result has `COLUMNS`: the shares of inputs of the opposite behaviour with each of `OUTCOMES`, for each seed and
    `match` (``own`` for the receiver's intervention), under the shift and under random neurons of the same norm. A
    target whose opposite no input shows has no rows.
    """
    parts = []
    site = interventions[seed].site
    for target in TARGETS:
        opposite = by_group(showing_opposite(frame, frame.behavior, target), config.sweep_rows, rng)
        if opposite.empty:
            continue
        candidates = [Candidate("own", str(seed), interventions[seed].shift(target))]
        for source in [other for other in interventions if other != seed]:
            shift = interventions[source].shift(target)
            candidates.append(Candidate("index", str(source), shift))
            candidates.append(Candidate("matched", str(source), carried(shift, states[source], states[seed])))
        trials = Trials.on(subject, opposite, config.sweep_draws)
        parts.append(sweep({target: trials}, {target: candidates}, site, CONTROLS, rng).tried)
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    tried = pd.concat(parts, ignore_index=True).rename(columns={"method": "match", "candidate": "source_seed"})
    return tried.loc[tried.measure.isin(OUTCOMES), COLUMNS]
