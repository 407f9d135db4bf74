# %% [markdown]
# # Localization
#
# **Question.** Claim a of the study: neurons differ between memorization and generalization, next to nothing in early layers and more
# with depth. Where do they differ, and do the neurons that differ decide?
#
# **Answer.** In {glue:text}`pairs` {term}`pairs <pair>`, a direction in the residual stream tells which member of an unseen pair is
# the memorized one with an AUROC of {glue:text}`auroc_first` after the first block and of {glue:text}`auroc_last` after the last
# (first layer above chance, counted from 0: {glue:text}`onset`). Patched from one member into the other at the last token, the tenth
# of the MLP neurons with the largest attribution turns {glue:text}`top_to_memorization` of the receivers to memorization and
# {glue:text}`top_to_generalization` to generalization, a random
# tenth {glue:text}`random_to_memorization` and {glue:text}`random_to_generalization`.
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
from memgen.run import begin

run = begin("localization", profile=profile, task=task, model=model, seed=seed, results=results, table=table)
analysis = run.config.analysis

# %% [markdown]
# ## The pairs
#
# A {term}`pair` is a conflict and a {term}`variant` of it with opposite behaviours. The words are the same, so what differs is not the
# content. What this chapter finds comes from training groups and is tested on validation groups; test groups stay untouched.

# %%
import dataclasses

import numpy as np
import pandas as pd
from IPython.display import display

from memgen import behavior, intervals, pretrained
from memgen.figures import localization as figures
from memgen.localization import adapters, attribution, differences, patching, rankings, separation
from memgen.subject import Subject

subject = Subject.load(run.input("training", "model"), batch_size=analysis.batch_size)

# %%
frames, labels, flip_pairs = {}, {}, {}
for split in ("train", "validation"):
    frames[split] = pd.read_parquet(run.input("data", f"{split}.parquet"))
    labels[split] = pd.read_parquet(run.input("training", "behavior", f"{split}.parquet")).behavior
    flip_pairs[split] = behavior.flip_pairs(frames[split], labels[split], at_least=4 if split == "train" else 0)
train, pairs = frames["train"], flip_pairs["train"]
run.record("pairs", len(pairs), definition="Flip pairs of the training split.", unit="pairs", n=len(pairs))

# %%
example = train.loc[pairs.loc[0, ["memorization", "generalization"]]]
example = example[["prompt", "answer_memorization", "answer_generalization"]]
run.table(
    example.assign(behavior=["memorization", "generalization"]),
    "pair",
    caption=f"One of {len(pairs)} pairs, from {pairs.group.nunique()} groups.",
    columns={
        "behavior": "behaviour",
        "prompt": "prompt",
        "answer_memorization": "memorized",
        "answer_generalization": "inferred",
    },
)

# %% [markdown]
# ## Where the behaviours differ
#
# We read two sites at the prompt's last token: the residual stream after each block (`resid_post`, the study's site) and the hidden
# layer of each MLP (`mlp.hook_post`).

# %%
SITES = ("resid_post", "mlp.hook_post")
pair_differences = {
    split: separation.pair_differences(subject, frames[split], flip_pairs[split], SITES) for split in frames
}

# %% [markdown]
# On the training pairs we fit a direction (Fisher's discriminant of the differences), and ask how well it orders the members of
# validation pairs: the {term}`pair AUROC`. Beside it stands its {term}`null distribution from group sign flips`.

# %%
auroc = separation.pair_auroc(
    pair_differences["train"], pair_differences["validation"], flip_pairs["validation"], run.rng("pair auroc")
)
run.record_table(
    auroc,
    definition="AUROC of within-pair differences at {site} of layer {layer}, held-out groups, {labels}.",
    unit="AUROC 0-1",
    coordinates=["site", "layer"],
)

# %%
of_pairs = auroc[(auroc.measure == "pair_auroc") & (auroc.site == "resid_post")].sort_values("layer").value
message = f"After the first block {of_pairs.iloc[0]:.2f}, after the last {of_pairs.iloc[-1]:.2f}; one half is chance"

