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
# # Prediction
#
# **What is asked.** Claim b of the study: the behaviour can be predicted from the hidden states, with more than 92 %
# accuracy in the best layers. A probe that does so is interesting only if the *input* does not give the behaviour away:
# which sentences stand where can be read from the words, and a first layer still knows the words.
#
# **How.** One logistic regression for each layer, on the residual stream at the prompt's last token. It is fitted on
# training groups, its regularisation chosen by cross-validation over groups; the layer is chosen on validation groups;
# the accuracy reported is on test groups. In the same table, fitted and tested the same way, stand two probes that see
# nothing but the input: its words (how often each comes), and its words with their positions. And the majority class.
#
# We look at three populations: the members of flip pairs, as the study does; all conflict inputs; and conflict inputs
# with equal evidence, where the evidence cannot give the answer away.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default or paper
task: str = "inference"  # inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results

# %%
from memgen import report

run = report.begin("prediction", globals())

# %%
import numpy as np
import pandas as pd
from IPython.display import display
from transformers import AutoTokenizer

from memgen import behavior, localization, prediction, training
from memgen.figures import prediction as figures

model = training.load_model(run.input("training", "model"))
tokenizer = AutoTokenizer.from_pretrained(run.input("training", "model"))
analysis = run.config.analysis
SITE = "resid_post"
SPLITS = ("train", "validation", "test")

# %% [markdown]
# ## The inputs
#
# Conflict inputs on which the model shows one of the two behaviours; answers that are neither are left out here.

# %%
conflicts, pairs, states = {}, {}, {}
for split in SPLITS:
    frame = pd.read_parquet(run.input("data", f"{split}.parquet"))
    frame["behavior"] = pd.read_parquet(run.input("training", "behavior", f"{split}.parquet")).behavior
    pairs[split] = behavior.flip_pairs(frame, frame.behavior, at_least=2)
    conflicts[split] = frame[(frame.kind == "conflict") & (frame.behavior != behavior.OTHER)]
    parts = [state[SITE] for _, state in localization.read_states(model, conflicts[split], tokenizer, [SITE])]
    states[split] = np.concatenate(parts)
    assert conflicts[split].index.is_monotonic_increasing

# %% [markdown]
# ## Three populations

# %%
evidence = prediction.most_balanced(conflicts["train"], "evidence")
members = {split: own[["memorization", "generalization"]].to_numpy().ravel() for split, own in pairs.items()}
populations = {
    "flip pairs": {split: frame.index.isin(members[split]) for split, frame in conflicts.items()},
    "all conflicts": {split: np.full(len(frame), True) for split, frame in conflicts.items()},
}
if conflicts["train"].evidence.nunique() > 1:
    populations[f"evidence {evidence}"] = {split: frame.evidence == evidence for split, frame in conflicts.items()}

tables = []
for name, chosen in populations.items():
    frames = {split: conflicts[split][chosen[split]] for split in SPLITS}
    own = {split: {SITE: states[split][np.asarray(chosen[split])]} for split in SPLITS}
    tables.append(prediction.probe_table(own, frames, name, run.rng(name), analysis.n_resamples))
probes = pd.concat(tables, ignore_index=True)
probes.to_parquet(run.path("probes.parquet"), index=False)

# %% [markdown]
# ## Accuracy by layer
#
# Rules are the baselines. Where a rule lies as high as the line, the probe may read the input and nothing else.

# %%
tested = probes[probes.split == "test"].rename(columns={"ci_low": "low", "ci_high": "high"})
for name in populations:
    own = tested[tested.probe == name].assign(probe=lambda f: f.baseline)
    display(
        run.figure(
            figures.by_layer(own),
            f"by_layer_{name.replace(' ', '_')}",
            caption=f"Accuracy on test groups, {name}: probes on hidden states by layer, and baselines that see the "
            "input alone or nothing.",
            alt="A line with a band over layers for the hidden states, and horizontal rules for the baselines.",
            data=own,
        )
    )

# %%
columns = ["probe", "baseline", "layer", "n", "accuracy", "ci_low", "ci_high", "auroc"]
run.table(
    probes[probes.split == "test"][columns],
    "probes",
    caption="All probes and baselines on test groups; intervals are clustered by group.",
)

# %% [markdown]
# ## The numbers

# %%
for name in populations:
    table = probes[probes.probe == name]
    best, baseline = prediction.best_layer(table), prediction.best_input_baseline(table)
    key = name.replace(" ", "_")
    run.record(
        f"accuracy_{key}",
        best.accuracy,
        interval=(best.ci_low, best.ci_high),
        definition=f"Test accuracy of the probe on {name}, at layer {best.layer} (chosen on validation groups).",
        unit="accuracy 0-1",
        n=best.n,
    )
    run.record(
        f"baseline_{key}",
        baseline.accuracy,
        interval=(baseline.ci_low, baseline.ci_high),
        definition=f"Test accuracy of the best baseline on {name}: {baseline.baseline}.",
        unit="accuracy 0-1",
        n=baseline.n,
    )
    print(f"{name}: {best.accuracy:.3f} from layer {best.layer}; {baseline.accuracy:.3f} from {baseline.baseline}")

# %% [markdown]
# ## How many pairs are needed?

# %%
best = prediction.best_layer(probes[probes.probe == "flip pairs"])
of_pairs = {
    split: states[split][conflicts[split].index.get_indexer(members[split]), best.layer] for split in ("train", "test")
}
sizes = [n for n in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if n < len(pairs["train"])] + [len(pairs["train"])]
curve = prediction.by_number_of_pairs(of_pairs, pairs, sizes, run.rng("sizes"), analysis.n_resamples)
curve = curve.rename(columns={"ci_low": "low", "ci_high": "high"})
run.figure(
    figures.by_pairs(curve),
    "by_pairs",
    caption=f"Accuracy on the members of {len(pairs['test'])} test pairs by the number of pairs that the probe learned from.",
    alt="A line with a band over the number of pairs.",
    data=curve,
)

# %%
run.finish()

# %% [markdown]
# In this chapter we have seen how well a linear probe tells the behaviour from the hidden states of held-out groups, and
# how much of that the input alone would have told.
