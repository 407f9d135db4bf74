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
# # Synthesis
#
# ## What is asked
#
# What is left of each claim when every number stands over several seeds, each trained anew, with its
# interval and beside its control? All numbers of this chapter are read from the `metrics.json` files of the runs.
#
# ## How
#
# Of each number, the mean $\bar x$ over $S$ seeds, and Student's 95 % interval, with $s$ the seeds' standard deviation:
#
# $$\bar x \pm t_{0.975,\,S-1}\,\frac{s}{\sqrt{S}}.$$
#
# It says what to expect of a *new* seed's mean, not of a new input, and with three seeds it is wide.
#
# ## Controls
#
# Beside a probe stands the best baseline that sees the input alone; beside a shift the strongest control of its norm, and
# a vector fitted on random neurons; beside a difference of activations what chance gives. What was to be reached, and the
# rule for each verdict, were written down before the runs.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/: smoke, default, full or paper
results: str = "results"  # the folder that holds the results

# %%
from memgen import report

run = report.begin("synthesis", globals())

# %%
from IPython.display import display

from memgen import synthesis
from memgen.figures import synthesis as figures

metrics = run.metrics(comparisons=False)
metrics["run"] = synthesis.run_names(metrics)
n_seeds = metrics.seed.nunique()
published = run.published()
print(f"{len(run.cells())} runs; here: {', '.join(metrics.run.unique())}; {n_seeds} seeds")
print(published.label if published else "There are no published results.")

# %% [markdown]
# ## What was to be reached
#
# These bars were set before the runs: the study's numbers, and what makes them mean something. They hold for the fitted
# shift of MLP neurons (its small form: a tenth of these neurons). A row with two sides (targets, tasks' inputs, answers)
# counts the worse one of each seed.

# %%
reach = synthesis.reach(metrics)
run.table(
    reach,
    "reach",
    caption="What was to be reached, and the mean over seeds with its 95 % interval; n seeds.",
)

# %%
for row in reach.itertuples():
    if row.n:
        run.record(
            f"reach: {row.measure} ({row.task})",
            row.value,
            interval=(row.low, row.high),
            definition=f"Mean over seeds of: {row.measure}; to be reached: {row.bar}.",
            unit="share 0-1",
            n=row.n,
        )

# %% [markdown]
# The same from the published results, which have more seeds. Both come from the same recipe: their intervals should
# overlap.

# %%
if published:
    same = published.metrics.set_index(["task", "model"]).index.isin(metrics.set_index(["task", "model"]).index)
    theirs = published.metrics[same].assign(run=synthesis.run_names).reset_index(drop=True)
    beside = reach.merge(synthesis.reach(theirs), on=["task", "measure", "bar"], suffixes=("", "_published"))
    beside["agree"] = (beside.low <= beside.high_published) & (beside.low_published <= beside.high)
    display(run.table(beside, "published", caption=f"The same rows, here and published. {published.label}."))
else:
    print("Nothing was published yet: make publish PROFILE=full does it after such a run.")

# %% [markdown]
# ## Headline numbers
#
# The mean over seeds with its interval. For a share it may even leave the range from 0 to 1, where the table of claims
# shows it as it is and figures cut it off. A single seed has no interval. *Net* is the share that reaches the target minus
# the share under the best control of the same norm.

# %%
headline = synthesis.headline(metrics)
summary = synthesis.over_seeds(headline)
run.figure(
    figures.headline(headline, summary),
    "headline",
    caption="Headline numbers: a dot for each seed, the mean and its 95 % interval over seeds.",
    alt="For each measure, a row of dots for the seeds with their mean and interval; one panel for each task.",
    data=headline,
)

# %%
run.table(summary, "headline", caption="Headline numbers over seeds: mean, 95 % interval, number of seeds.")

# %%
for row in summary.itertuples():
    run.record(
        f"{row.task}: {row.measure}",
        row.value,
        interval=(row.low, row.high),
        definition=f"Mean over seeds of: {row.measure} ({row.task}).",
        unit=row.unit,
        n=row.n,
    )

# %% [markdown]
# ## Steering at a glance
#
# Each intervention in both directions; the mark on each bar is the best control of the same norm. A long bar means little
# where the mark lies far out, too. The last row asks whether localization is needed: a vector fitted on a tenth of the
# neurons, drawn at random.

