# %% [markdown]
# # Does it carry over?
#
# **Question.** The chapters before this one look at one model at a time. What of it holds for another: the same task
# learned from another seed, another size or architecture, bound answers of another format, another task, an earlier
# checkpoint, another mix of training texts?
#
# **Answer.** Of the conflicts that a model answers from memory, the study's shift brings to generalization:
#
# | Shift | Inference | Addition |
# | --- | --- | --- |
# | of the same model | {glue:text}`carried_own_inference` | {glue:text}`carried_own_addition` |
# | of another seed, neurons of the same index | {glue:text}`carried_index_inference` | {glue:text}`carried_index_addition` |
# | of another seed, neurons matched by correlation | {glue:text}`carried_matched_inference` | {glue:text}`carried_matched_addition` |
# | random neurons, the same norm | {glue:text}`carried_random_inference` | {glue:text}`carried_random_addition` |
#
# Of the top tenth of a seed's MLP neurons by $|r|$, the best match puts into the top tenth of another seed
# {glue:text}`overlap_best_inference` for inference and {glue:text}`overlap_best_addition` for addition, where matches
# permuted within layers put {glue:text}`null_overlap_best_inference` and {glue:text}`null_overlap_best_addition`. In one
# model of both tasks, in the graded design, a shift that is fitted to sums brings
# {glue:text}`transferred_addition_to_inference` of the stories to generalization, a shift that is fitted to stories
# {glue:text}`transferred_inference_to_addition` of the sums. Where it says *not measured*, this profile lacks the runs.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/, such as smoke, default or full
results: str = "results"  # the folder that holds the results

# %%
from memgen.run import begin

run = begin("carryover", profile=profile, results=results)

# %% [markdown]
# ## How
#
# Each section takes the runs that it needs. Where this profile has none, published results are shown in their place, and
# the caption says so: those of the study's protocol (profile `full`), or else those of the graded design (profile
# `graded`), a contrast in which conflicts stand among the training texts. Shares are means over seeds with Student's
# 95 % interval on the logit scale; three seeds or fewer have no interval, and their dots are all there is. What is
# fitted is fitted on training groups, what is chosen is chosen on validation groups by the rules of the earlier chapters.
# Each section brings its own controls.

# %%
import dataclasses

import numpy as np
import pandas as pd
from IPython.display import display

from memgen import behavior
from memgen.carryover import checkpoints, matching, retrained, tables, transfer
from memgen.figures import carryover as figures
from memgen.figures.synthesis import depth, quantities
from memgen.intervals import seeds_by
from memgen.steering.interventions import Intervention
from memgen.subject import Subject
from memgen.synthesis import summary, verdicts

# %%
SPLITS = ("train", "validation", "test")
analysis, cells, spec = run.config.analysis, run.cells(), run.config.spec
shelves = [found for found in (run.published("full"), run.published("graded")) if found]
metrics, absent = run.metrics(), "Neither this profile nor the published results have such runs."
print(f"{len(cells)} runs of {', '.join(run.config.names())}; published: {[shelf.profile for shelf in shelves]}")


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
# ## Seeds and sizes
#
# ### The same neurons?
#
# An index means nothing across seeds, so neurons are matched by what they do: all models of a task read the same conflict
# prompts (as many from each seed's test groups), and each neuron is paired with the neuron of the other model whose
# activation at the last token correlates with its own most, in size.

# %%
SITES = ("mlp.hook_post", "resid_post")
main = [(name, of_name.models[0]) for name, of_name in run.config.runs.items() if of_name.analysed]
members = {key: [cell for cell in cells if (cell.task, cell.model) == key] for key in main}
members = {key: same_run for key, same_run in members.items() if len(same_run) > 1}

# %%
rngs = {key: run.rng(f"seeds {key[0]}") for key in members}
states = {}
for key, same_run in members.items():
    prompts = matching.common_prompts([inputs(cell, "test") for cell in same_run], 1024, rngs[key])
    states[key] = {cell.seed: behavior.states(load(cell), prompts, SITES) for cell in same_run}

# %% [markdown]
# Do the neurons that go with the behaviour match? The top tenth of one seed by $|r|$ is followed along a match: what share
# of it lands in the top tenth of the other seed? Three matches: the best neuron for each, the best pairing in which no
# neuron stands twice, and the neuron of the same index. By chance, with matches permuted within each layer, more than a
# tenth may be found: top neurons gather in some layers, and that alone carries over.

