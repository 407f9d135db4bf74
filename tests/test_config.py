"""Settings: what the profiles say, and one sentence for whatever is wrong."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from memgen import config, tasks
from memgen.config import AnalysisConfig, InputError, ModelConfig, TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
LABELS = """
runs: {inference: [gpt2-2x32], inference-matched: [gpt2-2x32], addition: [gpt2-2x32, gpt2-3x64]}
seeds: [0, 3]
comparisons: {seeds: [1, 2], runs: {inference-half-2: [gpt2-1x16], addition: [gpt2-2x32]}}
task: {inference: {n_bound: 20, form: study}, inference-matched: {form: matched}}
training: {inference: {steps: 7, batch_size: 8}, inference-half-2: {steps: 9}, inference-matched: }
"""
PROFILES = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
TINY = """
runs: {inference: [gpt2-2x32, llama-1x16], addition: [gpt2-2x32]}
seeds: [0, 3]
task: {inference: {form: matched}}
training: {addition: {steps: 7, learning_rate: 1}}
analysis: {alphas: [1, 2.5]}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, with the profile tiny."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentence(caught):
    """What the user reads: one sentence, and IPython shows no more than that."""
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert caught.value._render_traceback_() == [f"InputError: {text}"]
    return text


# --- what a run is asked for


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"profile": "huge"}, ["'huge'", "tiny"]),
        ({"profile": 3}, ["3", "tiny"]),
        ({"task": "chess"}, ["'chess'", "inference, addition"]),
        ({"task": ["inference"]}, ["['inference']", "inference, addition"]),
        ({"model": "bert"}, ["'bert'", "gpt2-medium", "gpt2-LxD"]),
        ({"model": "gpt2-0x64"}, ["'gpt2-0x64'", "gpt2-LxD"]),
        ({"model": "gpt2-3x0"}, ["'gpt2-3x0'", "multiple of 16"]),
        ({"model": "gpt2-3x40"}, ["'gpt2-3x40'", "multiple of 16"]),
        ({"model": "gpt2-3x64 "}, ["'gpt2-3x64 '"]),
        ({"model": "bert-3x64"}, ["'bert-3x64'", "llama-LxD"]),
        ({"model": 3}, ["3", "gpt2-3x64"]),
        ({"seed": -1}, ["-1", "from 0"]),
        ({"seed": True}, ["True", "whole number"]),
        ({"seed": 1.0}, ["1.0", "whole number"]),
        ({"seed": "0"}, ["'0'", "whole number"]),
        ({"seed": None}, ["None", "whole number"]),
        ({"seed": 2**32}, [str(2**32), str(2**32 - 1)]),
    ],
)
def test_wrong_run(project, given, parts):
    with pytest.raises(InputError) as caught:
        config.resolve(**{"profile": "tiny", "task": "inference", **given})
    text = sentence(caught)
    assert all(part in text for part in parts), text


def test_a_folder_outside_any_project_names_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "__file__", str(tmp_path / "memgen" / "config.py"))
    with pytest.raises(InputError) as caught:
        config.root()
    assert str(tmp_path) in sentence(caught)


