# %% [markdown]
# # Does it carry over?
#
# **Question.** The chapters before this one look at one model at a time. What of it holds for another: the same task learned from
# another seed, another size, another task, an earlier checkpoint, other training texts?
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
# In one model of both tasks (no checkpoint of it meets the rule for {term}`coexistence`; the closest is taken), its shift computed on
# sums brings {glue:text}`joint_addition_to_inference` of the stories to generalization, computed on stories {glue:text}`joint_inference_to_addition` of the sums. In the {term}`graded design`, a shift fitted to sums brings
# {glue:text}`graded_joint_addition_to_inference` of the stories there, one fitted to stories
# {glue:text}`graded_joint_inference_to_addition` of the sums.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/, such as smoke, default or full
results: str = "results"  # the folder that holds the results

# %%
from memgen.run import begin

run = begin("carryover", profile=profile, results=results)

# %% [markdown]
# ## How
#
# Where this profile lacks the runs for a section, {term}`published results` are shown in their place, and the caption says so: those of
# the study's protocol (`full`), or else those of the graded design (`graded`). Shares are means over seeds, in brackets a 95 % interval where
# there are four or more, else their number n. What is chosen is chosen by the rules of the earlier chapters.

# %%
import dataclasses
import itertools

import pandas as pd
from IPython.display import display

from memgen import behavior, pretrained
from memgen.behavior import TARGETS
from memgen.carryover import checkpoints, matching, retrained, tables, transfer
from memgen.figures import carryover as figures
from memgen.figures.synthesis import depth, quantities
from memgen.intervals import seeds_by
from memgen.run import in_words
from memgen.steering.interventions import Intervention
from memgen.steering.shifts import evenly
from memgen.study import STEERING
from memgen.subject import Subject
from memgen.synthesis import summary
from memgen.synthesis.verdicts import on_test_groups

# %%
SPLITS, SITE = ("train", "validation", "test"), "resid_post"
cells, spec = run.cells(), run.config.spec
analysis = {name: run.config.analysis_of(name) for name in run.config.names()}
shelves = [found for found in (run.published("full"), run.published("graded")) if found]
metrics, absent = run.metrics(), "Neither this profile nor the published results have such runs."
print(f"{len(cells)} runs of {', '.join(run.config.names())}; published: {[shelf.profile for shelf in shelves]}")


# %%
def load(cell):
    """The model of a run."""
    settings = analysis[cell.task]
    return Subject.load(run.input("training", "model", cell=cell), settings.batch_size, settings.n_tokens)


def inputs(cell, split):
    """The inputs of a split with the model's behaviour."""
    frame = pd.read_parquet(run.input("data", f"{split}.parquet", cell=cell))
    labels = pd.read_parquet(run.input("training", "behavior", f"{split}.parquet", cell=cell)).behavior
    return frame.assign(behavior=labels)


# %% [markdown]
# ## Another seed
#
# The study applies its shift to a second adapter of one base model. Here the shift of each seed is applied to the model of each other seed.
# An index means nothing across models trained from scratch (adapters share the neurons of their base), so neurons are also *matched* by
# what they do: all models of a task read the same conflict prompts, and within each layer every neuron's part goes to its partner in the
# one-to-one pairing with the largest summed correlation of activations, its sign turned where that is negative. Beside them stand the
# model's *own* shift and the same magnitudes on random neurons, all on a sample of the receiving model's test conflicts, evenly from its
# groups (so that shares differ from those in Synthesis).

# %%
main = [(name, of_name.models[0]) for name, of_name in run.config.runs.items() if of_name.analysed]
members = {key: [cell for cell in cells if (cell.task, cell.model) == key] for key in main}
members = {key: same_run for key, same_run in members.items() if len(same_run) > 1}

# %%
states = {}
for key, same_run in members.items():
    frames = [inputs(cell, "validation") for cell in same_run]
    prompts = matching.common_prompts(frames, 1024, run.rng(f"seeds {key[0]}"))
    states[key] = {cell.seed: behavior.states(load(cell), prompts, [SITE]) for cell in same_run}

