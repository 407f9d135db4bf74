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
# # Steering
#
# ## What is asked
#
# Claim c of the study: the behaviour can be steered at inference time by shifting a small set of
# neurons, without touching a parameter.
#
# ## How
#
# A vector is added to the activations at the prompt's last token and at every token of the answer. How it is made:
#
# - *study*: the $N$ neurons of the residual stream with the largest $|r|$ over all layers, each shifted by
#   $\alpha \cdot \mathrm{sign}(r_i) \cdot |\mathrm{NMD}_i|$ towards memorization, and by the opposite towards
#   generalization.
# - *difference in means*: the mean activation of training inputs that show memorization minus that of those that show
#   generalization, in whole layers, averaged over memorized answers.
# - *gradient-guided*: fitted by gradient descent on $-\log p(\text{target answer})$, averaged over training inputs, with a
#   penalty on the norm: inputs of the opposite behaviour, which it shall turn, and inputs with one right answer that the
#   target gives, which it shall leave right. In the residual stream, and in the hidden layers of the MLPs, where we also
#   fit the tenth of the neurons that the whole vector changes most (*gradient-guided MLP 10%*).
#
# ## Controls
#
# Any disturbance may break one behaviour and let the other answer. So beside each shift stand others of
# the same norm: random directions on the same neurons (on very few neurons that is nearly the shift itself or its
# opposite), the same magnitudes on the least correlated neurons, and for the study's shift also on random ones. What counts is the *net* effect: the share of inputs that reach the target, minus
# the share under the strongest of these controls. Two more shifts ask whether *these* neurons are needed: the study's
# formula from shuffled labels (*shuffled NMD*), and a vector fitted on a tenth of the neurons drawn at random. A prompt
# that asks for one behaviour cannot be a baseline here: the tasks have no words that ask for recall or for inference.
#
# ## What is chosen, and where
#
# Everything is chosen on validation groups. A trial must bring at most [3 %]{.set} of the inputs to other answers, at most
# [8 %]{.set} to the target under its best control, and cost at most [1 %]{.set} of the accuracy on inputs with one right
# answer that the target gives. Of those that do, the one counts under which the target's answer has the largest mean
# probability among the two, minus that under the best control: greedy answers would not tell a shift that barely suffices
# from a sure one. Where no trial keeps to all limits, it is one of those that exceed them least. Test groups are looked at
# once, at the end.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
task: str = "inference"  # a run that the profile names, such as inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results
top_n: int = 0  # the number of neurons that the study's intervention shifts; 0: chosen on validation groups

# %%
from memgen import report

run = report.begin("steering", globals())

# %%
import pandas as pd
from IPython.display import display
from transformers import AutoTokenizer

from memgen import activations, behavior, config, steering, training
from memgen.figures import steering as figures

SITE, MLP_SITE, HEADLINE = "resid_post", "mlp.hook_post", "gradient-guided MLP"
model = training.load_model(run.input("training", "model"))
tokenizer = AutoTokenizer.from_pretrained(run.input("training", "model"))
neurons = pd.read_parquet(run.input("localization", "neurons.parquet"))
analysis = run.config.analysis
shape, mlp_shape = ((len(activations.blocks(model)), activations.width(model, site)) for site in (SITE, MLP_SITE))
total = shape[0] * shape[1]
counts = [top_n] if top_n else sorted({config.fraction_to_count(f, total) for f in analysis.top_fractions})
steering.top_neurons(neurons, SITE, max(counts))  # refuses an N beyond the number of neurons before anything runs
print(f"{total} neurons at {SITE}; N is one of {counts}, alpha one of {list(analysis.alphas)}")

# %% [markdown]
# ## The inputs
#
# Conflict inputs of each split. A trial of a sweep needs only inputs that show the behaviour opposite to its target, and
# of these at most a fixed number, as evenly from the groups as can be; and those with one right answer. All tokens before the shifted ones are the same in
# every trial: their keys and values are computed once, and several trials run side by side in one pass.

# %%
everything, frames = {}, {}
for split in ("train", "validation", "test"):
    everything[split] = pd.read_parquet(run.input("data", f"{split}.parquet"))
    frames[split] = everything[split][everything[split].kind == "conflict"]