# %% tags=["main-figure"]
run.figure(
    figures.by_layer(auroc, "held-out AUROC of within-pair differences", message=message),
    "pair_auroc",
    caption="How well a direction fitted on training pairs tells the memorized member of "
    f"{len(flip_pairs['validation'])} validation pairs from {flip_pairs['validation'].group.nunique()} groups, by layer; "
    "bands are 95 % intervals over groups, and the middle 95 % of sign flips.",
    data=auroc,
)

# %% [markdown]
# The onset is the first layer whose interval lies above 0.5. With two groups no interval can.

# %%
above = auroc.query("measure == 'pair_auroc' and ci_low > 0.5")
onset = above.groupby("site").layer.min().reindex(list(SITES)).astype("Int64")
run.table(
    onset.rename("onset").reset_index(), "onset", caption="The first layer that tells the members of a pair apart."
)

# %% [markdown]
# ## Order or behaviour?
#
# Variants that keep the behaviour of their original differ in their order alone. How far apart are the states of either kind? A
# {term}`pair distance` of 1 is that of unrelated inputs.

# %%
variants = separation.variant_pairs(train, labels["train"])
distance = separation.pair_distance(subject, train, variants, SITES)
run.record_table(
    distance,
    measure="pair_distance",
    definition="Mean distance at {site} of layer {layer} between an input and its variant ({pairs}: whether the behaviour "
    "flips or is the same), over the root mean square distance between any two inputs.",
    unit="ratio",
    coordinates=["site", "layer", "pairs"],
)

# %%
counts = variants.pairs.value_counts()
run.figure(
    figures.by_layer(distance, "distance within a pair", color="pairs"),
    "pair_distance",
    caption=f"Distance between an input and its variant: {counts.get('flip', 0)} pairs that flip the behaviour and "
    f"{counts.get('same', 0)} that show the same; bands are 95 % intervals over groups.",
    data=distance,
)

# %% [markdown]
# ## Neurons that differ
#
# {term}`NMD` is the mean of a neuron's activation under memorization minus that under generalization, over pairs; $r$ its correlation
# with the label over all members of pairs. The p-value of a neuron comes from flipping the signs of whole groups; it is `selected`
# where it is below [0.05]{.set} after correction for the number of neurons (Benjamini-Hochberg). With $G$ groups no p-value is below
# $2^{1-G}$, so five groups or fewer select nothing.

# %%
NORMED = "resid_post_normed"
accumulated = differences.accumulate(subject, train, pairs, [*SITES, NORMED])
normed = accumulated.pop(NORMED)
neurons = differences.neuron_table(
    accumulated, subject.n_layer, run.rng("sign flips"), run.rng("shuffled labels"), analysis.n_permutations
)
neurons["selected"] = neurons.q_value < 0.05
neurons.to_parquet(run.path("neurons.parquet"), index=False)

# %%
by_layer = neurons.groupby(["site", "layer"]).agg(
    neurons=("neuron", "size"), selected=("selected", "sum"), largest_r=("r", lambda r: r.abs().max())
)
columns = {"site": "site", "layer": "layer", "neurons": "neurons", "selected": "selected", "largest_r": "largest |r|"}
run.table(by_layer.reset_index(), "selected", caption="Selected neurons of each layer (q < 0.05).", columns=columns)

# %%
selected = neurons.groupby("site", sort=False).selected.agg(value="mean", n="size").reset_index()
run.record_table(
    selected,
    measure="selected_share",
    definition="Share of the neurons at {site} with q < 0.05 (sign-flip permutation over pairs).",
    unit="share 0-1",
    coordinates=["site"],
)

# %% [markdown]
# Would the procedure select neurons where nothing differs? The whole selection, with labels shuffled group by group.

# %%
null = differences.null_selection(accumulated, run.rng("null"), analysis.n_permutations)
columns = {"site": "site", "value": "draws that select any neuron, %"}
is_any = null.measure == "null_any_selected"
run.table(null, "null", caption="Selection under shuffled labels.", columns=columns, rows=is_any)