# %%
results_by_pair = []
for key, same_run in members.items():
    folders = {cell.seed: run.input("steering", "interventions", cell=cell) for cell in same_run}
    of_study = {seed: Intervention.load(folder, "study") for seed, folder in folders.items()}
    resid = {seed: found[SITE] for seed, found in states[key].items()}
    for cell in same_run:
        rng = run.rng(f"retrained {tuple(cell)}")
        receiver = (load(cell), inputs(cell, "test"), cell.seed)
        table = retrained.from_other_seeds(*receiver, of_study, resid, analysis[cell.task], rng)
        results_by_pair.append(table.assign(task=cell.task, seed=cell.seed))
results_by_pair = pd.concat(results_by_pair, ignore_index=True) if results_by_pair else pd.DataFrame()

# %% [markdown]
# The results of all sources are averaged for each receiving model.

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

# %% tags=["main-figure"]
reported = {(row["task"], row["target"]): row["reached"] for row in STEERING if row["setting"] == "retrained"}
carried, note = tables.or_published(carried, shelves, lambda shelf: shelf.table("carryover", "retrained"))
if len(carried):
    caption = f"Share of opposite conflicts that the study's shift reaches; diamonds: the study's, in a retrained adapter.{note}"
    display(run.figure(figures.retrained(carried, reported), "retrained", caption=caption, data=carried))

# %%
columns = {"task": "task", "target": "steered to", "match": "neurons", "value": "reached, %", "n": "seeds"}
if len(carried):
    shown = (carried.measure == "reached") & carried.control.isna()
    caption = f"The study's shift of one seed in the model of another.{note}"
    display(run.table(carried, "retrained", caption=caption, columns=columns, rows=shown))
else:
    print(absent)

# %% [markdown]
# ## Other sizes, other texts
#
# The headline numbers with other models, trained with the same settings: twice the depth, and for addition Llama's architecture; one seed each.
# And with other training texts: *direct* is the ablation of the curriculum, the study's texts alone, without the lessons that come before them.


# %%
def several(sources, query, by, within):
    """The numbers of the first source that has several values of a column `by`, and what the source is."""
    for numbers, note in sources:
        found = numbers.query(query)
        found = found[found.groupby(within)[by].transform("nunique") > 1]
        if len(found):
            return found, note
    return pd.DataFrame(), ""


BY = {"size": "depth", "task": "training texts"}


def show_headlines(name, by, numbers, note):
    """Figure and table of headline numbers by the column `by`."""
    if numbers.empty:
        print(absent)
        return
    found = summary.headline(numbers)
    means = summary.over_seeds(found, ["base_task", by])
    caption = f"Headline numbers by {BY[by]}: a dot for each seed, the mean over seeds and its 95 % interval.{note}"
    display(run.figure(quantities(found, means, by, "base_task"), name, caption=caption, data=means))
    run.table(means, name, caption=caption)


# %%
sources = [(metrics, ""), *((shelf.metrics, f" {shelf.label}.") for shelf in shelves)]
together = [shelf for shelf in (run.published("full"), run.published("sizes")) if shelf]
of_together = []
if together:
    names = " and ".join(shelf.profile for shelf in together)
    of_both = pd.concat([shelf.metrics for shelf in together], ignore_index=True)
    of_together = [(of_both, f" Published results of {names}.")]

# %%
sizes = [
    (numbers.assign(size=numbers.model.str.replace(r"x\d+$", " layers", regex=True)), note)
    for numbers, note in (sources[0], *of_together, *sources[1:])
]
by_size, of_sizes = several(sizes, "task == base_task", "size", ["base_task"])
show_headlines("sizes", "size", by_size, of_sizes)

# %% [markdown]
# Do the states of the two members of a pair part in the same layers?

# %%
if len(by_size):
    parted = on_test_groups(by_size).query("measure == 'pair_auroc' and site == 'resid_post'")
    parted = parted[["base_task", "size", "seed", "layer", "value", "ci_low", "ci_high", "n"]].astype({"layer": int})
    caption = (
        f"AUROC of within-pair differences after each block, on validation groups; a line for each seed.{of_sizes}"
    )
    display(run.figure(depth(parted, "size"), "depth", caption=caption, data=parted))

# %%
mixes = several(sources, "form == 'study' and base_task != 'graded_joint'", "task", ["base_task", "model"])
show_headlines("mixes", "task", *mixes)

# %% [markdown]
# ## Another format, another task
#
# Does a model of two formats, or of two tasks, decide between memory and inference in one place for both? A shift of MLP neurons is fitted
# on one part of the inputs and applied to the other. (Models of the graded design, with half of the bound entities in either form, or
# trained on stories and sums at once.) In a model of both tasks in the study's form it is the study's shift.


