# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it carry over?
#
# **Question.** The chapters before this one look at one model at a time. What of it holds for another: the same task
# learned from another seed, bound answers of another format, another task, another size or architecture, an earlier
# checkpoint, another mix of training texts?
#
# **Answer.** Of the top tenth of a seed's MLP neurons by $|r|$, the best match puts into the top tenth of another seed
# {glue:text}`overlap_best_inference` for inference and {glue:text}`overlap_best_addition` for addition, where matches
# permuted within layers put {glue:text}`null_overlap_best_inference` and {glue:text}`null_overlap_best_addition`, and
# other groups of the same model {glue:text}`overlap_within_inference` and {glue:text}`overlap_within_addition`. In the
# matched form, the last layer has {glue:text}`left_inference` (inference) and {glue:text}`left_addition` (addition) of the
# excess over chance that it has in the study's form. A shift that is fitted to sums brings
# {glue:text}`transferred_addition_to_inference` of the stories to generalization, a shift that is fitted to stories
# {glue:text}`transferred_inference_to_addition` of the sums. Where it says *not measured*, this profile lacks the runs.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
results: str = "results"  # the folder that holds the results

# %%
from memgen.run import begin

run = begin("carryover", profile=profile, results=results)

# %% [markdown]
# ## How
#
# Each section takes the runs that it needs. Where this profile has none, the published results of the largest profile
# are shown in their place, and the caption says so. Shares are means over seeds with Student's 95 % interval on the logit
# scale; three seeds or fewer have no interval, and their dots are all there is. What is fitted is fitted on training
# groups, what is chosen is chosen on validation groups by the rules of the earlier chapters. Test groups of seeds 0 to 7 had
# been seen before these rules were made, so results on them are exploratory. Each section brings its own controls.

# %%
import dataclasses

import numpy as np
import pandas as pd
from IPython.display import display

from memgen import behavior
from memgen.carryover import checkpoints, matching, tables, transfer
from memgen.figures import carryover as figures
from memgen.figures.synthesis import depth, quantities
from memgen.intervals import seeds_by
from memgen.subject import Subject
from memgen.synthesis import summary

# %%
SPLITS = ("train", "validation", "test")
analysis, cells = run.config.analysis, run.cells()
metrics, published = run.metrics(), run.published()
print(f"{len(cells)} runs of {', '.join(run.config.names())}; published: {published.label if published else 'none'}")


# %%
def load(cell):
    """The model of a run."""
    return Subject.load(run.input("training", "model", cell=cell), analysis.batch_size, analysis.n_tokens)


def inputs(cell, split):
    """The inputs of a split with the model's behaviour."""
    frame = pd.read_parquet(run.input("data", f"{split}.parquet", cell=cell))
    labels = pd.read_parquet(run.input("training", "behavior", f"{split}.parquet", cell=cell)).behavior
    return frame.assign(behavior=labels)


# %% [markdown]
# ## Across seeds: the same neurons?
#
# An index means nothing across seeds, so neurons are matched by what they do: all models of a task read the same conflict
# prompts (as many from each seed's test groups), and each neuron is paired with the neuron of the other model whose
# activation at the last token correlates with its own most, in size.

# %%
SITES = ("mlp.hook_post", "resid_post")
main = {(name, model) for name, spec in run.config.runs.items() for model in spec.models}
members = {key: [cell for cell in cells if (cell.task, cell.model) == key] for key in sorted(main)}
members = {key: same_run for key, same_run in members.items() if len(same_run) > 1}

# %%
rngs = {key: run.rng(f"seeds {key[0]}") for key in members}
states = {}
for key, same_run in members.items():
    tests = [inputs(cell, "test") for cell in same_run]
    prompts = matching.common_prompts(tests, 1024, rngs[key])
    states[key] = {cell.seed: behavior.states(load(cell), prompts, SITES) for cell in same_run}

# %% [markdown]
# With hundreds of candidates some correlation arises by chance, and all neurons of a layer live in one space; the control
# rotates the other model's layers at random, which preserves the space and destroys its axes.

