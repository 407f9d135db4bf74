# %% [markdown]
# # Synthesis
#
# **Question.** What is left of each claim of the study when every number stands over several seeds, each trained anew,
# with its interval and beside its control?
#
# **Answer.** [The table](#table-verdicts) has a verdict on each claim in each task. Except for claim b, they are
# {glue:text}`statuses` (*confirmatory*: nothing about the analysis was decided after test groups of these seeds had been seen; else
# *exploratory*). Below, the study's numbers stand beside ours, cell by cell.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/, such as smoke, default or full
results: str = "results"  # the folder that holds the results

# %%
from memgen.run import begin

run = begin("synthesis", profile=profile, results=results)

# %%
import contextlib
import itertools

import pandas as pd
from IPython.display import display

from memgen import intervals, study
from memgen.config import InputError
from memgen.figures import localization as localization_figures
from memgen.figures import prediction as prediction_figures
from memgen.figures import synthesis as figures
from memgen.figures import theme
from memgen.manifest import load_metrics
from memgen.published import read_table
from memgen.synthesis import cells, summary, verdicts

# %% [markdown]
# The numbers are those of the runs' `metrics.json`. Beside the runs of this profile stand those that the repository has
# published of the profile `full`, if both have the same settings.

# %%
published, graded = run.published(), run.published("graded")
made_here, everything = run.metrics(comparisons=False), run.metrics()
further = published.further_runs(run.config) if published else made_here[:0]
metrics, everything = (pd.concat([numbers, further], ignore_index=True) for numbers in (made_here, everything))
first_model = {cell.task: cell.model for cell in run.config.shown()}
note = f" Runs not made here: {published.label}." if len(further) else ""


# %%
def seeds_in_words(task):
    """The seeds of a task, and which of them were made here."""
    seeds = [sorted(frame[frame.task == task].seed.unique()) for frame in (made_here, further)]
    places = zip(("made here", "published"), seeds, strict=True)
    return "; ".join(f"{', '.join(map(str, found))} {place}" for place, found in places if found) or "none"


for task in metrics.task.unique():
    print(f"{task}, seeds: {seeds_in_words(task)}")

# %% [markdown]
# ## The verdicts
#
# Each task has six endpoints, with a value for each seed. Is there an *effect*: does Student's t-test over seeds reject what an
# empty claim gives (nothing; of the rarer behaviour [a tenth]{.set} of the conflicts, which could be errors), at [5 %]{.set},
# Holm-corrected for the six? Is the *reported size excluded*: does the 95 % interval of the mean end below it? (The size is that of the
# study's models from scratch.)
#
# |  | reported size not excluded | reported size excluded |
# | --- | --- | --- |
# | **effect** | replicated | smaller than reported |
# | **no effect** | not testable here | not replicated |
#
# So a null result is *replicated* no more often than the test errs, and a wide
# interval decides nothing. Intervals are not corrected for the six tests, so that one may leave out zero where no effect is certain
# enough. For claim d the null is a random tenth of the neurons, which attribution, an estimate of what patching does, is made to beat:
# *replicated* says how much, not whether. By the study's own ranking, $|r|$, the value is {glue:text}`concentration_r_inference` in
# inference and {glue:text}`concentration_r_addition` in addition. What a probe gains is taken as a share of what the best predictor
# without states leaves, for both the study and us: in points, the reported gain over a guess could not be reached over a good predictor.
# That was decided after these seeds had been seen, so the verdict on b is *exploratory*. Steering is *replicated* only if it also costs
# at most [10 points]{.set} of accuracy on any kind of input with one right answer, and if [half]{.set} of its effect is left where both
# answers have one format (addition's {term}`matched form`; in inference both are colours anyway). Three seeds or fewer have no interval
# and decide nothing. Nor do numbers from groups that the analysis was fitted on.

# %%
table = verdicts.verdicts(metrics, matched=everything)
table["matched"] = table.matched.where(~table.task.isin(verdicts.ONE_FORMAT))

