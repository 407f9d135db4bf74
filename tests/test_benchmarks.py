"""The benchmarks run: what they call exists."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "benchmarks/run.py"


@pytest.fixture(scope="module")
def benchmarks():
    """The script as a module."""
    specification = importlib.util.spec_from_file_location("benchmarks_run", PATH)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_what_is_timed_runs(benchmarks, monkeypatch, capsys) -> None:
    monkeypatch.chdir(PATH.parents[1])
    monkeypatch.setattr(benchmarks, "ROUNDS", 1)
    monkeypatch.setattr(benchmarks, "N_STEPS", 1)
    monkeypatch.setattr(benchmarks, "N_SHIFTS", 2)
    bench = benchmarks.Bench("addition")
    bench.settings = bench.settings.model_copy(update={"batch_size": 2, "steps": 1, "evaluate_every": 1})
    bench.inputs = bench.inputs.head(8)
    bench.train()
    bench.record()
    printed = capsys.readouterr().out
    for words in ("x a plain PyTorch loop", "x the Trainer of transformers", "memgen ", "a trial of a sweep of 2"):
        assert words in printed


def test_medians_call_every_function_equally_often(benchmarks) -> None:
    calls = {"a": 0, "b": 0}

    def count(name: str) -> None:
        calls[name] += 1

    seconds = benchmarks.medians(a=lambda: count("a"), b=lambda: count("b"))
    assert set(seconds) == {"a", "b"}
    assert calls["a"] == calls["b"] == benchmarks.ROUNDS + 1
