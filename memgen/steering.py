"""Steer the behaviour at inference time: add a vector to the activations, leave every parameter alone.

An intervention is, for each target behaviour, one vector a layer that is added at one site to the activations of the
prompt's last tokens and of the answer. The study's own takes the N neurons of largest `|r|` and shifts each by
``alpha * sign(r) * |NMD|``. The gradient-guided one is fitted: gradient descent on the log-probability of the target
answer, averaged over training groups, with a penalty on its norm.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from memgen import activations, behavior, statistics
from memgen.behavior import GENERALIZATION, MEMORIZATION, NAMES, OTHER
from memgen.config import AnalysisConfig, InputError

TARGETS = (MEMORIZATION, GENERALIZATION)
STRENGTHS = (0.5, 0.75, 1.0)  # at which a fitted shift is tried: the dose is chosen, too

#: Makes a control from a shift.
Control = Callable[[Tensor, np.random.Generator], Tensor]


@dataclasses.dataclass(frozen=True)
class Intervention:
    """What is added to reach each behaviour.

    Attributes
    ----------
    site
        Where (:data:`memgen.activations.SITES`).
    n_tokens
        It is added at the last `n_tokens` tokens of the prompt and at every token of the answer.
    memorization, generalization
        The vectors [n_layer, d]; layers of zeros are left alone.
    how
        How it was made and chosen (layers, N, alpha, ...), kept in the file beside the vectors.
    """

    site: str
    n_tokens: int
    memorization: Tensor
    generalization: Tensor
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def shift(self, target: int) -> Tensor:
        """The vectors [n_layer, d] that lead to `target` (+1 memorization, -1 generalization)."""
        return {MEMORIZATION: self.memorization, GENERALIZATION: self.generalization}[target]

    def save(self, folder: Path, method: str) -> None:
        """Write ``<method>.safetensors`` and ``<method>.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {NAMES[target]: self.shift(target).detach().float().cpu().contiguous() for target in TARGETS}
        save_file(tensors, folder / f"{method}.safetensors")
        layers = {name: torch.nonzero(tensor.abs().sum(1)).flatten().tolist() for name, tensor in tensors.items()}
        positions = list(range(-self.n_tokens, 0))  # of the prompt's tokens, from its end
        about = {"site": self.site, "layers": layers, "positions": positions, "answer_tokens": "all", **self.how}
        (folder / f"{method}.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, method: str) -> "Intervention":
        """Read what :meth:`save` wrote; an :class:`InputError` where it is missing."""
        if not (folder / f"{method}.json").exists():
            raise InputError(f"No intervention {method!r} was found in {folder}.")
        about = json.loads((folder / f"{method}.json").read_text())
        site, positions = about.pop("site"), about.pop("positions")
        for name in ("layers", "answer_tokens"):
            about.pop(name)
        return cls(site, len(positions), **load_file(folder / f"{method}.safetensors"), how=about)


def adding(model: PreTrainedModel, site: str, shift: Tensor, n_tokens: int, strength: float = 1.0) -> behavior.Context:
    """The context that adds ``strength * shift[layer]`` at the last `n_tokens` prompt tokens and after.

    Raises
    ------
    ValueError
        If `shift` is not [n_layer, d] for this model and site.
    """
    expected = (len(activations.blocks(model)), activations.width(model, site))
    if tuple(shift.shape) != expected:
        raise ValueError(f"The shift for {site} must have the shape {expected}, not {tuple(shift.shape)}.")
    layers = torch.nonzero(shift.detach().abs().sum(1)).flatten().tolist() if not shift.requires_grad else None

    def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
        where = batch.from_end(n_tokens)[..., None].to(shift.dtype)

        def edit(layer: int) -> activations.Edit:
            return activations.Edit(site, layer, lambda h: h + (strength * where * shift[layer]).to(h.dtype))

        return activations.edit(model, [edit(i) for i in (range(expected[0]) if layers is None else layers)])

    return context


def top_neurons(table: pd.DataFrame, site: str, n: int) -> pd.DataFrame:
    """The `n` neurons of a site with the largest `|r|` over all layers; equals in the table's order.

    Raises
    ------
    InputError
        If the site has fewer neurons.
    """
    own = table[table.site == site]
    if not 1 <= n <= len(own):
        raise InputError(f"top N must be from 1 to {len(own)}, the number of neurons at {site}, not {n}.")
    return own.loc[own.r.abs().sort_values(ascending=False, kind="stable").index[:n]]


def study_shift(table: pd.DataFrame, site: str, n: int, alpha: float, shape: tuple[int, int]) -> Tensor:
    """The study's shift towards memorization [n_layer, d]: ``alpha * sign(r) * |NMD|`` on the top `n` neurons."""
    chosen = top_neurons(table, site, n)
    shift = torch.zeros(shape)
    where = (chosen.layer.to_list(), chosen.neuron.to_list())
    shift[where] = torch.tensor((alpha * np.sign(chosen.r) * chosen.nmd.abs()).to_list())
    return shift


def random_neurons(shift: Tensor, rng: np.random.Generator) -> Tensor:
    """A control of the same norm: the same magnitudes with random signs on as many neurons drawn at random.

    Where there are enough of them, none of the shifted neurons is drawn.
    """
    flat = shift.flatten()
    used = torch.nonzero(flat).flatten().numpy()
    rest = np.setdiff1d(np.arange(len(flat)), used)
    drawn = rng.choice(rest if len(rest) >= len(used) else len(flat), len(used), replace=False)
    control = torch.zeros_like(flat)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], len(used))).float()
    control[torch.from_numpy(drawn)] = flat[torch.from_numpy(rng.permutation(used))].abs() * signs
    return control.reshape(shift.shape)