# %% tags=["main-figure"]
shown = ["claim", "endpoint", "task", "unit", "reported", "value", "ci_low", "ci_high", "n", "verdict", "status"]
columns = {"claim": "claim", "task": "task", "endpoint": "what is measured"}
columns |= {
    "reported": "study, or what its words imply",
    "value": "mean [95 % interval]",
    "n": "seeds",
    "verdict": "verdict",
}
run.table(
    table[shown].sort_values("claim", kind="stable"),
    "verdicts",
    caption="The verdict on each claim." + note,
    columns=columns,
)

# %% [markdown]
# Where the study gives no number, its size is what its words imply (*source*). *Detectable* is the effect that, given
# the seeds' scatter, the test would see with a power of [80 %]{.set} at the strictest of Holm's levels.

# %%
details = "claim task model source unit p p_holm detectable lost matched verdict status".split()
in_points = table.replace({"unit": {"share 0-1": "difference of shares"}})  # an effect is a difference
columns = {"claim": "claim", "task": "task", "source": "source of the study's size", "p_holm": "p (Holm)"}
columns |= {
    "detectable": "detectable",
    "lost": "accuracy lost, points",
    "matched": "effect in the matched form, points",
}
run.table(
    in_points[details].sort_values("claim", kind="stable"),
    "tests",
    caption="The test behind each verdict, and what a verdict on steering asks besides.",
    columns=columns,
)

# %% [markdown]
# Claim b is judged on all conflicts. On members of flip pairs only, the study's inputs, the best probe is right for
# {glue:text}`prediction_flip_inference` in inference and {glue:text}`prediction_flip_addition` in addition, the best predictor without
# states for {glue:text}`best_baseline_flip_inference` and {glue:text}`best_baseline_flip_addition`. Of the models,
# {glue:text}`gains_flip_inference` and {glue:text}`gains_flip_addition` have a gain there whose interval lies above zero.

# %%
for unit, rows in table.groupby("unit", sort=False):
    run.record_table(
        rows,
        measure="endpoint",
        definition="Claim {claim}, {endpoint}: mean over seeds; verdict: {verdict} ({status}).",
        unit=unit,
        coordinates=["task", "model", "claim"],
    )

# %%
for (task, model), of_model in metrics.query(verdicts.STUDY_RUNS).groupby(["base_task", "model"]):
    run.record(
        "concentration",
        intervals.over_seeds(verdicts.concentration(of_model, "r").dropna(), (-1.0, 1.0)),
        definition="What claim d measures, with |r| in place of attribution: mean over seeds.",
        unit="ratio",
        task=task,
        model=model,
    )

# %% [markdown]
# ## The study's tables, with ours in every cell
#
# Shares are of inputs that show the opposite behaviour: how many reach the target, stay, or do something else. The study splits
# its inputs at random: *the study's split* holds new inputs about groups that were fitted on, *new groups* are in no other
# split. Ours are means over seeds.

# %%
carried = load_metrics(run.input("carryover", "metrics.json").parent)
if len(further) and "match" not in carried:  # one seed here has no other to carry its shift to
    carried = published.stage_metrics("carryover")
adaptation = {task: settings.get("adaptation") for task, settings in run.config.training.items()}
is_adapter = metrics.base_task.map(adaptation) == "lora"
of_shown = metrics[(metrics.model == metrics.base_task.map(first_model)) & ~is_adapter]
carried = carried.reindex(columns=[*dict.fromkeys([*carried, "task"])])
between_adapters = carried.task.isin(metrics[is_adapter].task)
measured = [
    cells.same_model(of_shown),
    cells.retrained_model(carried[~between_adapters]),
]
joint = run.published("joint")
if joint:
    measured.append(cells.other_task(joint.table("carryover", "study_tasks_shifts"), "the study's shift"))
if graded:
    measured.append(cells.other_task(graded.table("carryover", "tasks_shifts"), "graded design, fitted shift"))
measured = pd.concat(measured, ignore_index=True)
in_cells = cells.beside(study.STEERING, measured)

