# %% [markdown]
# # Training
#
# **Question.** Does a small language model show *both* behaviours (claim 0 of the study), and when in training do they
# coexist?
#
# **Answer.** At step {glue:text}`chosen_step`, which is analysed, the model answers {glue:text}`share_memorization` of the
# conflicts about test groups from memory, {glue:text}`share_generalization` by inference and {glue:text}`share_other` by
# neither. Accuracy on inputs with one right answer: {glue:text}`accuracies`. (In brackets, here and later: the 95 % interval,
# clustered by {term}`group`, or the number of inputs where there is none.)

# %% [markdown]
# ## Method
#
# The loss is the causal language-modelling loss over the tokens that a text asks for. A small model does not learn to chain sentences
# from the texts of inference alone: it learns what is remembered, or guesses one of the answers in the input. So {term}`lessons <lesson>`
# come first, each of which teaches a part of what the texts ask for, until it is learnt or its steps are used up; for addition a single
# one, sums. Trials stand on the page *What was tried*.
#
# The study stops at [28]{.study} % memorization and [55]{.study} % generalization of the conflicts (inference), and at
# [62]{.study} % and [38]{.study} % (addition): its models are half-trained by design.
#
# All numbers of this page are of one model; over seeds they stand in [Synthesis](synthesis.ipynb).

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results
table: str = ""  # for the task table: the path of a table; empty: as the profile says
steps: int = 0  # optimizer steps on the task's texts; 0: as the profile says
adaptation: str = ""  # of a pretrained model: full, lora or none; empty: as the profile says

# %% [markdown]
# An interrupted training resumes from its last saved state.

# %%
from memgen.run import begin

given = {"steps": steps, "adaptation": adaptation}
run = begin(
    "training", profile=profile, task=task, model=model, seed=seed, results=results, table=table, resume=True, **given
)

# %%
import shutil

import numpy as np
import pandas as pd
from IPython.display import display

from memgen import behavior, intervals, tasks, training
from memgen.config import trained_otherwise
from memgen.figures import training as figures
from memgen.figures.theme import KIND_NAMES
from memgen.progress import Progress
from memgen.run import in_words
from memgen.study import STOPPED
from memgen.subject import Subject

# %%
config = run.config.training
if any(given.values()):
    config = trained_otherwise(run.config, **given)
config

# %% [markdown]
# ## Lessons
#
# The last lesson is the task's texts.

# %%
generator = tasks.from_config(run.config)
tokenizer = generator.tokenizer()
memory, corpus = (pd.read_parquet(run.input("data", f"{name}.parquet")) for name in ("memory", "corpus"))
lessons = generator.lessons(memory, corpus, config, run.config.seed)

# %%
TEACHES = {
    "copy": "random words, twice in a row: to look up what followed a word",
    "memory": "names with colours of their own and no story: to remember",
    "retrieval": "sentences, told again in another order and either way round: to find what was told",
    "told": "questions about what was told, few of them with a hop",
    "kind": "mostly questions with a second hop: from a kind to the colour of one of that kind",
    "hops": "half of the questions with a third hop: from a name to its kind, and on to the colour",
    "mixed": "mostly questions with three hops, as in the texts",
    "sums": "sums without patterns",
    "texts": "the task itself",
}
tokens = {"tokens": [lesson.batch(0)[0].shape[1] for lesson in lessons]}
curriculum = pd.DataFrame(lessons)[["name", "steps", "until"]].assign(
    teaches=[TEACHES.get(lesson.name, "") for lesson in lessons]
)
curriculum = curriculum.assign(**tokens).rename(columns={"name": "lesson", "steps": "steps_at_most"})

# %% [markdown]
# The model.

# %%
longest = int(curriculum.tokens.max())
network = training.make_model(run.config.model, config, tokenizer, longest, run.config.seed)
sizes = [p.numel() for p in network.parameters() if p.requires_grad]
print(f"{run.config.model.name}: {sum(sizes):,} weights to train, texts of up to {longest} tokens")

# %% [markdown]
# ## Training run
#
# At regular steps we measure behaviour on conflicts, and accuracy on inputs with one right answer. Test groups are never watched.