def random_direction(shift: Tensor, rng: np.random.Generator) -> Tensor:
    """A control on the same neurons: a random direction of the same norm in each layer."""
    noise = torch.from_numpy(rng.standard_normal(tuple(shift.shape))).float() * (shift != 0)
    norm = noise.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return noise / norm * shift.norm(dim=1, keepdim=True)


def fit_shift(
    model: PreTrainedModel,
    prepared: Sequence[behavior.Batch],
    site: str,
    neurons: Tensor,
    target: int,
    n_tokens: int,
    steps: int,
    learning_rate: float,
    norm_penalty: float,
) -> Tensor:
    """Fit a shift by gradient descent: the gradient-guided intervention.

    Minimises the mean of ``-log p(target answer)`` plus `norm_penalty` times the shift's norm, with Adam, over the
    prepared batches in turn. The model's parameters stay as they are.

    Parameters
    ----------
    neurons
        Which neurons may be shifted: boolean [n_layer, d].
    target
        +1 memorization, -1 generalization.

    Returns
    -------
    Tensor
        [n_layer, d], zero outside `neurons`.
    """
    allowed = neurons.to(model.device).float()
    vector = torch.zeros_like(allowed, requires_grad=True)
    optimizer = torch.optim.Adam([vector], lr=learning_rate)
    own = [batch for batch in prepared if NAMES[target] in batch.answers]
    if not own:
        raise ValueError(f"No input has an answer by {NAMES[target]}.")
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        for step in range(steps):
            batch = own[step % len(own)]
            shift = vector * allowed
            with adding(model, site, shift, n_tokens)(batch):
                log_p, _ = behavior.score(behavior.run(model, batch), batch)[NAMES[target]]
            loss = -log_p.mean() + norm_penalty * (shift.square().sum() + 1e-12).sqrt()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - 0.9 * step / steps)
            optimizer.step()
    finally:
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
    return (vector * allowed).detach().cpu()


def moved(before: pd.DataFrame, after: pd.DataFrame, target: int) -> pd.DataFrame:
    """What a shift towards `target` did to the inputs of the opposite behaviour.

    Returns
    -------
    pandas.DataFrame
        With the index of those inputs: `to_target` and `to_other` (did the behaviour become that?), `wrong_way` (did
        the log-odds move away from the target?), each 0 or 1.
    """
    chosen = before.index[before.behavior == -target]
    end = after.loc[chosen]
    wrong = (end.log_odds - before.log_odds[chosen]) * target < 0
    columns = {"to_target": end.behavior == target, "to_other": end.behavior == OTHER, "wrong_way": wrong}
    return pd.DataFrame(columns).astype(float)