# %%
run.record_table(
    null,
    definition="Selection at q < 0.05 under shuffled labels ({site}): mean share of neurons, or share of draws with any.",
    unit="share 0-1",
    coordinates=["site"],
)

# %% [markdown]
# In a model with an adapter, also the projections that it adapts: what the base's weights put out, and what the adapter adds to it.

# %%
folder = run.input("training", "model")
if pretrained.is_adapter(folder):
    beside = Subject.load(folder, batch_size=analysis.batch_size, merge=False)
    of_projections = adapters.projection_nmd(beside, train, pairs)
    over = of_projections.measure.map({"projection_nmd": "mean", "projection_largest_nmd": "largest"})
    run.record_table(
        of_projections.assign(over=over),
        definition="|NMD| at {projection} of layer {layer}, {part} part: {over} over the layer's neurons.",
        unit="activation",
        coordinates=["projection", "part", "layer"],
    )
    means = of_projections[of_projections.measure == "projection_nmd"]
    caption = f"Mean |NMD| over {len(pairs)} pairs at the adapted projections: the base's part, and the adapter's."
    if len(means):  # an adapter may be outside the blocks
        display(run.figure(figures.projections(means), "projections", caption=caption, data=means))

# %% [markdown]
# ## Heat map
#
# The study's first picture. Its site, "post-feed-forward LayerNorm-2 output", exists neither in GPT-2 nor in LLaMA: it may be the output of the
# block (`resid_post`) or that output after the next norm (`resid_post_normed`).

# %%
after_norm = differences.by_neuron(NORMED, subject.n_layer, normed.nmd_and_r())
heat = rankings.sorted_by_nmd(pd.concat([neurons[neurons.site == "resid_post"], after_norm]))
run.figure(
    figures.heat_map(heat),
    "heat_map",
    caption=f"NMD of every neuron over {len(pairs)} pairs, sorted within its layer: blue is more active under "
    "memorization, orange under generalization.",
    data=heat,
)

# %% [markdown]
# The study ranks neurons by $|r|$; `by="nmd"` ranks them by $|\mathrm{NMD}|$.

# %%
top = rankings.top_neurons(neurons, "resid_post", 20, by="r")
run.table(
    top[["layer", "neuron", "nmd", "r", "q_value"]],
    "top_neurons",
    caption="The neurons of the residual stream with the largest |r|.",
    columns={"layer": "layer", "neuron": "neuron", "nmd": "NMD", "r": "r", "q_value": "q"},
    rows=np.arange(len(top)) < 5,
)

# %% [markdown]
# ## A causal estimate: attribution
#
# A neuron can differ without mattering. {term}`Attribution <attribution>` multiplies the difference by the gradient of the log-odds:
# what it is worth to the answer, to first order.

# %%
in_fewer = dataclasses.replace(subject, batch_size=analysis.fit_batch_size)  # gradients take more memory
attributed = attribution.attributions(in_fewer, train, pairs, SITES)
neurons = neurons.merge(attributed, on=["site", "layer", "neuron"])

# %% [markdown]
# ## Patching layers and parts of the prompt
#
# If a layer carries the behaviour, one member's activations put into the other's run turn the answer
# ({term}`activation patching`). A prompt has three parts: the `rearranged` tokens, up to the last one at which the members of any pair
# differ; the `shared` tokens after it, the same in both members; and the `last` token.


# %%
def sampled(rows):
    """At most `patch_pairs` pairs at random, in their order."""
    return (
        rows.sample(min(len(rows), analysis.patch_pairs), random_state=run.rng("pairs to patch"))
        .sort_index()
        .reset_index(drop=True)
    )


# %%
parts, with_parts = patching.prompt_parts(train, pairs)
end = -parts["shared"].start
to_patch = sampled(with_parts)