# %%
best = [matching.best_correlations(states[key], rngs[key]).assign(task=key[0]) for key in members]
best = pd.concat(best, ignore_index=True) if best else pd.DataFrame()

# %%
BINS = np.linspace(0, 1, 21)
parts = []
for (task, site), neurons in best.groupby(["task", "site"], sort=False) if len(best) else []:
    for kind, column in {"the other seed": "correlation", "rotated": "rotated"}.items():
        share = np.histogram(neurons[column], BINS)[0] / len(neurons)
        middle = (BINS[:-1] + BINS[1:]) / 2
        parts.append(pd.DataFrame({"task": task, "site": site, "kind": kind, "correlation": middle, "share": share}))

# %%
distribution = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
distribution, note = tables.or_published(distribution, published, "seeds_distribution")
if len(distribution):
    distribution = distribution.rename(columns={"base_task": "task"})
    caption = (
        "Best correlation of each neuron with any neuron of another seed, and with any after a random rotation." + note
    )
    display(run.figure(figures.distribution(distribution), "seeds_distribution", caption=caption, data=distribution))

# %% [markdown]
# Do the neurons that go with the behaviour match? The top tenth of one seed by $|r|$ is followed along a match: what share
# of it lands in the top tenth of the other seed? Three matches: the best neuron for each, the best pairing in which no
# neuron stands twice, and the neuron of the same index. By chance, with matches permuted within each layer, more than a
# tenth may be found: top neurons gather in some layers, and that alone carries over.

# %%
r, overlaps = {}, []
for (task, model), same_run in members.items():
    found = {cell.seed: pd.read_parquet(run.input("localization", "neurons.parquet", cell=cell)) for cell in same_run}
    r[task, model] = {seed: {site: matching.site_correlations(t, site) for site in SITES} for seed, t in found.items()}
    overlaps.append(matching.top_overlaps(states[task, model], r[task, model]).assign(task=task))

# %% [markdown]
# The top tenth is itself an estimate from few pairs. As a ceiling, how much of it does the *same* model have on top again
# in the pairs of its test groups?

# %%
ceilings = []
for key, same_run in members.items():
    for cell in same_run:
        for site in SITES:
            again = checkpoints.neuron_correlations(load(cell), inputs(cell, "test"), site)
            if again is not None:
                share = matching.top_overlap(again, r[key][cell.seed][site])
                ceilings.append({"task": cell.task, "site": site, "seed": cell.seed, "value": share})

# %% [markdown]
# A neuron whose best correlation exceeds the control's by more than [0.5]{.set} is called *universal*, as in the work on
# GPT-2 that found [1-5 %]{.study} of them. Pairs of models that share a seed are not independent: pairs are averaged by
# seed first.

# %%
by_seed = pd.DataFrame()
if overlaps:
    pairs = pd.concat(overlaps, ignore_index=True)
    universal = best.assign(value=best.correlation - best.rotated > matching.UNIVERSAL)
    kinds = [
        pd.DataFrame(ceilings).assign(measure="overlap_within_model"),
        pairs.assign(measure="overlap_across_seeds"),
        pairs.assign(measure="null_overlap_across_seeds", value=pairs.chance),
        universal.assign(measure="universal_share"),
    ]
    keys = ["task", "site", "measure", "match", "seed"]
    by_seed = pd.concat(kinds).groupby(keys, sort=False, dropna=False).value.mean().reset_index()

# %%
QUANTITIES = {
    ("overlap_within_model", ""): "same model, other groups",
    ("overlap_across_seeds", "best"): "top tenth, best match",
    ("null_overlap_across_seeds", "best"): "best match, by chance",
    ("overlap_across_seeds", "one_to_one"): "top tenth, one to one",
    ("null_overlap_across_seeds", "one_to_one"): "one to one, by chance",
    ("overlap_across_seeds", "index"): "top tenth, same index",
    ("null_overlap_across_seeds", "index"): "same index, by chance",
    ("universal_share", ""): "universal neurons",
}


