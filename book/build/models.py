"""Publish trained models: ``book/published/models/<task>/`` has what steering reads, and the interventions it chose.

The weights are those that were trained, in single precision: a rerun labels every input as the run did. Of the inputs a
part is kept, `PER_GROUP` originals of each kind and group with their variants.
"""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from memgen import config
from memgen.manifest import digest_folder, load_metrics, write_json
from memgen.place import Place
from memgen.published import MODELS
from memgen.tasks.common import SPLITS

PER_GROUP = 40
DIRECTION = "das.safetensors"
CHECKSUMS = "SHA256SUMS"  # as sha256sum writes and checks it


def publish_models(profile: str, results: str = "results") -> list[Path]:
    """Write the models of a profile's chapters, one a task, and return their folders, each replaced as a whole.

    A stage that :meth:`memgen.place.Place.check_earlier` refuses is an InputError.
    """
    folders = []
    for cell in config.load_profile(profile).shown():
        steering = Place("steering", profile, *cell, results)
        manifests = steering.check_earlier(itself=True)
        found = (steering.folder / DIRECTION).is_file()
        config.require(found, f"The {steering.label} has no {DIRECTION}; make it again with `{steering.command}`.")
        target = config.root() / MODELS / cell.task
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(steering.folder / "interventions", target / "interventions")
        shutil.copyfile(steering.folder / DIRECTION, target / DIRECTION)
        stages = {place.stage: place.folder for place in manifests}
        for folder, name in (("data", "memory.parquet"), ("localization", "neurons.parquet")):
            (target / folder).mkdir()
            shutil.copyfile(stages[folder] / name, target / folder / name)
        shutil.copytree(stages["training"] / "model", target / "training/model")
        for split in SPLITS:
            _copy_inputs(split, stages["data"], stages["training"], target)
        for place, manifest in manifests.items():
            if place != steering:
                outputs = digest_folder(target / place.stage)
                write_json(target / place.stage / "manifest.json", manifest | {"inputs": {}, "outputs": outputs})
        card = _card(steering, manifests[steering.at("training")])
        (target / "README.md").write_text(card, encoding="utf-8")
        sums = [f"{entry['sha256']}  {name}\n" for name, entry in digest_folder(target).items()]
        (target / CHECKSUMS).write_text("".join(sums), encoding="utf-8")
        folders.append(target)
    return folders


def _copy_inputs(split: str, data: Path, training: Path, target: Path) -> None:
    """Copy a part of a split's inputs, and the behaviour on them."""
    frame = pd.read_parquet(data / f"{split}.parquet")
    originals = frame[frame.variant_of < 0].groupby(["kind", "group"]).head(PER_GROUP)
    kept = pd.concat([originals, frame[frame.variant_of.isin(originals.index)]]).sort_index()
    place = pd.Series(range(len(kept)), kept.index)  # rows are counted anew
    kept["variant_of"] = kept.variant_of.map(place).fillna(-1).astype(frame.variant_of.dtype)
    behavior = pd.read_parquet(training / f"behavior/{split}.parquet").loc[kept.index]
    (target / "training/behavior").mkdir(exist_ok=True)
    for part, path in ((kept, f"data/{split}.parquet"), (behavior, f"training/behavior/{split}.parquet")):
        part.reset_index(drop=True).to_parquet(target / path, compression="zstd")


def _card(steering: Place, training: dict[str, Any]) -> str:
    """The model card; its numbers are the run's, on test groups."""
    numbers = pd.concat([load_metrics(steering.at(stage).folder) for stage in ("training", "steering")])
    tests = numbers[numbers.population.isna() | (numbers.population == "conflicts")]

    def share(query: str) -> str:
        return f"{100 * tests.query(query).value.item():.1f} %"

    rows = []
    for name in ("memorization", "generalization", "other"):
        of_name = share(f"measure == 'behavior_share' and behavior == '{name}'")
        rows.append(f"| Conflicts answered by {name} | {of_name} |")
    for method, words in {"study": "The study's shift", "fitted_mlp": "The shift fitted to MLP neurons"}.items():
        for goal in ("memorization", "generalization"):
            of_method = f"measure == 'reached' and method == '{method}' and target == '{goal}'"
            reached, control = share(f"{of_method} and control.isna()"), share(f"{of_method} and control == 'best'")
            rows.append(f"| {words}, to {goal}: reached (its best control) | {reached} ({control}) |")
    made, model = training["config"]["training"], training["config"]["model"]
    lessons = ", ".join(f"at most {steps} steps of the lesson {name}" for name, steps in made["lessons"].items())
    step = int(tests.query("measure == 'chosen_step'").value.item())
    table = "\n".join(rows)
    return f"""---
license: mit
library_name: transformers
tags: [interpretability, steering]
---

# {model["name"]}, trained on the task {steering.task}

A GPT-2 with {model["n_layer"]} layers of width {model["n_embd"]}, trained from scratch on made-up texts, for
experiments on memorization and generalization. It knows the words of its task alone and is of no other use.

- **From:** the run `{steering.run}` of the profile `{steering.profile}`, commit `{training["git"]["commit"]}`.
- **Data:** generated by `memgen/tasks/{steering.task}.py`, whose docstring describes them; no text of anybody.
- **Training:** {lessons}; then the task's texts. The optimizer is {made["optimizer"]}, a batch has
  {made["batch_size"]} texts. This is the checkpoint of step {step}.
- **License:** that of this repository (MIT).

| On test groups, all inputs of the run | Share |
| --- | --- |
{table}

## Files

`training/model/` loads with `AutoModelForCausalLM.from_pretrained`. `interventions/<method>.safetensors` holds for each
target a vector [layer, neuron] that is added at the site that `<method>.json` names, at the prompt's last token and at
every token of the answer. `das.safetensors` holds a direction in the
residual stream after the layer that its metadata name: a state gets another input's coordinate along it.
`data/` and `training/behavior/` hold a part of the inputs ({PER_GROUP} originals of each kind and group, with their
variants), and the behaviour on them. `sha256sum --check {CHECKSUMS}` checks all files.

To steer it anew: `papermill notebooks/steering.ipynb out.ipynb -p model published -p task {steering.task}`.
"""
