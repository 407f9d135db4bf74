"""What the smoke profile leaves behind keeps the contract of the results, read without memgen."""

import hashlib
import itertools
import json
import math
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from .conftest import Project

STAGES = ("data", "training", "localization", "prediction", "steering")
KINDS = {"memorized_only", "inferred_only", "aligned", "conflict"}
COLUMNS = {
    **dict.fromkeys(
        [f"data/{split}.parquet" for split in ("train", "validation", "test")],
        "input_ids prompt kind answer_memorization answer_generalization group variant_of",
    ),
    "training/trajectory.parquet": "step",
    "localization/neurons.parquet": "site layer neuron nmd r p_value q_value selected",
    "prediction/probes.parquet": "population probe site layer split n accuracy auroc",
    "steering/outcomes.parquet": "method control target behavior_before behavior_after log_odds_before "
    "log_odds_after group in_flip_pair",
}
RECORD = {"measure", "value", "ci_low", "ci_high", "n", "unit", "definition"}


@pytest.fixture(scope="module")
def runs(project: Project) -> list[Path]:
    """The folder of every run of the profile."""
    folders = sorted(path.parent for path in project.root.glob("results/smoke/*/*/seed*/data"))
    assert [folder.parts[-3] for folder in folders] == ["addition", "inference", "inference"]
    return folders


@pytest.fixture(scope="module")
def stages(project: Project, runs: list[Path]) -> list[Path]:
    """The folder of every finished stage."""
    of_profile = [project.root / "results/smoke" / stage for stage in ("planted", "carryover", "synthesis")]
    return [run / stage for run in runs for stage in STAGES] + of_profile


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_manifests_name_every_file_with_its_sha256(stages: list[Path]) -> None:
    for folder in stages:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
        assert set(manifest["outputs"]) == files, folder
        for name, entry in manifest["outputs"].items():
            assert entry["sha256"] == digest(folder / name), name
        assert {"parameters", "packages", "git", "inputs"} <= set(manifest)
        assert manifest["wall_seconds"] > 0
        assert 0 < manifest["peak_memory_bytes"] < 3 * 2**30
        assert manifest["inputs"] or folder.name == "data"


def test_weights_have_the_same_bytes_whenever_they_are_the_same(runs: list[Path]) -> None:
    """Several entries of a header's metadata would be written in an order that chance decides."""
    files = [path for run in runs for path in run.rglob("*.safetensors")]
    assert "das.safetensors" in {path.name for path in files}
    for path in files:
        with safe_open(path, "np") as file:
            assert len(file.metadata() or {}) <= 1, path


def test_inputs_are_the_outputs_of_earlier_stages(runs: list[Path]) -> None:
    for run in runs:
        for stage in STAGES[1:]:
            inputs = json.loads((run / stage / "manifest.json").read_text())["inputs"]
            assert {name.split("/")[0] for name in inputs} <= set(STAGES[: STAGES.index(stage)])
            for name, entry in inputs.items():
                assert entry["sha256"] == digest(run / name)


def test_metrics_are_tidy_records_without_undefined_numbers(stages: list[Path]) -> None:
    for folder in stages:
        records = json.loads((folder / "metrics.json").read_text())
        assert records, folder
        keys = [
            frozenset(record.items() - {(name, record[name]) for name in RECORD - {"measure"}}) for record in records
        ]
        assert len(keys) == len(set(keys)), f"{folder}: a measure and its coordinates stand once"
        for record in records:
            assert set(record) >= RECORD
            assert None not in [record[name] for name in set(record) - RECORD], "coordinates that apply"
            assert record["unit"], record
            assert record["definition"], record
            assert record["n"] == 0 if record["value"] is None else math.isfinite(record["value"])
            if None not in (record["ci_low"], record["ci_high"]):
                assert record["ci_low"] <= record["value"] <= record["ci_high"], record
                if record["unit"] in ("share 0-1", "accuracy 0-1", "AUROC 0-1"):
                    assert 0 <= record["ci_low"] < record["ci_high"] <= 1, record


def test_figures_come_as_specification_data_and_picture(stages: list[Path]) -> None:
    for folder in stages:
        names = {path.name.split(".")[0] for path in (folder / "figures").iterdir()}
        assert names, folder
        for name in names:
            json.loads((folder / f"figures/{name}.vl.json").read_text())
            assert len(pd.read_csv(folder / f"figures/{name}.csv")) > 0
            assert (folder / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_executed_notebooks_are_short_of_errors_and_of_bars(stages: list[Path]) -> None:
    for folder in stages:
        notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error"
                assert len(output.get("text", "").splitlines()) < 40, "progress belongs to the terminal"


@pytest.mark.parametrize(("name", "profile"), [("forms", "graded"), ("tasks", "graded"), ("study_tasks", "joint")])
def test_what_other_profiles_computed_is_shown_as_theirs(project: Project, name: str, profile: str) -> None:
    """They also publish what they showed of one another."""
    notebook = nbformat.read(project.root / "results/smoke/carryover/notebook.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"].get("text/html", "") for output in outputs if "data" in output]
    (page,) = [page for page in pages if f'id="figure-{name}_matrix"' in page]
    assert f"Published results of the profile {profile}" in page


def test_tables_have_the_columns_of_the_contract(runs: list[Path]) -> None:
    for run in runs:
        for name, columns in COLUMNS.items():
            frame = pd.read_parquet(run / name)
            assert set(columns.split()) <= set(frame.columns), name
            assert len(frame) > 0
        assert len(pd.read_parquet(run / "data/memory.parquet")) > 0


def test_splits_share_no_group_and_know_the_kinds(runs: list[Path]) -> None:
    for run in runs:
        splits = [pd.read_parquet(run / f"data/{name}.parquet") for name in ("train", "validation", "test")]
        for frame in splits:
            assert set(frame["kind"]) <= KINDS
        for one, other in itertools.combinations(splits, 2):
            assert set(one["group"]).isdisjoint(other["group"])


def test_models_and_interventions_open_without_memgen(runs: list[Path]) -> None:
    for run in runs:
        model = AutoModelForCausalLM.from_pretrained(run / "training/model")
        tokenizer = AutoTokenizer.from_pretrained(run / "data/tokenizer")
        assert tokenizer.is_fast
        frame = pd.read_parquet(run / "data/test.parquet")
        assert np.concatenate(frame["input_ids"].to_numpy()).max() < model.config.vocab_size
        vectors = sorted(run.glob("steering/interventions/*.safetensors"))
        assert vectors
        for path in vectors:
            tensors = load_file(path)
            assert set(tensors) == {"memorization", "generalization"}, path
            for tensor in tensors.values():
                assert tensor.shape[0] == model.config.n_layer
                assert tensor.ndim == 2
                assert np.isfinite(tensor).all()
            about = json.loads(path.with_suffix(".json").read_text())
            assert "site" in about
