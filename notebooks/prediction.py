# %% [markdown]
# # Prediction
#
# **Question.** Can the behaviour be predicted from the hidden states (claim b; the study's figures show accuracies of about
# [.88]{.study} for in-context inference and [.84]{.study} for addition in its models from scratch, [.87]{.study} and [.85]{.study} in its
# adapters), and better than from the input alone?
#
# **Answer.** On flip pairs of groups that were never probed, the study's probe is right for {glue:text}`study_probe_test` in its best
# layer; on new inputs of groups that it was fitted on, which is how the study tests, for {glue:text}`study_probe_seen`. A guess is
# right for half. Over all conflicts of new groups the probe that is best on validation groups is right for
# {glue:text}`accuracy_conflicts`, the predictor without hidden states that is best there for
# {glue:text}`best_baseline_accuracy_conflicts`: a gain of {glue:text}`gain_conflicts`. Always naming the behaviour that is more frequent in
# *train* is right for {glue:text}`majority_conflicts`.
#
# All numbers of this page are of one model; over seeds they stand in [Synthesis](synthesis.ipynb).

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results
table: str = ""  # for the task table: the path of a table; empty: as the profile says

# %%
from memgen.run import begin, in_words

run = begin("prediction", profile=profile, task=task, model=model, seed=seed, results=results, table=table)
analysis = run.config.analysis

# %%
import functools
import itertools

import numpy as np
import pandas as pd
from IPython.display import display

from memgen import behavior, prediction, pretrained, study
from memgen.config import require
from memgen.figures import prediction as figures
from memgen.figures.theme import POPULATION_NAMES
from memgen.subject import Subject

SITES, ESTIMATE = ["resid_post", "mlp.hook_post"], ["value", "ci_low", "ci_high", "n"]
GROUPS = {"test": "new groups", "seen": "seen groups"}
record_accuracy = functools.partial(run.record_table, unit="accuracy 0-1", coordinates=["population"])

# %% [markdown]
# ## Inputs
#
# The conflicts on which the model shows one of the two behaviours. Probes are fitted on *train*, choices are made on
# *validation*, and results are reported on *test*: three splits without a common group. {term}`Seen <seen>` is the study's own random
# split: new inputs
# about the groups of *train*.

# %%
behaviors = run.input("training", "behavior")
splits = [name for name in ("train", "validation", *GROUPS) if (behaviors / f"{name}.parquet").is_file()]
frames, pairs = {}, {}
for split in splits:
    frame = pd.read_parquet(run.input("data", f"{split}.parquet"))
    frame["behavior"] = pd.read_parquet(behaviors / f"{split}.parquet").behavior
    pairs[split] = behavior.flip_pairs(frame, frame.behavior)[["memorization", "generalization"]].to_numpy().ravel()
    frame["in_flip_pair"] = frame.index.isin(pairs[split])
    frame = frame.query("kind == 'conflict' and behavior != 0")
    sample = prediction.Dataset(frame).sample(analysis.probe_rows, run.rng(f"conflicts {split}"))
    frame = frame.assign(in_sample=frame.index.isin(sample.frame.index))
    frames[split] = frame.query("in_sample or in_flip_pair")

# %% [markdown]
# At the last prompt token we read the residual stream (`resid_post`) and the MLP's neurons (`mlp.hook_post`); *all layers* puts both
# sites of all layers side by side.

# %%
subject = Subject.load(run.input("training", "model"), batch_size=analysis.batch_size)
conflicts, answers = {}, pd.concat(frames.values())
for split, frame in frames.items():
    states = prediction.read_states(subject, frame, SITES)
    readouts = prediction.readouts(subject, states["resid_post"], frame, answers)
    conflicts[split] = prediction.Dataset(frame, states, readouts)