labels = {"train": pd.read_parquet(run.input("training", "behavior", "train.parquet")).behavior[frames["train"].index]}
for split in ("validation", "test"):
    prepared = behavior.prepare(model, frames[split], tokenizer, analysis.batch_size, keep=analysis.n_tokens)
    before = behavior.measure(model, prepared)
    labels[split] = before.behavior
test = steering.Trials(model, prepared, before, analysis.n_tokens, analysis.random_draws)

sweeps, turned, learn = {}, {}, {}
for target in steering.TARGETS:
    name, inputs = behavior.NAMES[target], (everything["validation"], labels["validation"])
    sweeps[target] = steering.opposite_trials(model, *inputs, target, tokenizer, analysis, run.rng(f"sweep {name}"))
    inputs, rng = (everything["train"], labels["train"]), run.rng(f"fit {name}")
    turned[target], kept = steering.to_fit(*inputs, target, analysis.fit_rows, rng)
    rows = pd.concat([turned[target], kept]).sort_index()
    learn[target] = behavior.prepare(model, rows, tokenizer, analysis.fit_batch_size, keep=analysis.n_tokens)
    own = [sweeps[target].before, sweeps[target].kept.before if sweeps[target].kept else []]
    print(f"to {name}: fitted on {len(turned[target])} inputs and {len(kept)} to keep, ", end="")
    print(f"chosen on {len(own[0])} and {len(own[1])}")

# %% [markdown]
# ## The study's intervention: N and alpha
#
# Beside it, at the N and alpha that it is given, the same formula from shuffled labels (each group's pairs keep or change
# their signs together, at random).

# %%
interventions, tables = {}, {}
own = steering.controls("study", neurons, SITE)
tried, shifts = steering.sweep_study(sweeps, neurons, SITE, counts, analysis.alphas, own, run.rng("study"))
tables["study"] = tried
formula = "alpha * sign(r) * |NMD| on the top N neurons by |r|"
interventions["study"] = steering.decide(tried, shifts, SITE, formula, analysis)
inputs = {target: len(own.before) for target, own in sweeps.items()}
shown = tried.assign(target=tried.target.map(behavior.NAMES), share=tried.to_target, method="study")
shown["inputs"] = tried.target.map(inputs)

shuffled = neurons.assign(r=neurons.r_shuffled, nmd=neurons.nmd_shuffled)
how, vectors = interventions["study"].how, {}
for target, name in ((target, behavior.NAMES[target]) for target in steering.TARGETS):
    vectors[name] = target * steering.study_shift(shuffled, SITE, how["N"][name], how["alpha"][name], shape)
interventions["shuffled NMD"] = steering.Intervention(SITE, analysis.n_tokens, **vectors, how=dict(how))

run.figure(
    figures.sweep(shown[["n", "alpha", "target", "share", "to_other", "control", "method", "inputs"]]),
    "sweep",
    caption="Share of validation inputs of the opposite behaviour that reach the target, by the number of neurons N and "
    "the strength alpha; below, for one N and one alpha, beside other answers and the best control.",
    alt="Two heat maps of N by alpha, one for each target; below each, three bars for one chosen N and alpha: the share "
    "that reaches the target, other answers, and the best control.",
    data=shown,
)

# %% [markdown]
# ## Vectors for whole layers
#
# *Difference in means*: in each layer alone and in all together, at the same strengths. *Gradient-guided*: one vector is
# fitted for each layer alone, and for all layers together one with each penalty on the norm, on training inputs that show
# the opposite behaviour; each is tried at several strengths. The small sets are then refitted: the tenth of the neurons
# with the largest magnitude in the vector fitted on all of them, and as many drawn at random.

# %%
both = behavior.prepare(model, pd.concat(list(turned.values())), tokenizer, analysis.batch_size, keep=analysis.n_tokens)
difference = steering.mean_difference(model, both, labels["train"], frames["train"].answer_memorization, SITE)
method = "difference in means"
own = steering.controls(method, neurons, SITE)
tables[method], shifts = steering.sweep_means(sweeps, difference, SITE, analysis.alphas, own, run.rng(method))
interventions[method] = steering.decide(tables[method], shifts, SITE, method, analysis)

