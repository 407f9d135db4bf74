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
# ## What is asked
#
# Claim a of the study: neurons differ between memorization and generalization, and the difference is
# spatial, near zero in early layers and growing with depth. We look for it in pairs: variants of one input on which the
# model behaves oppositely. Within a pair the words are nearly the same, so what differs is not the content.
#
# ## How
#
# With $h^{+}_{i}$ the activation of neuron $i$ under memorization and $h^{-}_{i}$ under generalization, over
# $P$ pairs,
#
# $$\mathrm{NMD}_i = \frac{1}{P}\sum_{p=1}^{P}\left(h^{+}_{i,p} - h^{-}_{i,p}\right),$$
#
# and $r_i$ is Pearson's correlation of the activation with the label (+1 or -1) over all members of pairs. Activations
# are read at the prompt's last token, where the answer is decided, at two sites: the residual stream after each block
# (`resid_post`) and the hidden layer of each MLP (`mlp.hook_post`).
#
# Differences are correlational. Two causal yardsticks stand beside them: *attribution patching*, a first-order estimate
# of what each neuron contributes to the log-odds, and *activation patching*, which puts one member's activations, of a
# whole layer or of an exact set of neurons, into the other member's run and looks at what the model then answers.
#
# ## Controls
#
# Every number stands beside what chance gives: the same computation with each group's sign drawn at random.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results

# %%
from memgen import report

run = report.begin("localization", globals())

# %%
import numpy as np
import pandas as pd
from IPython.display import display
from transformers import AutoTokenizer

from memgen import behavior, localization, training
from memgen.figures import localization as figures

model = training.load_model(run.input("training", "model"))
tokenizer = AutoTokenizer.from_pretrained(run.input("training", "model"))
frames, labels = {}, {}
for split in ("train", "validation"):
    frames[split] = pd.read_parquet(run.input("data", f"{split}.parquet"))
    labels[split] = pd.read_parquet(run.input("training", "behavior", f"{split}.parquet")).behavior
SITES, CHANCE = ("resid_post", "mlp.hook_post"), " when each group's sign is drawn at random."
train = frames["train"]
pairs = behavior.flip_pairs(train, labels["train"], at_least=4)
analysis, n_layer = run.config.analysis, model.config.num_hidden_layers

# %% [markdown]
# ## The pairs
#
# All that is found here comes from the groups of the training split. Where this chapter tests what it found, it does so
# on validation groups; the test groups stay untouched.

# %%
run.record("pairs", len(pairs), definition="Flip pairs of the training split.", unit="pairs", n=len(pairs))
example = pairs.iloc[0]
columns = ["prompt", "answer_memorization", "answer_generalization"]
example = train.loc[[example.memorization, example.generalization], columns]
run.table(
    example.assign(behavior=["memorization", "generalization"]),
    "pair",
    caption=f"One of {len(pairs)} pairs, from {pairs.group.nunique()} groups.",
)

# %% [markdown]
# ## Neurons that differ
#
# The activations are streamed: statistics are updated batch by batch. The p-value of a neuron comes from flipping the
# signs of whole groups; `q_value` corrects for the number of neurons (Benjamini-Hochberg), and a neuron is `selected`
# where it is below [0.05]{.set}.
#
# Would the same procedure find neurons where there are none? The second table shuffles the labels group by group, many
# times, and makes the whole selection anew each time. A correction that holds finds something in no more than about one
# of twenty draws.

# %%
accumulated = localization.accumulate(model, train, pairs, tokenizer, SITES, analysis.batch_size)
neurons = localization.neuron_table(accumulated, n_layer, run.rng("sign flips"), analysis.n_permutations)
neurons["selected"] = neurons.q_value < 0.05
drawn = localization.shuffled(accumulated, n_layer, run.rng("shuffled labels"))  # a control for the steering chapter
neurons = neurons.merge(drawn, on=["site", "layer", "neuron"])
neurons.to_parquet(run.path("neurons.parquet"), index=False)

# %%
counts = neurons.groupby(["site", "layer"]).agg(
    neurons=("neuron", "size"), selected=("selected", "sum"), largest_r=("r", lambda r: r.abs().max())
)
differ = "Neurons of each layer whose activation differs between the behaviours (q < 0.05), and the largest |r|."
display(run.table(counts.reset_index(), "selected", caption=differ))
for site in SITES:
    own = neurons[neurons.site == site]
    told = f"Share of the neurons at {site} with q < 0.05 (sign-flip permutation over pairs)."
    run.record(f"selected_share_{site}", own.selected.mean(), definition=told, unit="share 0-1", n=len(own))