# %%
watched_splits = ["train", "validation"] if config.checkpoint == "coexistence" else ["validation"]
frames = [pd.read_parquet(run.input("data", f"{split}.parquet")).assign(split=split) for split in watched_splits]
frames = [frame.assign(split=frame.split + frame.get("part", "")) for frame in frames]  # both behaviours in either task
watched = behavior.sample_originals(frames, config.evaluation_rows, run.rng("evaluation"))
watched.assign(kind=watched.kind.map(KIND_NAMES)).groupby(["split", "kind"]).group.agg(inputs="size", groups="nunique")

# %%
batch_size = run.config.analysis.batch_size


def evaluation(network):
    return training.evaluate(Subject(network, tokenizer, batch_size), watched)


# %%
trajectory = training.fit(
    network,
    lessons,
    config,
    evaluation=evaluation,
    folder=run.path("checkpoints"),
    seed=run.config.seed,
    progress=Progress(run.config.label),
)

# %% [markdown]
# ## The choice of a checkpoint
#
# For {term}`coexistence`, as in the study, the rule takes the first checkpoint in which each behaviour answers a quarter of the
# conflicts or more, among training and among validation groups; where there is none, the one whose rarer behaviour is most
# frequent. For a *complete* training (the graded tasks) it is the last one so balanced, once both abilities are learnt.

# %%
chosen, both_present = training.choose_checkpoint(trajectory, config)
print(f"Rule: {config.checkpoint}. Step {chosen:,}.{'' if both_present else ' No checkpoint has both behaviours.'}")

# %% [markdown]
# Diamonds show where the study stopped, with its models from scratch. (Of its adapters it tells no such shares.)

# %%
study_stop = STOPPED.get(run.config.base_task, {}) if config.adaptation != "lora" else {}

# %% tags=["main-figure"]
run.figure(
    figures.trajectory(trajectory, chosen, study_stop),
    "trajectory",
    caption="Share of the watched conflicts (never of test groups) with each behaviour, stacked, by training step; "
    "pink line: the share of their variants that flip it; dashed rule: the analysed step"
    f"{'; diamonds: where the study stopped' if study_stop else ''}.",
    data=trajectory,
)

# %% [markdown]
# What each lesson teaches, and how it ended.

# %%
ends = trajectory.groupby("lesson", sort=False)[["step", "accuracy"]].last()
curriculum = curriculum.join(ends.assign(steps=ends.step.diff().fillna(ends.step).astype(int)), on="lesson")
run.table(
    curriculum[["lesson", "teaches", "steps_at_most", "steps", "until", "accuracy"]],
    "lessons",
    caption="The lessons; one ends early where its accuracy on the tokens that it asks for reaches a threshold.",
    columns={"lesson": "lesson", "teaches": "teaches", "steps": "steps", "accuracy": "accuracy, %"},
)

# %% [markdown]
# Accuracy on inputs with one right answer shows when each ability appears.

# %%
caption = "Accuracy on the watched inputs with one right answer during training."
if set(behavior.RIGHT_ANSWER) & set(trajectory):  # a table may have none
    display(run.figure(figures.accuracies(trajectory), "accuracies", caption=caption, data=trajectory))

# %% [markdown]
# We keep the chosen checkpoint, the last one, and a few others.

# %%
all_steps = trajectory.step[trajectory.lesson == lessons[-1].name].to_numpy()
spread = all_steps[np.linspace(0, len(all_steps) - 1, 7).round().astype(int)]
trajectory["kept"] = trajectory.step.isin([chosen, *spread])
trajectory.to_parquet(run.path("trajectory.parquet"), index=False)

# %%
for step in trajectory.step[~trajectory.kept]:
    shutil.rmtree(run.path("checkpoints", f"step{step}"), ignore_errors=True)
shutil.copytree(run.path("checkpoints", f"step{chosen}"), run.path("model"), dirs_exist_ok=True)
tokenizer.save_pretrained(run.path("model"))
subject = Subject.load(run.path("model"), batch_size)

