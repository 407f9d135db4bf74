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
# ## What is asked
#
# To see a model remember or think, we need inputs on which it can do either, and on which the two
# give *different* answers. This chapter makes them and shows them.
#
# ## How
#
# A bound entity (a name, a pair of addends) has an answer that training ties to it: the *memorized* answer. The input
# itself may allow another: the *inferred* answer. That gives four kinds of input:
#
# | kind | memorized answer | inferred answer |
# | --- | --- | --- |
# | memorized_only | yes | no |
# | inferred_only | no | yes |
# | aligned | yes | the same |
# | conflict | yes | another |
#
# Each task has two *forms*. In the study's form the memorized answers have a format of their own: colours of a second
# palette, or tags. In the *matched* form both answers come from one palette, or are numbers.
#
# A *variant* is a near-identical rewriting of a conflict input: the sentences of a story in another order, or the
# addends swapped. It keeps both answers. The *group* is the entity that could leak from one split to another; splits
# never divide a group.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results

# %%
from memgen import report

run = report.begin("data", globals())

# %%
import pandas as pd

from memgen import tasks
from memgen.figures import data as figures

maker = tasks.from_config(run.config)
tokenizer = maker.tokenizer()
data = maker.generate(run.rng("data"))
maker

# %% [markdown]
# ## What is bound to what
#
# Each bound entity has one memorized answer, drawn once. Groups are assigned to the splits at random.

# %%
run.table(data.memory.head(8), "memory", caption="The first of the bound entities, with the answers bound to them.")

# %% [markdown]
# ## Examples
#
# One input of each kind, and for a conflict its variant. In the inference task a story names the kind and the colour of
# several characters; the query asks for the colour of one more. In the addition task the sum is written with its least
# significant digit first, in one digit more than the addends have; a memorized-only input hides the last digits, so that
# the pair can still be recognised but not added.

# %%
validation = data.splits["validation"]
variant = validation[validation.variant_of >= 0].iloc[[0]]
examples = [validation[validation.kind == kind].head(1) for kind in tasks.KINDS]
examples += [validation.loc[variant.variant_of], variant]
columns = ["kind", "prompt", "answer_memorization", "answer_generalization", "variant_of"]
shown = pd.concat(examples).drop_duplicates(subset=["prompt"])[columns]
shown["variant_of"] = shown.variant_of.map(lambda i: "" if i < 0 else f"row {i}")
run.table(
    shown.reset_index(names="row"),
    "examples",
    caption="Inputs of the validation split, as the model reads them, with the answers that count as each behaviour.",
)

# %% [markdown]
# ## The training texts
#
# The language model is trained on whole texts: a prompt and one answer. A memorized-only text ends with the memorized
# answer, an inferred-only text with the inferred one. **Conflicts are part of the training texts**, and that is a choice
# with consequences. Without them a model has never had to decide, its behaviour on conflicts wanders, and shifting its
# activations mostly yields answers that are neither. With them, the model learns to weigh memory against evidence, and
# the weight that we give to each in the texts is something it can learn. So the decision that this book looks for is
# one that the texts contain; what the model makes of it, where and how, is not.
#
# We grade that decision instead of tying it to an answer. `memorized_share` is the share of a conflict's training texts
# that end with the memorized answer. For stories it falls with the evidence: with the number of sentences that support
# the inference (one, two, three), and with two of them it matters whether the story's last sentence is one. For addition
# it depends on the pair: a third of the pairs is bound strongly, a third weakly, a third in one order of the addends
# only.

# %%
corpus = data.corpus
run.table(
    corpus.groupby("kind").head(1)[["kind", "text"]],
    "texts",
    caption="A training text of each kind.",
)

# %%
conflicts = pd.concat(data.splits.values()).query("kind == 'conflict' and variant_of < 0")
shares = conflicts.groupby("memorized_share").agg(inputs=("group", "size"), groups=("group", "nunique")).reset_index()
run.table(
    shares,
    "grades",
    caption="Conflict inputs of all splits (originals) by the share of training texts with the memorized answer.",
)

# %% [markdown]
# ## What there is of each kind

# %%
parts = {"training texts": corpus, **data.splits}
make_up = pd.concat(
    [frame.kind.value_counts().rename("n").reset_index().assign(split=split) for split, frame in parts.items()]
)
analysis_splits = make_up[make_up.split != "training texts"]
run.figure(
    figures.make_up(analysis_splits),
    "make_up",
    caption="How many inputs of each kind each split for the analysis holds; conflicts count with their variants.",
    alt="Stacked bars, one for each of the splits train, validation and test; conflicts make the largest part of each.",
    data=analysis_splits,
)

# %% [markdown]
# ## Controls
#
# Splits must not share a group; a variant must keep both answers of its original; the two answers of a conflict must
# differ; and the tokenizer must give back the very tokens that were written.

# %%
groups = {split: set(frame.group) for split, frame in data.splits.items()}
assert all(groups[a].isdisjoint(groups[b]) for a in groups for b in groups if a < b)
for frame in data.splits.values():
    variants = frame[frame.variant_of >= 0]
    answers = ["answer_memorization", "answer_generalization", "group"]
    assert (variants[answers].to_numpy() == frame.loc[variants.variant_of, answers].to_numpy()).all()
    conflict = frame[frame.kind == "conflict"]
    assert (conflict.answer_memorization != conflict.answer_generalization).all()
    assert [list(ids) for ids in frame.input_ids] == tokenizer(frame.prompt.to_list()).input_ids

# %% [markdown]
# ## What is kept

# %%
tokenizer.save_pretrained(run.path("tokenizer"))
data.memory.to_parquet(run.path("memory.parquet"), index=False)
data.corpus.to_parquet(run.path("corpus.parquet"), index=False)
for split, frame in data.splits.items():
    frame.to_parquet(run.path(f"{split}.parquet"), index=False)
    run.record(
        f"conflict_inputs_{split}",
        int((frame.kind == "conflict").sum()),
        definition=f"Conflict inputs of the {split} split, variants counted.",
        unit="inputs",
        n=int((frame.kind == "conflict").sum()),
    )
run.record(
    "bound_entities",
    len(data.memory),
    definition="Entities (names or unordered pairs) with a bound answer.",
    unit="entities",
    n=len(data.memory),
)
run.finish()

# %% [markdown]
# ## In this chapter we have seen
#
# We have set memory and inference against each other: {glue:text}`bound_entities` bound entities, and inputs on which
# the two disagree, with variants that change the wording and neither answer. Variants counted, there are
# {glue:text}`conflict_inputs_train` conflict inputs to learn from, {glue:text}`conflict_inputs_validation` to choose
# with and {glue:text}`conflict_inputs_test` to test with. No name and no pair of addends is on both sides of a split.
# The next chapter trains a model that can do both.
