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
# # Training
#
# ## What is asked
#
# Claim 0 of the study: a small language model shows *both* behaviours. We train one from scratch on
# the texts of the Data chapter and follow, on validation inputs, when each behaviour appears.
#
# ## How
#
# The loss is the causal language-modelling loss on whole texts $x_1, \ldots, x_T$,
#
# $$L = -\frac{1}{T-1}\sum_{t=2}^{T}\log p(x_t \mid x_1, \ldots, x_{t-1});$$
#
# every token counts, the answer no more than any other. The optimizer is AdamW; the learning rate rises briefly, stays, and falls over the last part of the steps.
# Stories come with a *copy warm-up*: first, random tokens written twice in a row. A small model that starts on the
# stories directly learns the names and then stays for thousands of steps on a plateau where it guesses one of the
# colours in the context; the warm-up makes the attention heads that inference needs, and the plateau vanishes. Its steps
# have negative numbers below.
#
# **The checkpoint** to be analysed is chosen on validation inputs by a rule stated beforehand: of those whose
# *memorized-only* and *inferred-only* accuracy reach the required accuracy, the last one in which each behaviour answers
# a quarter of the conflicts or more; where none is so balanced, the one that is most.
#
# ## Controls
#
# Each behaviour is asked for alone, too: on inputs that only memory, and on inputs that only inference can answer. Answers
# that are neither are counted beside the two. The rule sees validation groups, the shares at the end are of test groups,
# and the exact probabilities tell how much of a behaviour is the luck of one greedy answer.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results
steps: int = 0  # optimizer steps on the task's texts; 0: as the profile says

# %%
from memgen import report

run = report.begin("training", globals(), keep_partial=True)

# %%
import dataclasses

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memgen import behavior, statistics, training
from memgen.figures import training as figures

tokenizer = AutoTokenizer.from_pretrained(run.input("data", "tokenizer"))
corpus = pd.read_parquet(run.input("data", "corpus.parquet"))
validation = pd.read_parquet(run.input("data", "validation.parquet"))
config = run.config.training if steps == 0 else dataclasses.replace(run.config.training, steps=steps)
config

# %% [markdown]
# ## The model
#
# Built from its configuration, with random weights that the seed decides.

# %%
packed = training.pack(corpus, tokenizer.pad_token_id)
torch.manual_seed(run.config.seed)
model = AutoModelForCausalLM.from_config(training.model_configuration(run.config.model, tokenizer, packed.shape[1]))
print(f"{run.config.model.name}: {model.num_parameters():,} parameters, texts of up to {packed.shape[1]} tokens")

# %% [markdown]
# ## The run

# %%
watched = behavior.sample_by_kind(validation, config.evaluation_rows, run.rng("evaluation"))
trajectory = training.fit(
    model,
    packed,
    config,
    evaluation=lambda m: training.evaluate(m, watched, tokenizer, run.config.analysis.batch_size),
    folder=run.path("checkpoints"),
    seed=run.config.seed,
    progress=training.Progress(run.config.label),
)
trajectory.to_parquet(run.path("trajectory.parquet"), index=False)

# %% [markdown]
# ## When does each behaviour appear?

# %%
chosen, both_present = training.choose_checkpoint(trajectory, config.required_accuracy)
rates = trajectory.drop(columns="loss").melt("step", var_name="column", value_name="rate")
rates["measure"] = rates.column.map(training.MEASURES)
run.figure(
    figures.trajectory(rates[["step", "measure", "rate"]], chosen=chosen),
    "trajectory",
    caption="Accuracy on inputs with one right answer, and behaviour on conflicts, on validation inputs during training; "
    "the rule marks the chosen checkpoint.",
    alt="Lines over training steps: two accuracies and the three shares of behaviour on conflicts.",
    data=rates[["step", "measure", "rate"]],
)

# %%
run.figure(
    figures.loss(trajectory),
    "loss",
    caption="The training loss, in nats per token; whole texts keep most of their entropy, since names, kinds and "
    "digits are drawn at random.",
    alt="A line over training steps.",
    data=trajectory[["step", "loss"]],
)

# %% [markdown]
# ## The chosen checkpoint

# %%
model = training.load_model(run.path("checkpoints", f"step{chosen}"))
model.save_pretrained(run.path("model"))
tokenizer.save_pretrained(run.path("model"))
(run.path("checkpoints") / training.RESUME).unlink()  # only an unfinished training needs it
if not both_present:
    print(f"No checkpoint reached an accuracy of {config.required_accuracy} on both; the best of them was taken.")

# %% [markdown]
# ## Behaviour on all inputs
#
# Every later chapter works with what this model does on each input. The label is that of the greedy answer:
# memorization (+1) if it is exactly the memorized answer, generalization (-1) if it is exactly the inferred one, other
# (0) if it is neither. The log-odds, `log p(memorized answer) - log p(inferred answer)` in nats, tell by how much.

# %%
frames, measured = {}, {}
for split in ("train", "validation", "test"):
    frames[split] = pd.read_parquet(run.input("data", f"{split}.parquet"))
    prepared = behavior.prepare(model, frames[split], tokenizer, run.config.analysis.batch_size)
    measured[split] = behavior.measure(model, prepared)
    measured[split].to_parquet(run.path("behavior", f"{split}.parquet"))

# %% [markdown]
# The rule has chosen; now the test groups are looked at for the first time.