# --- what a profile says


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("[1, 2]", ["must have the sections runs, seeds"]),
        ("", ["must have the sections runs, seeds"]),
        ("{runs: [", ["not valid YAML", "line 1"]),
        ({"rums": {}}, ["'rums'", "runs, seeds, comparisons, task, training, analysis"]),
        ({"runs": None}, ["task: [models]"]),
        ({"runs": ["inference"]}, ["task: [models]"]),
        ({"runs": {"inference": "gpt2-2x32"}}, ["'inference'", "'gpt2-2x32'"]),
        ({"runs": {"inference": []}}, ["'inference'", "[]"]),
        ({"runs": {"inference": None}}, ["'inference'", "None"]),
        ({"runs": {"inference": [3]}}, ["3", "gpt2-3x64"]),
        ({"runs": {"inference": ["gpt3"]}}, ["'gpt3'", "gpt2-LxD"]),
        ({"runs": {"inference": ["gpt2", "gpt2"]}}, ["twice", "inference"]),
        ({"runs": {1: ["gpt2"]}}, ["name", "1"]),
        ({"runs": {"Inference": ["gpt2"]}}, ["'Inference'", "inference-matched"]),
        ({"runs": {"inference-": ["gpt2"]}}, ["'inference-'"]),
        ({"runs": {"in/ference": ["gpt2"]}}, ["'in/ference'"]),
        ({"comparisons": None}, ["comparisons must hold runs and seeds", "None"]),
        ({"comparisons": [1]}, ["comparisons must hold runs and seeds", "[1]"]),
        ({"comparisons": {"runs": {"addition": ["gpt2"]}}}, ["comparisons must hold runs and seeds"]),
        ({"comparisons": {"runs": {"addition": ["gpt2"]}, "seeds": []}}, ["at least one seed"]),
        ({"comparisons": {"runs": {"addition": "gpt2"}, "seeds": [1]}}, ["'addition'", "'gpt2'"]),
        ({"comparisons": {"runs": {"addition": ["gpt3"]}, "seeds": [1]}}, ["'gpt3'", "gpt2-LxD"]),
        (
            {"comparisons": {"runs": {"addition": ["gpt2-2x32"]}, "seeds": [1, 3]}},
            ["addition/gpt2-2x32/seed3", "in runs and in comparisons"],
        ),
        ({"seeds": []}, ["at least one seed"]),
        ({"seeds": 0}, ["at least one seed"]),
        ({"seeds": [0, -1]}, ["-1"]),
        ({"seeds": [True]}, ["True"]),
        ({"seeds": [1, 1]}, ["twice", "[1, 1]"]),
        ({"task": {"inferense": {}}}, ["'inferense'", "inference, addition"]),
        ({"training": {"inferense": {}}}, ["'inferense'", "inference, addition"]),
        ({"task": {"inference-matched": {}}}, ["'inference-matched'", "inference, addition"]),
        ({"training": [1]}, ["training", "[1]"]),
        ({"training": {"inference": 3}}, ["training", "3"]),
        ({"analysis": "fast"}, ["analysis", "'fast'"]),
        ({"training": {"inference": {"step": 3}}}, ["'step'", "steps, batch_size, learning_rate"]),
        ({"analysis": {"alpha": 3}}, ["'alpha'", "alphas"]),
    ],
)
def test_wrong_profile(project, change, parts):
    text = change if isinstance(change, str) else yaml.safe_dump(yaml.safe_load(TINY) | change, sort_keys=False)
    (project / "config" / "tiny.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        config.resolve("tiny", "inference")
    text = sentence(caught)
    assert all(part in text for part in parts), text


def test_a_third_task_needs_no_change_here(project):
    changed = yaml.safe_load(TINY) | {
        "runs": {"echo": ["gpt2-1x16"]},
        "task": {"echo": {"n": 3}},
        "training": {},
    }
    (project / "config" / "tiny.yaml").write_text(yaml.safe_dump(changed))
    assert config.resolve("tiny", "echo").task_options == {"n": 3}


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (TrainingConfig, "steps", 0),
        (TrainingConfig, "steps", 500.0),
        (TrainingConfig, "steps", True),
        (TrainingConfig, "steps", "500"),
        (TrainingConfig, "batch_size", -1),
        (TrainingConfig, "evaluate_every", 0),
        (TrainingConfig, "evaluation_rows", 0),
        (TrainingConfig, "warmup_steps", -1),
        (TrainingConfig, "copy_warmup_steps", -1),
        (TrainingConfig, "learning_rate", 0.0),
        (TrainingConfig, "learning_rate", "2e-3"),  # what YAML makes of 2e-3, without a point
        (TrainingConfig, "learning_rate", float("nan")),
        (TrainingConfig, "learning_rate", float("inf")),
        (TrainingConfig, "weight_decay", -0.1),
        (TrainingConfig, "decay_fraction", 1.5),
        (TrainingConfig, "required_accuracy", 95),
        (TrainingConfig, "mixed_precision", "fp8"),
        (AnalysisConfig, "n_resamples", 0),
        (AnalysisConfig, "random_draws", 0),
        (AnalysisConfig, "top_fractions", 0.1),
        (AnalysisConfig, "top_fractions", []),
        (AnalysisConfig, "top_fractions", [0.0]),
        (AnalysisConfig, "top_fractions", [1.5]),
        (AnalysisConfig, "top_fractions", ["all"]),
        (AnalysisConfig, "alphas", [-1.0]),
        (AnalysisConfig, "alphas", [True]),
        (AnalysisConfig, "max_other", 2.0),
        (AnalysisConfig, "fit_learning_rate", 0.0),
        (AnalysisConfig, "norm_penalties", [0.1, -1.0]),
        (AnalysisConfig, "norm_penalties", []),
        (AnalysisConfig, "strengths", [0.0]),
        (AnalysisConfig, "max_control", 1.5),
        (AnalysisConfig, "max_loss", -0.1),
        (AnalysisConfig, "n_tokens", 0),
    ],
)
def test_wrong_setting(cls, name, value):
    with pytest.raises(InputError) as caught:
        config.build(cls, {name: value}, "section")
    text = sentence(caught)
    assert name in text
    assert repr(value) in text or str(value) in text, text


