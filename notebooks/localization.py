# %% [markdown]
# # Localization
#
# **Question.** Claim a of the study: neurons differ between memorization and generalization, next to nothing in early
# layers and more with depth. Where do they differ, and do the neurons that differ decide?
#
# **Answer.** We compare the members of {glue:text}`pairs` pairs: variants of an input on which the model behaves
# oppositely. The residual stream after the first block tells which member of an unseen pair is the memorized one with an
# AUROC of {glue:text}`auroc_first`, after the last block with {glue:text}`auroc_last`; the first layer whose interval
# lies above 0.5 is {glue:text}`onset`. Members that behave oppositely lie {glue:text}`distance_flip` apart in the last
# layer, members that differ in their order alone {glue:text}`distance_same` (1: as far as any two inputs). Deciding is
# another matter: activations of the top tenth of the MLPs' neurons, patched from one member into the other, turn
# {glue:text}`top_to_memorization` of the receivers to memorization and {glue:text}`top_to_generalization` to
# generalization, those of a random tenth {glue:text}`random_to_memorization` and
# {glue:text}`random_to_generalization`.

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
# A *flip pair* is a conflict input and a variant of it with opposite behaviours. A variant rearranges its original: the
# sentences of a story, or the addends of a sum. The words are the same, so what differs is not the content. What this
# chapter finds comes from the groups of the training split and is tested on validation groups; the test groups stay
# untouched.

# %%
import numpy as np
import pandas as pd

from memgen import behavior, intervals
from memgen.figures import localization as figures
from memgen.localization import attribution, differences, patching, rankings, separation
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
)

# %% [markdown]
# ## Where the behaviours differ
#
# We read two sites at the prompt's last token, where the answer is decided: the residual stream after each block
# (`resid_post`, the study's site) and the hidden layer of each MLP (`mlp.hook_post`). The difference within a pair is the
# activation of the memorized member minus that of the generalized one.

# %%
SITES = ("resid_post", "mlp.hook_post")
pair_differences = {
    split: separation.pair_differences(subject, frames[split], flip_pairs[split], SITES) for split in frames
}

# %% [markdown]
# How large is the difference in a layer? On the training pairs we fit a direction (Fisher's discriminant of the
# differences), and ask how well it orders the members of validation pairs: an AUROC, 0.5 where the layer tells nothing.
# Unlike $|\mathrm{NMD}|$ over its null, it does not grow with the number of groups; more groups make it more precise.
# Beside it stands its null distribution from group sign flips.

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

# %% tags=["main-figure"]
run.figure(
    figures.by_layer(auroc, "held-out AUROC of within-pair differences"),
    "pair_auroc",
    caption="How well a direction fitted on training pairs tells the memorized member of "
    f"{len(flip_pairs['validation'])} validation pairs from {flip_pairs['validation'].group.nunique()} groups, by layer; "
    "bands are 95 % intervals over groups, and the middle 95 % of sign flips.",
    data=auroc,
)

# %% [markdown]
# The onset is the first layer whose interval lies above 0.5.

# %%
above = auroc.query("measure == 'pair_auroc' and ci_low > 0.5")
onset = above.groupby("site").layer.min().reindex(list(SITES)).astype("Int64")
run.table(onset.rename("onset").reset_index(), "onset", caption="The first layer that tells the members of a pair.")

# %% [markdown]
# ## Order or behaviour?
#
# The members of a flip pair differ in their order as well as in the behaviour. Variants that keep the behaviour of their
# original differ in their order alone. How far apart are the states of either? A distance is given over the root mean
# square distance between any two of these inputs: 0 for equal states, 1 for unrelated inputs. Were the rearrangements of
# flip pairs merely larger, these would lie further apart from the first layer on.

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
# With $h^{+}_{i}$ the activation of neuron $i$ under memorization and $h^{-}_{i}$ under generalization, over $P$ pairs,
#
# $$\mathrm{NMD}_i = \frac{1}{P}\sum_{p=1}^{P}\left(h^{+}_{i,p} - h^{-}_{i,p}\right),$$
#
# and $r_i$ is Pearson's correlation of the activation with the label (+1 or -1) over all members of pairs. The p-value of
# a neuron comes from flipping the signs of whole groups; `q_value` corrects for the number of neurons
# (Benjamini-Hochberg), and a neuron is `selected` where it is below [0.05]{.set}. With $G$ groups no p-value is below
# $2^{1-G}$, so five groups or fewer select nothing. The table also holds NMD and $r$ under shuffled labels, a control
# for the steering chapter.

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
run.table(by_layer.reset_index(), "selected", caption="Selected neurons of each layer (q < 0.05), and the largest |r|.")

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
# Would the procedure select neurons where nothing differs? We shuffle the labels group by group, many times, and make the
# whole selection anew each time. A correction that holds selects anything in about one of twenty draws at most.

