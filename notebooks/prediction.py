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
# ## What is asked
#
# Claim b of the study: the behaviour can be predicted from the hidden states, with more than [92 %]{.study}
# accuracy in the best layers. A probe that does so is interesting only if the *input* does not give the behaviour away,
# and only if the probe does not learn by heart what it should read off.
#
# ## How
#
# For each layer of two sites, the residual stream (`resid_post`) and the MLP's neurons (`mlp.hook_post`), read
# at the prompt's last token, a logistic regression,
#
# $$p(\text{memorization} \mid h) = \frac{1}{1 + e^{-(w^\top h + b)}},$$
#
# on the states $h$, and on the states with their squares. A square can tell *that* something stands in a state where
# each input has an answer, and so a direction, of its own. The same is fitted to the states of all layers of both sites
# together (*all layers*). Probes are fitted on training groups, their regularisation chosen by cross-validation over
# groups; site, layer and kind are those of the highest AUROC on validation groups; what is reported was measured on
# test groups, and nothing was chosen there.
#
# ## Controls
#
# Beside the probes, in the same table:
#
# - *baselines* that see the input alone: its words (how often each comes), or which word stands where; and the majority.
#   (A column of yes and no is its own square, so that squares would tell them nothing new.)
# - an *untrained network*: the same architecture with random weights reads the same inputs, and its states are probed
#   for the trained model's behaviour. What it reaches comes from the input and the probe, not from training.
# - a *control task* {cite}`hewitt2019designing`: each group gets a random label, and the probe has to know it on other
#   rows of the same groups. What it reaches there it has learned by heart. *Selectivity* is the accuracy with the
#   behaviour, on the same rows, minus that.
# - *transfer*: a probe fitted on one population, tried on the test groups of another.
# - the *direct reading*: the model's own final norm and unembedding, applied to every layer. It knows the two answers,
#   and needs no fit. At the last layer it **is** the behaviour, by definition. So where a probe of the last layer fails,
#   it lacks examples, or a form that its kind cannot express; the information is there.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
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
from memgen.config import InputError
from memgen.figures import prediction as figures

model = training.load_model(run.input("training", "model"))
untrained = training.untrained(model, int(run.rng("untrained").integers(2**31)))
tokenizer = AutoTokenizer.from_pretrained(run.input("training", "model"))
analysis = run.config.analysis
SITES, TOGETHER = ["resid_post", "mlp.hook_post"], "all layers"  # of both sites, as if it were one layer
SPLITS = ("train", "validation", "test")
FLIPS, ALL = "flip pairs", "all conflicts"

# %% [markdown]
# ## The inputs
#
# Conflict inputs on which the model shows one of the two behaviours; answers that are neither are left out here.


# %%
def read(network, frame):
    """The states of every site, and of all together, in the order of the frame."""
    parts = [state for _, state in localization.read_states(network, frame, tokenizer, SITES)]
    states = {site: np.concatenate([part[site] for part in parts]) for site in SITES}
    return states | {TOGETHER: np.hstack([own.reshape(len(own), -1) for own in states.values()])[:, None]}


def first_tokens(answers):
    """The token that each answer begins with."""
    return np.array([ids[0] for ids in tokenizer(list(answers), add_special_tokens=False).input_ids])


conflicts, random_states, pairs = {}, {}, {}
for split in SPLITS:
    frame = pd.read_parquet(run.input("data", f"{split}.parquet"))
    frame["behavior"] = pd.read_parquet(run.input("training", "behavior", f"{split}.parquet")).behavior
    pairs[split] = behavior.flip_pairs(frame, frame.behavior)
    frame = frame[(frame.kind == "conflict") & (frame.behavior != behavior.OTHER)]
    states = read(model, frame)
    answers = [first_tokens(frame[f"answer_{name}"]) for name in ("memorization", "generalization")]
    states["direct reading"] = prediction.readout(model, states["resid_post"], *answers)
    conflicts[split] = prediction.Inputs(frame, states)
    random_states[split] = prediction.Inputs(frame, read(untrained, frame))