def in_words(table):
    """The table with the names of its measures in words, in the order of `QUANTITIES`."""
    names = zip(table.measure, table.match.fillna(""), strict=True)
    words = pd.Categorical([QUANTITIES[name] for name in names], QUANTITIES.values(), ordered=True)
    ordered = table.assign(quantity=words).sort_values("quantity", kind="stable", ignore_index=True)
    return ordered.astype({"quantity": str})


# %%
seeds = pd.DataFrame()
if len(by_seed):
    seeds = in_words(seeds_by(by_seed, ["task", "site", "measure", "match"]))
    run.record_table(
        seeds,
        definition="{quantity}: share of the neurons of {site} ({task}), mean over seeds.",
        unit="share 0-1",
        coordinates=["task", "site", "match"],
    )

# %% tags=["main-figure"]
seeds, note = tables.or_published(seeds, published, "seeds")
if len(seeds):
    seeds = in_words(seeds.rename(columns={"base_task": "task"}))
    dots = in_words(by_seed) if len(by_seed) else seeds[:0].assign(seed=[])
    caption = f"Agreement of neurons across seeds: means over seeds, each averaged over its partners.{note}"
    display(run.figure(quantities(dots, seeds, "site", "task"), "seeds_overlap", caption=caption, data=seeds))
    display(run.table(seeds, "seeds", caption=f"The same numbers; n counts seeds.{note}"))

# %% [markdown]
# ## Across forms: what is format alone?
#
# In the study's form a memorized answer has a format of its own (a tag, a colour of a second palette), so late layers
# may differ between the behaviours because they prepare another kind of token. In the matched form both answers have one
# format. What is left there of the late difference is not format. (Each form has models of its own here.)


# %%
def separation(numbers):
    """The AUROC of within-pair differences by layer, of tasks and models that have runs in both forms."""
    forms = "form in ['study', 'matched'] and conflicts == 'graded'"
    auroc = numbers.query(f"measure == 'pair_auroc' and site == 'resid_post' and {forms}").astype({"layer": "Int64"})
    in_both = auroc.groupby(["base_task", "model"]).form.transform("nunique") == 2
    return auroc[in_both][["base_task", "model", "form", "seed", "layer", "value", "ci_low", "ci_high", "n"]]


# %%
layers, note = separation(metrics), ""
if layers.empty and published:
    layers, note = separation(published.metrics), f" {published.label}."
if layers.empty:
    print("Neither this profile nor the published results have this measure for both forms of a task.")
else:
    caption = f"AUROC of within-pair differences by layer and form; a line for each seed.{note}"
    display(run.figure(depth(layers, "form"), "forms_depth", caption=caption, data=layers))

# %%
if len(layers):
    last = tables.last_layer(layers)
    caption = (
        "The last layer's AUROC over seeds; “left” is its excess over one half as a share of that in the study's form."
    )
    display(run.table(last, "forms_last_layer", caption=caption + note))

# %%
if len(layers) and not note:
    left = last.dropna(subset="left").assign(value=lambda table: table.left, ci_low=np.nan, ci_high=np.nan)
    where = ["task", "form"]
    last, left = (table.rename(columns={"base_task": "task"}) for table in (last, left))
    definition = "Last layer's AUROC of within-pair differences, {task}, {form} form"
    run.record_table(last, measure="last_layer_auroc", definition=definition + ".", unit="AUROC 0-1", coordinates=where)
    definition += ": excess over one half, as a share of that in the study's form."
    run.record_table(left, measure="last_layer_excess_left", definition=definition, unit="ratio", coordinates=where)

# %% [markdown]
# ## Across forms: one model, one decision?
#
# A model whose bound entities have half the one form and half the other lets us ask whether it decides between memory and
# inference in one place for both. A shift of MLP neurons and a probe of the residual stream are fitted on the entities
# of one form (the shift's penalty and dose, and the probe's layer, are chosen on its validation groups, by the rules of
# steering and prediction) and applied to those of the other. If the shift carried nothing but the format of an answer, it
# would fail there.