# %%
test, labels = frames["test"], measured["test"].behavior
of_kind = {kind: test.kind == kind for kind in ("memorized_only", "inferred_only", "conflict")}
right = {"memorized_only": behavior.MEMORIZATION, "inferred_only": behavior.GENERALIZATION}
counted = [(f"{kind}_accuracy", of_kind[kind], label) for kind, label in right.items()]
counted += [(f"conflict_{name}", of_kind["conflict"], label) for label, name in behavior.NAMES.items()]
numbers = []
for name, rows, label in counted:
    hits, groups = (labels[rows] == label).astype(float), test.group[rows]
    estimate = statistics.clustered_mean(hits, groups, run.rng(name), n_resamples=run.config.analysis.n_resamples)
    kind, answer = test.kind[rows].iloc[0], behavior.NAMES[label]
    run.record(name, estimate, definition=f"Share of {kind} test inputs answered by {answer}.", unit="share 0-1")
    numbers.append({"measure": name, **estimate._asdict()})
n = len(trajectory)
run.record("chosen_step", chosen, definition="The step of the chosen checkpoint.", unit="steps", n=n)
run.record(
    "both_behaviors_present",
    float(both_present),
    definition=f"1 if a checkpoint reached {config.required_accuracy} on memorized-only and inferred-only inputs.",
    unit="0 or 1",
    n=n,
)
run.table(
    pd.DataFrame(numbers),
    "test",
    caption="The chosen checkpoint on test groups: shares with 95 % intervals, clustered by group, and the number of "
    "inputs.",
)

# %% [markdown]
# ## What decides a conflict?
#
# If the model weighs memory against evidence as its texts did, its behaviour follows `memorized_share`, the share of
# training texts with such a conflict that end with the memorized answer.

# %%
conflict = test[of_kind["conflict"]].assign(behavior=labels)
graded = conflict.groupby("memorized_share").behavior.agg(
    n="size",
    memorization=lambda b: (b == behavior.MEMORIZATION).mean(),
    generalization=lambda b: (b == behavior.GENERALIZATION).mean(),
    other=lambda b: (b == behavior.OTHER).mean(),
)
run.table(
    graded.reset_index(),
    "graded",
    caption="Behaviour on conflict test inputs by the share of training texts that end with the memorized answer.",
)

# %% [markdown]
# ## The same input, sampled
#
# The label is that of the greedy answer. If answers were drawn at temperature 1 instead, the same input would be answered
# now from memory, now by inference. No draws are needed to say how often: the probabilities of both answers are known.
# The variance of "answered from memory" then has two parts, within inputs, $\overline{p(1-p)}$, and between them.

# %%
chance = np.exp(measured["test"].loc[conflict.index, ["log_p_memorization", "log_p_generalization"]])
chance.columns = ["memorization", "generalization"]
chance["other"] = (1 - chance.sum(axis=1)).clip(lower=0)
p = chance.memorization
sampled = {
    "sampled_memorization": (p, "a sample at temperature 1 is the memorized answer"),
    "sampled_other": (chance.other, "a sample at temperature 1 is neither answer"),
    "sampled_differs": (1 - chance.max(axis=1), "a sample at temperature 1 shows another behaviour than the likeliest"),
}
for name, (values, what) in sampled.items():
    estimate = statistics.clustered_mean(
        values, conflict.group, run.rng(name), n_resamples=run.config.analysis.n_resamples
    )
    run.record(name, estimate, definition=f"Mean probability that {what} (conflict test inputs).", unit="share 0-1")
within = (p * (1 - p)).mean()
run.record(
    "variance_within_inputs",
    within / (within + p.var(ddof=0)),
    definition="Share of the variance of 'answered from memory' at temperature 1 that lies within inputs.",
    unit="share 0-1",
    n=len(p),
)
run.table(
    chance.groupby(conflict.memorized_share).mean().reset_index(),
    "sampled",
    caption="Mean probability of each behaviour at temperature 1 on conflict test inputs, by the share of training texts "
    "that end with the memorized answer: a calibrated model's second column repeats the first.",
)

# %% [markdown]
# ## Flips
#
# A variant flips if the model answers it by the other behaviour. The two then are a *pair*: nearly the same words,
# opposite behaviours.

# %%
variants = test[of_kind["conflict"] & (test.variant_of >= 0)]
pairs = behavior.flip_pairs(test, labels)
flipped = (variants.index.isin(pairs.memorization) | variants.index.isin(pairs.generalization)).astype(float)
flip_rate = statistics.clustered_mean(
    flipped, variants.group, run.rng("flips"), n_resamples=run.config.analysis.n_resamples
)
run.record(
    "flip_rate",
    flip_rate,
    definition="Share of variants that flip the behaviour (test groups).",
    unit="share 0-1",
)
print(
    f"{len(pairs)} of {len(variants)} variants flip: {flip_rate.value:.1%}, "
    f"95 % interval {flip_rate.low:.1%} to {flip_rate.high:.1%}"
)

# %%
run.finish()

# %% [markdown]
# ## In this chapter we have seen
#
# We have followed how a model came to answer from memory and by inference. The rule chose step
# {glue:text}`chosen_step`. There the model answers {glue:text}`memorized_only_accuracy` of the inputs that only memory
# can answer, and {glue:text}`inferred_only_accuracy` of those that only inference can (in brackets, here and in the
# next chapters: the 95 % interval, clustered by group, and the number of inputs). Of the conflicts it answers
# {glue:text}`conflict_memorization` from memory, {glue:text}`conflict_generalization` by inference, and
# {glue:text}`conflict_other` by neither.
#
# A variant flips the behaviour in {glue:text}`flip_rate` of the cases; these pairs are what the next chapter compares.
# An answer drawn at temperature 1 shows another behaviour than the likeliest one in {glue:text}`sampled_differs` of
# the cases.
