"""Planted memory: localizers scored where it is known which block remembers.

A model that only infers gets an adapter in one block, the attention or the MLP of one layer, which is trained to give
the memorized answer to half of the conflicts. All other weights stay as they were. So whatever the model remembers is
in that block, and the ideal intervention is known: to switch the adapter off.

A localizer gives each block a score, from what the block adds to the residual stream at the prompt's last token.
"""

import copy
import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers.pytorch_utils import Conv1D

from memgen import activations, behavior, intervals
from memgen.behavior import GENERALIZATION, NAMES
from memgen.config import AnalysisConfig, PlantedConfig, fraction_to_count
from memgen.localization import attribution, differences, patching
from memgen.steering.controls import controls
from memgen.steering.outcomes import summary
from memgen.steering.shifts import study_candidates
from memgen.steering.sweep import choose, sweep
from memgen.steering.trials import Trials, showing_opposite
from memgen.subject import Subject

SITES = ("attn_out", "mlp_out")  # what a block adds: by its attention, by its MLP
SITE = "resid_post"  # where the study's shift acts
LEAST_INFERRED = 0.5  # a model infers if so many of its conflicts show generalization,
MOST_MEMORIZED = 0.1  # and no more than so many memorization
ENOUGH = 0.33  # of the watched conflicts show each behaviour: the memory is planted
EVALUATE_EVERY, N_WATCHED, N_PATCHED = 20, 200, 100
MOST_INPUTS = 1200  # of each part of the conflicts, without variants
LEAST_PAIRS = 10  # behind what a localizer says


@dataclasses.dataclass(frozen=True)
class Planted:
    """A model with memory in the adapter of one block. `n_steps` were needed to plant it."""

    subject: Subject
    adapter: Any
    n_steps: int


def parts(frame: pd.DataFrame, rng: np.random.Generator) -> list[pd.DataFrame]:
    """Conflicts to learn from, to choose on and to test on: three parts, with each conflict its variants."""
    conflicts = frame[frame.kind == "conflict"]
    originals = conflicts.index[conflicts.variant_of < 0].to_numpy()
    thirds = np.array_split(rng.permutation(originals)[: 3 * MOST_INPUTS], 3)
    return [conflicts[conflicts.index.isin(third) | conflicts.variant_of.isin(third)] for third in thirds]


def first_that_infers(trajectory: pd.DataFrame) -> int | None:
    """The step of the first kept checkpoint at which the model infers and hardly remembers; None if there is none.

    `trajectory` has the columns `step, kept, conflict_memorization, conflict_generalization`.
    """
    infers = trajectory.conflict_generalization >= LEAST_INFERRED
    forgets = trajectory.conflict_memorization <= MOST_MEMORIZED
    steps = trajectory.step[trajectory.kept & infers & forgets]
    return int(steps.min()) if len(steps) else None


