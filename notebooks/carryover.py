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
# ## What is asked
#
# The chapters before this one look at one model at a time. What of it holds for another: the same
# task learned from another seed, bound answers of another format, another task, another size or architecture, an
# earlier checkpoint, another mix of training texts?
#
# ## How
#
# Each section takes the runs that it needs. Where this profile has none, the published results of the largest
# profile are shown in their place, and the caption says so. Shares stand over seeds, with Student's 95 % interval, cut
# at 0 and 1; a single seed has no interval. What is fitted is fitted on training groups, what is chosen is chosen on
# validation groups, and test groups are used once.
#
# ## Controls
#
# Each section brings its own: matches with a randomly rotated model and matches dealt anew for neurons, the same model
# on other groups as a ceiling, random directions of the same norm for shifts, the more frequent behaviour for probes.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
results: str = "results"  # the folder that holds the results

# %%
from memgen import report

run = report.begin("carryover", globals())

# %%
import itertools

import numpy as np
import pandas as pd
from IPython.display import display
from transformers import AutoTokenizer

from memgen import carryover, config, synthesis, training
from memgen.figures import carryover as figures

metrics, published, cells = run.metrics(), run.published(), run.cells()
analysis = config.resolve(run.config.name, *cells[0]).analysis  # one for all runs of a profile
LABELS = {task: task.partition("-")[2] for task, _, _ in cells}  # what stands after the task's own name
print(f"{len(cells)} runs of {', '.join(LABELS)}; published results: {published.label if published else 'none'}")

# %%
SPLITS = ("train", "validation", "test")


def load(cell):
    """The model of a run, with its tokenizer."""
    folder = run.input("training", "model", cell=cell)
    return training.load_model(folder), AutoTokenizer.from_pretrained(folder)


def conflicts(cell, split):
    """The conflict inputs of a split, with their behaviour."""
    frame = pd.read_parquet(run.input("data", f"{split}.parquet", cell=cell))
    labels = pd.read_parquet(run.input("training", "behavior", f"{split}.parquet", cell=cell)).behavior
    return frame.assign(behavior=labels)[frame.kind == "conflict"]


# %% [markdown]
# ## Across seeds: the same neurons?
#
# An index means nothing across seeds, so neurons are matched by what they do: both models read the same conflict
# prompts (as many from each seed's test groups), and each neuron is paired with the neuron of the other model whose
# activation at the last token correlates with its own most, in size. With hundreds of candidates some correlation is
# found by chance, and all neurons of a layer live in one space; the control turns the other model's layers by a random
# rotation, which keeps the space and destroys its axes. A neuron whose best correlation exceeds the control's by more
# than [0.5]{.set} is called *universal*, as in the work on GPT-2 that found [1-5 %]{.study} of them.

# %%
SITES = ("mlp.hook_post", "resid_post")
BINS = np.linspace(0, 1, 21)
of_run = {}
for task, model, seed in cells:
    if (task, model) in [(name, one) for name, models in run.config.runs.items() for one in models]:
        of_run.setdefault((task, model), []).append((task, model, seed))

overlaps, histograms, ceilings = [], [], []
for (task, _), own in of_run.items():
    loaded = {cell[2]: load(cell) for cell in own}
    if len(own) < 2 or not carryover.same_vocabulary([tokenizer for _, tokenizer in loaded.values()]):
        continue
    rng = run.rng(f"seeds {task}")
    tests = {cell[2]: conflicts(cell, "test") for cell in own}
    prompts = carryover.common_prompts(list(tests.values()), 1024, rng)
    states = {seed: carryover.states(one, prompts, words, SITES) for seed, (one, words) in loaded.items()}
    tables = {cell[2]: pd.read_parquet(run.input("localization", "neurons.parquet", cell=cell)) for cell in own}
    for seed, site in itertools.product(loaded, SITES):
        (one, words), labels = loaded[seed], tests[seed].behavior
        r = carryover.neuron_correlations(one, tests[seed], labels, words, site)
        if r is not None:
            again = carryover.overlap_of_tops(carryover.site_correlations(tables[seed], site), r)
            ceilings.append({"task": task, "site": site, "seed": seed, "value": again})
    for (one, other), site in itertools.product(itertools.permutations(loaded, 2), SITES):
        r = {seed: carryover.site_correlations(tables[seed], site) for seed in (one, other)}
        numbers, matches = carryover.compare_models(states[one][site], states[other][site], r[one], r[other], rng)
        overlaps.append({"task": task, "site": site, "seed": one, "other": other, **numbers})
        for kind, values in {"the other seed": matches.correlation, "rotated": matches.rotated}.items():
            share = np.histogram(values, BINS)[0] / len(values)
            about = {"task": task, "site": site, "kind": kind, "correlation": (BINS[:-1] + BINS[1:]) / 2}
            histograms.append(pd.DataFrame(about | {"share": share}))