# %%
def transferred(column, of_runs, make_shifts=transfer.choose_shifts):
    """The shifts of each part, applied to each part of the inputs that `column` names."""
    shifts = [pd.DataFrame()]
    for cell in of_runs:
        parts = transfer.parts_by({split: inputs(cell, split) for split in SPLITS}, column)
        rng = run.rng(f"transfer {tuple(cell)}")
        matrix = transfer.shift_matrix(load(cell), parts, analysis[cell.task], rng, make_shifts)
        shifts.append(matrix.assign(task=cell.task, seed=cell.seed))
    return pd.concat(shifts, ignore_index=True)


# %% [markdown]
# Published numbers are recorded, too, as what they are.

# %%
MADE = {
    "forms": "Fitted shifts from one format to the other (graded design), test groups",
    "tasks": "Fitted shifts from one task to the other (graded design), test groups",
    "study_tasks": "The study's shift from one task to the other, test groups",
    "adapter_tasks": "The study's shift from an adapter on one task to one on the other, the study's split",
}


# %%
def show_shifts(shifts, name, profile):
    """Figure and table of transferred shifts over seeds, and their numbers; where there are none, of a published profile."""
    where = ["task", "source", "destination", "target"]
    costs = ["best_control", "other", *(column for column in shifts if column.startswith("lost_"))]
    if len(shifts):
        means = shifts.groupby(where, sort=False)[costs].mean().reset_index()
        shifts = seeds_by(shifts, where).merge(means, on=where)
    shelf = run.published(profile)  # no other: a profile also publishes what it showed of others
    shown, note = tables.or_published(
        shifts, [shelf] if shelf else [], lambda shelf: shelf.table("carryover", f"{name}_shifts")
    )
    if shown.empty:
        print(absent)
        return
    caption = f"{MADE[name]}: share of inputs of the opposite behaviour that reach the target"
    figure = run.figure(
        figures.matrix(shown), f"{name}_matrix", caption=f"{caption}, and the control.{note}", data=shown
    )
    columns = {"task": "run", "source": "computed on", "destination": "applied to", "target": "steered to"}
    columns |= {"value": "reached, %", "best_control": "control, %", "other": "other answers, %"}
    columns |= {name: f"lost, {name.removeprefix('lost_')}, points" for name in shown if name.startswith("lost_")}
    display(figure, run.table(shown, f"{name}_shifts", caption=f"{caption}, and its price.{note}", columns=columns))
    measure = "published_transferred_reached" if note else "transferred_reached"
    definition = "{task}: computed on {source}, applied to {destination}, to {target}: share that reaches it."
    run.record_table(shown, measure=measure, definition=definition, unit="share 0-1", coordinates=where)


# %%
show_shifts(transferred("form", [cell for cell in cells if spec(cell.task).form == "both"]), "forms", "graded")

# %%
show_shifts(transferred("part", [cell for cell in cells if spec(cell.task).task == "graded_joint"]), "tasks", "graded")

# %%
joint = [cell for cell in cells if spec(cell.task).task == "joint"]
show_shifts(transferred("part", joint, transfer.study_shifts), "study_tasks", "joint")

# %% [markdown]
# Adapters of one base model share its neurons, whatever they were trained on: the study's shift of an adapter on one task, as it is, in an
# adapter on the other. It is tried on a sample of the study's split, since of new patterns hardly an input is answered from memory: that
# was known when the split was chosen, and the numbers are exploratory.

# %%
adapted = [cell for cell in cells if pretrained.is_adapter(run.input("training", "model", cell=cell))]
shifts = [pd.DataFrame()]
for source, cell in itertools.permutations(adapted, 2):
    if source.model == cell.model and source.task != cell.task:
        made = Intervention.load(run.input("steering", "interventions", cell=source), "study")
        moved = {target: made.shift(target) for target in TARGETS}
        rng = run.rng(f"adapters {tuple(source)} {tuple(cell)}")
        settings = analysis[cell.task]
        sample = behavior.sample_by_kind(inputs(cell, "seen"), settings.test_rows, rng)
        applied = transfer.apply_shifts(load(cell), sample, moved, settings, rng, made.site, transfer.STUDY_CONTROLS)
        shifts.append(applied.assign(task=cell.task, source=source.task, destination=cell.task, seed=cell.seed))