def rates(before: pd.DataFrame, after: pd.DataFrame, target: int) -> dict[str, float]:
    """The means of :func:`moved`, nan where no input had the opposite behaviour."""
    return moved(before, after, target).mean().to_dict()


@dataclasses.dataclass(frozen=True)
class Trials:
    """Tries shifts on one set of inputs, each beside controls of the same norm.

    Attributes
    ----------
    prepared, before
        The inputs, and what the unsteered model does on them.
    n_tokens
        Shifts are added at the last `n_tokens` prompt tokens and after.
    n_controls
        How many random controls each shift is compared with.
    """

    model: PreTrainedModel
    prepared: list[behavior.Batch]
    before: pd.DataFrame
    n_tokens: int
    n_controls: int

    def run(self, site: str, shift: Tensor) -> pd.DataFrame:
        """What the model does on the inputs under a shift [n_layer, d]."""
        context = adding(self.model, site, shift.to(self.model.device), self.n_tokens)
        return behavior.measure(self.model, self.prepared, context)

    def compare(self, site: str, shift: Tensor, target: int, control: Control, rng: np.random.Generator) -> dict:
        """The rates under the shift, `control` (the mean share that its controls bring to the target) and `net`."""
        own = rates(self.before, self.run(site, shift), target)
        drawn = [self.run(site, control(shift, rng)) for _ in range(self.n_controls)]
        by_chance = float(np.mean([rates(self.before, after, target)["to_target"] for after in drawn]))
        return own | {"control": by_chance, "net": own["to_target"] - by_chance, "norm": float(shift.norm())}


