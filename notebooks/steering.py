# %% [markdown]
# # Steering
#
# **Question.** Can the behaviour be steered at inference time by shifting a small set of neurons, without touching a parameter
# (claim c of the study)?
#
# **Answer.** Of the test conflicts with the opposite behaviour:
#
# | | To generalization | To memorization |
# | --- | --- | --- |
# | the study reports | {glue:text}`reported_generalization` | {glue:text}`reported_memorization` |
# | its shift, here | {glue:text}`reached_study_generalization` | {glue:text}`reached_study_memorization` |
# | its strongest control | {glue:text}`control_study_generalization` | {glue:text}`control_study_memorization` |
# | the shift minus this control | {glue:text}`net_study_generalization` | {glue:text}`net_study_memorization` |
# | a shift fitted to MLP neurons | {glue:text}`reached_fitted_mlp_generalization` | {glue:text}`reached_fitted_mlp_memorization` |
# | its strongest control | {glue:text}`control_fitted_mlp_generalization` | {glue:text}`control_fitted_mlp_memorization` |
# | the shift minus this control | {glue:text}`net_fitted_mlp_generalization` | {glue:text}`net_fitted_mlp_memorization` |
# | accuracy that this costs where one answer is right | {glue:text}`lost_fitted_mlp_generalization` | {glue:text}`lost_fitted_mlp_memorization` |
#
# All numbers of this page are of one model; over seeds they stand in [Synthesis](synthesis.ipynb).

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results
table: str = ""  # for the task table: the path of a table; empty: as the profile says
top_n: int = 0  # the number of neurons that the study's intervention shifts; 0: chosen on validation groups

# %%
from memgen.run import begin

run = begin("steering", profile=profile, task=task, model=model, seed=seed, results=results, table=table, top_n=top_n)

# %% [markdown]
# ## Methods and controls
#
# A vector is added to the activations at the prompt's last token and at every token of the answer.
#
# - *Study's shift*: the $N$ neurons of the residual stream with the largest $|r|$ over all layers, each shifted by
#   $\alpha \cdot \mathrm{sign}(r_i) \cdot |\mathrm{NMD}_i|$ ({term}`NMD`) towards memorization, and by the opposite towards
#   generalization. With *shuffled labels* the same formula has lost what it knows of the neurons.
# - *Difference in means*: the mean activation of training inputs that show memorization minus that of those that show
#   generalization, in whole layers.
# - *Fitted*: by gradient descent on $-\log p(\text{target answer})$ over training inputs, with a penalty on the norm: in the residual
#   stream, in the hidden layers of the MLPs, on the tenth of their neurons that the whole vector changes most, and on a random tenth.
#
# Any disturbance may break one behaviour and let the other answer. So beside each shift stand {term}`controls <control>` of the same
# norm: random directions on the same neurons, the same magnitudes on the least correlated neurons, and for the study's shift also on
# random ones. What counts is the {term}`net effect` beyond the strongest of them.

# %%
import csv
import dataclasses

import pandas as pd
from IPython.display import display
from safetensors.torch import save_file

from memgen import pretrained
from memgen.behavior import NAMES, TARGETS
from memgen.config import PretrainedConfig, fraction_to_count
from memgen.figures import steering as figures
from memgen.figures import theme
from memgen.localization.rankings import top_neurons
from memgen.run import in_words
from memgen.steering import answers, das, effects, english, outcomes, shifts
from memgen.steering.controls import controls, random_direction
from memgen.steering.fitting import NeuronSet, fit, inputs_to_fit, layer_sets
from memgen.steering.interventions import Intervention
from memgen.steering.sweep import COSTS, RULE, frontier, sweep
from memgen.steering.trials import Trials, by_group
from memgen.study import STEERING
from memgen.subject import Subject

# %% [markdown]
# The model, and the table of neurons from localization.