def test_settings_take_the_type_of_their_default():
    made = config.build(TrainingConfig, {"learning_rate": 1, "steps": 3}, "training")
    assert type(made.learning_rate) is float
    assert (made.learning_rate, made.steps) == (1.0, 3)
    assert config.build(AnalysisConfig, {"alphas": [1, 2.5]}, "analysis").alphas == (1, 2.5)
    assert config.build(AnalysisConfig, None, "analysis") == AnalysisConfig()


# --- what comes out


def test_resolve_puts_the_sections_together(project):
    profile = config.load_profile("tiny")
    assert profile.cells() == [
        ("inference", "gpt2-2x32", 0),
        ("inference", "gpt2-2x32", 3),
        ("inference", "llama-1x16", 0),
        ("inference", "llama-1x16", 3),
        ("addition", "gpt2-2x32", 0),
        ("addition", "gpt2-2x32", 3),
    ]
    run = config.resolve("tiny", "inference")
    assert run.model == ModelConfig("gpt2-2x32", "gpt2", n_layer=2, n_head=2, n_embd=32)
    assert run.task_options == {"form": "matched"}
    assert run.training == TrainingConfig()
    assert run.analysis.alphas == (1, 2.5)
    other = config.resolve("tiny", "addition", "llama-1x16", 5)
    assert (other.label, other.model.architecture) == ("addition/llama-1x16/seed5", "llama")
    assert other.task_options == {}
    assert other.training == TrainingConfig(steps=7, learning_rate=1.0)


def test_a_label_brings_its_own_settings_on_top_of_the_tasks(project):
    (project / "config" / "tiny.yaml").write_text(LABELS)
    assert config.resolve("tiny", "inference").task_options == {"n_bound": 20, "form": "study"}
    matched = config.resolve("tiny", "inference-matched")
    assert (matched.task, matched.label) == ("inference-matched", "inference-matched/gpt2-2x32/seed0")
    assert matched.task_options == {"n_bound": 20, "form": "matched"}
    assert matched.training == TrainingConfig(steps=7, batch_size=8)
    half = config.resolve("tiny", "inference-half-2", seed=1)
    assert (half.model.name, half.task_options["form"]) == ("gpt2-1x16", "study")
    assert half.training == TrainingConfig(steps=9, batch_size=8)
    assert config.resolve("tiny", "addition").task_options == {}


