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
# **What is asked.** Claim c of the study: the behaviour can be steered at inference time by shifting a small set of
# neurons, without touching a parameter.
#
# **How.** A vector is added to the activations at the prompt's last token and at every token of the answer. Two ways to
# make it:
#
# - *The study's*: the $N$ neurons of the residual stream with the largest $|r|$ over all layers, each shifted by
#   $\alpha \cdot \mathrm{sign}(r_i) \cdot |\mathrm{NMD}_i|$ towards memorization, and by the opposite towards
#   generalization.
# - *Gradient-guided*: a vector fitted by gradient descent on $-\log p(\text{target answer})$, averaged over training
#   inputs, with a penalty on its norm; once for the residual stream, once for the hidden layers of the MLPs. The model's
#   parameters stay as they are.
#
# **Controls.** Any disturbance may break one behaviour and let the other answer. So beside each shift stand random ones of
# the same norm, and what counts is the *net* effect: the share of inputs that reach the target, minus the share that
# reaches it under the control. Everything is chosen on validation groups by the largest net effect ($N$, $\alpha$, layers,
# strength), under one rule: at most 3 % of the answers may become "other", since a shift that merely breaks the model is
# damage. Test groups are looked at once, at the end.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default or paper
task: str = "inference"  # inference or addition
model: str = ""  # a name such as gpt2-3x64; empty: the first that the profile names for the task
seed: int = 0  # 0 or more
results: str = "results"  # the folder that holds the results
top_n: int = 0  # the number of neurons that the study's intervention shifts; 0: chosen on validation groups

# %%
from memgen import report

run = report.begin("steering", globals())

# %%
import pandas as pd
from transformers import AutoTokenizer

from memgen import activations, behavior, config, steering, tasks, training
from memgen.figures import steering as figures

SITE, MLP_SITE, N_TOKENS = "resid_post", "mlp.hook_post", 1
model = training.load_model(run.input("training", "model"))
tokenizer = AutoTokenizer.from_pretrained(run.input("training", "model"))
neurons = pd.read_parquet(run.input("localization", "neurons.parquet"))
analysis = run.config.analysis
shape = (len(activations.blocks(model)), activations.width(model, SITE))
total = shape[0] * shape[1]
counts = [top_n] if top_n else sorted({config.fraction_to_count(f, total) for f in analysis.top_fractions})
steering.top_neurons(neurons, SITE, max(counts))  # refuses an N beyond the number of neurons before anything runs
print(f"{total} neurons at {SITE}; N is one of {counts}, alpha one of {list(analysis.alphas)}")

# %% [markdown]
# ## The inputs
#
# An intervention leaves all tokens before the query alone, so their keys and values are computed once and every trial
# starts from there.

# %%
query_length = tasks.from_config(run.config).query_length
frames, trials = {}, {}
for split in ("train", "validation", "test"):
    frame = pd.read_parquet(run.input("data", f"{split}.parquet"))
    frames[split] = frame[frame.kind == "conflict"]
train_labels = pd.read_parquet(run.input("training", "behavior", "train.parquet")).behavior[frames["train"].index]
for split in ("validation", "test"):
    prepared = behavior.prepare(model, frames[split], tokenizer, analysis.batch_size, keep=query_length)
    before = behavior.measure(model, prepared)
    trials[split] = steering.Trials(model, prepared, before, N_TOKENS, analysis.random_draws)

# %% [markdown]
# ## The study's intervention: N and alpha
#
# Each combination is tried on validation inputs that show the opposite behaviour.

# %%
tried = steering.sweep_study(trials["validation"], neurons, SITE, counts, analysis.alphas, run.rng("sweep"))
shown = tried.assign(target=tried.target.map(behavior.NAMES), share=tried.to_target, method="study")
run.figure(
    figures.sweep(shown[["n", "alpha", "target", "share", "method"]]),
    "sweep",
    caption="Share of validation inputs of the opposite behaviour that reach the target, by the number of neurons N and "
    "the strength alpha.",
    alt="Two heat maps of N by alpha, one for each target.",
    data=shown,
)

# %%
interventions, vectors = {}, {}
chosen = {target: steering.choose(tried, target, analysis.max_other) for target in steering.TARGETS}
for target, row in chosen.items():
    vectors[behavior.NAMES[target]] = target * steering.study_shift(neurons, SITE, int(row.n), row.alpha, shape)
    print(
        f"to {behavior.NAMES[target]}: N = {row.n:.0f}, alpha = {row.alpha:g}: {row.to_target:.1%}, control {row.control:.1%}"
    )
how = {
    "method": "alpha * sign(r) * |NMD| on the top N neurons by |r|",
    "N": {behavior.NAMES[target]: int(row.n) for target, row in chosen.items()},
    "alpha": {behavior.NAMES[target]: float(row.alpha) for target, row in chosen.items()},
    "chosen": f"largest net effect on validation groups with at most {analysis.max_other:.0%} other answers",
}
interventions["study"] = steering.Intervention(SITE, N_TOKENS, **vectors, how=how)