fitted = "fitted by gradient descent on -log p(target answer) with a norm penalty"
vectors = {}
for method, site, size in (("gradient-guided", SITE, shape), (HEADLINE, MLP_SITE, mlp_shape)):
    candidates = dict.fromkeys(steering.TARGETS, steering.layer_candidates(size, analysis.norm_penalties))
    own = steering.controls(method, neurons, site)
    tables[method], shifts = steering.sweep_fitted(sweeps, learn, site, candidates, analysis, own, run.rng(method))
    interventions[method] = steering.decide(tables[method], shifts, site, fitted, analysis)
    vectors[method] = shifts

share, first = steering.SMALL_SHARE, f"all, penalty {analysis.norm_penalties[0]:g}"
small = {}
for target in steering.TARGETS:
    masks = {f"{HEADLINE} 10%": steering.largest(vectors[HEADLINE][target, first], share)}
    masks["fitted on random neurons"] = steering.random_mask(mlp_shape, share, run.rng(f"random neurons {target}"))
    small[target] = steering.mask_candidates(masks, analysis.norm_penalties)
own = steering.controls("small", neurons, MLP_SITE)
tried, shifts = steering.sweep_fitted(sweeps, learn, MLP_SITE, small, analysis, own, run.rng("small"))
for method in masks:
    tables[method] = tried[tried.candidate.str.startswith(method)]
    interventions[method] = steering.decide(tables[method], shifts, MLP_SITE, fitted, analysis)
for method, intervention in interventions.items():
    intervention.save(run.path("interventions"), method.replace(" ", "_"))

# %% [markdown]
# What was tried: every candidate at the strength that the rule prefers, then each of them at every strength.

# %%
fits = pd.concat([table.assign(method=method) for method, table in tables.items()], ignore_index=True)
fits["target"] = fits.target.map(behavior.NAMES)
fits.to_csv(run.path("tables", "all_trials.csv"), index=False)
best = fits.loc[fits.groupby(["method", "target", "candidate"], sort=False).preferred.idxmax()]
columns = ["method", "target", "candidate", "strength", "norm", "to_target", "to_other", "control", "lost", "preferred"]
preferred = run.table(
    best[columns],
    "fits",
    caption="Every candidate on validation groups, at the strength that the rule prefers: its norm, what becomes of "
    "inputs of the opposite behaviour, how many reach the target under its best control, the accuracy lost where the "
    "target is right, and what the rule compares.",
)
shown = fits.assign(inputs=fits.target.map({behavior.NAMES[target]: n for target, n in inputs.items()}))
shown = shown[["method", "candidate", "strength", "target", "to_target", "to_other", "control", "inputs"]]
trials = run.figure(
    figures.trials(shown),
    "trials",
    caption="One candidate, to be chosen below, on validation groups against its strength (for the study's and for "
    "differences in means: alpha): inputs of the opposite behaviour that reach the target, other answers, and how many "
    "reach the target under the best control of the same norm.",
    alt="For each target three lines over the strength: reach the target, other answers, best control.",
    data=shown,
)
display(preferred, trials)

# %% [markdown]
# ## Test groups
#
# All interventions, and their controls of the same norm, each drawn anew several times. The first number to look at is the
# net effect: how much more than the strongest control of the same norm, each input its own comparison. Then the shares
# themselves, of all conflict inputs and of the inputs that the study reports, members of flip pairs, whose behaviour
# already hangs on the order.

# %%
controlled = [method for method in interventions if method != "shuffled NMD"]
outcomes = steering.on_test(test, interventions, controlled, neurons, run.rng)
pairs = behavior.flip_pairs(frames["test"], test.before.behavior)
in_pair = frames["test"].index.isin(pairs[["memorization", "generalization"]].to_numpy().ravel())
about = frames["test"][["group", "answer_memorization", "answer_generalization"]].assign(in_flip_pair=in_pair)
outcomes = outcomes.merge(about, left_on="input", right_index=True)
outcomes.to_parquet(run.path("outcomes.parquet"), index=False)