overlaps = pd.DataFrame(overlaps)

# %%
histogram = pd.DataFrame()
if histograms:
    bars = pd.concat(histograms).groupby(["task", "site", "kind", "correlation"], sort=False)
    histogram = bars.share.mean().reset_index()
histogram, note = carryover.or_published(histogram, published, "seeds_distribution")
if histogram.empty:
    print("No run of this profile has two seeds, and no published results are at hand.")
else:
    shown = run.figure(
        figures.distribution(histogram),
        "seeds_distribution",
        caption="Best correlation of each neuron with any neuron of another seed, and with any after a random rotation "
        f"of the other seed's layers; means over all ordered pairs of seeds.{note}",
        alt="For each task and site two step lines over the correlation, from 0 to 1.",
        data=histogram,
    )
    display(shown)

# %% [markdown]
# Do the neurons that go with the behaviour match? The top tenth of one seed by |r| is followed along a match: what share
# of it lands in the top tenth of the other seed? Three matches: the best neuron for each, the best pairing in which no
# neuron stands twice, and the neuron of the same index. By chance, with the matches dealt anew within each layer, more
# than a tenth may be found: top neurons gather in some layers, and that alone carries over. And the top tenth is itself an
# estimate from few pairs; so we also ask how much of it the *same* model has on top again in the pairs of its test groups.

# %%
NAMED = {
    "ceiling": "same model, other groups",
    "best": "top tenth, best match",
    "best_chance": "best match, by chance",
    "one_to_one": "top tenth, one to one",
    "one_to_one_chance": "one to one, by chance",
    "index": "top tenth, same index",
    "index_chance": "same index, by chance",
    "universal": "universal neurons",
}
seeds = pd.DataFrame()
if len(overlaps):
    rows = [carryover.over_pairs(overlaps, ["task", "site"], name).assign(key=name) for name in list(NAMED)[1:]]
    again = pd.DataFrame(ceilings, columns=["task", "site", "seed", "value"])  # none where no test group has pairs
    again = carryover.over_seeds(again, ["task", "site"]).assign(key="ceiling")
    seeds = pd.concat([again, *rows], ignore_index=True)
    seeds["measure"] = seeds.key.map(NAMED)
seeds, note = carryover.or_published(seeds, published, "seeds")
if len(seeds):
    shown = run.figure(
        figures.measures(seeds, "site", "share of neurons"),
        "seeds_overlap",
        caption="Agreement of neurons across seeds: means over seeds (each averaged over its partners) and 95 % "
        f"intervals over seeds.{note}",
        alt="For each task rows of points with intervals, one colour for each site.",
        data=seeds,
    )
    display(shown, run.table(seeds, "seeds", caption=f"The same numbers; n counts seeds.{note}"))
if not note:
    told = "Across seeds, {task}, {site}: {measure}."
    run.record_rows(seeds, "seeds_{key}_{task}_{site}", definition=told, unit="share 0-1")

# %% [markdown]
# ## Across forms: what is format alone?
#
# In the study's form a memorized answer has a format of its own (a tag, a colour of a second palette), so late layers
# may differ between the behaviours because they prepare another kind of token. In the matched form both answers have one
# format. What is left there of the late difference is not format. (Each form has models of its own here.)

# %%
FORMS = {"": "study", "matched": "matched"}
formed = metrics[metrics.task.map(LABELS).isin(list(FORMS))]
formed = formed.assign(form=formed.task.map(LABELS).map(FORMS), base=formed.task.map(config.base_task))
formed = formed[formed.groupby(["base", "model"]).form.transform("nunique") == len(FORMS)]
depth = synthesis.depth(formed.assign(run=formed.task))
depth = depth.assign(form=depth.task.map(LABELS).map(FORMS), task=depth.task.map(config.base_task))
depth, note = carryover.or_published(depth, published, "forms_depth")
if depth.empty:
    print("No task of this profile has runs in both forms, and no published results are at hand.")