def sweep_study(
    trials: Trials,
    table: pd.DataFrame,
    site: str,
    counts: Sequence[int],
    alphas: Sequence[float],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Try the study's shift with every N and alpha: `target, n, alpha` and what :meth:`Trials.compare` tells."""
    shape = (len(activations.blocks(trials.model)), activations.width(trials.model, site))
    rows = []
    for target in TARGETS:
        for n in counts:
            for alpha in alphas:
                shift = target * study_shift(table, site, n, alpha, shape)
                told = trials.compare(site, shift, target, random_neurons, rng)
                rows.append({"target": target, "n": n, "alpha": alpha, **told})
    return pd.DataFrame(rows)


def sweep_fitted(
    trials: Trials,
    learn: Mapping[int, Sequence[behavior.Batch]],
    site: str,
    config: AnalysisConfig,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, dict[tuple[int, str], Tensor]]:
    """Fit a shift for each layer alone and one for all together, and try each at several strengths.

    Parameters
    ----------
    learn
        For each target the prepared inputs to fit on.

    Returns
    -------
    table, shifts
        `target, layers, strength` and what :meth:`Trials.compare` tells; the fitted shifts by (target, layers).
    """
    shape = (len(activations.blocks(trials.model)), activations.width(trials.model, site))
    choices = {f"layer {layer}": [layer] for layer in range(shape[0])} | {"all": list(range(shape[0]))}
    rows, shifts = [], {}
    for target in TARGETS:
        for name, layers in choices.items():
            allowed = torch.zeros(shape, dtype=torch.bool)
            allowed[layers] = True
            shift = fit_shift(
                trials.model,
                learn[target],
                site,
                allowed,
                target,
                trials.n_tokens,
                config.fit_steps,
                config.fit_learning_rate,
                config.norm_penalty,
            )
            shifts[target, name] = shift
            for strength in STRENGTHS:
                told = trials.compare(site, strength * shift, target, random_direction, rng)
                rows.append({"target": target, "layers": name, "strength": strength, **told})
    return pd.DataFrame(rows), shifts


def choose(tried: pd.DataFrame, target: int, max_other: float) -> pd.Series:
    """The row with the largest net effect on `target` and at most `max_other` other answers (0-1), first of equals.

    Where none keeps to that, the one with the fewest other answers.

    Raises
    ------
    InputError
        If no input showed the opposite behaviour, so that nothing could be tried.
    """
    own = tried[(tried.target == target) & tried.net.notna()]
    if own.empty:
        raise InputError(
            f"No input showed {NAMES[-target]}, so nothing can be chosen that leads to {NAMES[target]}: "
            "train the model on other data, or choose another checkpoint."
        )
    allowed = own[own.to_other <= max_other]
    if allowed.empty:
        allowed = own[own.to_other == own.to_other.min()]
    return allowed.loc[allowed.net.idxmax()]


def outcomes(before: pd.DataFrame, after: pd.DataFrame, target: int, method: str) -> pd.DataFrame:
    """Rows of ``outcomes.parquet`` for one method and target: every input, whatever its behaviour was."""
    frame = pd.DataFrame({"input": before.index, "method": method, "target": target})
    for name in ("behavior", "log_odds"):
        frame[f"{name}_before"] = before[name].to_numpy()
        frame[f"{name}_after"] = after[name].loc[before.index].to_numpy()
    return frame


def summarize(result: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """Rates by method and target over the inputs of the opposite behaviour, with intervals clustered by group.

    Parameters
    ----------
    result
        Rows of ``outcomes.parquet`` with their `group`.

    Returns
    -------
    pandas.DataFrame
        `method, target, measure` (to_target, to_other, wrong_way)`, value, low, high, n`; nothing for a target whose
        opposite no input showed.
    """
    rows = []
    for (method, target), everything in result.groupby(["method", "target"], sort=False):
        own = everything[everything.behavior_before == -target]
        if own.empty:
            continue
        measures = {
            "to_target": own.behavior_after == target,
            "to_other": own.behavior_after == OTHER,
            "wrong_way": (own.log_odds_after - own.log_odds_before) * target < 0,
        }
        for name, happened in measures.items():
            estimate = statistics.clustered_mean(
                happened.to_numpy(dtype=float), own.group.to_numpy(), rng, n_resamples=n_resamples
            )
            rows.append({"method": method, "target": target, "measure": name, **estimate._asdict()})
    return pd.DataFrame(rows)


def shares(result: pd.DataFrame) -> pd.DataFrame:
    """What inputs of the opposite behaviour become: `method, target` (name)`, behavior, share, n`."""
    own = result[result.behavior_before == -result.target]
    rows = []
    for (method, target), some in own.groupby(["method", "target"], sort=False):
        for name, share in behavior.rates(some.behavior_after).items():
            rows.append({"method": method, "target": NAMES[target], "behavior": name, "share": share, "n": len(some)})
    return pd.DataFrame(rows)


def net_effect(
    result: pd.DataFrame, methods: Sequence[str], rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """Share that reaches the target under a method minus that under its control, paired by input.

    Returns
    -------
    pandas.DataFrame
        `method, target, value, low, high, n`.
    """
    rows = []
    own = result[result.behavior_before == -result.target]
    own = own.assign(hit=(own.behavior_after == own.target).astype(float))
    for method in methods:
        for target in TARGETS:
            some = own[own.target == target]
            hits = some[some.method == method].set_index("input")
            control = some[some.method == f"{method}: random control"].groupby("input").hit.mean()
            if hits.empty:
                continue
            difference = statistics.paired_difference(
                hits.hit.to_numpy(), control[hits.index].to_numpy(), hits.group.to_numpy(), rng, n_resamples
            )
            rows.append({"method": method, "target": target, **difference._asdict()})
    return pd.DataFrame(rows)


def mean_log_odds(
    before: pd.DataFrame,
    after: pd.DataFrame,
    target: int,
    groups: pd.Series,
    rng: np.random.Generator,
    n_resamples: int,
) -> dict[str, float]:
    """The mean log-odds (nats) after a shift, over the inputs of the opposite behaviour: `log_odds, low, high, n`."""
    chosen = before.index[before.behavior == -target]
    estimate = statistics.clustered_mean(
        after.log_odds[chosen].to_numpy(), groups[chosen].to_numpy(), rng, n_resamples=n_resamples
    )
    return {"log_odds": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