null = localization.null_discoveries(
    accumulated, run.rng("null"), analysis.n_permutations, n_resamples=analysis.n_resamples
)
shuffled = "Neurons selected at q < 0.05 when labels are shuffled: the mean share of the neurons, and the share of the "
display(run.table(null, "null", caption=f"{shuffled}draws with any; 95 % intervals over draws."))
run.record_rows(
    null,
    {"selected_share": "null_selected_share_{site}", "any": "null_any_selected_{site}"},
    definition={
        "selected_share": "Mean share of the neurons ({site}) with q < 0.05, labels shuffled.",
        "any": "Share of draws of shuffled labels with any neuron ({site}) at q < 0.05.",
    },
    unit="share 0-1",
)

# %% [markdown]
# ## Heat map
#
# The study's first picture: layers by neurons, each layer's neurons sorted by NMD. Behind every cell stands one neuron: a
# click on it, or the controls below, show how its activations lie under memorization and under generalization. The
# neurons with the largest |r| follow in a figure of their own.

# %%
heat = localization.neuron_spread(model, train, pairs, tokenizer, neurons, analysis.batch_size)
heat_map = run.figure(
    figures.heat_map(heat),
    "heat_map",
    caption="NMD of every neuron, sorted within its layer: blue is more active under memorization, orange under "
    "generalization. Below them, where the network is small enough, the activations of one neuron in the members of "
    f"the {len(pairs)} pairs: median, middle half and middle 80 %.",
    alt="Two heat maps, one for each site, with a row for each layer; colours are strongest at both ends of the rows. "
    "Below, two bars for one chosen neuron: its activations under memorization and under generalization.",
    data=heat,
)
top = neurons[neurons.site == "resid_post"].sort_values("r", key=abs, ascending=False).head(20)
top = top[["layer", "neuron", "nmd", "r", "effect_size", "q_value"]].assign(n=len(pairs))
top_neurons = run.figure(
    figures.top_neurons(top),
    "top_neurons",
    caption="The twenty neurons of the residual stream with the largest |r|, and their NMD.",
    alt="Horizontal bars, one for each neuron, to the right for memorization and to the left for generalization.",
    data=top,
)
display(heat_map, top_neurons)

# %% [markdown]
# ## Depth
#
# Is the difference near zero early and larger late? The mean of |NMD| over a layer's neurons is never zero, even where
# nothing differs: noise has an absolute value too. So the chance level stands beside it, from the same pairs with
# each group's sign drawn at random. NMD has the scale of its layer. Pearson's $r$ has none, so with it layers of different
# scale can be compared.

# %%
depth = localization.depth_profile(accumulated, n_layer, run.rng("depth"), analysis.n_resamples)
depth_r = localization.depth_profile(accumulated, n_layer, run.rng("depth of r"), analysis.n_resamples, "r")
lines = "For each site a line over layers for the pairs and one for chance, with bands."
by_nmd = run.figure(
    figures.depth_profile(depth.assign(n=len(pairs))),
    "depth_profile",
    caption="Mean |NMD| by layer, from the pairs and by chance; bands are 95 % intervals over groups, and the middle "
    "95 % of sign flips.",
    alt=lines,
    data=depth,
)
by_r = run.figure(
    figures.depth_profile(depth_r.assign(n=len(pairs))),
    "depth_profile_r",
    caption="Mean |r| by layer, from the pairs and by chance; bands as before.",
    alt=lines,
    data=depth_r,
)
display(by_nmd, by_r)
for statistic, unit, by_layer in (("nmd", "activation", depth), ("r", "correlation", depth_r)):
    where = f"abs_{statistic}_{{site}}_layer{{layer}}"
    mean = f"Mean |{statistic}| over the neurons at {{site}} of layer {{layer}}"
    run.record_rows(
        localization.around_values(by_layer, len(pairs)),
        {"pairs": f"mean_{where}", "chance": f"chance_{where}"},
        definition={"pairs": f"{mean}.", "chance": mean + CHANCE},
        unit=unit,
    )

# %% [markdown]
# ## A second ranking: attribution
#
# A neuron can differ without mattering. Attribution patching multiplies the difference by the gradient of the log-odds:
# what the neuron's difference is worth, to first order, in nats.

# %%
by_group = localization.group_attributions(model, train, pairs, tokenizer, SITES, analysis.batch_size)
attributed = localization.attribution_table(by_group, n_layer, len(pairs))
attributed.to_parquet(run.path("attribution.parquet"), index=False)
both = neurons.merge(attributed, on=["site", "layer", "neuron"])
run.table(
    localization.agreement(both, "nmd", "attribution", share=0.1),
    "agreement",
    caption="How far the rankings by |NMD| and by |attribution| agree: Spearman's correlation, and the share of the top "
    "tenth of one that is in the top tenth of the other (0.1 by chance).",
)

