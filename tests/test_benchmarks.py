"""The benchmarks run: what they call exists, and their steps train."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from memgen.config import TrainingConfig

PATH = Path(__file__).resolve().parents[1] / "benchmarks/run.py"


@pytest.fixture(scope="module")
def benchmarks():
    """The script as a module."""
    specification = importlib.util.spec_from_file_location("benchmarks_run", PATH)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_steps_that_are_timed_train_the_model(benchmarks, stories) -> None:
    model = copy.deepcopy(stories.subject.model)
    packed = torch.randint(3, 20, (2 * benchmarks.N_STEPS, 12), generator=torch.Generator().manual_seed(0))
    before = model.get_output_embeddings().weight.clone()
    benchmarks.training_steps(model, packed, TrainingConfig(batch_size=2))()
    assert not torch.equal(model.get_output_embeddings().weight, before)


def test_medians_call_every_function_equally_often(benchmarks) -> None:
    calls = {"a": 0, "b": 0}

    def count(name: str) -> None:
        calls[name] += 1

    seconds = benchmarks.medians(a=lambda: count("a"), b=lambda: count("b"))
    assert set(seconds) == {"a", "b"}
    assert calls["a"] == calls["b"] == benchmarks.ROUNDS + 1