# %% [markdown]
# ## The gradient-guided interventions: layers and strength
#
# One vector is fitted for each layer alone and one for all layers together, on training inputs that show the opposite
# behaviour, and tried at several strengths; validation groups choose.

# %%
learn = {}
for target in steering.TARGETS:
    opposite = frames["train"][train_labels == -target]
    rows = opposite.sample(min(len(opposite), analysis.fit_rows), random_state=run.rng(f"fit {target}"))
    learn[target] = behavior.prepare(model, rows, tokenizer, analysis.batch_size, keep=query_length)

fits = []
for method, site in (("gradient-guided", SITE), ("gradient-guided MLP", MLP_SITE)):
    fit, shifts = steering.sweep_fitted(trials["validation"], learn, site, analysis, run.rng(method))
    fits.append(fit.assign(method=method))
    chosen = {target: steering.choose(fit, target, analysis.max_other) for target in steering.TARGETS}
    vectors = {behavior.NAMES[t]: row.strength * shifts[t, row.layers] for t, row in chosen.items()}
    how = {
        "method": "fitted by gradient descent on -log p(target answer) with a norm penalty",
        "N": "all neurons of the layers",
        "alpha": {behavior.NAMES[target]: float(row.strength) for target, row in chosen.items()},
        "chosen": f"largest net effect on validation groups with at most {analysis.max_other:.0%} other answers",
    }
    interventions[method] = steering.Intervention(site, N_TOKENS, **vectors, how=how)
for method, intervention in interventions.items():
    intervention.save(run.path("interventions"), method.replace(" ", "_"))

# %%
fits = pd.concat(fits, ignore_index=True)
fits["target"] = fits.target.map(behavior.NAMES)
fits.to_csv(run.path("tables", "all_fits.csv"), index=False)
best = fits.loc[fits.groupby(["method", "target", "layers"], sort=False).net.idxmax()]
run.table(
    best[["method", "target", "layers", "strength", "norm", "to_target", "to_other", "control", "net"]],
    "fits",
    caption="Fitted vectors on validation groups, by layers, at the strength with the largest net effect: their norm, "
    "what becomes of inputs of the opposite behaviour, and how many reach the target under random directions of the "
    "same norm.",
)

# %% [markdown]
# ## Test groups
#
# All interventions, and their controls of the same norm: for the study's, as many neurons drawn at random among the
# others; for the gradient-guided ones, random directions on the same neurons. Each control is drawn anew several times.

# %%
before = trials["test"].before
pairs = behavior.flip_pairs(frames["test"], before.behavior)
in_pair = frames["test"].index.isin(pairs[["memorization", "generalization"]].to_numpy().ravel())

parts = []
for method, intervention in interventions.items():
    draw = steering.random_neurons if method == "study" else steering.random_direction
    for target in steering.TARGETS:
        shift, rng = intervention.shift(target), run.rng(f"controls of {method} {target}")
        shifts = [(method, shift)]
        shifts += [(f"{method}: random control", draw(shift, rng)) for _ in range(analysis.random_draws)]
        for name, vector in shifts:
            after = trials["test"].run(intervention.site, vector)
            parts.append(steering.outcomes(before, after, target, name))
outcomes = pd.concat(parts, ignore_index=True)
about = frames["test"][["group", "answer_memorization"]].assign(in_flip_pair=in_pair)
outcomes = outcomes.merge(about, left_on="input", right_index=True)
outcomes.to_parquet(run.path("outcomes.parquet"), index=False)

# %% [markdown]
# ### All conflict inputs

# %%
shares = steering.shares(outcomes)
run.figure(
    figures.outcomes(shares),
    "outcomes",
    caption="What test inputs of the opposite behaviour become under each intervention and its control.",
    alt="Stacked bars for each method and target: memorization, generalization and other.",
    data=shares,
)

# %%
results = {
    "all": steering.summarize(outcomes, run.rng("all"), analysis.n_resamples),
    "flip_pairs": steering.summarize(outcomes[outcomes.in_flip_pair], run.rng("flip pairs"), analysis.n_resamples),
}
run.table(
    results["all"].assign(target=results["all"].target.map(behavior.NAMES)),
    "all_conflicts",
    caption="All conflict inputs of the test groups: shares of those with the opposite behaviour, with intervals clustered "
    "by group; wrong_way are those whose log-odds moved away from the target.",
)

# %% [markdown]
# ### Flip pairs
#
# The inputs that the study reports: members of pairs whose behaviour already hangs on the order.

# %%
run.table(
    results["flip_pairs"].assign(target=results["flip_pairs"].target.map(behavior.NAMES)),
    "flip_pairs",
    caption=f"The same for the members of the {len(pairs)} flip pairs of the test groups.",
)