# %% [markdown]
# ## How steady, how concentrated?
#
# The groups are split into two halves at random, again and again, and the neurons ranked in each. The overlap of the two
# top tenths says how far a ranking would come out again on other groups. Chance is more than a tenth here: neurons with
# large activations rank high in both halves, whatever the labels.
#
# Distinct neurons, or all of them a little? Were all effects equal, a tenth of the neurons would carry a tenth of the sum
# of |attribution|; were one neuron alone responsible, it would carry all. Chance lies between the two, since neurons
# differ in scale: what lies above chance is concentration that comes from the behaviours.

# %%
stability = localization.stability(accumulated, by_group, run.rng("stability"), share=0.1)
steady = run.figure(
    figures.stability(stability),
    "stability",
    caption="Overlap of the top tenth of the neurons between random halves of the groups, from the pairs and with each "
    "group's sign drawn at random; bars hold the middle 95 % of the splits.",
    alt="For each site and ranking a point for the pairs and one for chance, with bars.",
    data=stability,
)
overlap = "Overlap of the top tenth at {site} by |{ranking}| between random halves of the groups"
splits = " The interval holds the middle 95 % of the splits."
run.record_rows(
    stability,
    {"pairs": "stability_{ranking}_{site}", "chance": "chance_stability_{ranking}_{site}"},
    definition={"pairs": f"{overlap}.{splits}", "chance": overlap + CHANCE + splits},
    unit="share 0-1",
)