# %%
def transferred(column, of_runs):
    """The shifts and the probes of each part, applied to each part of the inputs that `column` names."""
    shifts, probes = [pd.DataFrame()], [pd.DataFrame()]
    for cell in of_runs:
        subject, rng = load(cell), run.rng(f"transfer {tuple(cell)}")
        parts = transfer.parts_by({split: inputs(cell, split) for split in SPLITS}, column)
        about = {"task": cell.task, "seed": cell.seed}
        shifts.append(transfer.shift_matrix(subject, parts, analysis, rng).assign(**about))
        probes.append(transfer.probe_matrix(subject, parts, rng).assign(**about))
    return pd.concat(shifts, ignore_index=True), pd.concat(probes, ignore_index=True)


# %%
def show_shifts(shifts, name):
    """Figure and table of transferred shifts over seeds, and their numbers."""
    where = ["task", "source", "destination", "target"]
    costs = ["best_control", "other", "lost_memorized_only", "lost_inferred_only"]
    means = tables.with_means(shifts, where, "value", costs) if len(shifts) else shifts
    shown, note = tables.or_published(means, published, f"{name}_shifts")
    if shown.empty:
        print("Neither this profile nor the published results have such runs.")
        return
    caption = (
        f"Share of test inputs of the opposite behaviour that shifts bring to the target, and their control.{note}"
    )
    display(run.figure(figures.matrix(shown), f"{name}_matrix", caption=caption, data=shown))
    display(run.table(shown, f"{name}_shifts", caption=f"The same numbers over n seeds, and what they cost.{note}"))
    definition = "{task}: fitted on {source}, applied to {destination}, to {target}: share that reaches it."
    run.record_table(means, measure="transferred_reached", definition=definition, unit="share 0-1", coordinates=where)


# %%
def show_probes(probes, name):
    """Table of transferred probes over seeds, and their numbers."""
    where = ["task", "source", "destination"]
    means = tables.with_means(probes, where, "auroc", ["accuracy", "majority"]) if len(probes) else probes
    shown, note = tables.or_published(means, published, f"{name}_probes")
    if len(shown):
        caption = (
            f"Probes by the part that they were fitted on and the part they were tested on: AUROC, accuracy.{note}"
        )
        display(run.table(shown, f"{name}_probes", caption=caption))
    definition = "{task}: probe fitted on {source}, tested on {destination}: AUROC."
    run.record_table(means, measure="transferred_auroc", definition=definition, unit="AUROC 0-1", coordinates=where)


# %%
shifts, probes = transferred("form", [cell for cell in cells if run.config.spec(cell.task).form == "both"])
show_shifts(shifts, "forms")

# %%
show_probes(probes, "forms")

# %% [markdown]
# ## Across tasks: is there one switch?
#
# The same, with a model that was trained on both tasks at once: does a shift that turns stories turn sums?

# %%
shifts, probes = transferred("part", [cell for cell in cells if run.config.spec(cell.task).task == "joint"])
show_shifts(shifts, "tasks")

# %%
show_probes(probes, "tasks")


# %% [markdown]
# ## Across sizes and architectures
#
# The headline numbers of the same task with other models. All of them were trained with the same settings.


# %%
def show_headlines(name, query, by, within):
    """Figure and table of the headline numbers of runs that differ in a column; published ones where there are none."""
    numbers, note = tables.differing(summary.headline(metrics.query(query)), by, within), ""
    if numbers.empty and published:
        numbers = summary.headline(published.metrics.query(query))
        numbers, note = tables.differing(numbers, by, within), f" {published.label}."
    if numbers.empty:
        print("Neither this profile nor the published results have such runs.")
        return
    means = summary.over_seeds(numbers, ["base_task", by])
    caption = f"Headline numbers by {by}: a dot for each seed, the mean over seeds and its 95 % interval.{note}"
    display(run.figure(quantities(numbers, means, by, "base_task"), name, caption=caption, data=means))
    display(run.table(means, name, caption=f"The same numbers; n counts seeds.{note}"))


