# %% [markdown]
# # Planted memory
#
# **Question.** Localizers name neurons, heads and layers "that memorize". Nobody knows where a model really keeps what it remembers, so
# nobody can say whether they are right. What do they say where the place is known?
#
# **Answer.** A model that infers and hardly remembers was taught to remember by an adapter in one block, all else frozen. For each
# localizer the table tells in what share of {glue:text}`plantings` such models the planted block had the highest score (by chance:
# {glue:text}`chance`; in {glue:text}`hardly` of them less than a tenth of the conflicts was then remembered):
#
# | Localizer | Found |
# | --- | --- |
# | mean $\lvert r \rvert$ of the block's outputs (the study's) | {glue:text}`found_r` |
# | mean $\lvert \mathrm{NMD} \rvert$ of its outputs (the study's) | {glue:text}`found_nmd` |
# | {term}`attribution`, summed over its outputs | {glue:text}`found_summed_attribution` |
# | {term}`activation patching` of its output | {glue:text}`found_patching` |
#
# Switching the adapter off brings {glue:text}`off` of the remembered conflicts back to generalization; the study's shift brings
# {glue:text}`study`, the best control of the same norm {glue:text}`control`.

# %% tags=["parameters"]
profile: str = "default"  # a file of config/, such as smoke, default or full
results: str = "results"  # the folder that holds the results

# %%
from memgen.run import begin

run = begin("planted", profile=profile, results=results)

# %% [markdown]
# ## How
#
# The base is the first checkpoint of a run that infers and hardly remembers. An adapter (LoRA) in the attention or the MLP of one layer
# learns to give the memorized answer to a random half of the conflicts of training groups, the inferred answer to the other half, until
# both behaviours are frequent or its steps are used up. Other conflicts of the same groups then give flip {term}`pairs <pair>`, and each
# localizer scores all
# blocks by what they add to the residual stream at the last token. This is done for every block and several ranks.

# %%
import dataclasses

import pandas as pd
from IPython.display import clear_output, display

from memgen import behavior, planted
from memgen.carryover import tables
from memgen.figures import planted as figures
from memgen.run import in_words
from memgen.subject import Subject

# %%
config, analysis = run.config.planted, run.config.analysis
shelves = [found for found in [run.published("full")] if found]
cells = [cell for cell in run.config.shown() if cell.task in config.runs and config.ranks]


# %%
def base_of(cell):
    """The first checkpoint of a run that infers; None if there is none."""
    step = planted.first_that_infers(pd.read_parquet(run.input("training", "trajectory.parquet", cell=cell)))
    if step is None:
        return None
    last = Subject.load(run.input("training", "model", cell=cell), analysis.batch_size)
    folder = run.input("training", "checkpoints", f"step{step}", cell=cell)
    return dataclasses.replace(last, model=Subject.load(folder).model)


# %% [markdown]
# ## Planting, and looking for it

# %%
examined = []
for cell in cells:
    base = base_of(cell)
    thirds = planted.parts(
        pd.read_parquet(run.input("data", "train.parquet", cell=cell)), run.rng(f"parts {cell.task}")
    )
    places = list(planted.places(base, config.ranks)) if base else []
    for number, place in enumerate(places, start=1):
        rng = run.rng(f"planted {cell.task} {place}")
        tables_of = planted.examine(base, thirds, place, config, analysis, rng)
        examined.append({name: table.assign(task=cell.task) for name, table in tables_of.items()})
        clear_output(wait=True)
        print(f"{cell.task}: planted {number} of {len(places)}, the last at {place}")


# %%
def together(name):
    """One table of all plantings, or the published one."""
    parts = [tables_of[name] for tables_of in examined if name in tables_of]
    ours = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return tables.or_published(ours, shelves, lambda shelf: shelf.table("planted", name))


plantings, note = together("planted")
if len(plantings):
    plantings["block"] = planted.block(plantings.site, plantings.layer)

# %% tags=["main-figure"]
if len(plantings):
    shares = plantings.melt(["site", "layer", "rank", "block", "n"], list(behavior.LABELS), var_name="behavior")
    caption = f"What models with planted memory do on conflicts that were not learnt.{note}"
    display(run.figure(figures.behaviors(shares), "behaviors", caption=caption, data=shares))

# %%
if examined:
    run.record_table(
        shares,
        measure="planted_behavior_share",
        definition="Memory planted in {block} by an adapter of rank {rank}: share of conflicts with {behavior}.",
        unit="share 0-1",
        coordinates=["site", "layer", "rank", "behavior"],
    )