# %%
null = differences.null_selection(accumulated, run.rng("null"), analysis.n_permutations)
run.table(null, "null", caption="Selected neurons under shuffled labels: mean share, and share of draws with any.")

# %%
run.record_table(
    null,
    definition="Selection at q < 0.05 under shuffled labels ({site}): mean share of neurons, or share of draws with any.",
    unit="share 0-1",
    coordinates=["site"],
)

# %% [markdown]
# ## Heat map
#
# The study's first picture: layers by neurons, each layer's neurons sorted by NMD. The study names its site
# "post-feed-forward LayerNorm-2 output", and GPT-2 has no such norm. The words allow the output of the block
# (`resid_post`) and that output after the next norm (`resid_post_normed`), which takes away the scale that grows with
# the layers; here are both.

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
# The neurons with the largest $|r|$, by which the study ranks them; `by="nmd"` ranks them by $|\mathrm{NMD}|$.

# %%
top = rankings.top_neurons(neurons, "resid_post", 20, by="r")
run.table(
    top[["layer", "neuron", "nmd", "r", "q_value"]],
    "top_neurons",
    caption="The first twenty neurons of the residual stream.",
)

# %% [markdown]
# ## A causal estimate: attribution
#
# A neuron can differ without mattering. Attribution patching multiplies the difference by the gradient of the log-odds:
# what the neuron's difference is worth, to first order, in nats.

# %%
attributed = attribution.attributions(subject, train, pairs, SITES)
neurons = neurons.merge(attributed, on=["site", "layer", "neuron"])

# %% [markdown]
# ## Patching layers and parts of the prompt
#
# If a layer carries the behaviour, putting one member's activations there into the other's run turns the answer. Before
# the last token can decide, other tokens hold what it decides by. A prompt falls into three parts: the `rearranged`
# tokens, up to the last one at which the members of any pair differ (a story's sentences, or the addends that are
# swapped); the `shared` tokens after it, which stand in the same place in both members (the asked name, or the other
# addends); and the `last` token. The residual stream of a part is patched after each block, for at most [200]{.set}
# pairs.


# %%
def sampled(rows):
    """At most 200 pairs at random, in their order."""
    return rows.sample(min(len(rows), 200), random_state=run.rng("pairs to patch")).sort_index().reset_index(drop=True)


# %%
lengths = train.input_ids.str.len()
same_length = pairs[lengths[pairs.memorization].to_numpy() == lengths[pairs.generalization].to_numpy()]
members = zip(train.input_ids[same_length.memorization], train.input_ids[same_length.generalization], strict=True)
n_alike = min(int(np.argmin([*(a[::-1] == b[::-1]), False])) for a, b in members)
end = max(n_alike, 1)
parts = {"rearranged": slice(None, -end), "shared": slice(-end, -1), "last": slice(-1, None)}