# %% [markdown]
# ## The study's probe
#
# The study fits one MLP a layer: two hidden layers of twice the width, ReLU, Adam, batches of [32]{.study}, at most [100]{.study}
# epochs, early stopping. So do we, but its learning rate of [1e-5]{.study} is for thousands of pairs and would leave an MLP fitted on
# a few hundred where it began: we take [1e-3]{.set}. The *linear* probe is a logistic regression, regularized by cross-validation over
# training groups. Any classifier of scikit-learn can take its place, such as an SVM: `from sklearn.svm import SVC as make_probe`.

# %%
make_probe = prediction.logistic
makers = {
    "study": functools.partial(prediction.StudyProbe, subject.model.config.hidden_size, seed, subject.device),
    "linear": make_probe,
}

# %% [markdown]
# Each is fitted on the members of an eighth, a half and all of the training pairs, at `resid_post` of every layer.

# %%
members = {split: data.take(data.frame.index.get_indexer(pairs[split])) for split, data in conflicts.items()}
members = {split: data for split, data in members.items() if len(data)}
order = run.rng("pairs").permutation(len(pairs["train"]) // 2)[: analysis.probe_rows]


def fitted_on(n_pairs):
    """The accuracy of both probes of every layer, fitted on some of the training pairs."""
    fewer = members["train"].take((2 * order[:n_pairs, None] + np.arange(2)).ravel())
    for name, make in makers.items() if fewer.can_be_probed() else ():
        fitted = prediction.fit_probes(fewer, make, ["resid_post"], ["hidden states"])
        evaluated = prediction.evaluate(fitted, members, "flip_pairs", [split for split in members if split != "train"])
        yield evaluated.assign(probe=name, n_pairs=n_pairs)


# %%
sizes = sorted({min(len(order), max(20, len(order) // part)) for part in (8, 2, 1)})
by_pairs = [part for n_pairs in sizes for part in fitted_on(n_pairs)]
nothing = prediction.evaluate([], {}, "flip_pairs").assign(n_pairs=[])  # where all pairs are of a single group
by_pairs = pd.concat(by_pairs or [nothing], ignore_index=True)

# %%
curves = prediction.estimates(by_pairs[by_pairs.split.isin(list(GROUPS))], "accuracy")
curves["inputs"] = curves.split.map(GROUPS)
record_accuracy(
    curves,
    measure="study_probe_accuracy",
    definition="Accuracy on members of flip pairs ({inputs}), fitted on {n_pairs} pairs: {probe}, layer {layer}.",
    coordinates=["probe", "layer", "n_pairs", "split"],
)

# %% [markdown]
# The study's figure, with the accuracy of its own best layer as a rule.

# %%
is_adapter = pretrained.is_adapter(run.input("training", "model"))
reported = pd.DataFrame(study.PROBE).query(
    "task == @run.config.base_task and model.str.contains('LoRA') == @is_adapter"
)
rule = {"kind": "study", "probe": "the study's best layer", "value": reported.accuracy.max()}
panel = curves.probe.replace({"study": "study's"}) + " probe, " + curves.inputs
drawn = curves.assign(panel=panel, probe=curves.n_pairs.map("{:,} pairs".format))
drawn = pd.concat([drawn, pd.DataFrame([rule])]) if len(reported) else drawn

# %% tags=["main-figure"]
if len(curves):  # a model may flip too few variants
    n_tested = ", ".join(f"{n:,} in {name}" for name, n in curves.groupby("inputs", sort=False).n.max().items())
    caption = (
        f"Accuracy on members of flip pairs ({n_tested}) by layer and number of training pairs, with 95 % intervals."
    )
    chart = figures.accuracy(
        drawn, panel="panel", columns=2, message="How often probes of a pair's states are right, by layer"
    )
    display(run.figure(chart, "by_pairs", caption=f"{caption} A guess is right for half.", data=drawn))

# %% [markdown]
# The best layer is the one with the highest AUROC on validation pairs. Those of sums are of two patterns at most, and the choice is
# weak.

# %%
best_layers = pd.DataFrame(
    prediction.best_probe(rows, split)
    for _, rows in by_pairs[by_pairs.n_pairs == sizes[-1]].groupby("probe", sort=False)
    for split in GROUPS
    if {split, "validation"} <= set(members)
)
best_layers = prediction.estimates(best_layers.reindex(columns=by_pairs.columns), "accuracy")
best_layers["inputs"] = best_layers.split.map(GROUPS)
record_accuracy(
    best_layers,
    measure="best_layer_accuracy",
    definition="Accuracy on members of flip pairs ({inputs}), {probe}, best layer on validation pairs: {layer}.",
    coordinates=["probe", "split"],
)

# %%
best_layers["accuracy"] = [in_words({"unit": "accuracy 0-1", **row}) for row in best_layers.to_dict("records")]
side_by_side = best_layers.pivot(index=["probe", "layer", "n_pairs"], columns="inputs", values="accuracy")
run.table(
    side_by_side.reset_index(),
    "best_layers",
    caption="Accuracy of each probe in its best layer; the study tests on seen groups.",
)

# %% [markdown]
# ## Populations
#
# Flip pairs are few, and chosen for being undecided. So the rest of the chapter also looks at *all conflicts*, at most `probe_rows` of
# a split, evenly from its groups.

# %%
rules = {"flip_pairs": "in_flip_pair", "conflicts": "in_sample"}
populations = {}
for name, rule in rules.items():
    rng = run.rng(f"sample {name}")
    datasets = {split: data.query(rule).sample(analysis.probe_rows, rng) for split, data in conflicts.items()}
    if all(datasets[split].can_be_probed() for split in ("train", "validation", "test")):
        populations[name] = {split: data for split, data in datasets.items() if len(data)}
require(bool(populations), "The model shows a single behavior on conflict inputs, so there is nothing to predict.")

# %%
counts = pd.DataFrame(
    {
        "population": name,
        "rule": rules[name],
        "split": split,
        "n": len(data),
        "groups": len(np.unique(data.groups)),
        "memorization": (data.labels == behavior.MEMORIZATION).mean(),
    }
    for name, datasets in populations.items()
    for split, data in datasets.items()
)
columns = {"population": "inputs", "split": "split", "n": "n", "groups": "groups", "memorization": "memorization, %"}
run.table(counts, "populations", caption="Inputs and groups of each population.", columns=columns)

# %% [markdown]
# ## Hidden states against the input
#
# Linear probes of every layer of both sites, and of all layers together, read the states, or the states with their squares: a square
# can tell *that* something stands in a state where each answer has a direction of its own.

# %%
probes = {name: prediction.fit_probes(datasets["train"], make_probe) for name, datasets in populations.items()}

# %% [markdown]
# What does the *input* give away? Beside the probes stand a logistic regression on the words, and on the words at each position;
# gradient boosting and an MLP on the tokens and on which positions hold equal ones; a small transformer trained on these inputs
# alone; the majority; and, where conflicts have grades, an {term}`oracle`.

# %%
baselines = {
    name: prediction.fit_baselines(datasets["train"], datasets["validation"], seed)
    for name, datasets in populations.items()
}

# %% [markdown]
# The model's final norm and unembedding, applied to every layer, need no fit. The {term}`answer-agnostic reading` does not know the
# answers of the input; the {term}`direct reading` does. Where the two kinds of answers differ in format, the agnostic reading of the
# last layer **is** the behaviour by definition.

# %%
readings = prediction.reading_probes(conflicts["train"])
table = pd.concat(
    prediction.evaluate([*probes[name], *baselines[name], *readings], datasets, name, [*datasets][1:])
    for name, datasets in populations.items()
).reset_index(drop=True)

# %% [markdown]
# Site, layer and kind of probe are those of the highest AUROC on validation groups, the baseline that of the highest accuracy there.


# %%
def place(rows):
    """Where probes read, in words."""
    return np.where(rows.site == prediction.ALL_LAYERS, rows.site, rows.site + ", layer " + rows.layer.astype(str))


def chosen(rule):
    """What a rule of choice takes for each population, measured on each split that is reported."""
    by_population = table.groupby("population", sort=False)
    rows = [rule(rows, split) for _, rows in by_population for split in GROUPS if split in set(rows.split)]
    return pd.DataFrame(rows).assign(inputs=lambda rows: rows.split.map(GROUPS))


# %%
best, best_baseline = chosen(prediction.best_probe).assign(place=place), chosen(prediction.best_baseline)
both = pd.concat([best.assign(measure="accuracy"), best_baseline.assign(measure="best_baseline_accuracy")])
both = prediction.estimates(both.sort_values("population", kind="stable"), "accuracy").fillna({"place": "input"})
run.table(
    both[["population", "inputs", "kind", "probe", "place", *ESTIMATE]],
    "best",
    caption="The best probe, and the best predictor without hidden states.",
    columns={
        "population": "inputs",
        "inputs": "tested on",
        "probe": "predictor",
        "place": "reads",
        "value": "accuracy, %",
    },
)

# %%
record_accuracy(
    both.assign(split=both.split.where(both.split != "test")),  # test groups need no word
    definition="Accuracy on {population} ({inputs}) of the best predictor ({kind}): {probe} ({place}).",
    coordinates=["population", "split"],
)

# %% [markdown]
# All predictors without hidden states, on test groups:

# %%
without_states = table[table.kind.isin(["input alone", "oracle"]) & (table.split == "test")]
without_states = prediction.estimates(without_states, "accuracy").rename(columns={"probe": "baseline"})
record_accuracy(
    without_states,
    measure="baseline_accuracy",
    definition="Test accuracy on {population} of a predictor without hidden states: {baseline}.",
    coordinates=["population", "baseline"],
)
run.table(
    without_states[["population", "kind", "baseline", *ESTIMATE]],
    "baselines",
    caption="Test accuracy of the predictors that see no hidden states.",
    columns={"population": "inputs", "baseline": "predictor", "value": "accuracy, %", "n": "n"},
)

# %% [markdown]
# The *gain* is the accuracy of the best probe minus that of the best baseline, input by input; where conflicts have grades, also
# within each grade.

# %%
population = "conflicts" if "conflicts" in populations else next(iter(populations))
test = populations[population]["test"]
best, best_baseline = (rows[rows.split == "test"].set_index("population") for rows in (best, best_baseline))


def gain(name, data, **about):
    """What the best probe of a population gains on data of it."""
    probe = prediction.find(probes[name], best.loc[name])
    baseline = prediction.find(baselines[name], best_baseline.loc[name])
    return {"population": name, "baseline": baseline.probe, **about, **prediction.gain(probe, baseline, data)._asdict()}


gains = [gain(name, datasets["test"], measure="gain") for name, datasets in populations.items()]
for grade in sorted(test.frame.memorized_share.dropna().unique()):
    of_grade = test.query(f"memorized_share == {grade}")
    gains.append(gain(population, of_grade, measure="gain_in_grade", memorized_share=grade))
gains = pd.DataFrame(gains).reindex(columns=["measure", "population", "memorized_share", "baseline", *ESTIMATE])

# %%
run.record_table(
    gains,
    definition="Test accuracy on {population} of the best probe minus that of the best baseline: {baseline}.",
    unit="difference of shares",
    coordinates=["population", "memorized_share"],
)
run.table(
    gains,
    "gains",
    caption="Accuracy of the best probe minus that of the best baseline, on the same test inputs.",
    columns={"population": "inputs", "baseline": "best baseline", "value": "gain, points", "n": "n"},
    rows=gains.measure == "gain",
)

# %% [markdown]
# ## The model's own readout
#
# The direct reading compares the input's two answers. After the last block it *is* the behaviour; where it is right before, the states
# tell which answer is coming, though a probe that is not told the answers may not find it.

# %%
readouts = table[(table.kind == "reading") & (table.split == "test")]
readouts = prediction.estimates(readouts, "accuracy").assign(panel=readouts.population.map(POPULATION_NAMES))
record_accuracy(
    readouts,
    measure="reading_accuracy",
    definition="Test accuracy on {population} of the {probe} of layer {layer}.",
    coordinates=["population", "probe", "layer"],
)
run.figure(
    figures.accuracy(readouts, panel="panel", columns=2),
    "readings",
    caption="Accuracy of the model's own readout by layer, on test groups, with 95 % intervals. A guess is right for half.",
    data=readouts,
)

# %% [markdown]
# The agnostic reading, in the layer that is best on validation groups.

# %%
agnostic = pd.DataFrame(
    prediction.best_probe(rows[rows.probe == "agnostic reading"], kind="reading")
    for _, rows in table.groupby("population", sort=False)
)
record_accuracy(
    prediction.estimates(agnostic, "accuracy"),
    measure="agnostic_accuracy",
    definition="Test accuracy on {population} of the agnostic reading of layer {layer}.",
)

# %% [markdown]
# ## How many neurons?
#
# A probe of the $k$ MLP neurons with the largest $|r|$ on training groups {cite}`gurnee2023finding`, beside probes of $k$ random neurons,
# and of $k$ neurons chosen and fitted with shuffled labels.

# %%
train = populations[population]["train"]
sparse = prediction.sparse_accuracy(train, test, "mlp.hook_post", [1, 2, 4, 8, 16, 32, 64], run.rng("sparse"))
record_accuracy(
    sparse,
    measure="sparse_accuracy",
    definition="Test accuracy of a probe of {k} neurons of the MLPs: {kind}.",
    coordinates=["kind", "k"],
)

# %%
sparse = sparse.rename(columns={"k": "neurons", "kind": "probe"}).assign(site="mlp.hook_post")
sparse["kind"] = np.where(sparse.probe == "k-sparse", "hidden states", "control")
run.figure(
    figures.accuracy(sparse, x="neurons", columns=1),
    "sparse",
    caption=f"Accuracy on {int(sparse.n.max()):,} test inputs by the number of neurons; dashed lines are controls.",
    data=sparse,
)

# %% [markdown]
# ## Controls
#
# An *untrained network*, the same architecture with random weights, reads the same inputs: what a probe of it reaches comes from the
# input and the probe.

# %%
fresh = subject.untrained(int(run.rng("untrained").integers(2**31)))
untrained = []
for name, row in best.iterrows():
    datasets = {
        split: prediction.Dataset(data.frame, prediction.read_states(fresh, data.frame, SITES))
        for split, data in populations[name].items()
    }
    fresh_probes = prediction.fit_probes(datasets["train"], make_probe, [row.site], [row.probe])
    untrained.append(prediction.evaluate(fresh_probes, datasets, name))
untrained = pd.concat(untrained).assign(kind="control", probe="untrained network")

# %%
best_untrained = pd.DataFrame(
    prediction.best_probe(rows, kind="control") for _, rows in untrained.groupby("population", sort=False)
)
record_accuracy(
    prediction.estimates(best_untrained, "accuracy").assign(place=place),
    measure="untrained_accuracy",
    definition="Test accuracy on {population} of a probe of an untrained network's states: {place}.",
)

# %% [markdown]
# A {term}`control task` {cite}`hewitt2019designing`: each training group gets a random label, which the probe must know on other rows
# of the same groups. {term}`Selectivity <selectivity>` is the accuracy with the behaviour on the same rows minus that.

# %%
control = pd.DataFrame()
if "conflicts" in populations:
    row = best.loc["conflicts"]
    control, selectivity = prediction.control_task(
        populations["conflicts"]["train"], row.site, row.probe, "conflicts", run.rng("control task"), make_probe
    )
    at_best = prediction.estimates(
        control[(control.layer == row.layer) & (control.probe == "control task")], "accuracy"
    )
    run.record_table(
        at_best.assign(place=row.place),
        measure="control_task_accuracy",
        definition="Accuracy on a random label of each group, held-out rows of training groups: {place}.",
        unit="accuracy 0-1",
    )
    run.record(
        "selectivity",
        selectivity[row.layer],
        definition="Accuracy with the behaviour minus accuracy on the control task, on the same rows.",
        unit="difference of shares",
    )

# %%
controls = prediction.estimates(pd.concat([best_untrained, control]), "accuracy").assign(place=place)
run.table(
    controls,
    "controls",
    caption="The untrained network on test groups; on held-out rows of training groups the control task, and the behaviour.",
    columns={"population": "inputs", "probe": "predictor", "place": "reads", "value": "accuracy, %", "n": "n"},
    rows=(controls.split == "test") | (controls.place == best.place.get("conflicts")),
)

# %% [markdown]
# ## Every layer and site
#
# Where a rule lies as high as a line, the probe may read the input and nothing else. Dashed lines with points are controls.

# %%
RULES = ["words and positions", "gradient boosting", "transformer", "grade"]  # of the predictors without hidden states
everything = pd.concat([table, untrained, control, by_pairs], ignore_index=True)
drawn = everything[(everything.population == population) & everything.n_pairs.isna()].query("probe != 'direct reading'")
drawn = drawn[(drawn.split == "test") | (drawn.probe == "control task")]
drawn = drawn[drawn.layer.notna() | drawn.probe.isin(RULES)]
drawn = prediction.estimates(drawn.drop(columns="n_pairs"), "accuracy")
run.figure(
    figures.accuracy(drawn),
    "by_layer",
    caption=f"Accuracy on {int(drawn.n[drawn.split == 'test'].max()):,} test inputs by layer, with 95 % intervals, "
    f"{POPULATION_NAMES[population]} (the control task: on held-out rows of training groups); rules are predictors that see no "
    "hidden states. The probe of all layers together is of no layer, and is not drawn.",
    data=drawn,
)

# %% [markdown]
# `probes.parquet` holds every predictor of this chapter, on every split and population.

# %%
everything.to_parquet(run.path("probes.parquet"), index=False)

# %%
for measure, name in itertools.product(["accuracy", "best_baseline_accuracy", "gain", "untrained_accuracy"], rules):
    where = "measure == @measure and population == @name and split.isna()"
    run.glue(f"{measure}_{name}", where, measure=measure, name=name)
for probe, split in itertools.product(makers, GROUPS):
    where = "measure == 'best_layer_accuracy' and probe == @probe and split == @split"
    run.glue(f"{probe}_probe_{split}", where, probe=probe, split=split)
for measure in ("control_task_accuracy", "selectivity"):
    run.glue(measure, "measure == @measure", measure=measure)
run.glue("agnostic_accuracy", "measure == 'agnostic_accuracy' and population == 'conflicts'")
direct = "measure == 'reading_accuracy' and population == 'conflicts' and probe == 'direct reading' and layer == @layer"
run.glue("direct_accuracy", direct, layer=subject.n_layer - 2)
run.glue(
    "majority_conflicts", "measure == 'baseline_accuracy' and population == 'conflicts' and baseline == 'majority'"
)
run.finish()

# %% [markdown]
# ## What this means
#
# Only a gain whose interval lies above zero says that the states tell more than the input: over all conflicts it is
# {glue:text}`gain_conflicts`, on flip pairs {glue:text}`gain_flip_pairs`. A linear probe is right for {glue:text}`linear_probe_test` of the
# pairs of new groups, for {glue:text}`linear_probe_seen` of those of seen ones; the difference may be knowledge of the groups. A probe of
# an untrained network reaches {glue:text}`untrained_accuracy_conflicts`; a random label of each group is known for
# {glue:text}`control_task_accuracy`, so that the selectivity is {glue:text}`selectivity`. The model's own readout, which knows the task's
# answers and not the input's, reaches {glue:text}`agnostic_accuracy`. Told the input's two answers, it is right for
# {glue:text}`direct_accuracy` one block before the last. (Where all tags begin with one token, and all sums with another, the two are one.)
