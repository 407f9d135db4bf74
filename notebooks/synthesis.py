# %% [markdown]
# # Synthesis
#
# **Question.** What is left of each claim of the study when every number stands over several seeds, each trained anew,
# with its interval and beside its control?
#
# **Answer.**
#
# | Claim | Inference | Addition |
# | --- | --- | --- |
# | 0. A model shows both behaviours | {glue:text}`verdict_0_inference` | {glue:text}`verdict_0_addition` |
# | a. Its states differ between them, more with depth | {glue:text}`verdict_a_inference` | {glue:text}`verdict_a_addition` |
# | b. They tell the behaviour, better than a predictor without them | {glue:text}`verdict_b_inference` | {glue:text}`verdict_b_addition` |
# | c. The study's shift steers to generalization | {glue:text}`verdict_c1_inference` | {glue:text}`verdict_c1_addition` |
# | c. The study's shift steers to memorization | {glue:text}`verdict_c2_inference` | {glue:text}`verdict_c2_addition` |
# | d. Distinct neurons carry the difference | {glue:text}`verdict_d_inference` | {glue:text}`verdict_d_addition` |
#
# These verdicts are {glue:text}`status_inference` for inference and {glue:text}`status_addition` for addition. Results of
# the seeds 0 to 7 were known before some choices were made (probes of all layers, the rule for the dose, the rule for
# these verdicts), so whatever rests on them is *exploratory*; only other seeds can confirm.
# [The table](#table-same_model) and the two after it lay the study's numbers beside ours, cell by cell.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/, such as smoke, default or full
results: str = "results"  # the folder that holds the results

# %%
from memgen.run import begin

run = begin("synthesis", profile=profile, results=results)

# %%
import itertools

import pandas as pd
from IPython.display import display

from memgen import study
from memgen.figures import synthesis as figures
from memgen.manifest import load_metrics
from memgen.synthesis import cells, summary, verdicts

# %% [markdown]
# The numbers of this chapter come from the `metrics.json` files of the runs. Comparisons with other models and mixes of
# texts have their own chapter; of them only matched forms count here.

# %%
metrics = run.metrics(comparisons=False)
everything = run.metrics()
first_model = {cell.task: cell.model for cell in run.config.shown()}
print(f"{', '.join(metrics.task.unique())}: seeds {', '.join(map(str, sorted(metrics.seed.unique())))}")

# %% [markdown]
# ## The verdicts
#
# Each task has six primary endpoints, with a value for each seed. Two questions decide. Is there an *effect*: does
# Student's t-test over seeds reject the value that an empty claim gives, at the level of [5 %]{.set}, Holm-corrected for the six?
# And is the *reported size excluded*: does the 95 % interval of the mean over seeds end below it?
#
# |  | reported size not excluded | reported size excluded |
# | --- | --- | --- |
# | **effect** | replicated | smaller than reported |
# | **no effect** | not testable here | not replicated |
#
# A null result has no effect, and cannot be *replicated* more often than the tests err. A claim about steering is
# *replicated* only if the shift also costs at most [10 points]{.set} of accuracy on any kind of input with one right
# answer, and if at least [half]{.set} of the effect is left where both answers have the same format: in the matched form
# of addition (those of inference have one format by nature). Otherwise it counts as *smaller than reported*. Three seeds
# or fewer have no interval, and what was not measured fulfils nothing: both are *not testable here*. What was measured on
# the study's own split, with groups that the analysis was fitted on, decides nothing.

# %%
table = verdicts.verdicts(metrics, matched=everything)

# %% tags=["main-figure"]
shown = ["claim", "endpoint", "task", "reported", "value", "ci_low", "ci_high", "n", "verdict", "status"]
run.table(
    table[shown].sort_values("claim", kind="stable"),
    "verdicts",
    caption="Each claim's endpoint: what the study reports or implies, the mean over n seeds with its 95 % interval, and "
    "the verdict.",
)