# %%
r, overlaps = {}, []
for key, same_run in members.items():
    found = {cell.seed: pd.read_parquet(run.input("localization", "neurons.parquet", cell=cell)) for cell in same_run}
    by_place = {seed: table.sort_values(["layer", "neuron"]) for seed, table in found.items()}
    r[key] = {s: {site: t.r[t.site == site].to_numpy() for site in SITES} for s, t in by_place.items()}
    overlaps.append(matching.top_overlaps(states[key], r[key]).assign(task=key[0]))

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
# Pairs of models that share a seed are not independent: pairs are averaged by seed first.

# %%
by_seed = pd.DataFrame()
if overlaps:
    pairs = pd.concat(overlaps, ignore_index=True)
    kinds = [
        pd.DataFrame(ceilings).assign(measure="overlap_within_model"),
        pairs.assign(measure="overlap_across_seeds"),
        pairs.assign(measure="null_overlap_across_seeds", value=pairs.chance),
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
}


def in_words(table):
    """The rows whose measure is one of `QUANTITIES`, in their order, with its name in words."""
    names = pd.Series(list(zip(table.measure, table.match.fillna(""), strict=True)), table.index, dtype=object)
    words = pd.Categorical(names.map(QUANTITIES), QUANTITIES.values(), ordered=True)
    ordered = table.assign(quantity=words).dropna(subset="quantity").sort_values("quantity", kind="stable")
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
seeds, note = tables.or_published(seeds, shelves, lambda shelf: shelf.table("carryover", "seeds"))
if len(seeds):
    seeds = in_words(seeds.rename(columns={"base_task": "task"}))
    dots = in_words(by_seed) if len(by_seed) else seeds[:0].assign(seed=[])
    caption = f"Agreement of neurons across seeds: means over seeds, each averaged over its partners.{note}"
    display(run.figure(quantities(dots, seeds, "site", "task"), "seeds_overlap", caption=caption, data=seeds))
    display(run.table(seeds, "seeds", caption=f"The same numbers; n counts seeds.{note}"))

# %% [markdown]
# ### The same shift?
#
# The study applies its shift to a second adapter of one base model. Here the shift of each seed is applied to the model
# of each other seed: on the neurons of the same *index*, as the study does, and *matched*: within each layer every
# neuron's part goes to its partner in the one-to-one pairing with the largest summed correlation, its sign turned where
# that is negative. Number of neurons, magnitudes and signs stay those of the source; nothing is chosen anew. Beside them
# stand the model's *own* shift and the same magnitudes on random neurons, all on test conflicts of the receiving model.

# %%
results_by_pair = []
for key, same_run in members.items():
    folders = {cell.seed: run.input("steering", "interventions", cell=cell) for cell in same_run}
    of_study = {seed: Intervention.load(folder, "study") for seed, folder in folders.items()}
    resid = {seed: found["resid_post"] for seed, found in states[key].items()}
    for cell in same_run:
        rng = run.rng(f"retrained {tuple(cell)}")
        table = retrained.from_other_seeds(load(cell), inputs(cell, "test"), cell.seed, of_study, resid, analysis, rng)
        results_by_pair.append(table.assign(task=cell.task, seed=cell.seed))
results_by_pair = pd.concat(results_by_pair, ignore_index=True) if results_by_pair else pd.DataFrame()

# %% [markdown]
# The results of all sources are averaged for each receiving model; n counts these.

# %%
carried = pd.DataFrame()
if len(results_by_pair):
    keys = ["task", "target", "match", "control", "measure"]
    by_receiver = results_by_pair.groupby([*keys, "seed"], sort=False, dropna=False).value.mean().reset_index()
    carried = seeds_by(by_receiver, keys)
    run.record_table(
        carried.assign(under=carried.control.fillna("the shift itself")),
        definition="The study's shift ({match}), {under}, to {target}, {task}: share of conflicts, mean over seeds.",
        unit="share 0-1",
        coordinates=["task", "match", "control", "target"],
    )

# %%
carried, note = tables.or_published(carried, shelves, lambda shelf: shelf.table("carryover", "retrained"))
if len(carried):
    display(run.table(carried, "retrained", caption=f"What the study's shift does in the model of another seed.{note}"))
else:
    print(absent)


# %% [markdown]
# ### Sizes and architectures
#
# The headline numbers of the same task with other models. All of them were trained with the same settings.


