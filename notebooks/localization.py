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
# # Localization
#
# **What is asked.** Claim a of the study: neurons differ between memorization and generalization, and the difference is
# spatial, near zero in early layers and growing with depth. We look for it in pairs: variants of one input on which the
# model behaves oppositely. Within a pair the words are nearly the same, so what differs is not the content.
#
# **How.** With $h^{+}_{i}$ the activation of neuron $i$ under memorization and $h^{-}_{i}$ under generalization, over
# $P$ pairs,
#
# $$\mathrm{NMD}_i = \frac{1}{P}\sum_{p=1}^{P}\left(h^{+}_{i,p} - h^{-}_{i,p}\right),$$
#
# and $r_i$ is Pearson's correlation of the activation with the label (+1 or -1) over all members of pairs. Activations
# are read at the prompt's last token, where the answer is decided, at two sites: the residual stream after each block
# (`resid_post`) and the hidden layer of each MLP (`mlp.hook_post`).
#
# Differences are correlational. Two causal yardsticks stand beside them: *attribution patching*, a first-order estimate
# of what each neuron contributes to the log-odds, and *activation patching*, which puts one member's activations of a
# whole layer into the other member's run and looks at what the model then answers.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default or paper
task: str = "inference"  # inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results

# %%
from memgen import report

run = report.begin("localization", globals())

# %%
import pandas as pd
from transformers import AutoTokenizer

from memgen import behavior, localization, training
from memgen.figures import localization as figures

model = training.load_model(run.input("training", "model"))
tokenizer = AutoTokenizer.from_pretrained(run.input("training", "model"))
train = pd.read_parquet(run.input("data", "train.parquet"))
labels = pd.read_parquet(run.input("training", "behavior", "train.parquet")).behavior
pairs = behavior.flip_pairs(train, labels, at_least=4)
analysis, n_layer = run.config.analysis, model.config.num_hidden_layers

# %% [markdown]
# ## The pairs
#
# All that is found here comes from the groups of the training split; the other splits stay untouched for the chapters
# that test it.

# %%
run.record("pairs", len(pairs), definition="Flip pairs of the training split.", unit="pairs", n=len(pairs))
example = pairs.iloc[0]
run.table(
    train.loc[
        [example.memorization, example.generalization],
        ["prompt", "answer_memorization", "answer_generalization"],
    ].assign(behavior=["memorization", "generalization"]),
    "pair",
    caption=f"One of {len(pairs)} pairs, from {pairs.group.nunique()} groups.",
)

# %% [markdown]
# ## Neurons that differ
#
# The activations are streamed: statistics are updated batch by batch. The p-value of a neuron comes from flipping the
# signs of whole groups; `q_value` corrects for the number of neurons (Benjamini-Hochberg), and a neuron is `selected`
# where it is below 0.05.

# %%
SITES = ("resid_post", "mlp.hook_post")
accumulated = localization.accumulate(model, train, pairs, tokenizer, SITES, analysis.batch_size)
neurons = localization.neuron_table(accumulated, n_layer, run.rng("sign flips"), analysis.n_permutations)
neurons["selected"] = neurons.q_value < 0.05
neurons.to_parquet(run.path("neurons.parquet"), index=False)

counts = neurons.groupby(["site", "layer"]).agg(
    neurons=("neuron", "size"), selected=("selected", "sum"), largest_r=("r", lambda r: r.abs().max())
)
run.table(
    counts.reset_index(),
    "selected",
    caption="Neurons of each layer whose activation differs between the behaviours (q < 0.05), and the largest |r|.",
)

# %%
for site in SITES:
    own = neurons[neurons.site == site]
    run.record(
        f"selected_share_{site}",
        own.selected.mean(),
        definition=f"Share of the neurons at {site} with q < 0.05 (sign-flip permutation over pairs).",
        unit="share 0-1",
        n=len(own),
    )

# %% [markdown]
# ## Heat map
#
# The study's first picture: layers by neurons, each layer's neurons sorted by NMD.

# %%
heat = localization.ranked(neurons)
run.figure(
    figures.heat_map(heat),
    "heat_map",
    caption="NMD of every neuron, sorted within its layer: blue is more active under memorization, orange under "
    "generalization.",
    alt="Two heat maps, one for each site, with a row for each layer; colours are strongest at both ends of the rows.",
    data=heat,
)