# %% [markdown]
# ## Populations
#
# The members of *flip pairs*, as in the study; *all conflicts*; and the conflicts that training leaves open. Of stories
# these are the ones with the evidence at which the model is most divided, so that counting it tells nothing; where
# evidence does not vary, those whose training texts showed both answers in comparable parts (*middle shares*; of sums,
# the pairs bound in one order only).

# %%
members = {split: own[["memorization", "generalization"]].to_numpy().ravel() for split, own in pairs.items()}
chosen = {
    FLIPS: {split: own.frame.index.isin(members[split]) for split, own in conflicts.items()},
    ALL: {split: np.full(len(own), True) for split, own in conflicts.items()},
}
train = conflicts["train"].frame
if train.evidence.nunique() > 1:
    evidence = prediction.most_balanced(train, "evidence")
    chosen[f"evidence {evidence}"] = {
        split: (own.frame.evidence == evidence).to_numpy() for split, own in conflicts.items()
    }
elif train.memorized_share.nunique() > 1:
    shares = prediction.middle_shares(train)
    chosen["middle shares"] = {
        split: own.frame.memorized_share.isin(shares).to_numpy() for split, own in conflicts.items()
    }

populations = {name: {split: conflicts[split].take(rows[split]) for split in SPLITS} for name, rows in chosen.items()}
left_out = [name for name, own in populations.items() if not all(part.can_be_probed() for part in own.values())]
for name in left_out:
    del populations[name]
    print(f"{name}: too few groups, or one behaviour only; left out of this chapter.")
if not populations:
    raise InputError("The model shows one behaviour only on conflict inputs, so there is nothing to predict.")

counts = [
    {
        "population": name,
        "split": split,
        "n": len(own),
        "groups": len(np.unique(own.groups)),
        "pairs": int(pairs[split].memorization.isin(own.frame.index).sum()),
        "memorization": (own.labels == behavior.MEMORIZATION).mean(),
    }
    for name, parts in populations.items()
    for split, own in parts.items()
]
run.table(
    pd.DataFrame(counts),
    "populations",
    caption="Each population: inputs (n), groups, flip pairs whose memorized member is among the inputs, and the share "
    "of inputs with memorization.",
)

# %% [markdown]
# ## Fitting
#
# Every probe of every population, the baselines, and the direct reading. The untrained network is probed at the site,
# and with the kind of probe, that are best for the trained one; its layer is chosen on validation groups too.

# %%
fitted, best, tables, gains = {}, {}, {}, {}
for name, own in populations.items():
    rng = run.rng(name)
    n_layer = own["train"].states["resid_post"].shape[1]
    fitted[name] = [
        *prediction.fit_probes(own["train"], sites=[*SITES, TOGETHER]),
        *prediction.fit_baselines(own["train"]),
        *prediction.direct_reading("resid_post", n_layer),
    ]
    tables[name] = prediction.probe_table(fitted[name], own, name, rng, analysis.n_resamples)
    row, baseline = prediction.best_probe(tables[name]), prediction.best_input_baseline(tables[name])
    best[name] = prediction.find(fitted[name], row)
    against = prediction.find(fitted[name], baseline)
    gains[name] = prediction.gain(best[name], against, own["test"], rng, analysis.n_resamples)
    fresh = {split: random_states[split].take(chosen[name][split]) for split in SPLITS}
    random_probes = prediction.fit_probes(fresh["train"], [row.baseline], prediction.UNTRAINED, [row.site])
    random_table = prediction.probe_table(random_probes, fresh, name, rng, analysis.n_resamples)
    tables[name] = pd.concat([tables[name], random_table], ignore_index=True)