# %%
def show_headlines(name, query, by, within):
    """Figure and table of the headline numbers of runs that differ in a column; published ones where there are none."""

    def select(numbers):
        found = summary.headline(numbers.query(query))
        return found[found.groupby(within)[by].transform("nunique") > 1]

    numbers, note = tables.or_published(select(metrics), shelves, lambda shelf: select(shelf.metrics))
    if numbers.empty:
        print(absent)
        return
    means = summary.over_seeds(numbers, ["base_task", by])
    caption = f"Headline numbers by {by}: a dot for each seed, the mean over seeds and its 95 % interval.{note}"
    display(run.figure(quantities(numbers, means, by, "base_task"), name, caption=caption, data=means))
    display(run.table(means, name, caption=f"The same numbers; n counts seeds.{note}"))


# %%
show_headlines("sizes", "task == base_task", "model", ["base_task"])

# %% [markdown]
# ## Forms and tasks
#
# ### What is format alone?
#
# Where a memorized answer has a format of its own, as the tag that ends the study's sums, late layers may differ between
# the behaviours because they prepare another kind of token. In the matched form both answers have one format. What is
# left there of the late difference is not format. (Each form has models of its own here.)


# %%
def separation(numbers):
    """The AUROC of within-pair differences by layer, of tasks and models that have runs in both forms."""
    forms = "task == base_task or form == 'matched'"
    auroc = verdicts.on_test_groups(numbers).query(f"measure == 'pair_auroc' and site == 'resid_post' and ({forms})")
    in_both = auroc.groupby(["base_task", "model"]).form.transform("nunique") == 2
    columns = ["base_task", "model", "form", "seed", "layer", "value", "ci_low", "ci_high", "n"]
    return auroc.loc[in_both, columns].astype({"layer": "Int64"})


# %%
layers, note = tables.or_published(separation(metrics), shelves, lambda shelf: separation(shelf.metrics))
if layers.empty:
    print(absent)
else:
    caption = f"AUROC of within-pair differences by layer and form; a line for each seed.{note}"
    display(run.figure(depth(layers, "form"), "forms_depth", caption=caption, data=layers))

# %%
if len(layers):
    last = tables.last_layer(layers).rename(columns={"base_task": "task"})
    caption = (
        "The last layer's AUROC over seeds; “left” is its excess over one half as a share of that in the study's form."
    )
    display(run.table(last, "forms_last_layer", caption=caption + note))

# %%
if len(layers) and not note:
    where, definition = ["task", "form"], "Last layer's AUROC of within-pair differences, {task}, {form} form"
    run.record_table(last, measure="last_layer_auroc", definition=definition + ".", unit="AUROC 0-1", coordinates=where)
    left = last.dropna(subset="left").assign(value=lambda table: table.left, ci_low=np.nan, ci_high=np.nan)
    definition += ": excess over one half, as a share of that in the study's form."
    run.record_table(left, measure="last_layer_excess_left", definition=definition, unit="ratio", coordinates=where)

# %% [markdown]
# ### One model, one decision?
#
# A model whose bound entities have half the one form and half the other lets us ask whether it decides between memory and
# inference in one place for both. A shift of MLP neurons is fitted on the entities of one form (its penalty and dose are
# chosen on its validation groups, by the rule of steering) and applied to those of the other. If it carried nothing but the
# format of an answer, it would fail there.


# %%
def transferred(column, of_runs):
    """The shifts of each part, applied to each part of the inputs that `column` names."""
    shifts = [pd.DataFrame()]
    for cell in of_runs:
        parts = transfer.parts_by({split: inputs(cell, split) for split in SPLITS}, column)
        matrix = transfer.shift_matrix(load(cell), parts, analysis, run.rng(f"transfer {tuple(cell)}"))
        shifts.append(matrix.assign(task=cell.task, seed=cell.seed))
    return pd.concat(shifts, ignore_index=True)


# %% [markdown]
# Published numbers are recorded as such: they are not of this profile.


# %%
def show_shifts(shifts, name):
    """Figure and table of transferred shifts over seeds, and their numbers."""
    where = ["task", "source", "destination", "target"]
    costs = ["best_control", "other", *(column for column in shifts if column.startswith("lost_"))]
    if len(shifts):
        means = shifts.groupby(where, sort=False)[costs].mean().reset_index()
        shifts = seeds_by(shifts, where).merge(means, on=where)
    shown, note = tables.or_published(shifts, shelves, lambda shelf: shelf.table("carryover", f"{name}_shifts"))
    if shown.empty:
        print(absent)
        return
    caption = (
        f"Share of test inputs of the opposite behaviour that shifts bring to the target, and their control.{note}"
    )
    display(run.figure(figures.matrix(shown), f"{name}_matrix", caption=caption, data=shown))
    display(run.table(shown, f"{name}_shifts", caption=f"The same numbers over n seeds, and what they cost.{note}"))
    measure = "published_transferred_reached" if note else "transferred_reached"
    definition = "{task}: fitted on {source}, applied to {destination}, to {target}: share that reaches it."
    run.record_table(shown, measure=measure, definition=definition, unit="share 0-1", coordinates=where)