else:
    shown = run.figure(
        figures.depth(depth),
        "forms_depth",
        caption=f"Mean |NMD| at the residual stream over its chance level, by form; a line for each seed.{note}",
        alt="Lines over layers, one for each seed, one colour for each form; a panel for each task.",
        data=depth,
    )
    late = carryover.late_layer(depth)
    caption = "Mean |NMD| over chance in the last layer, over seeds; “left” is the excess over 1 in the matched form "
    caption += f"as a share of that in the study's form.{note}"
    display(shown, run.table(late, "forms_late_layer", caption=caption))
    if not note:
        definition = "Last layer's mean |NMD| over chance, {task}, {form} form (left: matched over study's excess)."
        run.record_rows(late, "forms_late_{task}_{form}", definition=definition, unit="ratio")

# %% [markdown]
# ## Across forms: one model, one decision?
#
# A model whose bound entities have half the one form and half the other lets us ask whether it decides between memory and
# inference in one place for both. A shift of MLP neurons and a probe of the residual stream are fitted on the entities
# of one form (the shift's penalty and strength, and the probe's layer, are chosen on its validation groups) and applied to
# those of the other. If the shift carried nothing but the format of an answer, it would fail there.


# %%
def matrices(column, own):
    """The two matrices of every run in `own`, parts told apart by `column`."""
    shifts, probes = [], []
    for cell in own:
        model, tokenizer = load(cell)
        inputs = {split: conflicts(cell, split) for split in SPLITS}
        names = sorted(inputs["train"][column].unique(), reverse=True)
        parts = {name: {split: frame[frame[column] == name] for split, frame in inputs.items()} for name in names}
        rng, about = run.rng(f"transfer {cell}"), dict(zip(("task", "model", "seed"), cell, strict=True))
        shifts.append(carryover.shift_matrix(model, parts, tokenizer, analysis, rng).assign(**about))
        probes.append(carryover.probe_matrix(model, parts, tokenizer, rng, analysis.n_resamples).assign(**about))
    return tuple(pd.concat(found, ignore_index=True) if found else pd.DataFrame() for found in (shifts, probes))


def show(shifts, probes, name, parts, missing):
    """Figure and tables of two matrices over seeds, and their numbers."""
    of_shifts, of_probes = carryover.matrices_over_seeds(shifts, probes)
    of_shifts, note = carryover.or_published(of_shifts, published, f"{name}_shifts")
    of_probes, _ = carryover.or_published(of_probes, published, f"{name}_probes")
    if of_shifts.empty or of_probes.empty:
        print(missing)
        return
    panels = of_shifts.assign(panel=of_shifts.task + ", to " + of_shifts.target)
    told = f"Share of test inputs of the opposite behaviour that a shift brings to the target, by the {parts} that it "
    told += "was fitted on and the one that it was applied to; the control is random directions of the same norm."
    alt = f"Squares of {parts} fitted on by {parts} applied to, with the share and its control written in each."
    display(run.figure(figures.matrix(panels), f"{name}_matrix", caption=told + note, alt=alt, data=panels))
    display(run.table(of_shifts, f"{name}_shifts", caption=f"The same numbers over seeds; n counts seeds.{note}"))
    told = f"Probes of the residual stream, by the {parts} that they were fitted on and the one they were tested on: "
    told += "AUROC (value, low, high), accuracy, and the share of the more frequent behaviour there."
    display(run.table(of_probes, f"{name}_probes", caption=told + note))
    if not note:
        key = f"{name}_shift_{{task}}_{{source}}_on_{{destination}}_to_{{target}}"
        definition = "{task}: fitted on {source}, applied to {destination}, to {target}: share that reaches it."
        run.record_rows(of_shifts, key, definition=definition, unit="share 0-1")
        key = f"{name}_probe_{{task}}_{{source}}_on_{{destination}}"
        definition = "{task}: probe fitted on {source}, tested on {destination}: AUROC."
        run.record_rows(of_probes, key, definition=definition, unit="AUROC 0-1")


# %%
in_both = [cell for cell in cells if LABELS[cell[0]] == "both"]
missing = "No run of this profile has both forms in one model, and no published results are at hand."
show(*matrices("form", in_both), "forms", "form", missing)

# %% [markdown]
# ## Across tasks: is there one switch?
#
# The same, with a model that was trained on both tasks at once: does a shift that turns stories turn sums?

# %%
joint = [cell for cell in cells if config.base_task(cell[0]) == "joint"]
missing = "No run of this profile is of both tasks at once, and no published results are at hand."
show(*matrices("part", joint), "tasks", "task", missing)

# %% [markdown]
# ## Across sizes and architectures
#
# The headline numbers of the same task with other models. All of them were trained with the same settings.