# %%
SITE, MLP_SITE, HEADLINE = "resid_post", "mlp.hook_post", "fitted_mlp"
same_task = run.config.base_task if run.config.form == "study" else ""  # what the study's numbers are of
folder = run.input("training", "model")
setting = "lora" if pretrained.is_adapter(folder) else "scratch"
of_setting = [row for row in STEERING if row["task"] == same_task and ("LoRA" in row["model"]) == (setting == "lora")]
of_study = {row["target"]: row["reached"] for row in of_setting if row["setting"] == setting}
analysis = run.config.analysis
subject = Subject.load(folder, analysis.batch_size, analysis.n_tokens)
neurons = pd.read_parquet(run.input("localization", "neurons.parquet"))
total = len(neurons[neurons.site == SITE])
counts = [top_n] if top_n else sorted({fraction_to_count(fraction, total) for fraction in analysis.top_fractions})
top_neurons(neurons, SITE, max(counts))
print(f"{total} neurons at {SITE}; N is one of {counts}, alpha one of {list(analysis.alphas)}")

# %% [markdown]
# Inputs, and what the unsteered model does on their conflicts. Groups of the *test* split were used nowhere; {term}`seen` holds new
# inputs of the training groups, as in the study's split.

# %%
data_folder = run.input("data", "test.parquet").parent
splits = [split for split in ("train", "validation", "test", "seen") if (data_folder / f"{split}.parquet").is_file()]
inputs = {split: pd.read_parquet(run.input("data", f"{split}.parquet")) for split in splits}
conflicts = {split: frame[frame.kind == "conflict"] for split, frame in inputs.items()}
labels = {
    split: pd.read_parquet(run.input("training", "behavior", f"{split}.parquet")).behavior[frame.index]
    for split, frame in conflicts.items()
}

# %% [markdown]
# Trials are made on validation groups: on conflicts of the behaviour opposite to the target, and on inputs with one right answer,
# where a shift can only cost.

# %%
trials, fitted_on = {}, {}
for target in TARGETS:
    rng = run.rng(f"sweep {NAMES[target]}")
    trials[target] = Trials.make(subject, inputs["validation"], labels["validation"], target, analysis, rng)
    rng = run.rng(f"fit {NAMES[target]}")
    fitted_on[target] = inputs_to_fit(inputs["train"], labels["train"], target, analysis.fit_rows, rng)
    n_tried, n_fitted = len(trials[target].before), fitted_on[target].kind.value_counts().to_dict()
    print(f"to {NAMES[target]}: tried on {n_tried} conflicts, fitted on {n_fitted}")

# %% [markdown]
# ## What is chosen, and where
#
# Everything is chosen on validation groups by one rule: the largest net effect; of equals, the largest gain in the mean probability
# of the target's answer; then the first. What a shift costs does not decide; it is reported.
#
# ### The study's shift: N and alpha

# %%
shape = subject.shape(SITE)
candidates = {
    target: shifts.study_candidates(neurons, SITE, counts, analysis.alphas, shape, target, by="r") for target in TARGETS
}
study = sweep(trials, candidates, SITE, controls("study", neurons, SITE), run.rng("study"))
interventions, sweeps = {"study": study.intervention("study")}, [study]

# %% [markdown]
# The sliders start where the net effect to memorization is largest.

# %%
run.figure(
    figures.sweep(study.tried[study.tried.control.isna()]),
    "sweep",
    caption="Share of validation inputs of the opposite behaviour that reach the target, by N and alpha.",
    data=study.tried,
)

# %% [markdown]
# The same formula from labels that were shuffled group by group.

# %%
shuffled = neurons.assign(r=neurons.r_shuffled, nmd=neurons.nmd_shuffled)
how, vectors = interventions["study"].how, {}
for target in TARGETS:
    n, alpha = how["n_neurons"][NAMES[target]], how["alpha"][NAMES[target]]
    vectors[NAMES[target]] = target * shifts.study_shift(shuffled, SITE, n, alpha, shape)
interventions["study_shuffled"] = Intervention(
    SITE, analysis.n_tokens, **vectors, how=how | {"method": "study_shuffled"}
)

# %% [markdown]
# ### Difference in means
#
# In single layers and in all together, in several doses.

# %%
turned = pd.concat([rows[rows.kind == "conflict"] for rows in fitted_on.values()])
difference = shifts.mean_difference(subject, turned, labels["train"], SITE)
candidates = {target: shifts.mean_candidates(difference, target, analysis.single_layers) for target in TARGETS}
kinds, rng = controls("mean_difference", neurons, SITE), run.rng("difference in means")
sweeps.append(sweep(trials, candidates, SITE, kinds, rng, analysis.mean_doses))
interventions["mean_difference"] = sweeps[-1].intervention("mean_difference")