concentration, curve = localization.concentration(by_group, run.rng("concentration"), analysis.n_resamples)
concentrated = run.figure(
    figures.concentration(curve),
    "concentration",
    caption="Share of the sum of |attribution| against the share of the neurons, largest first: from the pairs, with each "
    "group's sign drawn at random (mean over draws), and for equal effects.",
    alt="For each site three lines from 0 to 1: a straight one for equal effects, and two that rise above it.",
    data=curve,
)
display(steady, concentrated)
what = concentration.statistic.map(localization.CONCENTRATION)
run.record_rows(
    localization.around_values(concentration, len(pairs)).assign(what=what),
    {"pairs": "concentration_{statistic}_{site}", "chance": "chance_concentration_{statistic}_{site}"},
    definition={"pairs": "|attribution| at {site}: {what}.", "chance": "|attribution| at {site}: {what}" + CHANCE},
    unit="share 0-1",
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
run.record_rows(
    patching,
    "patching_{site}_layer{layer}_to_{direction}",
    definition="Share of receivers that show {direction} after {site} of layer {layer} was patched.",
    unit="share 0-1",
)
run.figure(
    figures.patching(patching, title="share that takes over the behaviour"),
    "patching",
    caption="Share of receivers that show the source's behaviour after one site of one layer was patched at the last "
    "token, by the behaviour that was put in; 95 % intervals over groups.",
    alt="Points with intervals over layers, a panel for each site; the last layer of the residual stream decides all.",
    data=patching,
)

# %% [markdown]
# ## Patching exact sets of neurons
#
# Attribution is an estimate, and it can miss. So the top and the bottom of every ranking are verified exactly: these
# neurons, over all layers at once, take the other member's activations, and nothing else does. Random neurons stand
# beside them. The rankings come from training groups and are verified on validation groups; only where those have too few
# pairs, on the training groups themselves.
#
# How many neurons does half of it take? All neurons of a site together may turn less than all receivers, since what
# attention moves does not pass through an MLP; the half is half of what they turn together.

# %%
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
checked, check = "validation", behavior.flip_pairs(frames["validation"], labels["validation"])
if len(check) < 4:
    checked, check = "train", pairs
sets = localization.sets_of_units(both, SITES, SHARES, run.rng("random units"))
patched_units = localization.patch_units(model, frames[checked], check, tokenizer, sets, analysis.batch_size)
effects = localization.summarize_units(patched_units, run.rng("units"), analysis.n_resamples)
effects.to_csv(run.path("tables", "all_units.csv"), index=False)
sizes = neurons.groupby("site").size().to_dict()
halves = localization.units_for_half(patched_units, sizes, run.rng("half"), analysis.n_resamples)
halves["neurons"] = halves.site.map(sizes)

# %%
lines = (
    "For each site and ranking, lines over the number of patched neurons for its top, its bottom and random neurons."
)
turned = effects[effects.measure == "turned"]
units_turned = run.figure(
    figures.units(turned, title="share that takes over the behaviour"),
    "units_turned",
    caption=f"Share of the receivers ({len(check)} pairs of the {checked} groups) that show the source's behaviour when "
    "the top, the bottom, or random neurons were patched at the last token; 95 % intervals over groups.",
    alt=lines,
    data=turned,
)
recovered = effects[effects.measure == "recovered"]
units_recovered = run.figure(
    figures.units(recovered, title="recovered log-odds"),
    "units_recovered",
    caption="The same for the log-odds: their mean change as a share of the distance between the members.",
    alt=lines,
    data=recovered,
)
half = "Neurons to be patched, in the order of each ranking, for half of what all neurons of the site turn."
display(units_turned, units_recovered, run.table(halves, "halves", caption=half))
run.record_rows(
    halves.assign(ending=("_" + halves.ranking).where(halves.ranking != "attribution", "")),
    "units_for_half_{site}{ending}",
    definition="Neurons at {site} (of {neurons}), by |{ranking}|, that must be patched for half of what all of them turn, "
    f"{checked} groups.",
    unit="neurons",
)
patch = f"Patching {{share:.0%}} of the neurons at {{site}} ({{which}}), {checked} groups: "
run.record_rows(
    localization.main_units(effects),
    {"turned": "patched_{size}_{site}_to_{direction}", "recovered": "recovered_{size}_{site}_to_{direction}"},
    definition={
        "turned": patch + "share of receivers that show {direction}.",
        "recovered": patch + "change of the log-odds, of the members' distance, towards {direction}.",
    },
    unit={"turned": "share 0-1", "recovered": "share of the distance"},
)

# %% [markdown]
# ## Does inference itself need these neurons?
#
# A rival view holds that memorization is built on the circuit that generalizes. Then the neurons that decide between the
# two should be needed where there is nothing to decide. The top tenth of the MLPs' neurons is set to its mean over
# conflict inputs, at the last token, and validation inputs with one right answer are asked. Conflict inputs, where the
# same ablation may change which behaviour is shown, stand beside them.

# %%
conflicts = train[train.kind == "conflict"]
means = localization.mean_states(model, conflicts, tokenizer, ["mlp.hook_post"], analysis.batch_size)
sets = localization.sets_of_units(both, ["mlp.hook_post"], [0.1], run.rng("random ablation"), ends=["top"])
every = np.ones_like(sets[0].chosen)
for name, chosen in (("none", ~every), ("all", every)):
    sets.append(localization.Units("mlp.hook_post", chosen, {"ranking": name}))
asked = frames["validation"][frames["validation"].kind.isin(["memorized_only", "inferred_only", "conflict"])]
ablated = localization.ablate(model, asked, tokenizer, means, sets, analysis.batch_size)
ablation = localization.summarize_ablation(ablated, run.rng("ablation"), analysis.n_resamples)
kept = "Share of validation inputs that are answered right (conflict inputs: with the same behaviour as before) when "
kept += "a tenth of the MLPs' neurons, none or all, are set to their mean; 95 % intervals over groups."
display(run.table(ablation, "ablation", caption=kept))
which = {"none": "no neuron", "all": "all neurons", "random": "a random tenth"}
run.record_rows(
    ablation.assign(
        which=[which.get(ranking, f"the top tenth by |{ranking}|") for ranking in ablation.ranking],
        kept=np.where(ablation.kind == "conflict", "the same behaviour as before", "the right answer"),
    ),
    "ablation_{ranking}_{kind}",
    definition="Share of {kind} validation inputs with {kept}; mlp.hook_post set to its mean: {which}.",
    unit="accuracy 0-1",
)
run.finish()

# %% [markdown]
# ## In this chapter we have seen
#
# We have compared neurons within {glue:text}`pairs` pairs. Of the neurons, {glue:text}`selected_share_resid_post` in
# the residual stream and {glue:text}`selected_share_mlp.hook_post` in the MLPs are selected; with shuffled labels,
# {glue:text}`null_any_selected_all` of the draws select any. Mean |NMD| in the residual stream is
# {glue:text}`mean_abs_nmd_resid_post_layer0` after the first block, where chance gives
# {glue:text}`chance_abs_nmd_resid_post_layer0`, and {glue:text}`mean_abs_nmd_resid_post_last_layer` after the last,
# where chance gives {glue:text}`chance_abs_nmd_resid_post_last_layer`.
#
# Causally: the state after the first block, patched, turns {glue:text}`patching_resid_post_layer0_to_memorization` of
# the receivers to memorization and {glue:text}`patching_resid_post_layer0_to_generalization` to generalization. The
# top tenth of the MLPs' neurons by attribution turns {glue:text}`patched_top10_mlp.hook_post_to_memorization` and
# {glue:text}`patched_top10_mlp.hook_post_to_generalization`, a random tenth
# {glue:text}`patched_random10_mlp.hook_post_to_memorization` and
# {glue:text}`patched_random10_mlp.hook_post_to_generalization`. Of inputs that only inference can answer,
# {glue:text}`ablation_attribution_inferred_only` are right without that top tenth, and
# {glue:text}`ablation_none_inferred_only` with it.