# %%
def show_headlines(name, by, words):
    """Figure and table of the headline numbers, by what tells runs apart; the published ones where there are none here."""
    make, note = getattr(carryover, name), ""
    table = make(metrics)
    if table.empty and published is not None:
        table, note = make(published.metrics), f" {published.label}."
    if table.empty:
        print(f"No task of this profile has two {words}, and no published results are at hand.")
        return
    caption = f"Headline numbers by {by}: mean and 95 % interval over seeds.{note}"
    alt = f"For each task rows of points with intervals, one colour for each {by}."
    display(run.figure(figures.measures(table, by), name, caption=caption, alt=alt, data=table))
    display(run.table(table, name, caption=f"The same numbers; n counts seeds.{note}"))


show_headlines("sizes", "model", "models")

# %% [markdown]
# ## Across checkpoints
#
# When does what we find appear, and does it hang on the checkpoint that the rule chose? At some checkpoints of one run
# of each task: the behaviour on conflicts, a shift of MLP neurons fitted anew and its random control (both on validation
# groups: nothing is chosen here), and how much of the top tenth of MLP neurons by |r| is that of the chosen checkpoint
# (a tenth, by chance).

# %%
rows = []
for cell in run.config.shown():
    trajectory = pd.read_parquet(run.input("training", "trajectory.parquet", cell=cell))
    frames = {split: conflicts(cell, split) for split in ("train", "validation")}
    model, tokenizer = load(cell)
    chosen = carryover.neuron_correlations(model, frames["train"], frames["train"].behavior, tokenizer, carryover.SITE)
    for step in carryover.evenly(trajectory.step, 5):
        model = training.load_model(run.input("training", "checkpoints", f"step{step}", cell=cell))
        told = carryover.at_checkpoint(model, frames, tokenizer, chosen, analysis, run.rng(f"{cell} {step}"))
        rows.append(told.assign(task=cell[0], model=cell[1], step=step))
checkpoints = pd.concat(rows, ignore_index=True)
shown = run.figure(
    figures.checkpoints(checkpoints),
    "checkpoints",
    caption="Checkpoints of one run of each task, on validation groups: what conflicts are answered by; the share of "
    "inputs of the opposite behaviour that a fitted shift of MLP neurons, and its random control, brings to each target; "
    "the share of the chosen checkpoint's top neurons that are on top there.",
    alt="Lines over training steps, for each task three panels: behaviour, steering, top neurons.",
    data=checkpoints,
)
display(shown, run.table(checkpoints, "checkpoints", caption="The same numbers; n counts inputs, or neurons."))
last = checkpoints[checkpoints.step == checkpoints.groupby("task").step.transform("max")]
for row in last.itertuples():
    name = f"checkpoints_last_{row.task}_{row.panel}_{row.measure}_{row.kind}".replace(" ", "_")
    definition = f"{row.task}, step {row.step}, {row.panel}: {row.measure}, {row.kind}."
    run.record(name, row.value, definition=definition, unit="share 0-1", n=row.n)

# %% [markdown]
# ## Other mixes of training texts
#
# The conflicts among the training texts, and their grades, are ours. What changes without them? *none* has no conflict
# among its texts, so that the model never had to decide; *half* has ungraded ones, half of them ending with the memorized
# answer whatever the evidence; *graded* is the mix of the other chapters. The worst answer is the lowest rate over the
# memorized answers: a mean can hide an answer that a shift never reaches.

# %%
show_headlines("mixes", "mix", "mixes of training texts")

# %%
run.finish()

# %% [markdown]
# ## In this chapter we have seen
#
# We have asked what of one model's findings other seeds, forms, tasks, models, checkpoints and mixes of texts repeat,
# each time beside what chance gives. Of the top tenth of one seed's MLP neurons, the best match puts into the top
# tenth of another seed {glue:text}`seeds_best_inference_mlp.hook_post` for inference and
# {glue:text}`seeds_best_addition_mlp.hook_post` for addition; dealt anew by chance,
# {glue:text}`seeds_best_chance_inference_mlp.hook_post` for inference and
# {glue:text}`seeds_best_chance_addition_mlp.hook_post` for addition. Universal are, of the MLPs' neurons,
# {glue:text}`seeds_universal_inference_mlp.hook_post` for inference and
# {glue:text}`seeds_universal_addition_mlp.hook_post` for addition. (The brackets hold an interval over seeds, and
# their number.)
#
# In the matched form, the last layer keeps {glue:text}`forms_late_inference_left` of the study's form's excess over
# chance for inference, and {glue:text}`forms_late_addition_left` for addition. Where it says *not measured*, this
# profile lacks the runs; the tables above then show the published ones.
