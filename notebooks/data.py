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
# # Data
#
# **Question.** On which inputs can a model answer either from memory or by inference, so that the two answers differ?
#
# **Answer.** We bind an answer to {glue:text}`bound_entities` entities and write inputs on which memory and inference
# disagree: {glue:text}`conflicts_train` of them, variants included, to fit on, {glue:text}`conflicts_validation` to
# choose with and {glue:text}`conflicts_test` to test with. No entity is in two splits.

# %% [markdown]
# ## Four kinds of input
#
# A bound entity (a name, a pair of addends) has an answer that training ties to it: the *memorized* answer. The input
# itself may allow another: the *inferred* answer.
#
# | kind | memorized answer | inferred answer |
# | --- | --- | --- |
# | memorized_only | yes | no |
# | inferred_only | no | yes |
# | aligned | yes | the same |
# | conflict | yes | another |
#
# In the study's *form* the memorized answers have a format of their own: colours of a second palette, or tags. In the
# *matched* form both answers come from one palette, or are numbers.
#
# A *variant* is a near-identical rewriting of a conflict: the sentences of a story in another order, or the addends
# swapped. It has the answers of its original. The *group* of an input is the entity that could leak from one split to
# another.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results

# %%
from memgen.run import begin

run = begin("data", profile=profile, task=task, model=model, seed=seed, results=results)

# %% [markdown]
# The settings of the task come from the profile.

# %%
import pandas as pd

from memgen import tasks
from memgen.figures import data as figures

generator = tasks.from_config(run.config)
generator

# %% [markdown]
# All data are drawn here, from one random generator.

# %%
data = generator.generate(run.rng("data"))
tokenizer = generator.tokenizer()

# %% [markdown]
# ## Bound answers
#
# Each bound entity has one memorized answer, drawn once. Entities are assigned to the splits at random.

# %%
run.table(data.memory.head(8), "memory", caption="The first of the bound entities, with the answers bound to them.")

# %% [markdown]
# ## Examples
#
# In the inference task a story names the kind and the colour of several characters; the query asks for the colour of
# one more. In the addition task the sum is written with its least significant digit first, in one digit more than the
# addends have; a memorized-only input hides the last digits, so that the pair can be recognised but not added.
#
# We pick an input of each kind, and a conflict with its variant.

# %%
validation = data.splits["validation"]
variant = validation[validation.variant_of >= 0].head(1)
original = validation.loc[variant.variant_of]
first_of_kind = validation[validation.kind != "conflict"].groupby("kind").head(1)

# %%
columns = ["kind", "prompt", "answer_memorization", "answer_generalization", "variant_of"]
examples = pd.concat([first_of_kind, original, variant])[columns].reset_index(names="row")
examples["variant_of"] = examples.variant_of.astype("Int64").mask(examples.variant_of < 0)
run.table(examples, "examples", caption="Validation inputs as the model reads them, with the answer of each behaviour.")

# %% [markdown]
# ## Training texts
#
# The language model is trained on whole texts: a prompt and an answer. A memorized-only text ends with the memorized
# answer, an inferred-only text with the inferred answer.

# %%
texts = data.corpus.groupby("kind").head(1)[["kind", "text"]]
run.table(texts, "texts", caption="A training text of each kind.")

# %% [markdown]
# **Conflicts are part of the training texts**, and that is a choice with consequences. Without them a model has never
# had to decide, its behaviour on conflicts wanders, and shifting its activations mostly yields answers that are
# neither. With them, the model can learn how much weight the texts give to memory and to evidence. So the decision that
# this book looks for is in the texts; what the model makes of it, where and how, is not.
#
# The decision is graded. `memorized_share` is the share of a conflict's training texts that end with the memorized
# answer. For stories it falls with the number of sentences that support the inference (one, two, three); with two, it
# matters whether the story's last sentence is among them. For addition it depends on the pair: a third of the pairs is
# bound strongly, a third weakly, a third in one order of the addends only.

# %%
inputs = pd.concat(data.splits, names=["split", "row"]).reset_index()
originals = inputs[(inputs.kind == "conflict") & (inputs.variant_of < 0)]
grades = originals.groupby("memorized_share").group.agg(inputs="size", groups="nunique").reset_index()
run.table(grades, "grades", caption="Conflicts of all splits, without variants, by the share of the memorized answer.")

# %% [markdown]
# ## Inputs of each kind
#
# The inputs for the analysis are in three splits: to fit on, to choose with and to test with.

# %% tags=["main-figure"]
counts = inputs.groupby(["split", "kind"], sort=False).size().rename("n").reset_index()
run.figure(figures.composition(counts), "composition", caption="Inputs of each kind in each split.", data=counts)

# %% [markdown]
# ## Controls
#
# Splits share no group.

# %%
splits_of_group = inputs.groupby("group").split.nunique()
assert splits_of_group.max() == 1

# %% [markdown]
# The two answers of a conflict differ, and a variant has both answers and the group of its original.

# %%
conflicts = inputs[inputs.kind == "conflict"]
assert (conflicts.answer_memorization != conflicts.answer_generalization).all()

# %%
variants = inputs[inputs.variant_of >= 0]
pairs = variants.merge(inputs, left_on=["split", "variant_of"], right_on=["split", "row"], suffixes=("", "_original"))
assert len(pairs) == len(variants)
for column in ("answer_memorization", "answer_generalization", "group"):
    assert (pairs[column] == pairs[f"{column}_original"]).all()

# %% [markdown]
# The tokenizer gives back the very tokens that were written.

# %%
encoded = tokenizer(inputs.prompt.to_list()).input_ids
assert all(list(ids) == again for ids, again in zip(inputs.input_ids, encoded, strict=True))

# %% [markdown]
# ## Files and numbers
#
# Later chapters read these files.

# %%
tokenizer.save_pretrained(run.path("tokenizer"))
data.memory.to_parquet(run.path("memory.parquet"), index=False)
data.corpus.to_parquet(run.path("corpus.parquet"), index=False)
for split, frame in data.splits.items():
    frame.to_parquet(run.path(f"{split}.parquet"), index=False)

# %%
n_conflicts = conflicts.groupby("split", sort=False).size().rename("n").reset_index()
run.record_table(
    n_conflicts.assign(value=n_conflicts.n),
    measure="conflict_inputs",
    definition="Conflict inputs of the {split} split, variants counted.",
    unit="inputs",
    coordinates=["split"],
)

# %%
n_bound = len(data.memory)
definition = "Entities (names or unordered pairs) with a bound answer."
run.record("bound_entities", n_bound, definition=definition, unit="inputs", n=n_bound)

# %%
run.glue("bound_entities", "measure == 'bound_entities'")
for split in data.splits:
    run.glue(f"conflicts_{split}", "measure == 'conflict_inputs' and split == @split", split=split)

# %%
run.finish()

# %% [markdown]
# ## What this means
#
# A model that answers a conflict has chosen between memory and evidence, and the greedy answer says which it chose. The
# texts show both choices, more often the one or the other by a grade that the input carries. Predicting the choice is
# therefore possible from the input alone, up to what the grade says; a probe of the model's activations has to do
# better than that. And since no entity is in two splits, whatever is found on test inputs holds for entities on which
# nothing was fitted.