# %% [markdown]
# The same rule on the published results of the profile `full`, which has more seeds, if there are any.

# %%
published = run.published()
if published:
    models, tasks = list(metrics.model.unique()), list(metrics.base_task.unique())
    same_runs = published.metrics.query("model in @models and base_task in @tasks")
    published_table = verdicts.verdicts(same_runs, matched=same_runs)
    caption = f"Each claim's endpoint from published results. {published.label}."
    display(
        run.table(published_table[shown].sort_values("claim", kind="stable"), "published_verdicts", caption=caption)
    )

# %% [markdown]
# Where the study gives no comparable number, the reported size is what its words imply (`source`). `detectable` is the
# smallest effect that the seeds' scatter would have let the test see with a power of [80 %]{.set}, at the strictest level that
# Holm's correction can ask for. `lost` is the accuracy that steering costs on the worst kind of input, `matched` the
# same effect in the matched form; both are means over seeds.

# %%
details = ["claim", "task", "model", "source", "p", "p_holm", "detectable", "lost", "matched", "verdict", "status"]
run.table(
    table[details].sort_values("claim", kind="stable"),
    "tests",
    caption="The test behind each verdict, and what a verdict on steering asks besides.",
)

# %%
for unit, rows in table.groupby("unit", sort=False):
    run.record_table(
        rows,
        measure="endpoint",
        definition="Claim {claim}, {endpoint}: mean over seeds; verdict: {verdict} ({status}).",
        unit=unit,
        coordinates=["task", "model", "claim"],
    )

# %% [markdown]
# ## The study's tables, with ours in every cell
#
# The study gives shares in percent of inputs that show the opposite behaviour: how many reach the target, stay, or do
# something else. Ours are means over seeds, with their interval where there are four or more. What is measured on *the
# study's split* is on new inputs about groups that are in the training split, too, since the study splits its inputs at
# random; *new groups* are in no other split. An empty cell was not measured.

# %%
graded = run.published("graded")
of_shown = metrics[metrics.model == metrics.base_task.map(first_model)]
measured = [
    cells.same_model(of_shown),
    cells.retrained_model(load_metrics(run.input("carryover", "metrics.json").parent)),
]
if graded:
    measured.append(cells.other_task(graded.table("carryover", "tasks_shifts")))
measured = pd.concat(measured, ignore_index=True)
in_cells = cells.beside(study.STEERING, measured)

# %% [markdown]
# Its Table 1: the model that the shift was computed from. Its random shift goes up to the largest part of the real one,
# and breaks whatever it touches; a control of equal norm does not.


# %%
def show_cells(name, settings, caption):
    """Table of the study's and our shares in some of its settings."""
    return run.table(
        cells.in_percent(in_cells[in_cells.setting.isin(settings)]),
        name,
        caption=f"{caption} Percent of inputs of the opposite behaviour, the study's ({study.SOURCE}) and ours over n seeds.",
    )


# %%
show_cells("same_model", ["scratch", "lora", "random"], "The study's shift, and random ones, in the same model.")

# %% [markdown]
# Its Table 3: a retrained model. The study trains a second adapter on one base model; ours are models from scratch with
# another seed, where an index means nothing, so that neurons are also matched by correlation.

# %%
show_cells("retrained_model", ["retrained"], "The study's shift of one model in a retrained one.")

# %% [markdown]
# Its Table 4: neurons of the other task. It needs one model that does both. Ours has learned both tasks of the *graded*
# design, and its shifts are fitted ones, so these cells show how far a switch can be general, not the study's measurement.

# %%
note = f" Ours: {graded.label}." if graded else ""
show_cells("other_task", ["other_task"], f"The other task's neurons.{note}")

# %%
run.figure(
    figures.cells(in_cells),
    "cells",
    caption="Every cell of the study's tables: its share (diamond), and our mean over seeds with its 95 % interval.",
    data=in_cells,
)