# %%
patched = patching.patch(subject, train, to_patch, patching.whole_layers(subject, ["resid_post"]), parts)
patched_parts = intervals.estimate_by(patched, ["part", "layer", "target"])
run.figure(
    figures.patched(patched_parts, "part", "share that takes over the behaviour"),
    "patched_parts",
    caption="Layers by positions: receivers that show the source's behaviour after the residual stream of a part of the prompt "
    f"was patched after one block (the last {end} tokens are shared).",
    data=patched_parts,
)

# %%
run.record_table(
    patched_parts,
    measure="patched_part",
    definition="Share of receivers that show {target} after the residual stream of the {part} tokens was patched after "
    "layer {layer}.",
    unit="share 0-1",
    coordinates=["part", "layer", "target"],
)

# %% [markdown]
# Is it a single attention head? Its output is patched alone, at the tokens of one part.

# %%
head_parts = {name: parts[name] for name in analysis.head_parts if name in parts} or {"last": parts["last"]}
heads = patching.whole_layers(subject, [patching.HEADS], by_head=True)
patched = patching.patch(subject, train, to_patch, heads, head_parts)
patched_heads = intervals.estimate_by(patched, ["part", "layer", "head", "target"])
run.figure(
    figures.patched(patched_heads, "head", "share that takes over the behaviour"),
    "patched_heads",
    caption="Layers by heads by positions: receivers that show the source's behaviour after one attention head was patched at the "
    "tokens of one part of the prompt.",
    data=patched_heads,
)

# %%
run.record_table(
    patched_heads,
    measure="patched_head",
    definition="Share of receivers that show {target} after head {head} of layer {layer} was patched at the {part} tokens.",
    unit="share 0-1",
    coordinates=["part", "layer", "head", "target"],
)

# %% [markdown]
# ## Patching sets of neurons
#
# Attribution is an estimate. So the top and the bottom of every ranking are verified: these neurons of all layers take the other
# member's activations, and nothing else does. Rankings come from training groups and are verified on validation groups (on training
# groups where those have too few pairs).

# %%
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
verified = "validation" if len(flip_pairs["validation"]) >= 4 else "train"
tested = sampled(flip_pairs[verified])
sets = rankings.neuron_sets(neurons, SITES, SHARES, run.rng("random units"))
patched = patching.patch(subject, frames[verified], tested, sets)

# %%
KEYS = ["site", "ranking", "end", "share", "target"]
patched_units = intervals.estimate_by(patched, KEYS, inputs="pair")
run.figure(
    figures.patched_sets(patched_units, "share that takes over the behaviour"),
    "patched_units",
    caption=f"Share of the receivers ({len(tested)} pairs of the {verified} groups) that show the source's behaviour "
    "after neurons were patched at the last token; bands are 95 % intervals over groups.",
    data=patched_units,
)

# %%
run.record_table(
    patched_units,
    measure="patched_units",
    definition=f"Patching {{end}} {{share:.0%}} of the neurons at {{site}} (ranking: {{ranking}}), {verified} groups: "
    "share of receivers that show {target}.",
    unit="share 0-1",
    coordinates=KEYS,
)

# %% [markdown]
# ## Do inputs with one right answer need these neurons?
#
# A rival view holds that memorization is built on the circuit that generalizes {cite}`du2025reason`. Then the neurons that decide
# should be needed where there is nothing to decide. A tenth of the MLP neurons is set to its mean over conflicts, at the last token.

# %%
MLP = "mlp.hook_post"
sets = rankings.neuron_sets(neurons, [MLP], [0.1], run.rng("random ablation"), ends=["top"])
every = np.ones(subject.shape(MLP), dtype=bool)
sets = pd.concat([sets, pd.DataFrame({"site": MLP, "ranking": ["none", "all"], "chosen": [~every, every]})])