# %% [markdown]
# The control task is set on all conflicts of the training split: half of each group's rows to learn from, the other half
# to be told. (Where a group has two rows, as in addition, one is learned and the other told.) On flip pairs it would say
# little: a group there has both behaviours, and its random label is one.

# %%
selectivity = None
if ALL in populations:
    probe = best[ALL]
    control, selectivities = prediction.control_task(
        conflicts["train"], probe.site, probe.baseline, ALL, run.rng("control task"), analysis.n_resamples
    )
    tables[ALL] = pd.concat([tables[ALL], control], ignore_index=True)
    selectivity = selectivities[probe.layer]

transfers = prediction.transfer(best, populations, run.rng("transfer"), analysis.n_resamples)
probes = pd.concat([part for part in (*tables.values(), transfers) if len(part)], ignore_index=True)
probes.to_parquet(run.path("probes.parquet"), index=False)

# %% [markdown]
# ## Accuracy by layer
#
# Grey rules are the baselines. Where a rule lies as high as the line, the probe may read the input and nothing else.
# Dashed lines are the controls, at the site that is best for the trained model. The control task's line stands for
# held-out rows of training groups, all others for test groups.

# %%
controls = [prediction.UNTRAINED, prediction.CONTROL]
for name in populations:
    own = tables[name]
    own = own[(own.split == "test") | (own.baseline == prediction.CONTROL)]
    own = own.assign(probe=own.baseline).rename(columns={"ci_low": "low", "ci_high": "high"})
    display(
        run.figure(
            figures.by_layer(own, controls=controls),
            f"by_layer_{name.replace(' ', '_')}",
            caption=f"Accuracy by layer, {name}: probes on hidden states and controls (lines), and baselines that see "
            f"the input alone or nothing (rules). n = {len(populations[name]['test'])} test inputs.",
            alt="Lines over layers for the probes, the direct reading and the controls, and horizontal rules for the "
            "baselines, in a panel for each site.",
            data=own,
        )
    )

# %%
columns = [
    "probe",
    "baseline",
    "site",
    "layer",
    "split",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "auroc",
    "auroc_low",
    "auroc_high",
]
run.table(
    probes[probes.split != "validation"][columns],
    "probes",
    caption="All probes, baselines and controls. Test rows are of test groups, held-out rows of training groups; "
    "intervals are clustered by group.",
)

# %% [markdown]
# ## The numbers
#
# A gain is the difference between the probe and the best baseline on the same inputs, so its interval is narrower than
# the two intervals together would say.


# %%
def place(row):
    """Where a probe reads, in words."""
    return "all layers of both sites" if row.site == TOGETHER else f"{row.site}, layer {row.layer}"


for name in populations:
    table = tables[name]
    row, baseline, random = (
        prediction.best_probe(table),
        prediction.best_input_baseline(table),
        prediction.best_control(table, prediction.UNTRAINED),
    )
    key = name.replace(" ", "_")
    where = f"{row.baseline} at {place(row)} (chosen on validation groups)"
    for metric, value, low, high, definition in (
        ("accuracy", row.accuracy, row.ci_low, row.ci_high, f"Test accuracy of the probe on {name}: {where}."),
        ("auroc", row.auroc, row.auroc_low, row.auroc_high, f"Test AUROC of the probe on {name}: {where}."),
        (
            "baseline",
            baseline.accuracy,
            baseline.ci_low,
            baseline.ci_high,
            f"Test accuracy of the best baseline on {name}: {baseline.baseline} (chosen on validation groups).",
        ),
        ("gain", *gains[name][:3], f"Test accuracy of the probe on {name} minus that of the best baseline: {where}."),
        (
            "untrained",
            random.accuracy,
            random.ci_low,
            random.ci_high,
            f"Test accuracy of a probe on an untrained network's states, {name}: {row.baseline} at {place(random)} "
            "(chosen on validation groups).",
        ),
    ):
        unit = "AUROC 0-1" if metric == "auroc" else "accuracy 0-1"
        run.record(f"{metric}_{key}", value, interval=(low, high), definition=definition, unit=unit, n=row.n)
    print(f"{name}: {row.accuracy:.3f} from {where}; {baseline.accuracy:.3f} from {baseline.baseline}")
    print(f"  gain {gains[name]}; untrained network {random.accuracy:.3f}")