# %%
run.record_table(
    measured.dropna(subset="value"),
    measure="table_cell",
    definition="{setting}, {ours}, {task}, to {target}: share of inputs that {outcome}, mean over seeds.",
    unit="share 0-1",
    coordinates=["setting", "ours", "task", "target", "outcome"],
)

# %% [markdown]
# ## Headline numbers
#
# Of each number the mean over seeds, with Student's 95 % interval on the logit scale, which stays between its bounds. It
# says how well the *mean* is known. What to expect of *a new seed* is wider: its 95 % prediction interval is `new_low` to
# `new_high`. Three seeds or fewer have neither; their dots are all there is. *Net* is the share of inputs that reach the
# target minus the share under the strongest control of the same norm.

# %%
headline = summary.headline(metrics)
headline_means = summary.over_seeds(headline, ["task", "model", "unit"])
run.figure(
    figures.quantities(headline, headline_means, "task"),
    "headline",
    caption="Headline numbers: a dot for each seed, and the mean over seeds with its 95 % interval.",
    data=headline[["task", "model", "quantity", "seed", "value"]],
)

# %%
run.table(
    headline_means,
    "headline",
    caption="Means over n seeds with their 95 % intervals, and the 95 % prediction interval of a new seed.",
)

# %%
for unit, rows in headline_means.groupby("unit", sort=False):
    run.record_table(
        rows,
        measure="headline",
        definition="{quantity}: mean over seeds.",
        unit=unit,
        coordinates=["task", "model", "quantity"],
    )

# %% [markdown]
# ## Steering at a glance
#
# Each intervention in both directions, and addition in its matched form, too; the mark on each bar is the strongest
# control of the same norm. A long bar means little where the mark lies far out, too. The last row asks whether
# localization is needed: a vector fitted on a tenth of the neurons, drawn at random.

# %%
matched = everything.query("form == 'matched' and model in @first_model.values()")
steering = summary.steering_rates(pd.concat([metrics.query("task == base_task"), matched], ignore_index=True))
run.figure(
    figures.steering(steering),
    "steering",
    caption="Share of the conflicts of the opposite behaviour that each shift brings to the target: mean and 95 % interval "
    "over seeds; marks: the strongest control.",
    data=steering,
)

# %% [markdown]
# The net effect with its interval, a t-test over seeds, corrected for all rows (`q_value`, Benjamini-Hochberg), and what
# the shift costs on inputs with one right answer (`lost`, the worst of their kinds).

# %%
run.table(
    steering.drop(columns="base_task"),
    "steering",
    caption="Rates, net effects and costs of every method: means over n seeds.",
)

# %%
where = ["task", "model", "method", "target"]
mean = "{method}, to {target}: mean over seeds of the "
share, points = "share 0-1", "difference of shares"
net = steering.assign(value=steering.net, ci_low=steering.net_low, ci_high=steering.net_high).dropna(subset="value")
run.record_table(steering, measure="reached", definition=mean + "share reached.", unit=share, coordinates=where)
run.record_table(net, measure="net", definition=mean + "net effect.", unit=points, coordinates=where)

# %% [markdown]
# Controls and costs are means without an interval.

# %%
plain = steering.drop(columns=["value", "ci_low", "ci_high"])
control = plain.rename(columns={"control": "value"}).dropna(subset="value")
cost = plain.rename(columns={"lost": "value"}).dropna(subset="value")
run.record_table(
    control, measure="best_control", definition=mean + "share under the best control.", unit=share, coordinates=where
)
run.record_table(cost, measure="lost", definition=mean + "accuracy lost.", unit=points, coordinates=where)

# %% [markdown]
# ## Where the difference begins
#
# The study finds the difference near zero in early layers and growing with depth. How well do the states of each layer
# separate the two members of a pair, on groups that the separating direction has not seen? One half is chance.