# %%
inputs = behavior.sample_by_kind(frames["validation"], 400, run.rng("inputs to ask"))
ablated = patching.ablate(subject, inputs, train[train.kind == "conflict"], sets)
ablated = ablated[(ablated.ranking != "none") | (ablated.inputs != "conflict")]  # the same, by definition
effects = intervals.estimate_by(ablated, ["ranking", "inputs"], inputs="input")
run.table(
    effects,
    "ablation",
    caption="Right answers (conflicts: the same behaviour as before) when the top tenth of the MLP neurons by a ranking, a random "
    "tenth, none, or all are set to their mean.",
    columns={"ranking": "neurons at their mean", "inputs": "inputs", "value": "right answers, %", "n": "n"},
)

# %%
run.record_table(
    effects,
    measure="ablation",
    definition="Share of {inputs} validation inputs with the right answer (conflict inputs: the same behaviour as before) "
    "with mlp.hook_post set to its mean: none, all, or a tenth (random, or the top by a ranking): {ranking}.",
    unit="accuracy 0-1",
    coordinates=["ranking", "inputs"],
)

# %% [markdown]
# ## Numbers for the text

# %%
last = subject.n_layer - 1
run.glue("pairs", "measure == 'pairs'")
run.glue("auroc_first", "measure == 'pair_auroc' and site == 'resid_post' and layer == 0")
run.glue("auroc_last", "measure == 'pair_auroc' and site == 'resid_post' and layer == @last", last=last)
none = "none" if flip_pairs["validation"].group.nunique() > 2 else "none, as two groups cannot tell"
run.glue_text("onset", none if pd.isna(onset["resid_post"]) else f"layer {onset['resid_post']}")
for name in ("flip", "same"):
    query = "measure == 'pair_distance' and site == 'resid_post' and layer == @last and pairs == @name"
    run.glue(f"distance_{name}", query, last=last, name=name)
for site in SITES:
    run.glue(f"selected_{site}", "measure == 'selected_share' and site == @site", site=site)
run.glue("null_any", "measure == 'null_any_selected' and site == 'all'")

# %%
tenth = f"measure == 'patched_units' and site == '{MLP}' and share == 0.1 and target == @target"
for target in patching.ROLES:
    run.glue(f"top_to_{target}", f"{tenth} and ranking == 'attribution' and end == 'top'", target=target)
    run.glue(f"random_to_{target}", f"{tenth} and ranking == 'random'", target=target)

# %%
part, layer, head = patched_heads.groupby(["part", "layer", "head"]).value.mean().idxmax()
run.glue_text("head", f"head {head} of layer {layer}")
run.glue_text("head_part", part)
for target in patching.ROLES:
    query = "measure == 'patched_head' and part == @part and layer == @layer and head == @head and target == @target"
    run.glue(f"head_to_{target}", query, part=part, layer=layer, head=head, target=target)

# %%
kind = "inferred_only" if (effects.inputs == "inferred_only").any() else "aligned"
run.glue_text("kind", kind.replace("_", "-"))
for ranking in ("none", "attribution", "random"):
    query = "measure == 'ablation' and ranking == @ranking and inputs == @kind"
    run.glue(f"right_{ranking}", query, ranking=ranking, kind=kind)

# %%
run.finish()

# %% [markdown]
# ## What this means
#
# - **Order.** In the last layer flip pairs lie {glue:text}`distance_flip` apart, variants that behave alike {glue:text}`distance_same`: so
#   much comes with no change of behaviour.
# - **Single neurons.** {glue:text}`selected_resid_post` of the neurons of the residual stream and
#   {glue:text}`selected_mlp.hook_post` of those of the MLPs differ at q < 0.05; under shuffled labels, {glue:text}`null_any` of the draws
#   select any.
# - **Single heads.** The head that turns the most training pairs is {glue:text}`head`, at the {glue:text}`head_part` tokens:
#   patched alone, it brings {glue:text}`head_to_memorization` of the receivers to memorization and
#   {glue:text}`head_to_generalization` to generalization.
# - **One right answer.** With the top tenth of the MLP neurons at its mean, {glue:text}`right_attribution` of the
#   {glue:text}`kind` inputs are right, with a random tenth {glue:text}`right_random`, with none {glue:text}`right_none`.
