"""What a shift does beyond moving the behaviour: damage elsewhere, the parts of its effect, and its dose."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memgen import activations, behavior, statistics
from memgen.behavior import NAMES
from memgen.config import AnalysisConfig
from memgen.statistics import Estimate
from memgen.steering import passes
from memgen.steering.fitting import fit_shift
from memgen.steering.interventions import TARGETS, Intervention, controls
from memgen.steering.outcomes import outcomes, rates, what_happened
from memgen.steering.trials import Trials, by_group

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def on_test(
    trials: Trials,
    interventions: Mapping[str, Intervention],
    controlled: Sequence[str],
    table: pd.DataFrame,
    make_rng: Callable[[str], np.random.Generator],
) -> pd.DataFrame:
    """Rows of ``outcomes.parquet`` for every intervention and target, and for each draw of its controls.

    Parameters
    ----------
    controlled
        The methods that have controls; these are named ``<method>: <control>``.
    table
        The table of neurons, for the least correlated ones.
    """
    parts = []
    for method, intervention in interventions.items():
        kinds = controls(method, table, intervention.site) if method in controlled else {}
        for target in TARGETS:
            rng, own = make_rng(f"controls of {method} {target}"), intervention.shift(target)
            shifts = [(method, own)]
            for kind, draw in kinds.items():
                shifts += [(f"{method}: {kind}", draw(own, rng)) for _ in range(trials.n_controls)]
            ended = trials.run_many(intervention.site, [shift for _, shift in shifts])
            names = [name for name, _ in shifts]
            parts += [outcomes(trials.before, after, target, name) for name, after in zip(names, ended, strict=True)]
    return pd.concat(parts, ignore_index=True)


def losses(
    trials: Trials,
    frame: pd.DataFrame,
    interventions: Mapping[str, Intervention],
    rng: np.random.Generator,
    n_resamples: int,
) -> pd.DataFrame:
    """Accuracy on inputs with one right answer that shifts cost, paired by input, clustered by group.

    Parameters
    ----------
    trials
        Of the rows of `frame`, whose kinds are memorized_only and inferred_only.

    Returns
    -------
    pandas.DataFrame
        `method, target, inputs` (the kind)`, plain, steered` (accuracies 0-1)`, value` (the loss)`, low, high, n`.
    """
    rows = []
    kinds = frame.kind[trials.before.index]
    answer = np.where(kinds == "inferred_only", behavior.GENERALIZATION, behavior.MEMORIZATION)
    right = (trials.before.behavior == answer).astype(float)
    for method, intervention in interventions.items():
        ended = trials.run_many(intervention.site, [intervention.shift(target) for target in TARGETS])
        for (target, after), kind in itertools.product(zip(TARGETS, ended, strict=True), right.groupby(kinds).groups):
            own = kinds.index[kinds == kind]
            kept = (after.behavior == answer).astype(float)
            told = {
                "method": method,
                "target": target,
                "inputs": kind,
                "plain": right[own].mean(),
                "steered": kept[own].mean(),
            }
            estimate = statistics.paired_difference(right[own], kept[own], frame.group[own], rng, n_resamples)
            rows.append(told | estimate._asdict())
    return pd.DataFrame(rows)


def cut_before_answers(
    model: PreTrainedModel, frame: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, n_tokens: int, batch_size: int
) -> list[passes.Inputs]:
    """The prompts without their last token, where what comes next is no answer but that token."""
    cut = pd.DataFrame({"input_ids": [ids[:-1] for ids in frame.input_ids]}, index=frame.index)
    cut["answer_memorization"] = tokenizer.convert_ids_to_tokens([int(ids[-1]) for ids in frame.input_ids])
    cut["answer_generalization"] = None
    return passes.keep(model, behavior.prepare(model, cut, tokenizer, batch_size, keep=n_tokens))


@torch.no_grad()
def divergence(
    model: PreTrainedModel, inputs: Sequence[passes.Inputs], site: str, shifts: Sequence[Tensor], n_tokens: int
) -> np.ndarray:
    """KL(unsteered || steered) of the next token after each prompt, in nats [shift, input], in the inputs' order."""
    plain = torch.zeros_like(shifts[0])
    result = np.zeros((len(shifts), sum(len(one.batch.rows) for one in inputs)))
    done = 0
    for one in inputs:
        columns = slice(done, done := done + len(one.batch.rows))
        for which, start in passes.chunks(shifts):
            together = torch.stack([plain, *(shifts[i] for i in which)]).to(model.device)
            logits = passes.run_side_by_side(model, one, site, together, n_tokens, start)
            rows = torch.arange(logits.shape[1], device=logits.device)
            log_p = logits[:, rows, one.batch.prompt_length - 1].double().log_softmax(-1)
            result[which, columns] = (log_p[0].exp() * (log_p[0] - log_p[1:])).sum(-1).cpu().numpy()
    return result


def mean_divergence(
    model: PreTrainedModel,
    inputs: Sequence[passes.Inputs],
    groups: pd.Series,
    site: str,
    shifts: Mapping[str, Sequence[Tensor]],
    n_tokens: int,
    rng: np.random.Generator,
    n_resamples: int,
) -> dict[str, Estimate]:
    """The mean of :func:`divergence` under each name's shifts (its draws are averaged), clustered by group."""
    rows = np.concatenate([one.batch.rows.to_numpy() for one in inputs])
    everything = [shift for own in shifts.values() for shift in own]
    values = iter(divergence(model, inputs, site, everything, n_tokens))
    result = {}
    for name, own in shifts.items():
        mean = np.mean([next(values) for _ in own], axis=0)
        result[name] = statistics.clustered_mean(mean, groups[rows], rng, n_resamples)
    return result