# %%
show_shifts(transferred("form", [cell for cell in cells if spec(cell.task).form == "both"]), "forms")

# %% [markdown]
# ### One switch for both tasks?
#
# The same, with a model that was trained on both tasks at once (of the graded design): does a shift that turns stories
# turn sums?

# %%
show_shifts(transferred("part", [cell for cell in cells if spec(cell.task).task == "graded_joint"]), "tasks")

# %% [markdown]
# ## Training mixes
#
# ### Other mixes of training texts
#
# What a model was trained on decides whether there are two behaviours at all. Runs of one task and one model with other
# training texts stand beside one another. In the graded design, *none* has no conflict among its texts, so that the model
# never had to decide; *half* has ungraded ones, half of them ending with the memorized answer whatever the evidence. The
# worst answer is the lowest rate over the memorized answers: a mean can hide an answer that a shift never reaches.
# *Direct* is the ablation of the curriculum: the study's texts alone, without the lessons that come before them.

# %%
mixes = "form == 'study' and base_task != 'graded_joint'"
show_headlines("mixes", mixes, "task", ["base_task", "model"])

# %% [markdown]
# ### Checkpoints
#
# When does what we find appear, and does it depend on the checkpoint that the rule chose? At some checkpoints of one run
# of each task, from the first on the task's texts to the last: the behaviour on conflicts, a shift of MLP neurons fitted
# anew and its random control (both on validation groups: nothing is chosen here), and how much of the top tenth of MLP
# neurons by $|r|$ is that of the chosen checkpoint (a tenth, by chance).

# %%
found = []
for cell in run.config.shown():
    trajectory = pd.read_parquet(run.input("training", "trajectory.parquet", cell=cell))
    frames = {split: inputs(cell, split) for split in ("train", "validation")}
    subject = load(cell)
    final_r = checkpoints.neuron_correlations(subject, frames["train"], checkpoints.SITE)
    for step in checkpoints.evenly(trajectory.step[trajectory.kept], 5):
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
# ## Numbers for the text

# %%
# Without runs of a kind, no record has its coordinates, and a query that names them would fail.
CARRIED = "measure == 'reached' and target == 'generalization'"
KEYS = {
    "carried_own": f"{CARRIED} and match == 'own' and control.isna()",
    "carried_index": f"{CARRIED} and match == 'index' and control.isna()",
    "carried_matched": f"{CARRIED} and match == 'matched' and control.isna()",
    "carried_random": f"{CARRIED} and match == 'index' and control == 'random_neurons'",
    "overlap_best": "measure == 'overlap_across_seeds' and match == 'best' and site == 'mlp.hook_post'",
    "null_overlap_best": "measure == 'null_overlap_across_seeds' and match == 'best' and site == 'mlp.hook_post'",
    "overlap_within": "measure == 'overlap_within_model' and site == 'mlp.hook_post'",
}
for task in ("inference", "addition"):
    for key, query in KEYS.items():
        if members:
            run.glue(f"{key}_{task}", f"{query} and task == '{task}'")
        else:
            run.glue_text(f"{key}_{task}", "not measured")

# %%
run.glue("left_addition", "measure == 'last_layer_excess_left' and task == 'addition'")
to_generalization = (
    "measure.str.endswith('transferred_reached') and task == 'graded_joint' and target == 'generalization'"
)
for source, destination in (("addition", "inference"), ("inference", "addition")):
    pair = f"source == 'graded_{source}' and destination == 'graded_{destination}'"
    run.glue(f"transferred_{source}_to_{destination}", f"{to_generalization} and {pair}")
run.finish()

# %% [markdown]
# ## What this means
#
# A shift carries over only as far as it does better than the same magnitudes on random neurons of the receiving model,
# and neurons recur only as far as the best match exceeds what permuted matches give; what the same model shows on other
# groups, {glue:text}`overlap_within_inference` for inference and {glue:text}`overlap_within_addition` for addition, is the
# ceiling. In sums whose two answers have one format, the last layer has {glue:text}`left_addition` of the excess over
# chance that it has where a tag stands against digits. A shift that fails on another format or task is no general switch between memory
# and inference, however well it works where it was fitted.