# %%
if selectivity is not None:
    known = control[(control.layer == best[ALL].layer) & (control.baseline == prediction.CONTROL)].iloc[0]
    where = f"{best[ALL].baseline} at {place(best[ALL])}, on held-out rows of training groups"
    run.record(
        "control_all_conflicts",
        known.accuracy,
        interval=(known.ci_low, known.ci_high),
        definition=f"Accuracy on the control task (a random label for each group): {where}.",
        unit="accuracy 0-1",
        n=known.n,
    )
    run.record(
        "selectivity_all_conflicts",
        selectivity,
        definition=f"Accuracy with the behaviour minus accuracy on the control task: {where}.",
        unit="accuracy 0-1",
    )
    print(f"control task: {known.accuracy:.3f}; selectivity {selectivity}")

# %% [markdown]
# Transfer tells whether populations differ in how the behaviour stands in the states, or only in how many examples they
# give. Where the probe of all conflicts tells flip pairs better than the pairs' own probe does, the pairs were too few
# to learn from.

# %%
for _, row in transfers.iterrows():
    source = row.baseline.removeprefix("fitted on ")
    run.record(
        f"transfer_{source}_to_{row.probe}".replace(" ", "_"),
        row.accuracy,
        interval=(row.ci_low, row.ci_high),
        definition=f"Accuracy of the probe fitted on {source} (at {place(row)}), on test groups of {row.probe}.",
        unit="accuracy 0-1",
        n=row.n,
    )
    print(
        f"{row.baseline}, tried on {row.probe}: {row.accuracy:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}], n = {row.n}"
    )

# %% [markdown]
# ## How many pairs are needed?
#
# The probe is fitted anew on fewer pairs, at the site and layer that were chosen for all of them.

# %%
if FLIPS in populations:
    probe = best[FLIPS]
    of_pairs = {
        split: own.states[probe.site][own.frame.index.get_indexer(members[split]), probe.layer]
        for split, own in conflicts.items()
    }
    sizes = [n for n in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if n < len(pairs["train"])] + [len(pairs["train"])]
    curve = prediction.by_number_of_pairs(
        of_pairs, pairs, sizes, run.rng("sizes"), analysis.n_resamples, probe.baseline
    )
    curve = curve.rename(columns={"ci_low": "low", "ci_high": "high"})
    display(
        run.figure(
            figures.by_pairs(curve),
            "by_pairs",
            caption=f"Accuracy on the members of {len(pairs['test'])} test pairs by the number of pairs that the probe learned from.",
            alt="A line with a band over the number of pairs.",
            data=curve,
        )
    )

# %%
run.finish()

# %% [markdown]
# ## In this chapter we have seen
#
# We have asked how well a probe tells the behaviour from the hidden states of held-out groups, and what else tells it.
# On flip pairs the probe is right for {glue:text}`accuracy_flip_pairs` of the inputs, the best baseline that sees the
# input alone for {glue:text}`baseline_flip_pairs`. On all conflicts it is {glue:text}`accuracy_all_conflicts` and
# {glue:text}`baseline_all_conflicts`: a gain of {glue:text}`gain_all_conflicts` (percentage points).
#
# The same probe of an untrained network's states is right for {glue:text}`untrained_all_conflicts` of all conflicts. A
# random label of each group, learned by heart, is told for {glue:text}`control_all_conflicts`; the selectivity is
# {glue:text}`selectivity_all_conflicts`. The probe of all conflicts, tried on flip pairs, is right for
# {glue:text}`transfer_all_conflicts_to_flip_pairs`.