# %% [markdown]
# ### Method minus control
#
# The first number to look at: how much more than a random vector of the same norm. Each input is its own comparison.

# %%
net = steering.net_effect(outcomes, list(interventions), run.rng("net"), analysis.n_resamples)
run.table(
    net.assign(target=net.target.map(behavior.NAMES)),
    "net",
    caption="Share that reaches the target minus that of the control (mean over its draws), paired by input.",
)

# %% [markdown]
# ## Does an average hide an answer?
#
# A shift could be a direction towards some answers rather than towards a behaviour. So the rate is broken down by the
# memorized answer.

# %%
guided = outcomes[(outcomes.method == "gradient-guided") & (outcomes.behavior_before == -outcomes.target)]
by_answer = guided.assign(hit=guided.behavior_after == guided.target).groupby(["answer_memorization", "target"]).hit
by_answer = by_answer.agg(rate="mean", n="size").reset_index().rename(columns={"answer_memorization": "answer"})
by_answer["target"] = by_answer.target.map(behavior.NAMES)
run.figure(
    figures.by_answer(by_answer),
    "by_answer",
    caption="Share of test inputs that the gradient-guided intervention moves to the target, by the memorized answer.",
    alt="For each memorized answer two points, one for each target, joined by a line.",
    data=by_answer,
)

# %% [markdown]
# ## Dose and response
#
# The same vectors, weaker and stronger, on validation groups: is the effect a switch or a slope?

# %%
doses = []
for target in steering.TARGETS:
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0):
        after = trials["validation"].run(SITE, strength * interventions["gradient-guided"].shift(target))
        moved = steering.mean_log_odds(
            trials["validation"].before,
            after,
            target,
            frames["validation"].group,
            run.rng(f"dose {target} {strength}"),
            analysis.n_resamples,
        )
        doses.append({"alpha": strength, "target": behavior.NAMES[target], **moved})
doses = pd.DataFrame(doses)
run.figure(
    figures.dose(doses),
    "dose",
    caption="Mean log-odds of inputs of the opposite behaviour against the strength of the gradient-guided shift.",
    alt="Two lines over the strength, one for each target.",
    data=doses,
)

# %% [markdown]
# ## Side effects
#
# What the same shifts do where there is only one right answer.

# %%
everything = pd.read_parquet(run.input("data", "test.parquet"))
single = everything[everything.kind.isin(["memorized_only", "inferred_only"])]
ready = behavior.prepare(model, single, tokenizer, analysis.batch_size, keep=query_length)
rows = []
for kind in ("memorized_only", "inferred_only"):
    plain = behavior.accuracy(single, behavior.measure(model, ready).behavior, kind)
    for method, intervention in interventions.items():
        for target in steering.TARGETS:
            shift = intervention.shift(target).to(model.device)
            context = steering.adding(model, intervention.site, shift, N_TOKENS)
            steered = behavior.accuracy(single, behavior.measure(model, ready, context).behavior, kind)
            rows.append(
                {
                    "method": method,
                    "target": behavior.NAMES[target],
                    "inputs": kind,
                    "plain": plain,
                    "steered": steered,
                }
            )
side_effects = pd.DataFrame(rows)
run.table(
    side_effects,
    "side_effects",
    caption="Accuracy on test inputs with one right answer, without and with each shift. Memorized-only inputs need "
    "memorization; a shift towards generalization may cost them, and the other way round.",
)

# %% [markdown]
# ## The numbers

# %%
for population, result in results.items():
    for row in result.itertuples():
        method = row.method.replace(": ", "_").replace(" ", "_")
        run.record(
            f"{row.measure}_{behavior.NAMES[row.target]}_{method}_{population}",
            row.value,
            interval=(row.low, row.high),
            definition=f"{row.method}, steering to {behavior.NAMES[row.target]}, {population}: share with {row.measure}.",
            unit="share 0-1",
            n=row.n,
        )
for row in net.itertuples():
    run.record(
        f"net_{behavior.NAMES[row.target]}_{row.method.replace(' ', '_')}",
        row.value,
        interval=(row.low, row.high),
        definition=f"{row.method} minus its control, steering to {behavior.NAMES[row.target]}, all conflict inputs.",
        unit="difference of shares",
        n=row.n,
    )
for row in side_effects.itertuples():
    run.record(
        f"loss_{row.inputs}_{row.target}_{row.method.replace(' ', '_')}",
        row.plain - row.steered,
        definition=f"Accuracy lost on {row.inputs} inputs when {row.method} steers to {row.target}.",
        unit="accuracy 0-1",
        n=int((single.kind == row.inputs).sum()),
    )
run.finish()

# %% [markdown]
# In this chapter we have tried to steer the behaviour in both directions with vectors chosen on other groups, and set
# beside every rate what a random vector of the same norm does, which answers it holds for, and what it costs.