by_population = {"all": outcomes, "flip_pairs": outcomes[outcomes.in_flip_pair]}
net, rates, wide, shown = {}, {}, {}, {}
for population, result in by_population.items():
    rng = run.rng(f"net {population}")
    net[population] = steering.net_effect(result, controlled, rng, analysis.n_resamples)
    shown[population] = steering.beside_best_controls(result)
    whole = pd.concat([result[result.method.str.contains(": ")], shown[population]])
    rates[population] = steering.summarize(whole, run.rng(population), analysis.n_resamples)
    wide[population] = rates[population][rates[population].method.isin(shown["all"].method)]
    wide[population] = steering.rates_in_columns(wide[population])
order = list(interventions).index
shares = steering.shares(shown["all"])
shares = shares.sort_values("method", key=lambda names: names.str.split(": ").str[0].map(order), kind="stable")

# %%
nets = pd.concat([table.assign(inputs=name, target=table.target.map(behavior.NAMES)) for name, table in net.items()])
minus = run.table(
    nets,
    "net",
    caption="Share that reaches the target minus that under the best control (mean over its draws), paired by input, with "
    "intervals clustered by group: all conflict inputs of the test groups, and the members of flip pairs.",
)
bars = run.figure(
    figures.outcomes(shares),
    "outcomes",
    caption="What test inputs of the opposite behaviour become under each intervention and the strongest of its controls.",
    alt="Stacked bars for each method and target: memorization, generalization and other.",
    data=shares,
)
every = run.table(
    wide["all"],
    "all_conflicts",
    caption="All conflict inputs of the test groups: shares of those with the opposite behaviour, the interval of to_target "
    "clustered by group; wrong_way are those whose log-odds moved away from the target.",
)
members = f"The same for the members of the {len(pairs)} flip pairs of the test groups."
display(minus, bars, every, run.table(wide["flip_pairs"], "flip_pairs", caption=members))

# %% [markdown]
# ## Does an average hide an answer?
#
# A shift could be a direction towards some answers rather than towards a behaviour. So the rate is broken down by answer,
# memorized and inferred, and by group: the lowest answer and the lowest tenth of the groups tell what an average hides.

# %%
plain = outcomes[outcomes.method.isin(interventions)]
answers = steering.by_answer(plain)
answers["target"] = answers.target.map(behavior.NAMES)
shown = answers[(answers.method == HEADLINE) & (answers.kind == "memorization")]
if shown.empty:
    print("No answer has enough inputs to be told apart.")
else:
    chart = run.figure(
        figures.by_answer(shown),
        "by_answer",
        caption=f"Share of test inputs that {HEADLINE} moves to the target, by the memorized answer.",
        alt="For each memorized answer two points, one for each target, joined by a line.",
        data=answers,
    )
    display(chart)
worst = {
    "worst_answer": steering.worst_answers(plain, run.rng("worst answers"), analysis.n_resamples),
    "worst_groups": steering.worst_groups(plain, run.rng("worst groups"), analysis.n_resamples),
}
run.table(
    pd.concat([table.assign(of=of, target=table.target.map(behavior.NAMES)) for of, table in worst.items()]),
    "worst",
    caption="The lowest rate of any answer with five or more inputs (kind: whether by the memorized or the inferred answer), "
    "with n inputs; and the mean rate of the tenth of the groups with the lowest rates, with n groups.",
)

# %% [markdown]
# ## Dose and response
#
# The headline vector, weaker and stronger, and a random direction of the same norm, on validation groups: is the effect a
# switch or a slope, and how many inputs does it push the wrong way?
#
# The same for single inputs can be tried by hand on the page *Try it*. It shows a few test inputs, the first of each level
# of evidence (or of the share of training texts with the memorized answer), taken before anyone looked at outcomes.

# %%
doses, headline = [], interventions[HEADLINE]
for target in steering.TARGETS:
    rng, own = run.rng(f"dose {target}"), headline.shift(target)
    compared = {HEADLINE: own, "random direction": steering.random_direction(own, rng)}
    groups = frames["validation"].group
    doses.append(steering.dose_response(sweeps[target], MLP_SITE, compared, target, groups, rng, analysis.n_resamples))