# %%
if len(plantings):
    columns = {"block": "planted in", "rank": "rank", "steps": "steps", "pairs": "flip pairs"}
    columns |= {name: f"{name}, %" for name in behavior.LABELS}
    caption = f"The models with planted memory, and their behaviour on conflicts that were not learnt.{note}"
    display(run.table(plantings, "planted", caption=caption, columns=columns))
else:
    print("Neither this profile nor the published results have planted memory.")

# %% [markdown]
# ## What was found

# %%
found, note = together("found")
is_ours = len(found) > 0 and not note
if len(found):
    looks = found.assign(block=planted.block(found.site, found.layer))
    looks["found_block"] = planted.block(found.found_site, found.found_layer)
    caption = f"The block with a localizer's highest score against the planted one, larger for several ranks.{note}"
    display(run.figure(figures.found(looks), "found", caption=caption, data=found))

# %% [markdown]
# How often was it right, over all plantings and by rank?

# %%
caption = (
    "How often the planted block had a localizer's highest score: a share of the models, its interval over blocks."
)
if len(found):
    hits = planted.hits(found)
    columns = {"ranking": "localizer", "rank": "rank", "value": "found, %", "n": "models"}
    display(run.table(hits, "hits", caption=caption + note, columns=columns))

# %% [markdown]
# ## What undoes it
#
# The ideal intervention switches the adapter off. N and alpha of the study's shift are chosen on one part of the conflicts, and tried on
# another, beside controls of the same norm.

# %%
undone, note = together("undone")
caption = "What becomes of remembered conflicts: mean over blocks."
if len(undone):
    rates = planted.undone_rates(undone)
    undone["block"] = planted.block(undone.site, undone.layer)
    columns = {"method": "intervention", "control": "control", "measure": "outcome", "value": "share, %", "n": "blocks"}
    itself = (undone.measure == "reached") & undone.control.isna()
    of_each = {"block": "planted in", "rank": "rank", "method": "intervention", "value": "reached, %"}
    by_model = f"Remembered conflicts that reach generalization, by model.{note}"
    display(run.table(undone, "undone", caption=by_model, columns=of_each, rows=itself))
    display(run.table(rates, "rates", caption=caption + note, columns=columns))

# %% [markdown]
# ## Numbers for the text

# %%
if is_ours:
    run.record_table(
        hits,
        measure="planted_found",
        definition="Share of models with planted memory in which the highest {ranking} was that of the planted block "
        "(rank of the adapter: {rank}; missing: all ranks).",
        unit="share 0-1",
        coordinates=["ranking", "rank"],
    )
    run.record_table(
        rates.assign(measure="planted_" + rates.measure, under=rates.control.fillna("itself")),
        definition="{method}, {under}: share of remembered conflicts, {measure}, mean over blocks with planted memory.",
        unit="share 0-1",
        coordinates=["method", "control"],
    )

# %%
SHARE = {"unit": "share 0-1"}
keys = ["found_r", "found_nmd", "found_summed_attribution", "found_patching", "off", "study", "control"]
said = dict.fromkeys(["plantings", "chance", "hardly", *keys], "not measured")
if len(found):
    of_all = hits[hits["rank"].isna()].set_index("ranking")
    said |= {f"found_{name}": in_words(row | SHARE) for name, row in of_all.to_dict("index").items()}
    reached = rates[rates.measure == "reached"]
    reached = reached.set_index(reached.control.fillna(reached.method)).to_dict("index")
    names = {"off": "adapter off", "study": "study", "control": "best"}
    said |= {key: in_words(reached[name] | SHARE) for key, name in names.items()}
    said |= {"plantings": str(len(found) // len(of_all)), "chance": f"1 of {found.n_blocks.iloc[0]}"}
    said["hardly"] = str((plantings.memorization < planted.MOST_MEMORIZED).sum())
for key, text in said.items():
    run.glue_text(key, text)
run.finish()

# %% [markdown]
# ## What this means
#
# - **Localizers answer different questions.** NMD grows with what a block writes, and so with what was added to it. $|r|$ is blind to
#   scale. Attribution and patching say which block the answer hangs on, be it the one that was changed or one that reads it later. A
#   neuron or block found by one of them is not "where memory is" for another.
# - **What undoes memory** has to be measured against the ideal intervention, and not against controls alone.
# - **Limits.** One base model of one task, one way of planting; all blocks are read at the last token alone.