# %% [markdown]
# Its Table 1: the shift in the model that it was computed from. Its random shift goes up to the largest part of the real one.


# %%
CELL_COLUMNS = {"task": "task", "target": "steered to", "ours": "our inputs, or shift", "n": "seeds"}
CELL_COLUMNS |= {
    f"{outcome}, {whose}": f"{outcome}: {whose}" for outcome in ("reached", "other") for whose in ("study", "ours")
}


def show_cells(name, beside, caption, **columns):
    """Some of the study's cells as a table, with its shares and ours."""
    return run.table(
        cells.in_percent(beside),
        name,
        caption=f"{caption} Percent of inputs of the opposite behaviour, the study's ({study.SOURCE}) and ours.",
        columns=CELL_COLUMNS | columns,
    )


def in_settings(*settings):
    return in_cells[in_cells.setting.isin(settings)]


# %%
show_cells(
    "same_model", in_settings("scratch", "random"), f"The study's shift, and random ones, in the same model.{note}"
)

# %% [markdown]
# Its Table 3: a retrained model. The study trains a second adapter on one base model, with the same data. Ours are models from scratch
# with another seed and other data, where an index means nothing; so neurons are also matched by correlation.

# %%
show_cells("retrained_model", in_settings("retrained"), f"The study's shift of one model in a retrained one.{note}")

# %% [markdown]
# Its Table 4: neurons of the other task, in one model that does both. Ours learned both at once, from scratch. Beside the study's shift
# stands a related question: fitted shifts in a model of both tasks of the {term}`graded design`.

# %%
labels = "; ".join(shelf.label for shelf in (joint, graded) if shelf)
show_cells("other_task", in_settings("other_task"), f"The other task's neurons. Ours: {labels or 'not measured'}.")