def divergences(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    interventions: Mapping[str, Intervention],
    table: pd.DataFrame,
    config: AnalysisConfig,
    make_rng: Callable[[str], np.random.Generator],
) -> pd.DataFrame:
    """The mean divergence under every intervention and its first control, where the next token is no answer.

    Parameters
    ----------
    frame
        Inputs; ``config.sweep_rows`` of them are used.
    table
        The table of neurons, for controls that need it.

    Returns
    -------
    pandas.DataFrame
        `method, target, value, low, high` (nats)`, n`; a control's method is ``<method>: random control``.
    """
    rows = by_group(frame, config.sweep_rows, make_rng("unrelated"))
    inputs = cut_before_answers(model, rows, tokenizer, config.n_tokens, config.batch_size)
    result = []
    for (method, intervention), target in itertools.product(interventions.items(), TARGETS):
        rng, own = make_rng(f"unrelated {method} {target}"), intervention.shift(target)
        draw = next(iter(controls(method, table, intervention.site).values()))
        compared = {method: [own], f"{method}: random control": [draw(own, rng) for _ in range(config.random_draws)]}
        settings = (intervention.site, compared, config.n_tokens, rng, config.n_resamples)
        for name, estimate in mean_divergence(model, inputs, rows.group, *settings).items():
            result.append({"method": name, "target": target, **estimate._asdict()})
    return pd.DataFrame(result)


def on_untrained(
    model: PreTrainedModel,
    train: pd.DataFrame,
    test: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    site: str,
    config: AnalysisConfig,
    make_rng: Callable[[str], np.random.Generator],
) -> dict[int, Estimate]:
    """The share of all conflicts of `test` that each target's vector reaches, fitted on all layers of a random network.

    Parameters
    ----------
    model
        With random weights: there is no behaviour to start from, so every conflict counts.
    train, test
        Conflict inputs.
    """
    rows = by_group(train, config.fit_rows, make_rng("untrained"))
    learn = behavior.prepare(model, rows, tokenizer, config.fit_batch_size, keep=config.n_tokens)
    prepared = behavior.prepare(model, test, tokenizer, config.batch_size, keep=config.n_tokens)
    trials = Trials(model, prepared, behavior.measure(model, prepared), config.n_tokens, config.random_draws)
    shape = (len(activations.blocks(model)), activations.width(model, site))
    fitting = (config.n_tokens, config.fit_steps, config.fit_learning_rate, config.norm_penalties[0])
    result = {}
    for target in TARGETS:
        vector = fit_shift(model, learn, site, torch.ones(shape, dtype=torch.bool), target, *fitting)
        reached = trials.run(site, vector).behavior == target
        rng = make_rng(f"untrained {target}")
        result[target] = statistics.clustered_mean(reached, test.group[reached.index], rng, config.n_resamples)
    return result


def ablated(shift: Tensor) -> dict[str, Tensor]:
    """A shift [n_layer, d] whole, with each layer left out, and with each layer alone, where that is another vector."""
    result = {"whole": shift}
    changed = torch.nonzero(shift.abs().sum(1)).flatten().tolist()
    for name, keeps_own in (("without layer", False), ("layer", True)):
        for layer in changed if len(changed) > 1 else []:
            mask = torch.zeros(len(shift), 1)
            mask[layer] = 1.0
            result[f"{name} {layer}" + (" alone" if keeps_own else "")] = shift * (mask if keeps_own else 1 - mask)
    return result


def rates_of(trials: Trials, site: str, shifts: Mapping[str, Tensor], target: int) -> pd.DataFrame:
    """The rates under each shift: `target, part` (its name)`, to_target, to_other, wrong_way, norm, n`."""
    rows = []
    for (name, shift), after in zip(shifts.items(), trials.run_many(site, list(shifts.values())), strict=True):
        told = {"target": target, "part": name, **rates(trials.before, after, target)}
        rows.append(told | {"norm": float(shift.norm()), "n": int((trials.before.behavior == -target).sum())})
    return pd.DataFrame(rows)


def dose_response(
    trials: Trials,
    site: str,
    shifts: Mapping[str, Tensor],
    target: int,
    groups: pd.Series,
    rng: np.random.Generator,
    n_resamples: int,
) -> pd.DataFrame:
    """The mean log-odds, and the share pushed the wrong way, with each shift times each of `DOSES`.

    Returns
    -------
    pandas.DataFrame
        `method, target` (name)`, alpha, measure` (log_odds, to_target or wrong_way)`, value, low, high, n`.
    """
    rows = []
    grid = [(name, dose) for name in shifts for dose in DOSES]
    own = trials.before.behavior == -target
    before = trials.before[own]
    for (name, dose), after in zip(grid, trials.run_many(site, [d * shifts[m] for m, d in grid]), strict=True):
        end = after[own]
        happened = what_happened(end.behavior, before.log_odds, end.log_odds, target)
        measures = {"log_odds": end.log_odds, "to_target": happened["to_target"], "wrong_way": happened["wrong_way"]}
        for measure, values in measures.items():
            estimate = statistics.clustered_mean(values, groups[before.index], rng, n_resamples)
            told = {"method": name, "target": NAMES[target], "alpha": dose, "measure": measure}
            rows.append(told | estimate._asdict())
    return pd.DataFrame(rows)