# %% [markdown]
# ### Fitted shifts
#
# A vector for single layers, and for all layers together one with each penalty, fitted on training inputs of the opposite
# behaviour and on inputs with one right answer that the target gives.

# %%
for method, site in {"fitted_resid": SITE, "fitted_mlp": MLP_SITE}.items():
    sets = layer_sets(method, subject.shape(site), analysis.norm_penalties, analysis.single_layers)
    candidates = {target: fit(subject, fitted_on[target], site, sets, target, analysis) for target in TARGETS}
    kinds, rng = controls(method, neurons, site), run.rng(outcomes.GENERATORS[method])
    sweeps.append(sweep(trials, candidates, site, kinds, rng, analysis.doses))
    interventions[method] = sweeps[-1].intervention(method)

# %% [markdown]
# And the two tenths.

# %%
SMALL_SHARE, mlp_shape = 0.1, subject.shape(MLP_SITE)
of_mlp, candidates, tenths = candidates, {}, {}
for target in TARGETS:
    everywhere = next(candidate for candidate in of_mlp[target] if candidate.name == "all")
    chosen, drawn = (
        shifts.largest(everywhere.shift, SMALL_SHARE),
        shifts.random_mask(mlp_shape, SMALL_SHARE, run.rng(f"random neurons {target}")),
    )
    sets = [NeuronSet("fitted_mlp_tenth", "largest tenth", chosen, penalty) for penalty in analysis.norm_penalties]
    sets += [NeuronSet("fitted_random_tenth", "random tenth", drawn, penalty) for penalty in analysis.norm_penalties]
    candidates[target] = fit(subject, fitted_on[target], MLP_SITE, sets, target, analysis)
    tenths[target] = candidates[target][0]  # the largest, with the first penalty
kinds = controls("small", neurons, MLP_SITE)
sweeps.append(sweep(trials, candidates, MLP_SITE, kinds, run.rng("small"), analysis.doses))
for method in ("fitted_mlp_tenth", "fitted_random_tenth"):
    interventions[method] = sweeps[-1].intervention(method)

# %%
for method, intervention in interventions.items():
    intervention.save(run.path("interventions"), method)

# %% [markdown]
# ### What could have been chosen
#
# Each point is a trial of the study's shift on validation groups: what it reaches, against what its strongest control reaches. On
# the diagonal a shift does no more than any disturbance of its size. The diamonds were chosen.

# %%
tried = pd.concat([part.tried for part in sweeps], ignore_index=True)
tried.to_csv(run.path("tables", "all_trials.csv"), index=False, quoting=csv.QUOTE_NONNUMERIC)
grid = frontier(tried)
columns = {"method": "shift", "target": "steered to", "candidate": "where", "n_neurons": "neurons", "alpha": "alpha"}
columns |= {"dose": "dose", "value": "reached, %"}
run.table(
    grid[grid.is_chosen],
    "chosen",
    caption=f"The chosen trials, on validation groups: {RULE}. The residual stream has {total} neurons in all; a shift of all "
    "of them has as its *least correlated* control the same magnitudes, dealt anew with random signs.",
    columns=columns | {"cost_value": "strongest control, %"},
    rows=grid[grid.is_chosen].cost == "best_control",
)

# %%
run.figure(
    figures.frontier(grid, of_study),
    "frontier",
    caption="The study's shift against its controls: share of validation inputs that reach the target, for every N and alpha.",
    data=grid,
)

# %% [markdown]
# The same against accuracy lost on inputs with one right answer, for all methods. A line joins the trials of a method that reach
# most for their cost.

# %%
collateral = grid[grid.cost.isin([cost for cost in COSTS if cost.startswith("lost")])]
run.figure(
    figures.collateral(collateral),
    "collateral",
    caption="Target against collateral: share of validation inputs that reach the target, by accuracy lost; diamonds are chosen.",
    data=collateral,
)