def places(subject: Subject, ranks: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Every `site` (of `SITES`) and `layer` with each of the ranks."""
    return itertools.product(SITES, range(subject.n_layer), ranks)


def linear_layers(subject: Subject, site: str, layer: int) -> list[str]:
    """The names, in the model, of the linear layers of a block's attention or MLP."""
    names = activations.architecture(subject.model.config.model_type)
    part = names.attention if site == "attn_out" else names.down_projection.rpartition(".")[0]
    within = f"{names.blocks}.{layer}.{part}"
    modules = subject.model.get_submodule(within).named_modules(prefix=within)
    return [name for name, module in modules if isinstance(module, torch.nn.Linear | Conv1D)]


def plant(
    subject: Subject,
    conflicts: pd.DataFrame,
    site: str,
    layer: int,
    rank: int,
    config: PlantedConfig,
    rng: np.random.Generator,
) -> Planted:
    """Train an adapter in one block of a copy of the model, until both behaviours are there.

    Parameters
    ----------
    conflicts
        Inputs to learn from; a few of them are only watched. Each is taught its memorized or its inferred answer,
        which of the two a coin decides.

    Returns
    -------
    Planted
        Trained for ``config.steps`` where the behaviours did not come before.
    """
    import peft  # takes seconds, which other stages need not wait

    watched = conflicts.sample(min(N_WATCHED, len(conflicts) // 4), random_state=rng)
    taught = conflicts.drop(watched.index)
    remembered = pd.Series(rng.random(len(taught)) < 0.5, index=taught.index)
    changed = dataclasses.replace(subject, model=copy.deepcopy(subject.model), batch_size=config.batch_size)
    layers = linear_layers(changed, site, layer)
    is_conv = isinstance(changed.model.get_submodule(layers[0]), Conv1D)
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, fan_in_fan_out=is_conv)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for a name that transformers gave up
        torch.manual_seed(int(rng.integers(2**31)))
        adapter = peft.get_peft_model(changed.model, settings).eval()
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
    batches = behavior.prepare(changed, watched)
    for n_steps in range(1, config.steps + 1):
        rows = taught.sample(min(config.batch_size, len(taught)), random_state=rng)
        optimizer.zero_grad()
        (batch,) = behavior.batches(changed, rows)
        from_memory = torch.tensor(remembered[batch.rows].to_list(), device=changed.device)
        scores = behavior.score(behavior.run_answers(changed, batch), batch)
        log_p = torch.where(from_memory, scores["memorization"][0], scores["generalization"][0])
        (-log_p.mean()).backward()
        optimizer.step()
        if n_steps % EVALUATE_EVERY == 0:
            shown = behavior.rates(behavior.measure(changed, batches).behavior)
            if min(shown["memorization"], shown["generalization"]) >= ENOUGH:
                break
    return Planted(dataclasses.replace(changed, batch_size=subject.batch_size), adapter, n_steps)


def score_blocks(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """What each localizer says of each block, from flip pairs of `frame`.

    Returns
    -------
    pandas.DataFrame
        `ranking, site, layer, score`. ``r``, ``nmd``: the mean |r| and |NMD| of the block's outputs;
        ``summed_attribution``: the sum of their attributions (nats); ``patching``: the share of receivers that take
        over the behaviour when the output is patched (of at most `N_PATCHED` pairs, towards both targets).
    """
    found = differences.accumulate(subject, frame, pairs, SITES)
    worth = attribution.attributions(subject, frame, pairs, SITES)
    rows = []
    for site in SITES:
        shape, statistics = subject.shape(site), found[site].nmd_and_r()
        of_layer = {name: np.abs(values.reshape(shape)).mean(1) for name, values in statistics.items()}
        of_layer["summed_attribution"] = worth.attribution[worth.site == site].to_numpy().reshape(shape).sum(1)
        rows += [(name, site, layer, score) for name, scores in of_layer.items() for layer, score in enumerate(scores)]
    sample = pairs.sample(min(N_PATCHED, len(pairs)), random_state=rng).reset_index(drop=True)
    patched = patching.patch(subject, frame, sample, patching.whole_layers(subject, SITES))
    turned = patched.groupby(["site", "layer"]).value.mean()
    rows += [("patching", site, layer, score) for (site, layer), score in turned.items()]
    return pd.DataFrame(rows, columns=["ranking", "site", "layer", "score"])


def find(scores: pd.DataFrame, site: str, layer: int) -> pd.DataFrame:
    """What a localizer found, and whether it is what was planted.

    Returns
    -------
    pandas.DataFrame
        A row a `ranking`: `found_site, found_layer` (the block with the highest score; of equals, the first), `place`
        (of the planted block among all: 1 is the highest; of equals, the last), `found` (1 if it is the planted one,
        alone, otherwise 0), `n_blocks`.
    """
    rows = []
    for ranking, of_ranking in scores.groupby("ranking", sort=False):
        best = of_ranking.loc[of_ranking.score.idxmax()]
        planted = of_ranking[(of_ranking.site == site) & (of_ranking.layer == layer)].score.item()
        place = int((of_ranking.score >= planted).sum())
        rows.append([ranking, best.site, best.layer, place, int(place == 1), len(of_ranking)])
    return pd.DataFrame(rows, columns=["ranking", "found_site", "found_layer", "place", "found", "n_blocks"])


def undo(
    planted: Planted,
    chosen_on: pd.DataFrame,
    tested_on: pd.DataFrame,
    pairs: pd.DataFrame,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Bring what the model remembers back to generalization: by the ideal intervention, and by the study's shift.

    Parameters
    ----------
    chosen_on, tested_on
        Conflicts with their `behavior`. N and alpha are chosen on the first as in steering; `pairs` are its flip pairs,
        which the shift comes from.

    Returns
    -------
    pandas.DataFrame
        `method` (``adapter off``, ``study``), `control, measure, value, ci_low, ci_high, n`, on the remembered ones of
        `tested_on`; of the study's shift the rates of :func:`memgen.steering.outcomes.summary`.
    """
    subject, target = planted.subject, GENERALIZATION
    remembered = showing_opposite(tested_on, tested_on.behavior, target)
    on_remembered = Trials.on(subject, remembered, analysis.random_draws)
    with planted.adapter.disable_adapter():
        after = behavior.measure(subject, behavior.prepare(subject, remembered)).behavior
    off = intervals.share(after == target, remembered.group)
    statistics = differences.accumulate(subject, chosen_on, pairs, [SITE])[SITE].nmd_and_r()
    table, shape = differences.by_neuron(SITE, subject.n_layer, statistics), subject.shape(SITE)
    counts = sorted({fraction_to_count(fraction, len(table)) for fraction in analysis.top_fractions})
    candidates = {target: study_candidates(table, SITE, counts, analysis.alphas, shape, target)}
    trials = {target: Trials.make(subject, chosen_on, chosen_on.behavior, target, analysis, rng)}
    kinds = controls("study", table, SITE)
    tried = sweep(trials, candidates, SITE, kinds, rng)
    shift = tried.shifts[NAMES[target], choose(tried.tried, target).trial]
    (compared,) = on_remembered.compare(SITE, [([shift], target, kinds, rng)])
    found = summary(compared, ["trial"]).drop(columns="trial")
    ideal = pd.DataFrame([{"method": "adapter off", "measure": "reached", **off._asdict()}])
    return pd.concat([ideal, found.assign(method="study")], ignore_index=True)


def examine(
    base: Subject,
    thirds: Sequence[pd.DataFrame],
    place: tuple[str, int, int],
    config: PlantedConfig,
    analysis: AnalysisConfig,
    rng: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Plant memory at a place, look for it, and undo it.

    Returns
    -------
    dict
        ``planted`` (a row: `steps, pairs`, and the share of each behaviour), ``found`` (:func:`find`) and ``undone``
        (:func:`undo`), each with the columns `site, layer, rank`; the last two are empty for fewer than `LEAST_PAIRS`
        pairs.
    """
    learnt, *others = thirds
    site, layer, rank = place
    planted = plant(base, learnt, site, layer, rank, config, rng)
    chosen_on, tested_on = (
        part.assign(behavior=behavior.measure(planted.subject, behavior.prepare(planted.subject, part)).behavior)
        for part in others
    )
    pairs = behavior.flip_pairs(chosen_on, chosen_on.behavior)
    about = {"site": site, "layer": layer, "rank": rank}
    shares = behavior.rates(tested_on.behavior)
    tables = {"planted": pd.DataFrame([{"steps": planted.n_steps, "pairs": len(pairs), "n": len(tested_on), **shares}])}
    if len(pairs) >= LEAST_PAIRS:
        tables["found"] = find(score_blocks(planted.subject, chosen_on, pairs, rng), site, layer)
        tables["undone"] = undo(planted, chosen_on, tested_on, pairs, analysis, rng)
    return {name: table.assign(**about) for name, table in tables.items()}


def block(sites: pd.Series, layers: pd.Series) -> pd.Series:
    """The names of blocks, ``attention 3``, that figures show."""
    return sites.map({"attn_out": "attention ", "mlp_out": "MLP "}) + layers.astype(str)


def hits(found: pd.DataFrame) -> pd.DataFrame:
    """How often each localizer found the planted block, with all ranks (missing) and each: `ranking, rank` and rates.

    Intervals are clustered by block, whose adapters of several ranks are no independent models.
    """
    of_block = found.assign(group=block(found.site, found.layer))
    tables = [intervals.estimate_by(of_block, keys, value="found") for keys in (["ranking"], ["ranking", "rank"])]
    return pd.concat(tables, ignore_index=True)[["ranking", "rank", *intervals.Estimate._fields]]


def undone_rates(undone: pd.DataFrame) -> pd.DataFrame:
    """Of the remembered conflicts those that reach generalization, and that become neither: `method, control, measure`.

    Means over blocks, of each the mean over ranks; `n` counts blocks.
    """
    keys = ["method", "control", "measure"]
    rates = undone[undone.measure.isin(["reached", "other"])]
    of_block = rates.groupby([*keys, "site", "layer"], sort=False, dropna=False).value.mean().reset_index()
    return intervals.seeds_by(of_block, keys)
