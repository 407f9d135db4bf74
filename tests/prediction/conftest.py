"""Conflict inputs of the graded tasks, and datasets with a planted label."""

import functools

import numpy as np
import pandas as pd
import pytest

from memgen import prediction
from memgen.tasks import graded_addition, graded_inference

WIDTH = 6
ROWS = {"train": 240, "validation": 120, "test": 120}
SETTINGS = {
    ("small", "inference"): {"n_bound": 12, "n_free": 24},
    ("small", "addition"): {"n_bound": 30, "unbound_per_split": 60},
}


@functools.cache
def conflicts(size: str, task_name: str, form: str = "study") -> dict[str, pd.DataFrame]:
    """The conflict inputs of a graded task, by split; each shows the memorized answer with the share of its grade."""
    make = {"inference": graded_inference.Task, "addition": graded_addition.Task}[task_name]
    task = make(form=form, corpus_size=1000, **SETTINGS.get((size, task_name), {}))
    rng = np.random.default_rng(0)
    data = task.generate(rng)
    frames = {}
    for split, frame in data.splits.items():
        frame = frame[frame.kind == "conflict"]
        memorized = rng.random(len(frame)) < frame.memorized_share
        frames[split] = frame.assign(behavior=np.where(memorized, 1, -1))
    return frames


def datasets(*which: str) -> dict[str, prediction.Dataset]:
    return {split: prediction.Dataset(frame.copy()) for split, frame in conflicts(*which).items()}


@pytest.fixture(params=["small", "full"])
def graded_sums(request):
    """The conflict inputs of addition."""
    return datasets(request.param, "addition")


@pytest.fixture(params=["small", "full"])
def graded_stories(request):
    """The conflict inputs of inference."""
    return datasets(request.param, "inference")


def planted(rng, sites=("resid_post",)):
    """Datasets by split: layer 1 of the first site holds the label, all else is noise."""
    made = {}
    for split, n in ROWS.items():
        labels = rng.permutation(np.resize([1, -1], n))
        groups = [f"{split}{i}" for i in np.resize(np.arange(n // 10), n)]
        states = {site: rng.standard_normal((n, 2, WIDTH)) for site in sites}
        states[sites[0]][:, 1, 2] += 4 * labels
        words = rng.permuted(np.tile(np.arange(3, 3 + WIDTH), (n, 1)), axis=1)
        frame = pd.DataFrame({"input_ids": list(words), "behavior": labels, "group": groups})
        made[split] = prediction.Dataset(frame.assign(memorized_share=0.5, evidence=1), states)
    return made


@pytest.fixture
def planted_datasets(rng):
    return planted(rng)