# %% [markdown]
# ## The study's table, and ours
#
# All interventions and their controls, on conflicts of the test groups; the study's shift and the headline, a shift fitted to MLP
# neurons, also on {term}`seen` groups. The study reports members of *flip pairs*, inputs whose behaviour hangs on the order of
# sentences or operands: a population of their own beside all conflicts.

# %%
tested = {
    split: outcomes.to_test(conflicts[split], labels[split], analysis.test_rows, run.rng(f"test {split}"))
    for split in ("test", "seen")
    if split in conflicts
}
controlled = [method for method in interventions if method != "study_shuffled"]

# %%
compared, by_split = {method: interventions[method] for method in ("study", HEADLINE)}, {}
for split, frame in tested.items():
    on_split, made = Trials.on(subject, frame, analysis.random_draws), interventions if split == "test" else compared
    result = outcomes.on_test(on_split, made, controlled, neurons, run.rng)
    about = frame[["answer_memorization", "answer_generalization", "in_sample", "in_flip_pair"]]
    by_split[split] = result.merge(about, left_on="input", right_index=True).assign(split=split)
pd.concat(by_split.values()).to_parquet(run.path("outcomes.parquet"), index=False)

# %% [markdown]
# What inputs of the opposite behaviour become.

# %%
prefixes = {"test": "", "seen": "seen_"}
populations = pd.concat([outcomes.by_population(part, prefixes[split]) for split, part in by_split.items()])
summary = outcomes.summary(populations)
rates = summary[summary.measure.isin(outcomes.RATES)]
run.record_table(
    rates.assign(under=rates.control.fillna("the shift itself")),
    definition="{method}, {under}, to {target}: share of {population} of the opposite behaviour with {measure}.",
    unit="share 0-1",
    coordinates=["method", "control", "target", "population"],
)

# %% [markdown]
# The study's table (without intervals) and ours; that of the shift fitted to MLP neurons, and of seen groups, is behind the data link.

# %%
columns = ["setting", "model", "target", *outcomes.OUTCOMES]
reported = pd.DataFrame(of_setting, columns=columns).query("setting in [@setting, 'random']")
reported = reported.melt(["setting", "model", "target"], outcomes.OUTCOMES, "measure")
reported["shift"] = reported.setting.map(lambda name: "random baseline" if name == "random" else "study's shift")
reported["inputs"] = "reported: " + reported.model
reported["share"] = [f"{100 * value:.1f} %" for value in reported.value]

# %%
ours = rates[rates.method.isin(compared) & rates.measure.isin(outcomes.OUTCOMES)]
ours = ours[ours.control.isna() | ours.control.isin(["best", "uniform"])]
under = ours.control.map(lambda name: "" if pd.isna(name) else f", {theme.CONTROL_NAMES[name]}")
ours = ours.assign(
    shift=ours.method.map(theme.METHOD_NAMES) + under, inputs=ours.population.map(theme.POPULATION_NAMES)
)
ours["share"] = [in_words(row | {"unit": "share 0-1"}) for row in ours.to_dict("records")]

# %%
both = pd.concat([reported, ours]).sort_values("target", kind="stable").rename(columns={"target": "steered to"})
both = both.pivot_table("share", ["steered to", "shift", "inputs"], "measure", aggfunc="first", sort=False)
beside = run.table(
    both[outcomes.OUTCOMES].reset_index(),
    "beside_study",
    caption="Inputs of the opposite behaviour that reach the target or do something else: reported, and here.",
    columns={"steered to": "steered to", "shift": "shift", "inputs": "inputs", "reached": "reached", "other": "other"},
    rows=~both.index.get_level_values("inputs").str.contains("seen groups")
    & ~both.index.get_level_values("shift").str.contains("fitted"),
)

# %% tags=["main-figure"]
on_conflicts = rates[(rates.control.isna() | (rates.control == "best")) & (rates.population == "conflicts")]
figure = run.figure(
    figures.outcomes(on_conflicts, of_study),
    "outcomes",
    caption="What test conflicts of the opposite behaviour become under each shift, and (fainter) its strongest control.",
    data=on_conflicts,
)
figure

# %%
beside

# %% [markdown]
# The net effect compares each input with itself under the strongest control (the mean over its draws).