# %%
steered = synthesis.steering_rates(metrics)
run.figure(
    figures.steering(steered),
    "steering",
    caption="Share of all conflict inputs of the opposite behaviour that each shift brings to the target: mean and 95 % "
    "interval over seeds; marks: the best control of the same norm.",
    alt="Horizontal bars for each method, one towards memorization and one towards generalization, each with a mark for its "
    "control, and a panel for each task.",
    data=steered,
)

# %%
run.table(
    steered,
    "steering_net",
    caption="The same with the net effect, its 95 % interval over seeds, and a t-test of it against no effect; q_value is "
    "corrected for all rows of the table (Benjamini-Hochberg).",
)

# %% [markdown]
# ## Where the difference begins
#
# The study finds the difference near zero in early layers and growing with depth. For each layer, how many times the
# chance level is the mean |NMD|, and how often does patching that layer's residual stream turn the behaviour?

# %%
depth = synthesis.depth(metrics)
run.figure(
    figures.depth(depth),
    "depth",
    caption="Mean |NMD| at the residual stream over its chance level, by layer; a line for each seed.",
    alt="Lines over layers, one for each seed; a panel for each task.",
    data=depth,
)

# %% [markdown]
# ## Claim by claim
#
# The rule for each verdict was fixed before the numbers: *holds* where the interval over seeds (or, with one seed, the
# mean) lies wholly above the bar named in the table, *in part* where only some of the conditions do, *does not hold*
# where none does.
#
# Claims 0 and a to c are the study's. Claim d is what its title says, *neuron-level* differentiation, put so that it can
# fail: against the view that memorization is distributed and built on the circuit that generalizes.

# %%
claims = synthesis.claims(metrics)
verdicts = claims.pivot_table(
    index="claim", columns="task", values="verdict", aggfunc="first", sort=False
).reset_index()
run.table(verdicts, "verdicts", caption="The verdict on each claim, for each task and form.")

# %%
run.table(
    claims,
    "claims",
    caption="The study's claims, the numbers it reports, what came out here (mean over seeds and 95 % interval), the "
    "strongest control beside it, and whether the claim holds on these models.",
)

# %% [markdown]
# ## What this does not show
#
# The models are small and the tasks synthetic; the conflict is part of the training texts, graded by us. In the study's
# forms the memorized answers have a format of their own (tags, a second palette of colours); the matched forms tell what
# is left without it. A steering vector that works is weak evidence of *where* a behaviour lives: the row of random
# neurons says how weak. The page on limits says what else is missing.

# %%
run.finish()

# %% [markdown]
# ## In this chapter we have seen
#
# We have put the seeds together. In the study's forms they say of each claim:
#
# - Claim 0, that the model shows both behaviours: {glue:text}`verdict_0_inference` for inference and
#   {glue:text}`verdict_0_addition` for addition.
# - Claim a, that neurons differ, more with depth: {glue:text}`verdict_a_inference` for inference and
#   {glue:text}`verdict_a_addition` for addition.
# - Claim b, that hidden states predict the behaviour: {glue:text}`verdict_b_inference` for inference and
#   {glue:text}`verdict_b_addition` for addition.
# - Claim c, that it can be steered, by the study's shift: {glue:text}`verdict_c_the_study_s_shift_inference` for
#   inference and {glue:text}`verdict_c_the_study_s_shift_addition` for addition; by a fitted shift of MLP neurons:
#   {glue:text}`verdict_c_a_fitted_shift_of_MLP_neurons_inference` for inference and
#   {glue:text}`verdict_c_a_fitted_shift_of_MLP_neurons_addition` for addition.
# - Claim d, that distinct neurons carry it: {glue:text}`verdict_d_inference` for inference and
#   {glue:text}`verdict_d_addition` for addition.
#
# Of the conflict inputs with the opposite behaviour, the fitted shift brings
# {glue:text}`reach_to_generalization_inference` of the stories and {glue:text}`reach_to_generalization_addition` of
# the sums to generalization, and {glue:text}`reach_to_memorization_inference` and
# {glue:text}`reach_to_memorization_addition` to memorization, where n counts seeds; the best control of equal norm
# brings {glue:text}`reach_best_control_of_equal_norm_inference` and
# {glue:text}`reach_best_control_of_equal_norm_addition`.