doses = pd.concat(doses, ignore_index=True)
odds = doses[doses.measure == "log_odds"].rename(columns={"value": "log_odds"})
dose = run.figure(
    figures.dose(odds),
    "dose",
    caption="Mean log-odds of inputs of the opposite behaviour against the strength of the shift.",
    alt="Lines over the strength, one for each target; a panel for the fitted vector and one for a random direction.",
    data=odds,
)
shown = doses[doses.measure != "log_odds"]
dose_shares = run.figure(
    figures.dose_shares(shown),
    "dose_shares",
    caption="Share of the same inputs that reach the target, and that are pushed away from it, against the strength.",
    alt="Lines over the strength, one for each target; panels for the fitted vector and a random direction, by share.",
    data=shown,
)
display(dose, dose_shares)

examples = steering.first_of_levels(frames["test"], 20)
about = ["prompt", "group", "evidence", "memorized_share", "answer_memorization", "answer_generalization"]
tried = steering.answer_probabilities(model, examples, tokenizer, headline)
tried = tried.merge(examples[about], left_on="input", right_index=True).round(5)
tried.to_csv(run.path("tables", "try_it.csv"), index=False)
print(f"Try it: {len(examples)} inputs at {tried.alpha.nunique()} strengths")

# %% [markdown]
# ## Layers, sites, and an untrained network
#
# The headline vector with one layer left out, and with one layer alone, at the chosen strength (a vector that was chosen in
# a single layer has no parts); and vectors fitted on all layers of other sites. On validation groups.
#
# Could a fitted vector write any behaviour into any network? At last the same procedure on the same architecture with
# random weights, where no behaviour exists beforehand: the share of all conflict inputs of the test groups that reach each
# target. (A vector that writes one constant answer is right wherever that happens to be the target's.)

# %%
parts = [
    steering.rates_of(sweeps[target], MLP_SITE, steering.ablated(headline.shift(target)), target)
    for target in steering.TARGETS
]
parts = pd.concat(parts, ignore_index=True)
parts["target"] = parts.target.map(behavior.NAMES)
in_parts = run.figure(
    figures.parts(parts),
    "parts",
    caption=f"Share of validation inputs that reach the target under {HEADLINE}, whole and in parts.",
    alt="A row for the whole vector, for each layer left out and for each layer alone; a point for each target.",
    data=parts,
)

candidates = steering.layer_candidates(shape, analysis.norm_penalties[:1])
candidates = {target: {first: candidates[first]} for target in steering.TARGETS}
own = {"random control": steering.random_direction}
at_attention, _ = steering.sweep_fitted(sweeps, learn, "attn_out", candidates, analysis, own, run.rng("attn_out"))
sites = {"attn_out": at_attention, SITE: tables["gradient-guided"], MLP_SITE: tables[HEADLINE]}
sites = pd.concat([table[table.candidate == first].assign(site=site) for site, table in sites.items()])
sites["net"] = sites.to_target - sites["random control"]
best = sites.sort_values("net", ascending=False, kind="stable").drop_duplicates(["site", "target"]).sort_index()
best["target"] = best.target.map(behavior.NAMES)
at_sites = run.table(
    best[["site", "target", "strength", "norm", "to_target", "to_other", "random control", "net"]],
    "sites",
    caption="Vectors fitted on all layers of three sites with the same penalty, on validation groups, each at the strength "
    "with the largest net effect over random directions of the same norm.",
)
display(in_parts, at_sites)

blank = training.untrained(model, run.config.seed)
untrained = steering.on_untrained(blank, frames["train"], frames["test"], tokenizer, MLP_SITE, analysis, run.rng)
for target, estimate in untrained.items():
    print(f"an untrained network, to {behavior.NAMES[target]}: {estimate}")

# %% [markdown]
# ## Side effects
#
# What the same shifts do where there is only one right answer, and where there is none: the test prompts cut before their
# last token, so that the next token belongs to the prompt. There the distribution of the next token should stay as it
# was; KL(unsteered || steered) in nats tells how far it moves.