# %%
strongest = outcomes.strongest(summary)
strongest["strongest"] = strongest.strongest.map(theme.CONTROL_NAMES)
net = (
    summary[summary.measure == "net"]
    .drop(columns=["control", "measure"])
    .merge(strongest[[*outcomes.SHIFT, "strongest"]])
)
run.record_table(
    net,
    measure="net",
    definition="{method}, to {target}, {population}: share that reaches the target minus that under its best control.",
    unit="difference of shares",
    coordinates=["method", "target", "population"],
)

# %%
run.table(
    net,
    "net",
    caption="Share that reaches the target minus that under the strongest control, paired by input.",
    columns={
        "method": "shift",
        "target": "steered to",
        "population": "inputs",
        "value": "net effect, points",
        "strongest": "strongest control",
        "n": "n",
    },
    rows=net.population.isin(["conflicts"]),
)

# %% [markdown]
# The norm of the study's shift, of its controls (as large), and of its random baseline (another one, as a rule larger).

# %%
draws = by_split["test"].query("method == 'study'").drop_duplicates(["control", "draw", "target"])
norms = draws.groupby(["control", "target"], dropna=False, sort=False).norm.agg(value="mean", n="size").reset_index()
norms["under"] = norms.control.fillna("the shift itself")
run.record_table(
    norms.assign(method="study"),
    measure="norm",
    definition="Norm of the study's shift to {target}, {under}: mean over draws.",
    unit="activation",
    coordinates=["method", "control", "target"],
)
run.table(
    norms,
    "norms",
    caption="Norms, means over draws.",
    columns={"under": "study's shift, or control", "target": "steered to", "value": "norm"},
)

# %% [markdown]
# ## What the answers are
#
# *Other* answers are not noise. The table tells the first token of the greedy answer: memorized or inferred (the rest may go
# wrong; to a pretrained model all tags begin alike, and all sums), another tag or number, another word that is an answer elsewhere, or none
# of these; of words, whether the prompt has them.

# %%
sample = by_group(conflicts["test"], analysis.test_rows, run.rng("answers"))
given = answers.shares(subject, sample, labels["test"], interventions)
run.record_table(
    given,
    measure="answer_share",
    definition="{method}, to {target}: share of conflicts of the opposite behaviour with the answer: {category}.",
    unit="share 0-1",
    coordinates=["method", "target", "category"],
)

# %%
percent = given.assign(share=(100 * given.value).map("{:.1f}".format), target=given.target.fillna(""))
percent["method"] = percent.method.map(theme.METHOD_NAMES).fillna("no shift")
percent = percent.rename(columns={"method": "shift", "target": "steered to"})
percent = percent.pivot_table("share", ["shift", "steered to"], "category", "first", fill_value="0.0", sort=False)
run.table(
    percent.reset_index(),
    "answers",
    caption="First token of the answers to test conflicts, without a shift and with each, in %.",
)

# %% [markdown]
# ## What it costs
#
# A shift that moves conflicts also moves inputs with one right answer: sums without a pattern (*inferred-only*), or stories whose
# implied colour is also memorized (*aligned*). A shift that switches a behaviour off costs all that this behaviour answers.

# %%
lost = effects.lost(subject, inputs["test"], interventions)
run.record_table(
    lost,
    measure="lost",
    definition="Accuracy lost on {inputs} test inputs when {method} steers to {target}.",
    unit="difference of shares",
    coordinates=["method", "target", "inputs"],
)
run.table(
    lost,
    "side_effects",
    caption="Accuracy lost on test inputs with one right answer, paired by input.",
    columns={"method": "shift", "target": "steered to", "inputs": "inputs", "value": "accuracy lost, points"},
)

# %% [markdown]
# Where no answer is due, nothing should change: prompts are cut before their last token, and KL(unsteered || steered) tells how far
# the distribution of the next token moves.

# %%
kl = effects.divergences(subject, inputs["test"], interventions, neurons, analysis, run.rng)
run.record_table(
    kl.assign(under=kl.control.fillna("the shift itself")),
    measure="kl",
    definition="{method}, {under}, to {target}: mean KL(unsteered || steered) where the next token is no answer.",
    unit="nats",
    coordinates=["method", "control", "target"],
)
run.table(
    kl,
    "unrelated",
    caption="Mean KL where the next token is no answer.",
    columns={"method": "shift", "target": "steered to", "value": "KL, nats"},
    rows=kl.control.isna(),
)