# %%
separation = verdicts.on_test_groups(metrics).query("measure == 'pair_auroc' and site == 'resid_post'")
if len(separation):
    depth = separation[["base_task", "form", "seed", "layer", "value", "ci_low", "ci_high", "n"]].astype({"layer": int})
    chart = figures.depth(depth, "form")
    display(
        run.figure(
            chart, "depth", caption="AUROC of within-pair differences by layer; a line for each seed.", data=depth
        )
    )

# %% [markdown]
# ## Numbers for the text
#
# Verdicts and numbers of each task's first model in the study's form, for this page and the first one.

# %%
TASKS = ("inference", "addition")
for row in table.itertuples():
    if row.model == first_model.get(row.task):
        run.glue_text(f"verdict_{row.claim}_{row.task}", verdicts.in_words(row))
for task, rows in table.groupby("task"):
    run.glue_text(f"status_{task}", rows.status.iloc[0])

# %%
for task, endpoint in itertools.product(TASKS, verdicts.ENDPOINTS):
    found = published_table.query("task == @task and claim == @endpoint.claim") if published else table[:0]
    words = verdicts.in_words(next(found.itertuples())) if len(found) else "not measured"
    run.glue_text(f"published_verdict_{endpoint.claim}_{task}", words)

# %% [markdown]
# A task that the profile lacks is *not measured*.

# %%
for task in set(TASKS) - set(first_model):
    for key in ("status", *(f"verdict_{endpoint.claim}" for endpoint in verdicts.ENDPOINTS)):
        run.glue_text(f"{key}_{task}", "not measured")

# %%
QUANTITIES = {
    "prediction": "prediction, conflicts",
    "best_baseline": "best predictor without states, conflicts",
}
for task in TASKS:
    this = f"task == '{task}' and model == '{first_model.get(task)}'"
    for key, quantity in QUANTITIES.items():
        run.glue(f"{key}_{task}", f"measure == 'headline' and quantity == @name and {this}", name=quantity)
    for method in ("study", "fitted_mlp", "fitted_random_tenth"):
        for target, measure in itertools.product(verdicts.STEERED.values(), ("reached", "net", "lost")):
            these = f"method == '{method}' and target == '{target}' and {this}"
            run.glue(f"{measure}_{target}_{method}_{task}", f"measure == '{measure}' and {these}")

# %%
run.finish()

# %% [markdown]
# ## What this means
#
# - A claim that is *not testable here* is neither right nor wrong: the seeds scatter too much, or are too few, to tell its
#   reported size from nothing.
# - Telling the behaviour counts only beyond what the input alone tells: on conflicts the probe is right for
#   {glue:text}`prediction_inference` (inference) and {glue:text}`prediction_addition` (addition), the best predictor
#   without hidden states for {glue:text}`best_baseline_inference` and {glue:text}`best_baseline_addition`.
# - Steering counts only beyond what any shift of the same norm does: net of its strongest control, the study's shift moves
#   {glue:text}`net_generalization_study_inference` (inference) and {glue:text}`net_generalization_study_addition`
#   (addition) to generalization, and {glue:text}`net_memorization_study_inference` and
#   {glue:text}`net_memorization_study_addition` to memorization.
# - A shift that costs accuracy where there is nothing to decide is a switch for one behaviour and no dial for conflicts. A
#   vector fitted to MLP neurons reaches {glue:text}`reached_generalization_fitted_mlp_inference` (inference) and
#   {glue:text}`reached_generalization_fitted_mlp_addition` (addition) to generalization, and costs
#   {glue:text}`lost_generalization_fitted_mlp_inference` and {glue:text}`lost_generalization_fitted_mlp_addition`.
# - Neurons carry a behaviour only if others cannot: fitted on a tenth of the neurons, drawn at random, a vector reaches
#   {glue:text}`reached_generalization_fitted_random_tenth_inference` and
#   {glue:text}`reached_generalization_fitted_random_tenth_addition`.
#
# The models are small and the tasks synthetic. As in the study, no training text shows a conflict; in its addition the
# memorized answers are tags, a format of their own, and the matched form tells what is left without it. The page on
# limits says what else is missing.