# %%
run.figure(
    figures.cells(in_cells),
    "cells",
    caption="Every cell of the study's tables: its share (diamond), and our mean over seeds with its 95 % interval."
    + note,
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
# ## Adapters of a pretrained model
#
# In the study's other half LLaMA-3.2 learns both tasks through an adapter (LoRA). The profile `lora` gives adapters to SmolLM2, over
# twenty times smaller, with weights that were rounded to four bits and, in in-context inference, one colour a name. Each adapter stands
# by itself, with intervals over names or patterns; for the study's Table 3 the mean over adapters stands, for its Table 4 that over pairs
# of them. The study's shift is chosen from nine for each target, and each control is drawn once.

# %%
lora, whose = run.published("lora"), ""
of_adapters, of_carried = metrics[is_adapter], carried[between_adapters]
if lora and of_adapters.empty:
    of_adapters, of_carried, whose = lora.metrics, lora.stage_metrics("carryover"), f" Ours: {lora.label}."
adapted = [cells.adapters(of_adapters), cells.retrained_model(of_carried)]
with contextlib.suppress(InputError):  # no adapters on both tasks, neither here nor published
    of_tasks = read_table(run.input("carryover", "tables", "adapter_tasks_shifts.csv"))
    adapted.append(cells.other_task(of_tasks, "same index"))
adapted = pd.concat(adapted, ignore_index=True)
of_lora = [row for row in study.STEERING if "LoRA" in row["model"]]
in_adapters = cells.beside(of_lora, adapted).query("task in @adapted.task")

# %%
TABLE_2 = {
    "lora": "its shift in the adapter that it was computed from",
    "random": "random shifts, on conflicts of new groups",
}
for setting, words in TABLE_2.items():
    found = in_adapters[in_adapters.setting == setting]
    if len(found):
        display(show_cells(f"adapters_{setting}", found, f"The study's Table 2: {words}.{whose}", n="inputs"))
    else:
        print("No adapter is published.")

# %% [markdown]
# What is left beyond the strongest control of the same norm, and the same of a shift fitted to MLP neurons:

# %%
if len(of_adapters):
    net = of_adapters.query("stage == 'steering' and measure == 'net' and method in ['study', 'fitted_mlp']")
    net = net[net.population.isin(["seen_flip_pairs", "conflicts"])].sort_values("target", kind="stable")
    columns = {"target": "steered to", "task": "task", "seed": "seed", "population": "inputs"}
    for method in ("study", "fitted_mlp"):
        of_method = net.loc[net.method == method, [*columns, "value", "ci_low", "ci_high", "n"]]
        caption = f"Net effects in adapters, {theme.METHOD_NAMES[method]}.{whose}"
        shown = columns | {"value": "net effect, points", "n": "n"}
        display(run.table(of_method, f"adapters_net_{method}", caption=caption, columns=shown))

# %%
in_second = in_adapters[in_adapters.setting == "retrained"]
if len(in_second):
    caption = (
        "The study's Table 3: the shift of one adapter in a second one of the same base. The study's second one saw the same data; "
        f"in ours names have other colours and other splits.{whose}"
    )
    display(show_cells("second_adapter", in_second, caption, n="adapters"))

# %%
in_other = in_adapters[in_adapters.setting == "other_task"]
if len(in_other):
    caption = (
        "The study's Table 4: the shift of an adapter in one on the other task, neurons of the same index, on the study's "
        f"split (its controls: Carry-over).{whose}"
    )
    display(show_cells("adapter_tasks", in_other, caption, n="pairs of adapters"))

# %% [markdown]
# The study's figure 6, and its figure 5, for the first adapter on each task.

# %%
first_adapters = {}
for name in lora.about["runs"] if lora else ():
    first_adapters.setdefault(name.partition("/")[0], name)

# %%
for task, name in first_adapters.items():
    projections = lora.table("localization", "projections", name)
    parts = projections.pivot(index=["projection", "layer"], columns="part", values="value")
    ratio = (parts.adapter / parts.base).groupby("projection").median()
    caption = (
        "Mean |NMD| at the query and value projections, by layer, of what the base's weights put out and of what the adapter adds. "
        "The study finds next to nothing in the adapter; here it has, at the median layer, "
        f"{ratio.q_proj:.2f} (query) and {ratio.v_proj:.2f} (value) of the base's. Published: {name}."
    )
    chart = localization_figures.projections(projections)
    display(run.figure(chart, f"projections_{task}", caption=caption, data=projections))

# %%
for task, name in first_adapters.items():
    by_pairs = lora.table("prediction", "by_pairs", name)
    caption = f"Accuracy on members of flip pairs by layer and number of training pairs. Published: {name}."
    chart = prediction_figures.accuracy(by_pairs, panel="panel", columns=2)
    display(run.figure(chart, f"adapters_by_pairs_{task}", caption=caption, data=by_pairs))

# %%
for task, name in first_adapters.items():
    english = lora.table("steering", "english", name)
    caption = (
        "Plain English, which has nothing to do with the task: means over sentences, each of the mean over its tokens "
        f"but the first. Published: {name}."
    )
    columns = {"method": "model, or shift", "control": "control", "target": "steered to", "quantity": "quantity"}
    display(run.table(english, f"english_{task}", caption=caption, columns=columns | {"value": "nats a token"}))

# %%
run.record_table(
    adapted.dropna(subset="value"),
    measure="adapter_cell",
    definition="{setting}, {ours}, {task}, to {target}: share of inputs that {outcome}; of an adapter, or a mean over them.",
    unit="share 0-1",
    coordinates=["setting", "ours", "task", "target", "outcome"],
)

# %% [markdown]
# ## Headline numbers
#
# A dot for each seed, and the mean with Student's 95 % interval on the logit scale: how well the *mean* is known, not what to
# expect of a new seed.

# %%
headline = summary.headline(metrics)
headline_means = summary.over_seeds(headline, ["task", "model", "unit"])
run.figure(
    figures.quantities(headline, headline_means, "task"),
    "headline",
    caption="Headline numbers: a dot for each seed, and the mean over seeds with its 95 % interval." + note,
    data=headline[["task", "model", "quantity", "seed", "value"]],
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
# Each intervention both ways; the mark on a bar is the strongest control of the same norm. The last row asks whether localization
# is needed: a vector fitted on a tenth of the neurons, drawn at random.

# %%
matched = everything.query("form == 'matched' and model in @first_model.values()")
steering = summary.steering_rates(pd.concat([metrics.query("task == base_task"), matched], ignore_index=True))
run.figure(
    figures.steering(steering),
    "steering",
    caption="Share of the conflicts of the opposite behaviour that each shift brings to the target: mean and 95 % interval "
    "over seeds; marks: the strongest control." + note,
    data=steering,
)

# %% [markdown]
# Net effects, and what a shift costs on the kind of input with one right answer that suffers most.

# %%
columns = {
    "task": "task",
    "method": "shift",
    "target": "steered to",
    "value": "reached, %",
    "net": "net of control, points",
    "strongest": "strongest control",
}
run.table(
    steering.drop(columns="base_task"),
    "steering",
    caption="Every method: means over seeds; named is the control that reaches most on average.",
    columns=columns | {"lost": "accuracy lost, points"},
    rows=steering.method.isin(["study", "fitted_mlp", "fitted_random_tenth"]),
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
# How well do the states of each layer separate the two members of a pair, in groups that the direction has not seen? One half is
# chance. (In addition's {term}`matched form`, both answers are numbers.)

# %%
separation = verdicts.on_test_groups(metrics).query("measure == 'pair_auroc' and site == 'resid_post'")
if len(separation):
    depth = separation[["base_task", "form", "seed", "layer", "value", "ci_low", "ci_high", "n"]].astype({"layer": int})
    chart = figures.depth(depth, "form")
    display(
        run.figure(
            chart,
            "depth",
            caption="AUROC of within-pair differences at resid_post by layer, on pairs of validation groups; "
            "a line for each seed." + note,
            data=depth,
        )
    )

# %% [markdown]
# ## Numbers for the text
#
# For this page and the first one.

# %%
TASKS = ("inference", "addition")
for row in table.itertuples():
    if row.model == first_model.get(row.task):
        run.glue_text(f"verdict_{row.claim}_{row.task}", verdicts.in_words(row))
        run.glue_text(f"plain_verdict_{row.claim}_{row.task}", row.verdict)
        where = "measure == 'endpoint' and claim == @row.claim and task == @row.task and model == @row.model"
        run.glue(f"endpoint_{row.claim}_{row.task}", where, row=row)
statuses = table.groupby("task", sort=False).status.first()
for task, status in statuses.items():
    run.glue_text(f"status_{task}", status)
named = statuses.unique() if statuses.nunique() == 1 else statuses + " (" + statuses.index + ")"
run.glue_text("statuses", ", ".join(named) or "not measured")
for task in TASKS:
    run.glue_text(f"seeds_{task}", seeds_in_words(task))

# %% [markdown]
# A task that the profile lacks is *not measured*.

# %%
for task in set(TASKS) - set(first_model):
    claims = [
        f"{key}_{endpoint.claim}" for key in ("verdict", "plain_verdict", "endpoint") for endpoint in verdicts.ENDPOINTS
    ]
    for key in ("status", *claims):
        run.glue_text(f"{key}_{task}", "not measured")

# %%
QUANTITIES = {
    "prediction": "prediction, conflicts",
    "best_baseline": "best predictor without states, conflicts",
    "prediction_flip": "prediction, flip pairs",
    "best_baseline_flip": "best predictor without states, flip pairs",
}
for task in TASKS:
    this = f"task == '{task}' and model == '{first_model.get(task)}'"
    run.glue(f"concentration_r_{task}", f"measure == 'concentration' and {this}")
    gains = metrics.query(f"measure == 'gain' and population == 'flip_pairs' and {this}")
    run.glue_text(f"gains_flip_{task}", f"{(gains.ci_low > 0).sum()} of {len(gains)}")
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
# *Not testable here* is neither right nor wrong: the seeds scatter too much, or are too few, to tell the reported size from
# nothing. The models are small and the tasks synthetic; the page on limits says what else is missing.
