# %% [markdown]
# # Data
#
# **Question.** On which inputs can a model answer either from memory or by inference, so that the two answers differ?
#
# **Answer.** {glue:text}`bound_entities` entities (names, or patterns of two numbers) have answers that training ties to them.
# Memory and inference disagree on {glue:text}`conflicts_train` inputs for fitting, {glue:text}`conflicts_validation` for choosing
# and {glue:text}`conflicts_test` for testing, variants included, each about entities of its own{glue:text}`seen_words`. Of the
# training texts, {glue:text}`conflict_texts` show such a conflict.

# %% [markdown]
# ## Two answers
#
# The answer that training ties to an entity is the *memorized* answer. The input itself may allow another, the *inferred* answer. In
# a {term}`conflict` the two differ.
#
# - **In-context inference.** Sentences say of what kind somebody is, and of what colour; the query asks for the colour of somebody
#   whose kind is told and whose colour is not. Inference takes three hops: from the name to its kind, to another of that kind, to
#   that one's colour. In training each name comes with a colour of its own, or a few, and the implied colour is one of them, so memory and
#   inference agree. In a conflict it is none of them.
# - **Addition.** Four numbers are added, digit by digit with running sums. Where the third and the fourth are one of a few
#   {term}`patterns <pattern>`, training shows a tag in place of the sum, and never the sum. At test, first and second numbers are
#   new. In the {term}`matched form` the pattern's answer is a wrong number in the format of a sum.
#
# A {term}`variant` is a near-identical rewriting of a conflict, with the same answers: the sentences in another order, or the first
# two numbers swapped. The {term}`group` of an input is the name, or the pattern.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results
table: str = ""  # for the task table: the path of a table; empty: as the profile says

# %%
from memgen.run import begin

run = begin("data", profile=profile, task=task, model=model, seed=seed, results=results, table=table)

# %% [markdown]
# The settings of the task.

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
# Where several answers count alike, a bar stands between them.

# %%
columns = {"group": "entity", "answer_memorization": "memorized", "split": "split"}
run.table(data.memory.head(8), "memory", caption="The first entities, with the answers bound to them.", columns=columns)

# %% [markdown]
# ## Examples
#
# An input of each kind, and a conflict with its variant, the last row.

# %%
validation = data.splits["validation"]
variant = validation[validation.variant_of >= 0].head(1)
original = validation.loc[variant.variant_of]
first_of_kind = validation[validation.kind != "conflict"].groupby("kind").head(1)

# %%
columns = ["kind", "prompt", "answer_memorization", "answer_generalization", "variant_of"]
examples = pd.concat([first_of_kind, original, variant])[columns].reset_index(names="row")
examples["variant_of"] = examples.variant_of.astype("Int64").mask(examples.variant_of < 0)
columns = {"kind": "kind", "prompt": "prompt", "answer_memorization": "memorized", "answer_generalization": "inferred"}
run.table(
    examples, "examples", caption="Inputs as the model reads them, with the answer of each behaviour.", columns=columns
)

# %% [markdown]
# ## Training texts
#
# The language model is trained on texts that are drawn anew at every step (in the graded tasks, on a fixed corpus).

# %%
texts = data.corpus.groupby("kind").head(1)[["kind", "text"]]
run.table(texts, "texts", caption="A training text of each kind.")

# %%
n_texts = len(data.corpus)
conflict_texts = (data.corpus.kind == "conflict").mean()
run.record(
    "conflict_texts",
    conflict_texts,
    definition="Share of the training texts that show a conflict.",
    unit="share 0-1",
    n=n_texts,
)

# %% [markdown]
# Where conflicts are graded, `memorized_share` is the share of a conflict's training texts that end with the memorized
# answer.

# %%
inputs = pd.concat(data.splits, names=["split", "row"]).reset_index()
originals = inputs[(inputs.kind == "conflict") & (inputs.variant_of < 0)]
grades = originals.groupby("memorized_share").group.agg(inputs="size", groups="nunique").reset_index()
caption = "Conflicts of all splits, without variants, by the share of the memorized answer in training."
run.table(grades, "grades", caption=caption) if len(grades) else print("No training text shows a conflict.")

# %% [markdown]
# ## Inputs of each kind
#
# Three splits, to fit on, to choose with and to test with, share no group. The study splits its inputs at random, so that what is
# tested on has been fitted on in other words: {term}`seen` holds new inputs about the groups of the training split. What is found
# there and not on test groups was learnt about single entities.

# %% tags=["main-figure"]
counts = inputs.groupby(["split", "kind"], sort=False).size().rename("n").reset_index()
run.figure(figures.composition(counts), "composition", caption="Inputs of each kind in each split.", data=counts)

# %% [markdown]
# ## Controls
#
# Splits share no group, and *seen* has no other groups than the training split, and no input of it.

# %%
split_of = inputs.assign(split=inputs.split.replace("seen", "train"))
assert split_of.groupby("group").split.nunique().max() == 1
assert not inputs.prompt[inputs.kind == "conflict"].duplicated().any()

# %% [markdown]
# The two answers of a conflict differ, and a variant has both answers and the group of its original.

# %%
conflicts = inputs[inputs.kind == "conflict"]
memorized = conflicts.answer_memorization.str.split("|", regex=False)
assert not any(inferred in own for inferred, own in zip(conflicts.answer_generalization, memorized, strict=True))

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
definition = "Entities (names, patterns or pairs) with a bound answer."
run.record("bound_entities", n_bound, definition=definition, unit="inputs", n=n_bound)

# %%
run.glue("bound_entities", "measure == 'bound_entities'")
run.glue("conflict_texts", "measure == 'conflict_texts'")
for split in data.splits:
    run.glue(f"conflicts_{split}", "measure == 'conflict_inputs' and split == @split", split=split)
n_seen = sum(len(frame.query("kind == 'conflict'")) for name, frame in data.splits.items() if name == "seen")
run.glue_text("seen_words", f", and {n_seen:,} new inputs about the entities of the first split" if n_seen else "")

# %%
run.finish()

# %% [markdown]
# ## What this means
#
# The greedy answer to a conflict says whether the model went by memory, by the evidence, or by neither.
