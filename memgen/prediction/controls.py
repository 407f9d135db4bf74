"""Controls of a probe: random labels, other inputs, and what the model's own readout says.

- Control task (Hewitt & Liang 2019, arXiv 1909.03368): each group gets a random label, and the probe has to know it on
  other rows of the same groups. What it reaches is how much it can learn by heart; selectivity is what it reaches with
  the behaviour, on the same rows, minus that.
- Transfer: a probe fitted on one population, tried on another one's held-out groups.
- Direct reading: the model's own final norm and unembedding, applied to every layer's residual stream (the logit lens,
  nostalgebraist 2020). It knows the two answers, which a probe does not, and needs no fit. At the last layer its sign
  is the behaviour by definition.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from memgen import statistics
from memgen.prediction.probes import SQUARES, fit_probe
from memgen.prediction.tables import COLUMNS, Inputs, Probe, probe_table

CONTROL = "control task"
UNTRAINED = "untrained network"
HELD_OUT_ROWS = "held-out rows"
DIRECT = "direct reading"


def within_groups(groups: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide the rows of each group in two halves at random.

    Returns
    -------
    fit, held_out
        Row numbers. A group of an odd number of rows leaves one out; a group of one row is in neither.
    """
    fit: list[int] = []
    held_out: list[int] = []
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        half = len(rows) // 2
        fit += sorted(rows[:half])
        held_out += sorted(rows[half : 2 * half])
    return np.array(fit, dtype=int), np.array(held_out, dtype=int)


def control_task(
    inputs: Inputs, site: str, kind: str, population: str, rng: np.random.Generator, n_resamples: int
) -> tuple[pd.DataFrame, list[statistics.Estimate]]:
    """A probe of each layer with the behaviour, and with a random label for each group, on held-out rows of all groups.

    Both are fitted on the same rows and tried on the same rows. The regularisation is chosen by cross-validation over
    rows, for over groups a random label cannot be told.

    Parameters
    ----------
    inputs
        The training split, of which rows are held out here; no test group is touched.

    Returns
    -------
    table
        As of :func:`probe_table`, with the split ``held-out rows``; `baseline` is the kind or ``control task``.
    selectivity
        Of each layer: accuracy with the behaviour minus accuracy with the random labels.
    """
    names, codes = np.unique(inputs.groups, return_inverse=True)
    random = rng.permutation(np.resize([1, -1], len(names)))[codes]
    fit, held_out = within_groups(inputs.groups, rng)
    own = inputs.take(held_out)
    tables, selectivity = [], []
    for layer in range(inputs.states[site].shape[1]):
        state = inputs.states[site][:, layer]
        right = []
        for called, labels in ((kind, inputs.labels), (CONTROL, random)):
            probe = fit_probe(state[fit], labels[fit], fit, squares=kind == SQUARES)
            scores = probe.decision_function(state[held_out])
            right.append((scores > 0) == (labels[held_out] > 0))
            told = Inputs(own.frame.assign(behavior=labels[held_out]), {})
            named = Probe(site, layer, called, lambda _, scores=scores: scores)  # type: ignore[misc]
            tables.append(probe_table([named], {HELD_OUT_ROWS: told}, population, rng, n_resamples, [HELD_OUT_ROWS]))
        selectivity.append(statistics.paired_difference(right[0], right[1], own.groups, rng, n_resamples))
    return pd.concat(tables, ignore_index=True)[COLUMNS], selectivity


def transfer(
    probes: Mapping[str, Probe],
    inputs: Mapping[str, Mapping[str, Inputs]],
    rng: np.random.Generator,
    n_resamples: int,
) -> pd.DataFrame:
    """Each population's probe on the test groups of every other population.

    Parameters
    ----------
    probes
        By population: its best probe.
    inputs
        By population and split.

    Returns
    -------
    pandas.DataFrame
        As of :func:`probe_table`; `probe` is the population it is tried on, `baseline` says which one it was fitted on.
    """
    tables = []
    for source, probe in probes.items():
        named = Probe(probe.site, probe.layer, f"fitted on {source}", probe.score)
        for target in inputs:
            if target != source:
                tables.append(probe_table([named], inputs[target], target, rng, n_resamples, ["test"]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


@torch.no_grad()
def readout(model: PreTrainedModel, states: np.ndarray, memorized: np.ndarray, inferred: np.ndarray) -> np.ndarray:
    """The log-odds (nats) of two tokens, read from each layer by the model's final norm and unembedding.

    Parameters
    ----------
    states
        `resid_post` at the prompt's last token [rows, layer, d].
    memorized, inferred
        The first token of each row's two answers [rows].

    Returns
    -------
    array of shape (rows, layers)
        log p(first token of the memorized answer) - log p(first token of the inferred answer). At the last layer its
        sign is the behaviour, for a greedy answer begins with the more probable token; it is 0 where both begin alike.
    """
    body: Any = model.base_model
    norm = body.ln_f if hasattr(body, "ln_f") else body.norm
    weight = model.get_output_embeddings().weight
    plus, minus = (torch.as_tensor(np.asarray(ids), device=weight.device) for ids in (memorized, inferred))
    normed = norm(torch.as_tensor(states, device=weight.device, dtype=weight.dtype))
    return torch.einsum("rld,rd->rl", normed, weight[plus] - weight[minus]).float().cpu().numpy()


def direct_reading(site: str, n_layer: int) -> list[Probe]:
    """A reading of each layer, for inputs whose states have :func:`readout` under the name ``direct reading``."""

    def read(layer: int) -> Probe:
        return Probe(site, layer, DIRECT, lambda own: own.states[DIRECT][:, layer])

    return [read(layer) for layer in range(n_layer)]
