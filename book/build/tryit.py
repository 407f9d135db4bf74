"""The page where a reader steers the trained models: they run in the page itself, and ask no server.

The script holds the weights and interventions of the published models (:mod:`book.build.models`) in half precision, the
forward pass (``model.js``), what an answer is (``answer.js``), and what the reader works with (``tryit.js``).
"""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from book.build.models import DIRECTION
from memgen import config
from memgen.behavior import NAMES, TARGETS
from memgen.manifest import load_manifest
from memgen.published import MODELS
from memgen.steering.controls import random_direction
from memgen.steering.das import SITE
from memgen.steering.interventions import Intervention
from memgen.tasks import addition, inference

TASKS = ("inference", "addition")
METHODS = ("study", "fitted_mlp")
FRAGMENT, SCRIPT = "try/page.html", "try/models.js"  # in the folder of downloads; book/try.md includes the fragment
N_INPUTS = 60  # to draw from, and to take a coordinate from


def write(downloads: Path) -> None:
    """Write what the page includes and its script into the folder of downloads."""
    folder = config.root() / MODELS
    models = {task: published_model(folder / task) for task in TASKS if (folder / task).is_dir()}
    data = f"const MODELS = {json.dumps(models, ensure_ascii=False, separators=(',', ':'))};"
    files = ("model.js", "answer.js", "tryit.js", "tryit.css")
    *code, style = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in files)
    (downloads / SCRIPT).parent.mkdir(parents=True, exist_ok=True)
    (downloads / SCRIPT).write_text("\n".join(["(() => {", data, *code, "})();\n"]), encoding="utf-8")
    fragment = f"""<style>
{style}</style>
<div class="memgen-try" id="memgen-try"><noscript><p>The models run in this page, and need scripts.</p></noscript></div>
<script defer src="../_static/downloads/{SCRIPT}"></script>
"""
    (downloads / FRAGMENT).write_text(fragment, encoding="utf-8")


def published_model(folder: Path) -> dict[str, Any]:
    """A published model for the page: its sizes, words, bound answers, some test conflicts, and all tensors."""
    made = load_manifest(folder / "training")["config"]
    tokenizer = json.loads((folder / "training/model/tokenizer.json").read_text(encoding="utf-8"))
    sizes = json.loads((folder / "training/model/config.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    memory = pd.read_parquet(folder / "data/memory.parquet").set_index("group").answer_memorization
    tensors, places = tensors_of(folder)
    return {
        **{name: sizes[name] for name in ("n_layer", "n_head", "n_embd", "n_positions")},
        "vocabulary": sorted(vocabulary, key=vocabulary.__getitem__),
        "keys": keys(made),
        "memory": {group: answer.split("|") for group, answer in memory.items()},
        "inputs": inputs(folder),
        **places,
        "tensors": [[name, tensor.size] for name, tensor in tensors.items()],
        "weights": packed(list(tensors.values())),
    }


def tensors_of(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The weights, each intervention with a control, and the direction; and where they act."""
    weights = load_file(folder / "training/model/model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    sites, rng = {}, np.random.default_rng(0)
    for method in METHODS:
        intervention = Intervention.load(folder / "interventions", method)
        sites[method] = intervention.site
        for target in TARGETS:
            shift = intervention.shift(target)
            tensors[f"{method}.{NAMES[target]}"] = shift.numpy()
            tensors[f"{method}.{NAMES[target]}.control"] = random_direction(shift, rng).numpy()
    with safe_open(folder / DIRECTION, "np") as file:
        tensors["das"], layer = file.get_tensor("direction"), int(file.metadata()["layer"])
    tensors["das.control"] = random_direction(torch.from_numpy(tensors["das"])[None], rng).numpy()
    return tensors, {"sites": sites | {"das": SITE}, "layer": layer}


def packed(tensors: list[np.ndarray]) -> str:
    """Numbers in half precision: all low bytes, then all high bytes, by gzip, in base64."""
    numbers = np.concatenate([tensor.ravel() for tensor in tensors]).astype("<f2")
    planes = numbers.view(np.uint8).reshape(-1, 2).T.tobytes()
    return base64.b64encode(gzip.compress(planes, mtime=0)).decode()


def inputs(folder: Path) -> list[list[str]]:
    """Test conflicts, the first of each group in turn whatever the model answers, and the behaviour on each."""
    frame = pd.read_parquet(folder / "data/test.parquet")
    frame["behavior"] = pd.read_parquet(folder / "training/behavior/test.parquet").behavior.map(NAMES)
    originals = frame[(frame.kind == "conflict") & (frame.variant_of < 0)]
    turn = originals.groupby("group").cumcount().sort_values(kind="stable")
    return originals.loc[turn.index[:N_INPUTS], ["prompt", "behavior"]].to_numpy().tolist()


def keys(made: dict[str, Any]) -> dict[str, list[str]]:
    """The words of a story by their sort, or the signs of a sum."""
    if made["base_task"] == "addition":
        return {"Signs": addition.WORDS[:12]}
    task = inference.Task(**made["data"])
    return {
        "Names": inference.NAMES[: task.n_names],
        "Kinds": inference.KINDS[: task.n_kinds],
        "Colours": inference.COLORS[: task.n_colors],
        "Between": ["is", "."],
    }