# %% [markdown]
# A pretrained model reads plain English, which has nothing to do with the task: how well does it predict
# sentences that were written for this purpose, without its adapter if it has one, and with a shift at every token?

# %%
if isinstance(run.config.model, PretrainedConfig):
    base = pretrained.without(folder).to(subject.device) if pretrained.is_adapter(folder) else None
    made = {method: interventions[method] for method in compared}
    read = english.collateral(subject, base, made, neurons, analysis, run.rng)
    read["quantity"] = read.measure.map({"english_loss": "-log p", "english_kl": "KL from unsteered"})
    run.record_table(
        read.assign(under=read.control.fillna("no control"), goal=read.target.fillna("no target")),
        definition="Plain English, {method} ({under}, to {goal}): {quantity}, mean over sentences of the mean over tokens.",
        unit="nats",
        coordinates=["method", "control", "target"],
    )
    columns = {"method": "model, or shift", "control": "control", "target": "steered to", "quantity": "quantity"}
    caption = (
        f"Plain English: means over {len(english.SENTENCES)} sentences, each of the mean over its tokens but the first."
    )
    display(run.table(read, "english", caption=caption, columns=columns | {"value": "nats a token"}))

# %% [markdown]
# ## Does an average hide an answer?
#
# A shift could be a direction towards some answers rather than towards a behaviour: what is the lowest rate of any answer with five
# or more inputs?

# %%
on_sample = by_split["test"][by_split["test"].in_sample]
by_answer = outcomes.by_answer(on_sample)
whose = by_answer.behavior.map({"memorization": "memorized ", "generalization": "inferred "})
by_answer["answer"] = whose + by_answer.answer
worst = by_answer.loc[by_answer.groupby(["method", "target"], sort=False).value.idxmin()]
run.record_table(
    worst,
    measure="worst_answer",
    definition="{method} to {target}: lowest rate of any answer.",
    unit="share 0-1",
    coordinates=["method", "target"],
)
run.table(
    worst,
    "worst",
    caption="Where each shift reaches its target least.",
    columns={"method": "shift", "target": "steered to", "answer": "worst answer", "value": "reached, %", "n": "n"},
)

# %% [markdown]
# ## Dose and response
#
# A switch or a slope? The vector fitted to MLP neurons, weaker and stronger, and a random direction of its norm, on validation
# groups.

# %%
headline, candidates = interventions[HEADLINE], {}
for target in TARGETS:
    shift = headline.shift(target)
    control = random_direction(shift, run.rng(f"dose {target}"))
    candidates[target] = [
        shifts.Candidate(HEADLINE, "shift", shift),
        shifts.Candidate(HEADLINE, "random direction", control),
    ]
doses = sweep(trials, candidates, MLP_SITE, {}, run.rng("dose"), doses=[step / 4 for step in range(9)]).tried

# %%
odds = doses[doses.measure == "log_odds"]
run.figure(
    figures.dose(odds),
    "dose",
    caption="Mean log-odds, memorized against inferred answer, of inputs of the opposite behaviour, by dose.",
    data=odds,
)

# %% [markdown]
# ## Positions
#
# The study's shift, as chosen for the last token, at more of the prompt's tokens: a sum is asked for by the last token, a
# story's colour by the last two or three; at most, at all tokens after the first.

# %%
shifted = by_group(sample, analysis.sweep_rows, run.rng("positions"))
at_tokens, shortest = [], int(shifted.input_ids.str.len().min())
for n_tokens in (1, 2, 4, shortest - 1):
    wider = Trials.on(dataclasses.replace(subject, n_tokens=n_tokens), shifted, analysis.random_draws)
    found = outcomes.on_test(wider, {"study": interventions["study"]}, controlled, neurons, run.rng)
    at_tokens.append(outcomes.summary(found, ["method", "target"]).assign(n_tokens=n_tokens))
at_tokens = pd.concat(at_tokens).query("measure in ['reached', 'other'] and (control.isna() or control == 'best')")