# %% [markdown]
# ## Top neurons

# %%
top = neurons[neurons.site == "resid_post"].sort_values("r", key=abs, ascending=False).head(20)
top = top[["layer", "neuron", "nmd", "r", "effect_size", "q_value"]]
run.figure(
    figures.top_neurons(top),
    "top_neurons",
    caption="The twenty neurons of the residual stream with the largest |r|, and their NMD.",
    alt="Horizontal bars, one for each neuron, to the right for memorization and to the left for generalization.",
    data=top,
)

# %% [markdown]
# ## Depth
#
# Is the difference near zero early and larger late? The mean of |NMD| over a layer's neurons is never zero, even where
# nothing differs: noise has an absolute value too. So the chance level stands beside it, from the same pairs with
# each group's sign drawn at random.

# %%
depth = localization.depth_profile(accumulated, n_layer, run.rng("depth"), analysis.n_resamples)
run.figure(
    figures.depth_profile(depth),
    "depth_profile",
    caption="Mean |NMD| by layer, from the pairs and by chance; bands are 95 % intervals over groups, and the middle "
    "95 % of sign flips.",
    alt="For each site a line over layers for the pairs and one for chance, with bands.",
    data=depth,
)

# %%
told = {
    "pairs": ("mean", "Mean |NMD| over the neurons at {site} of layer {layer}."),
    "chance": ("chance", "Mean |NMD| at {site} of layer {layer} when each group's sign is drawn at random."),
}
for row in depth.itertuples():
    name, definition = told[row.measure]
    run.record(
        f"{name}_abs_nmd_{row.site}_layer{row.layer}",
        row.value,
        # Resampling adds noise, which only enlarges a mean of absolute values: the interval may lie above the value.
        interval=(min(row.low, row.value), max(row.high, row.value)),
        definition=definition.format(site=row.site, layer=row.layer),
        unit="activation",
        n=len(pairs),
    )

# %% [markdown]
# ## A second ranking: attribution
#
# A neuron can differ without mattering. Attribution patching multiplies the difference by the gradient of the log-odds:
# what the neuron's difference is worth, to first order, in nats.

# %%
attributed = localization.attribution(model, train, pairs, tokenizer, SITES, analysis.batch_size)
attributed.to_parquet(run.path("attribution.parquet"), index=False)
both = neurons.merge(attributed, on=["site", "layer", "neuron"])
agreement = localization.agreement(both, "nmd", "attribution", share=0.1)
run.table(
    agreement,
    "agreement",
    caption="How far the rankings by |NMD| and by |attribution| agree: Spearman's correlation, and the share of the top "
    "tenth of one that is in the top tenth of the other (0.1 by chance).",
)

# %% [markdown]
# ## The causal yardstick: patching whole layers
#
# If a layer carries the behaviour at the last token, putting one member's activations there into the other's run turns
# the answer. The residual stream after the last block must do so by construction; what matters is where it begins, and
# whether attention or the MLP brings it.

# %%
patched = localization.patch_layers(
    model, train, pairs, tokenizer, ("resid_post", "attn_out", "mlp_out"), analysis.batch_size
)
patching = localization.summarize_patching(patched, run.rng("patching"), analysis.n_resamples)
run.figure(
    figures.patching(patching, title="share that takes over the behaviour"),
    "patching",
    caption="Share of receivers that show the source's behaviour after one site of one layer was patched at the last "
    "token, by the behaviour that was put in; 95 % intervals over groups.",
    alt="Points with intervals over layers, a panel for each site; the last layer of the residual stream decides all.",
    data=patching,
)

# %%
for row in patching.itertuples():
    run.record(
        f"patching_{row.site}_layer{row.layer}_to_{row.direction}",
        row.value,
        interval=(row.low, row.high),
        definition=f"Share of receivers that show {row.direction} after {row.site} of layer {row.layer} was patched.",
        unit="share 0-1",
        n=row.n,
    )
run.finish()

# %% [markdown]
# In this chapter we have seen which neurons differ within pairs and whether the difference grows over the layers,
# beside the level that chance gives; and, causally, from which layer on the state at the last token decides the behaviour.