def test_settings_of_a_task_stand_where_only_labels_run(project):
    changed = yaml.safe_load(TINY) | {"runs": {"inference-matched": ["gpt2-1x16"]}, "training": {}}
    (project / "config" / "tiny.yaml").write_text(yaml.safe_dump(changed))
    assert config.resolve("tiny", "inference-matched").task_options == {"form": "matched"}
    assert config.load_profile("tiny").shown() == []


@pytest.mark.parametrize(
    ("name", "base"), [("inference", "inference"), ("inference-matched", "inference"), ("addition-half-2", "addition")]
)
def test_base_task(name, base):
    assert config.base_task(name) == base


def test_comparisons_are_further_runs_of_other_seeds(project):
    (project / "config" / "tiny.yaml").write_text(LABELS)
    profile = config.load_profile("tiny")
    cells = profile.cells()
    assert cells == [
        ("inference", "gpt2-2x32", 0),
        ("inference", "gpt2-2x32", 3),
        ("inference-matched", "gpt2-2x32", 0),
        ("inference-matched", "gpt2-2x32", 3),
        ("addition", "gpt2-2x32", 0),
        ("addition", "gpt2-2x32", 3),
        ("addition", "gpt2-3x64", 0),
        ("addition", "gpt2-3x64", 3),
        ("inference-half-2", "gpt2-1x16", 1),
        ("inference-half-2", "gpt2-1x16", 2),
        ("addition", "gpt2-2x32", 1),
        ("addition", "gpt2-2x32", 2),
    ]
    # Chapters tell of a task as it is: no labels, no comparisons, the first model and seed.
    assert profile.shown() == [("inference", "gpt2-2x32", 0), ("addition", "gpt2-2x32", 0)]
    with pytest.raises(InputError) as caught:
        config.resolve("tiny", "chess")
    assert "allowed are inference, inference-matched, addition, inference-half-2." in sentence(caught)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("gpt2", ("gpt2", 12, 12, 768)),
        ("gpt2-medium", ("gpt2", 24, 16, 1024)),
        ("gpt2-3x64", ("gpt2", 3, 4, 64)),
        ("llama-12x128", ("llama", 12, 8, 128)),
    ],
)
def test_model_names_say_the_sizes(name, sizes):
    model = ModelConfig.from_name(name)
    assert (model.name, model.architecture, model.n_layer, model.n_head, model.n_embd) == (name, *sizes)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_resolves(profile, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert config.profiles() == PROFILES
    cells = config.load_profile(profile).cells()
    assert cells
    for task, model, seed in cells:
        run = config.resolve(profile, task, model, seed)
        assert (run.profile, run.label) == (profile, f"{task}/{model}/seed{seed}")
        tasks.from_config(run)  # refuses settings that the task does not have


def test_json_round_trip(project):
    run = config.resolve("tiny", "addition")
    read = json.loads(run.to_json())
    assert (read["profile"], read["task"], read["seed"]) == ("tiny", "addition", 0)
    again = config.RunConfig(
        **read
        | {
            "model": ModelConfig(**read["model"]),
            "training": config.build(TrainingConfig, read["training"], "training"),
            "analysis": config.build(AnalysisConfig, read["analysis"], "analysis"),
        }
    )
    assert again == run
    assert again.to_json() == run.to_json()


def test_settings_are_frozen(project):
    run = config.resolve("tiny", "inference")
    for thing, name in (
        (run, "seed"),
        (run.model, "n_layer"),
        (run.training, "steps"),
        (run.analysis, "alphas"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, 1)


def test_root_is_the_nearest_project_above(project, monkeypatch):
    deep = project / "results" / "tiny"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert config.root() == project.resolve()


@pytest.mark.parametrize(("fraction", "total", "count"), [(0.5, 10, 5), (0.25, 10, 3), (0.001, 10, 1), (1.0, 10, 10)])
def test_fraction_to_count(fraction, total, count):
    assert config.fraction_to_count(fraction, total) == count