# %%
run.record_table(
    at_tokens.assign(measure=at_tokens.measure + "_at_tokens"),
    definition="The study's shift at the last {n_tokens} tokens, to {target}, control {control}: {measure}.",
    unit="share 0-1",
    coordinates=["method", "control", "target", "n_tokens"],
)
reached = at_tokens[at_tokens.measure == "reached"].fillna({"control": "study's shift"})
run.table(
    reached[["n_tokens", "target", "control", "value", "ci_low", "ci_high", "n"]],
    "positions",
    caption=f"Share that reaches the target, of the study's shift at the last tokens and of its strongest control, in a sample "
    f"of {len(shifted)} conflicts.",
    columns={"n_tokens": "last tokens", "target": "steered to", "control": "shift", "value": "reached, %", "n": "n"},
)

# %% [markdown]
# ## Are these neurons needed?
#
# Twenty random tenths of the MLP neurons and the largest tenth, each with a vector of its own, fitted on training groups with the first
# penalty and tried at dose 1 on validation groups: nothing is chosen here, so the shares are not those of the tenths above.

# %%
N_MASKS = 20
candidates = {}
for target in TARGETS:
    rng = run.rng(f"random tenths {target}")
    masks = [shifts.random_mask(mlp_shape, SMALL_SHARE, rng) for _ in range(N_MASKS)]
    sets = [NeuronSet("random_mask", f"mask {i}", mask, analysis.norm_penalties[0]) for i, mask in enumerate(masks)]
    candidates[target] = [*fit(subject, fitted_on[target], MLP_SITE, sets, target, analysis), tenths[target]]
masked = sweep(trials, candidates, MLP_SITE, {}, run.rng("masks")).tried.query("measure == 'reached'")

# %%
by_mask = masked[masked.method == "random_mask"].groupby("target", sort=False).value
quantiles = by_mask.quantile([0.05, 0.5, 0.95]).rename_axis(["target", "quantile"]).reset_index().assign(n=N_MASKS)
run.record_table(
    quantiles,
    measure="random_mask_reached",
    definition="Fitted on random tenths of the MLP neurons, to {target}, validation: share reached, quantile {quantile}.",
    unit="share 0-1",
    coordinates=["target", "quantile"],
)

# %%
largest = masked[masked.method != "random_mask"].set_index("target").value.rename("largest tenth")
tenths_reached = quantiles.pivot(index="target", columns="quantile", values="value").join(largest).reset_index()
tenths_reached.columns = tenths_reached.columns.astype(str)
columns = {"target": "steered to", "0.05": "random, 5th percentile, %", "0.5": "random, median, %"}
run.table(
    tenths_reached,
    "random_masks",
    caption="Validation conflicts of the opposite behaviour that a vector on a tenth of the MLP neurons brings to the target, "
    "with one penalty and dose: 20 random tenths (percentiles over them), and the largest.",
    columns=columns | {"0.95": "random, 95th percentile, %", "largest tenth": "largest tenth, %"},
)

# %% [markdown]
# ## Does a direction carry the behaviour from input to input?
#
# In *distributed alignment search* ({term}`DAS`, {cite}`geiger2024finding`) an input's state at the last token gets, along one
# direction, the coordinate of another input that shows the opposite behaviour and is of another group. If the direction holds the
# behaviour and nothing else, the receiver gives *its own* other answer. Directions are fitted on training groups, the layer is
# chosen on validation groups. The *whole state* of the other input is no ceiling: it brings along what that input's answer is, so
# that the receiver often gives the other input's answer and not its own.

# %%
rng = run.rng("interchange")
interchanges = {
    split: das.Interchanges.draw(
        subject, conflicts[split], shown, analysis.fit_rows, rng, analysis.fit_batch_size if split == "train" else None
    )
    for split, shown in labels.items()
    if split != "seen"
}
n_receivers = {split: len(part.target) for split, part in interchanges.items()}
print(n_receivers)