# %%
n_checkpoints = len(all_steps)
run.record("chosen_step", chosen, definition="Step of the chosen checkpoint.", unit="steps", n=n_checkpoints)
run.record(
    "both_behaviors_present",
    float(both_present),
    definition=f"1 if a checkpoint has both behaviours by the rule for {config.checkpoint}.",
    unit="0 or 1",
    n=n_checkpoints,
)

# %% [markdown]
# ## Behaviour on all inputs
#
# The label of an input is that of the greedy answer: {term}`memorization` (+1), {term}`generalization` (-1) or {term}`other` (0). The
# {term}`log-odds` say by how much.

# %%
data_folder = run.input("data", "tokenizer").parent
measured = {}
for split in ("train", "validation", "test", "seen"):
    if (data_folder / f"{split}.parquet").exists():
        frame = pd.read_parquet(run.input("data", f"{split}.parquet"))
        labels = behavior.measure(subject, behavior.prepare(subject, frame))
        labels.to_parquet(run.path("behavior", f"{split}.parquet"))
        measured[split] = frame.join(labels)

# %% [markdown]
# Beside the test groups stand new inputs about the groups of the training split, {term}`seen`, as in the study's random split.

# %%
tested = pd.concat({split: measured[split] for split in ("test", "seen") if split in measured}, names=["split", "row"])
tested = tested.reset_index().rename(columns={"kind": "inputs"})

# %% [markdown]
# On inputs with one right answer:

# %%
right_answer = tested.inputs.map(behavior.RIGHT_ANSWER)
single = tested.assign(value=tested.behavior == right_answer)[right_answer.notna()]

# %%
accuracy = intervals.estimate_by(single, ["inputs", "split"])
accuracy["population"] = accuracy.split.where(accuracy.split == "seen")
run.record_table(
    accuracy,
    measure="accuracy",
    definition="Accuracy on {inputs} inputs of the {split} split.",
    unit="accuracy 0-1",
    coordinates=["inputs", "population"],
)
run.table(
    accuracy.drop(columns="population"),
    "accuracy",
    caption="Accuracy on inputs with one right answer.",
    columns={"inputs": "inputs", "split": "split", "value": "accuracy, %", "n": "n"},
)

# %% [markdown]
# On conflicts:

# %%
conflict = tested[tested.inputs == "conflict"]
shown = pd.DataFrame({name: conflict.behavior == label for label, name in behavior.NAMES.items()})
shown = shown.join(conflict[["group", "memorized_share", "split"]])
shown = shown.melt(["group", "memorized_share", "split"], var_name="behavior")

# %%
shares = intervals.estimate_by(shown, ["behavior", "split"])
shares["population"] = shares.split.where(shares.split == "seen")
run.record_table(
    shares,
    measure="behavior_share",
    definition="Share of conflict inputs of the {split} split whose greedy answer shows {behavior}.",
    unit="share 0-1",
    coordinates=["behavior", "population"],
)

# %% [markdown]
# Where the study stopped its models from scratch stands beside where we did.

# %%
study = shares.behavior.map(study_stop).astype(float)
run.table(
    shares.drop(columns="population").assign(study=study),
    "stop",
    caption="Behaviour on conflicts at the analysed checkpoint, and where the study stopped.",
    columns={"behavior": "behaviour", "split": "split", "value": "conflicts, %", "study": "study, %"},
)

# %% [markdown]
# ## Which groups are remembered
#
# Each group may be learnt at a time of its own. What is left *within* groups is what later chapters have to explain.

# %%
by_group = pd.concat(measured, names=["split"]).query("kind == 'conflict'").groupby(["split", "group"], sort=False)
by_group = by_group.behavior.agg(
    memorization=lambda labels: (labels == behavior.MEMORIZATION).mean(),
    generalization=lambda labels: (labels == behavior.GENERALIZATION).mean(),
    n="size",
)
by_group = by_group.reset_index()
columns = {"group": "group", "memorization": "memorization, %", "generalization": "generalization, %", "n": "conflicts"}
run.table(by_group, "groups", caption="Test conflicts by group.", columns=columns, rows=by_group.split == "test")