# %%
single = everything["test"][everything["test"].kind.isin(["memorized_only", "inferred_only"])]
prepared = behavior.prepare(model, single, tokenizer, analysis.batch_size, keep=analysis.n_tokens)
trials = steering.Trials(model, prepared, behavior.measure(model, prepared), analysis.n_tokens, analysis.random_draws)
losses = steering.losses(trials, single, interventions, run.rng("losses"), analysis.n_resamples)
costs = run.table(
    losses.assign(target=losses.target.map(behavior.NAMES)),
    "side_effects",
    caption="Accuracy on test inputs with one right answer, without and with each shift, and what is lost (value), paired by "
    "input. Memorized-only inputs need memorization; a shift towards generalization may cost them, and the other way round.",
)
divergences = steering.divergences(model, everything["test"], tokenizer, interventions, neurons, analysis, run.rng)
unrelated = run.table(
    divergences.assign(target=divergences.target.map(behavior.NAMES)),
    "unrelated",
    caption="Mean KL(unsteered || steered) in nats where the next token is no answer, under each shift and its random "
    "control, with intervals clustered by group.",
)
display(costs, unrelated)

# %%
NUMBERS = {
    "net_{target}_{method}": (
        net["all"],
        "{method} minus its best control, steering to {target}, all conflict inputs.",
    ),
    "net_flip_pairs_{target}_{method}": (
        net["flip_pairs"],
        "{method} minus its best control, to {target}, flip pairs.",
    ),
    "{measure}_{target}_{method}_all": (rates["all"], "{method}, steering to {target}, all: share with {measure}."),
    "{measure}_{target}_{method}_flip_pairs": (rates["flip_pairs"], "{method}, to {target}, flip pairs: {measure}."),
    "worst_answer_{target}_{method}": (
        worst["worst_answer"],
        "{method} to {target}: lowest share of any answer (n >= 5).",
    ),
    "worst_groups_{target}_{method}": (
        worst["worst_groups"],
        "{method} to {target}: mean of the lowest tenth of groups.",
    ),
    "loss_{inputs}_{target}_{method}": (losses, "Accuracy lost on {inputs} inputs when {method} steers to {target}."),
    "kl_{target}_{method}": (divergences, "{method} to {target}: mean KL where the next token is no answer."),
}
UNITS = {"net": "difference of shares", "loss": "accuracy 0-1", "kl": "nats"}  # the others are shares
for name, (table, definition) in NUMBERS.items():
    unit = UNITS.get(name.partition("_")[0], "share 0-1")
    run.record_rows(table.assign(target=table.target.map(behavior.NAMES)), name, definition=definition, unit=unit)
for target, estimate in untrained.items():
    told = f"Fitted on an untrained network, steering to {behavior.NAMES[target]}: share of all conflict inputs."
    run.record(f"untrained_{behavior.NAMES[target]}", estimate, definition=told, unit="share 0-1")
run.finish()

# %% [markdown]
# ## In this chapter we have seen
#
# We have counted the conflict inputs of the test groups that each shift moves, beside the strongest control of the
# same norm. Of the inputs with the opposite behaviour, the study's shift brings
# {glue:text}`to_target_generalization_study_all` to generalization and {glue:text}`to_target_memorization_study_all`
# to memorization; net of the control, that is {glue:text}`net_generalization_study` and
# {glue:text}`net_memorization_study` (percentage points). The shift fitted to MLP neurons brings
# {glue:text}`to_target_generalization_gradient-guided_MLP_all` to generalization and
# {glue:text}`to_target_memorization_gradient-guided_MLP_all` to memorization; net,
# {glue:text}`net_generalization_gradient-guided_MLP` and {glue:text}`net_memorization_gradient-guided_MLP`. Of a tenth
# of these neurons the chosen ones bring {glue:text}`to_target_generalization_gradient-guided_MLP_10%_all` to
# generalization and {glue:text}`to_target_memorization_gradient-guided_MLP_10%_all` to memorization, as many drawn at
# random {glue:text}`to_target_generalization_fitted_on_random_neurons_all` and
# {glue:text}`to_target_memorization_fitted_on_random_neurons_all`.
#
# An average hides less where its worst part is named: in the tenth of the groups with the lowest rates, the fitted
# shift brings {glue:text}`worst_groups_generalization_gradient-guided_MLP` to generalization and
# {glue:text}`worst_groups_memorization_gradient-guided_MLP` to memorization. Where there is one right answer, it costs
# {glue:text}`loss_inferred_only_generalization_gradient-guided_MLP` of the accuracy of inference when it steers to
# generalization, and {glue:text}`loss_memorized_only_memorization_gradient-guided_MLP` of that of memory when it
# steers to memorization.