# %%
if min(n_receivers.values()) > 0:
    layers = shifts.evenly(range(subject.n_layer), analysis.single_layers)
    directions = {layer: interchanges["train"].fit(layer, analysis, rng) for layer in layers}
    tried = pd.concat([interchanges["validation"].rates(layer, directions[layer], 1, rng) for layer in layers])
    by_layer = tried.assign(control=tried.control.fillna("none")).pivot_table("value", "layer", "control")
    layer = int((by_layer["none"] - by_layer["random_direction"]).idxmax())
    metadata = {"layer": str(layer)}  # one entry: several are written in any order
    save_file({"direction": directions[layer]}, run.path("das.safetensors"), metadata)
    swapped = interchanges["test"].rates(layer, directions[layer], analysis.random_draws, rng)
    run.record_table(
        swapped,
        measure="interchanged",
        definition="Interchange along a fitted direction after layer {layer}, to {target}: share with its own answer.",
        unit="share 0-1",
        coordinates=["layer", "control", "target"],
    )
    swapped["control"] = swapped.control.fillna("the direction")
    columns = {"control": "exchanged", "target": "to", "value": "own other answer, %", "n": "n"}
    caption = "Receivers that give their own other answer."
    display(run.table(swapped, "interchange", caption=caption, columns=columns))

# %% [markdown]
# ## An untrained network
#
# Could a fitted vector write any behaviour into any network? The same procedure on fresh random weights.

# %%
untrained = effects.on_untrained(subject, conflicts["train"], conflicts["test"], MLP_SITE, analysis, run.rng)
run.record_table(
    untrained,
    measure="untrained_reached",
    definition="Fitted on a network with random weights, to {target}: share of conflict inputs.",
    unit="share 0-1",
    coordinates=["target"],
)
run.table(
    untrained,
    "untrained",
    caption="Test conflicts with the target's answer, in a network with random weights.",
    columns={"target": "steered to", "value": "reached, %"},
)

# %%
for method in ("study", "fitted_mlp", "fitted_mlp_tenth", "fitted_random_tenth"):
    for target in ("generalization", "memorization"):
        where = f"method == '{method}' and target == '{target}'"
        on_conflicts = f"{where} and population == 'conflicts' and control.isna()"
        run.glue(f"reached_{method}_{target}", f"measure == 'reached' and {on_conflicts}")
        run.glue(f"net_{method}_{target}", f"measure == 'net' and {on_conflicts}")
        named = [
            f"{row['strongest']}: {in_words(row | {'unit': 'share 0-1'})}"
            for row in strongest.query(f"{where} and population == 'conflicts'").to_dict("records")
        ]
        run.glue_text(f"control_{method}_{target}", (named or ["not measured"])[0])
        most = lost[(lost.method == method) & (lost.target == target)].nlargest(1, "value").inputs.to_list()
        run.glue(f"lost_{method}_{target}", f"measure == 'lost' and inputs in @most and {where}", most=most)

# %%
for target in ("generalization", "memorization"):
    where = f"target == '{target}'"
    number = reported.query(f"setting == @setting and measure == 'reached' and {where}").share.to_list()
    run.glue_text(f"reported_{target}", number[0] if number else "nothing on this task")
    for population in ("flip_pairs", "seen_flip_pairs"):
        here = f"measure == 'reached' and method == 'study' and control.isna() and population == '{population}'"
        run.glue(f"{population}_{target}", f"{here} and {where}")
    uniform = "method == 'study' and control == 'uniform' and population == 'conflicts'"
    run.glue(f"uniform_other_{target}", f"measure == 'other' and {uniform} and {where}")
run.finish()

# %% [markdown]
# ## What this means
#
# On the study's own terms, members of flip pairs of the groups that the shift was computed from, it brings
# {glue:text}`seen_flip_pairs_generalization` to generalization and {glue:text}`seen_flip_pairs_memorization` to memorization; on flip
# pairs of new groups, {glue:text}`flip_pairs_generalization` and {glue:text}`flip_pairs_memorization`. Over all conflicts its random
# baseline turns {glue:text}`uniform_other_generalization` and {glue:text}`uniform_other_memorization` into other answers: its norm is not
# the shift's, so it says nothing about chance.
#
# A vector that works is weak evidence of *where* a behaviour lives. On a tenth of the MLP neurons, a fitted vector brings
# {glue:text}`reached_fitted_mlp_tenth_generalization` to generalization if the tenth was chosen, and
# {glue:text}`reached_fitted_random_tenth_generalization` if it was drawn at random.