show_shifts(pd.concat(shifts, ignore_index=True), "adapter_tasks", "lora")

# %% [markdown]
# ## Checkpoints
#
# Does what we find depend on the checkpoint that the rule chose? At a few checkpoints of one run of a task: the behaviour on conflicts, a
# shift of MLP neurons fitted anew, one vector for all layers, and its random control, and how much of the top tenth of MLP neurons by
# $|r|$ is that of the chosen checkpoint (a tenth, by chance), all on validation groups.

# %%
found, asked_for = [pd.DataFrame()], run.config.carryover
of_tasks = [cell for cell in run.config.shown() if cell.task in (asked_for.tasks or run.config.names())]
for cell in of_tasks if asked_for.checkpoints else ():
    trajectory = pd.read_parquet(run.input("training", "trajectory.parquet", cell=cell))
    asked = {split: run.rng(f"inputs to ask {split}") for split in ("train", "validation")}
    frames = {
        split: behavior.sample_originals([inputs(cell, split)], analysis[cell.task].checkpoint_rows, rng)
        for split, rng in asked.items()
    }
    subject = load(cell)
    final_r = checkpoints.neuron_correlations(subject, frames["train"], checkpoints.SITE)
    for step in evenly(trajectory.step[trajectory.kept], asked_for.checkpoints):
        folder = run.input("training", "checkpoints", f"step{step}", cell=cell)
        earlier = dataclasses.replace(subject, model=Subject.load(folder).model)
        rng = run.rng(f"{tuple(cell)} {step}")
        measured = checkpoints.at_checkpoint(earlier, frames, final_r, analysis[cell.task], rng)
        found.append(measured.assign(task=cell.task, step=step))

# %%
computed = pd.concat(found, ignore_index=True)
if len(computed):
    run.record_table(
        computed,
        definition="{measure}, {task}, step {step}, validation groups.",
        unit="share 0-1",
        coordinates=["task", "step", "behavior", "target", "control"],
    )

# %%
over_steps, note = tables.or_published(computed, shelves[:1], lambda shelf: shelf.table("carryover", "checkpoints"))
if len(over_steps):
    caption = (
        "Checkpoints of one run of a task, on validation groups: behaviour, a fitted shift and its control, and the share of "
        f"the chosen checkpoint's top neurons that are top neurons there.{note}"
    )
    display(run.figure(figures.checkpoints(over_steps), "checkpoints", caption=caption, data=over_steps))
else:
    print(absent)

# %%
if len(over_steps):
    named = over_steps[over_steps.behavior.ne("other")].copy()
    named["column"] = named.behavior.fillna(
        "to " + named.target + named.control.map(", {}".format, na_action="ignore").fillna("")
    )
    wide = named.dropna(subset="column").pivot(index=["task", "step"], columns="column", values="value").reset_index()
    columns = {"task": "task", "step": "step", "memorization": "memorization, %", "generalization": "generalization, %"}
    for target in ("memorization", "generalization"):
        columns |= {f"to {target}": f"steered to {target}, %", f"to {target}, random_direction": "control, %"}
    caption = (
        "Shares of both behaviours, and what a shift fitted anew reaches, at each checkpoint. Layers, penalty and "
        f"dose are not chosen, as they are in Steering, so that shares differ from those there.{note}"
    )
    display(run.table(wide.reindex(columns=list(columns)), "checkpoints_by_step", caption=caption, columns=columns))

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
}
for task in ("inference", "addition"):
    for key, query in KEYS.items():
        rows = carried.query(f"{query} and task == '{task}'").to_dict("records") if len(carried) else []
        run.glue_text(f"{key}_{task}", in_words(rows[0] | {"unit": "share 0-1"}) if rows else "not measured")

# %%
to_generalization = "measure.str.endswith('transferred_reached') and target == 'generalization'"
for task, prefix in (("joint", ""), ("graded_joint", "graded_")):
    for source, destination in (("addition", "inference"), ("inference", "addition")):
        pair = f"source == '{prefix}{source}' and destination == '{prefix}{destination}'"
        run.glue(f"{task}_{source}_to_{destination}", f"task == '{task}' and {to_generalization} and {pair}")
run.finish()

# %% [markdown]
# ## What this means
#
# A shift carries over only as far as it does better than the same magnitudes on random neurons of the receiving model. One that fails on
# another format or task is no general switch between memory and inference, however well it works where it was fitted.