# %%
of_single_tasks = "form == 'study' and base_task != 'joint'"
show_headlines("sizes", f"{of_single_tasks} and conflicts == 'graded'", "model", ["base_task"])

# %% [markdown]
# ## Across checkpoints
#
# When does what we find appear, and does it depend on the checkpoint that the rule chose? At some checkpoints of one run
# of each task: the behaviour on conflicts, a shift of MLP neurons fitted anew and its random control (both on validation
# groups: nothing is chosen here), and how much of the top tenth of MLP neurons by $|r|$ is that of the chosen checkpoint
# (a tenth, by chance).

# %%
found = []
for cell in run.config.shown():
    trajectory = pd.read_parquet(run.input("training", "trajectory.parquet", cell=cell))
    frames = {split: inputs(cell, split) for split in ("train", "validation")}
    subject = load(cell)
    final_r = checkpoints.neuron_correlations(subject, frames["train"], checkpoints.SITE)
    for step in checkpoints.evenly(trajectory.step, 5):
        folder = run.input("training", "checkpoints", f"step{step}", cell=cell)
        earlier = dataclasses.replace(subject, model=Subject.load(folder).model)
        measured = checkpoints.at_checkpoint(earlier, frames, final_r, analysis, run.rng(f"{tuple(cell)} {step}"))
        found.append(measured.assign(task=cell.task, step=step))

# %%
over_steps = pd.concat(found, ignore_index=True)
run.figure(
    figures.checkpoints(over_steps),
    "checkpoints",
    caption="Checkpoints of one run of each task, on validation groups: behaviour, a fitted shift and its control, and the "
    "share of the chosen checkpoint's top neurons that are top neurons there.",
    data=over_steps,
)

# %%
run.record_table(
    over_steps,
    definition="{measure}, {task}, step {step}, validation groups.",
    unit="share 0-1",
    coordinates=["task", "step", "behavior", "target", "control"],
)
run.table(over_steps, "checkpoints", caption="The same numbers; n counts inputs, or neurons.")

# %% [markdown]
# ## Other mixes of training texts
#
# The conflicts among the training texts, and their grades, are ours. What changes without them? *none* has no conflict
# among its texts, so that the model never had to decide; *half* has ungraded ones, half of them ending with the memorized
# answer whatever the evidence; *graded* is the mix of the other chapters. The worst answer is the lowest rate over the
# memorized answers: a mean can hide an answer that a shift never reaches.

# %%
show_headlines("mixes", of_single_tasks, "conflicts", ["base_task", "model"])

# %% [markdown]
# ## Numbers for the text

# %%
KEYS = {
    "overlap_best": "measure == 'overlap_across_seeds' and match == 'best'",
    "null_overlap_best": "measure == 'null_overlap_across_seeds' and match == 'best'",
    "overlap_within": "measure == 'overlap_within_model'",
    "universal": "measure == 'universal_share'",
}
for task in ("inference", "addition"):
    run.glue(f"left_{task}", f"measure == 'last_layer_excess_left' and task == '{task}'")
    for key, query in KEYS.items():
        if overlaps:  # without them, no record has a match
            run.glue(f"{key}_{task}", f"{query} and task == '{task}' and site == 'mlp.hook_post'")
        else:
            run.glue_text(f"{key}_{task}", "not measured")

# %%
to_generalization = "measure == 'transferred_reached' and task == 'joint' and target == 'generalization'"
for source, destination in (("addition", "inference"), ("inference", "addition")):
    pair = f"source == '{source}' and destination == '{destination}'"
    run.glue(f"transferred_{source}_to_{destination}", f"{to_generalization} and {pair}")
run.finish()

# %% [markdown]
# ## What this means
#
# Neurons that go with the behaviour recur in another seed only as far as the best match exceeds what permuted matches
# give; what the same model shows on other groups is the ceiling. Universal are, of the MLPs' neurons,
# {glue:text}`universal_inference` for inference and {glue:text}`universal_addition` for addition. A shift that fails on
# another format or task is no general switch between memory and inference, however well it works where it was fitted.