# %%
test_conflicts = conflict[conflict.split == "test"]
is_memorized = (test_conflicts.behavior == behavior.MEMORIZATION).astype(float)
between = is_memorized.groupby(test_conflicts.group).transform("mean").var(ddof=0)
variance = is_memorized.var(ddof=0)
run.record(
    "variance_between_groups",
    between / variance if variance > 0 else np.nan,
    definition="Share of the variance of 'answered from memory' that lies between test groups.",
    unit="share 0-1",
    n=len(is_memorized) if variance > 0 else 0,
)

# %% [markdown]
# Where training grades the conflict, behaviour may follow the grade.

# %%
graded = shown.query("split == 'test'").dropna(subset="memorized_share").sort_values("memorized_share", kind="stable")
graded = intervals.estimate_by(graded, ["memorized_share", "behavior"])
caption = "Behaviour on conflict test inputs by the share of the memorized answer in training."
run.table(graded, "graded", caption=caption) if len(graded) else print("No training text shows a conflict.")

# %% [markdown]
# ## The same input, sampled
#
# At temperature 1 the same input would be answered now from memory, now by inference; the probabilities say how often.

# %%
likely = np.exp(test_conflicts[["log_p_memorization", "log_p_generalization"]])
likely.columns = ["memorization", "generalization"]
likely["other"] = (1 - likely.sum(axis=1)).clip(lower=0)

# %%
rows = likely.join(test_conflicts.group).melt("group", var_name="behavior")
run.record_table(
    intervals.estimate_by(rows, ["behavior"]),
    measure="sampled_share",
    definition="Mean probability that a sample at temperature 1 shows {behavior} (conflict test inputs).",
    unit="share 0-1",
    coordinates=["behavior"],
)

# %% [markdown]
# Of the variance of "answered from memory", $\overline{p(1-p)}$ is the luck of the draw, within inputs.

# %%
p = likely.memorization
within = (p * (1 - p)).mean()
run.record(
    "variance_within_inputs",
    within / (within + p.var(ddof=0)),
    definition="Share of the variance of 'answered from memory' at temperature 1 that lies within inputs.",
    unit="share 0-1",
    n=len(p),
)

# %% [markdown]
# ## Flips
#
# A {term}`variant` flips if the model answers it by the other behaviour than its original; the two are a {term}`pair`.

# %%
rates = []
for split in ("test", "seen"):
    if split in measured:
        variants = measured[split].query("kind == 'conflict' and variant_of >= 0")
        pairs = behavior.flip_pairs(measured[split], measured[split].behavior)
        flipped = variants.index.isin(pairs.memorization) | variants.index.isin(pairs.generalization)
        rates.append({"split": split, "pairs": len(pairs), **intervals.share(flipped, variants.group)._asdict()})

# %%
rates = pd.DataFrame(rates)
run.record_table(
    rates.assign(population=rates.split.where(rates.split == "seen")),
    measure="flip_rate",
    definition="Share of variants that flip the behaviour ({split} split).",
    unit="share 0-1",
    coordinates=["population"],
)
columns = {"split": "split", "pairs": "pairs", "value": "variants that flip, %", "n": "variants"}
run.table(rates, "flips", caption="Variants that flip the behaviour.", columns=columns)

# %%
words = accuracy[accuracy.split == "test"].assign(unit="accuracy 0-1").to_dict("records")
run.glue_text("accuracies", ", ".join(f"{KIND_NAMES[row['inputs']]} {in_words(row)}" for row in words))
run.glue("chosen_step", "measure == 'chosen_step'")
for name in behavior.LABELS:
    run.glue(f"share_{name}", "measure == 'behavior_share' and behavior == @name and population.isna()", name=name)
for measure in ("flip_rate", "variance_within_inputs", "variance_between_groups"):
    run.glue(measure, "measure == @measure and population.isna()", measure=measure)

# %% [markdown]
# The state to resume from is no longer needed.

# %%
run.path("checkpoints", training.RESUME).unlink(missing_ok=True)
run.finish()

# %% [markdown]
# ## What this means
#
# Of the variance of "answered from memory", {glue:text}`variance_between_groups` lies between groups; at temperature 1,
# {glue:text}`variance_within_inputs` lies within inputs. A variant flips the behaviour in {glue:text}`flip_rate` of the cases: these
# pairs hold the answers fixed and change the behaviour, and Localization compares what the network computes on their two members.