# %%
patched = patching.patch_positions(subject, train, sampled(same_length), "resid_post", parts)
patched_parts = intervals.estimate_by(patched, ["part", "layer", "target"])
run.figure(
    figures.by_layer(patched_parts, "share that takes over the behaviour", color="target", panel="part"),
    "patched_parts",
    caption="Share of receivers that show the source's behaviour after the residual stream of a part of the prompt was "
    f"patched after one block (the last {end} tokens are shared); bands are 95 % intervals over groups.",
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
# Is it a single attention head? Its output at the last token is patched alone.

# %%
patched_heads = intervals.estimate_by(patching.patch_heads(subject, train, sampled(pairs)), ["layer", "head", "target"])
run.figure(
    figures.by_head(patched_heads, "share that takes over the behaviour"),
    "patched_heads",
    caption="Share of receivers that show the source's behaviour after one attention head was patched at the last token, "
    "to memorization and to generalization.",
    data=patched_heads,
)

# %%
run.record_table(
    patched_heads,
    measure="patched_head",
    definition="Share of receivers that show {target} after head {head} of layer {layer} was patched.",
    unit="share 0-1",
    coordinates=["layer", "head", "target"],
)

# %% [markdown]
# ## Patching sets of neurons
#
# Attribution is an estimate, and it can miss. So the top and the bottom of every ranking are verified exactly: these
# neurons, over all layers at once, take the other member's activations, and nothing else does. Random neurons stand
# beside them. The rankings come from training groups and are verified on validation groups; only where those have too few
# pairs, on the training groups themselves.

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
# A rival view holds that memorization is built on the circuit that generalizes. Then the neurons that decide between the
# two should be needed where there is nothing to decide. A tenth of the MLPs' neurons is set to its mean over conflict
# inputs, at the last token, and at most [400]{.set} validation inputs of each kind with one right answer are asked.
# Conflict inputs, where the same ablation may change which behaviour is shown, stand beside them.

# %%
MLP = "mlp.hook_post"
sets = rankings.neuron_sets(neurons, [MLP], [0.1], run.rng("random ablation"), ends=["top"])
every = np.ones(subject.shape(MLP), dtype=bool)
sets = pd.concat([sets, pd.DataFrame({"site": MLP, "ranking": ["none", "all"], "chosen": [~every, every]})])

# %%
inputs = behavior.sample_by_kind(frames["validation"], 400, run.rng("inputs to ask"))
ablated = patching.ablate(subject, inputs, train[train.kind == "conflict"], sets)
effects = intervals.estimate_by(ablated, ["ranking", "inputs"], inputs="input")
run.table(
    effects,
    "ablation",
    caption="Share of validation inputs with the right answer (conflict inputs: the same answer as before) when the top "
    "tenth of the MLPs' neurons by a ranking, a random tenth, none, or all are set to their mean.",
)

# %%
run.record_table(
    effects,
    measure="ablation",
    definition="Share of {inputs} validation inputs with the right answer (conflict inputs: the same answer as before) "
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
run.glue_text("onset", "none" if pd.isna(onset["resid_post"]) else f"layer {onset['resid_post']}")
for name in ("flip", "same"):
    query = "measure == 'pair_distance' and site == 'resid_post' and layer == @last and pairs == @name"
    run.glue(f"distance_{name}", query, last=last, name=name)
for site in SITES:
    run.glue(f"selected_{site}", "measure == 'selected_share' and site == @site", site=site)
run.glue("null_any", "measure == 'null_any_selected' and site == 'all'")

# %%
tenth = f"measure == 'patched_units' and site == '{MLP}' and share == 0.1 and target == @target"
for target in patching.ROLES:
    first_layer = "measure == 'patched_part' and part == 'last' and layer == 0 and target == @target"
    run.glue(f"first_layer_to_{target}", first_layer, target=target)
    run.glue(f"top_to_{target}", f"{tenth} and ranking == 'attribution' and end == 'top'", target=target)
    run.glue(f"random_to_{target}", f"{tenth} and ranking == 'random'", target=target)

# %%
head = patched_heads.groupby(["layer", "head"]).value.mean().idxmax()
run.glue_text("head", f"head {head[1]} of layer {head[0]}")
for target in patching.ROLES:
    query = "measure == 'patched_head' and layer == @head[0] and head == @head[1] and target == @target"
    run.glue(f"head_to_{target}", query, head=head, target=target)

# %%
kind = "inferred_only" if (effects.inputs == "inferred_only").any() else "aligned"
run.glue_text("kind", kind.replace("_", "-"))
for ranking in ("none", "attribution", "random"):
    query = "measure == 'ablation' and ranking == @ranking and inputs == @kind"
    run.glue(f"right_{ranking}", query, ranking=ranking, kind=kind)

# %% [markdown]
# Two numbers are said to differ where their intervals do not overlap, which asks for more than a test does.


# %%
def compared(frame, query, other_query, more, less):
    """What the intervals of two rows of a table say."""
    rows = [frame.query(each) for each in (query, other_query)]
    if min(map(len, rows)) == 1:
        row, other = (each.iloc[0] for each in rows)
        if row.ci_low > other.ci_high:
            return more
        if row.ci_high < other.ci_low:
            return less
    return "these numbers cannot be told apart"


# %%
depth = "measure == 'pair_auroc' and site == 'resid_post' and layer == "
run.glue_text(
    "depth",
    compared(
        auroc,
        f"{depth}{last}",
        f"{depth}0",
        "the last layer tells more than the first, as claim a has it",
        "the last layer tells less than the first, against claim a",
    ),
)

# %%
apart = f"site == 'resid_post' and layer == {last} and pairs == "
run.glue_text(
    "order",
    compared(
        distance,
        f"{apart}'flip'",
        f"{apart}'same'",
        "members that behave oppositely lie further apart than order alone puts them",
        "members that behave oppositely lie closer together than members that behave alike",
    ),
)

# %%
for target in patching.ROLES:
    tenth = f"site == '{MLP}' and share == 0.1 and target == '{target}'"
    said = compared(
        patched_units,
        f"{tenth} and ranking == 'attribution' and end == 'top'",
        f"{tenth} and ranking == 'random'",
        "the top tenth does more than a random tenth",
        "the top tenth does less than a random tenth",
    )
    run.glue_text(f"sets_to_{target}", said)

# %%
asked = f"inputs == '{kind}' and ranking == "
run.glue_text(
    "needed",
    compared(
        effects,
        f"{asked}'attribution'",
        f"{asked}'random'",
        "these inputs need the neurons that decide less than others",
        "the neurons that decide are needed here too, as the rival view says",
    ),
)
run.finish()

# %% [markdown]
# ## What this means
#
# - **Depth.** The residual stream tells the members of a pair apart with an AUROC of {glue:text}`auroc_first` after the
#   first block and of {glue:text}`auroc_last` after the last: {glue:text}`depth`. An interval that includes 0.5, or none
#   at all, means that these pairs cannot tell, not that the layer knows nothing.
# - **Order.** In the last layer the members of flip pairs are {glue:text}`distance_flip` apart, those of pairs with the
#   same behaviour {glue:text}`distance_same`: {glue:text}`order`. The second number is what a heat map of NMD has to be
#   read against: it comes with no change of behaviour.
# - **Single neurons.** {glue:text}`selected_resid_post` of the neurons of the residual stream and
#   {glue:text}`selected_mlp.hook_post` of those of the MLPs differ at q < 0.05; under shuffled labels,
#   {glue:text}`null_any` of the draws select any. How many are selected depends on the number of groups (up to
#   five it is none); the AUROC does not.
# - **Where it decides.** Patched at the last token, the state after the first block turns
#   {glue:text}`first_layer_to_memorization` of the receivers to memorization and
#   {glue:text}`first_layer_to_generalization` to generalization. The head that turns most is {glue:text}`head`:
#   {glue:text}`head_to_memorization` and {glue:text}`head_to_generalization`.
# - **Sets of neurons.** The top tenth of the MLPs' neurons by |attribution| turns {glue:text}`top_to_memorization` to
#   memorization and a random tenth {glue:text}`random_to_memorization`: {glue:text}`sets_to_memorization`. To
#   generalization it is {glue:text}`top_to_generalization` and {glue:text}`random_to_generalization`:
#   {glue:text}`sets_to_generalization`.
# - **One right answer.** With that top tenth at its mean, {glue:text}`right_attribution` of the {glue:text}`kind` inputs
#   are right, with a random tenth {glue:text}`right_random`, and with none {glue:text}`right_none`. The top against the
#   random tenth: {glue:text}`needed`.
