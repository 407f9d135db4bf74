"""The page Try it: what its script holds, and what it says where nothing was published."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from book.build import tryit
from memgen import config
from memgen.published import MODELS


@pytest.fixture
def script(tmp_path: Path) -> str:
    tryit.write(tmp_path)
    return (tmp_path / tryit.SCRIPT).read_text(encoding="utf-8")


def test_numbers_travel_in_half_precision() -> None:
    numbers = [np.array([[1.5, -2e-6], [0.0, 65504]], np.float32), np.array([3.14159], np.float32)]
    planes = np.frombuffer(gzip.decompress(base64.b64decode(tryit.packed(numbers))), np.uint8)
    halves = (planes[:5] | planes[5:].astype(np.uint16) << 8).view(np.float16)
    assert halves.tolist() == [1.5, np.float16(-2e-6), 0.0, 65504, np.float16(3.14159)]
    assert tryit.packed(numbers) == tryit.packed(numbers)


def test_one_script_holds_every_model_and_asks_for_nothing(script: str, tmp_path: Path) -> None:
    assert len(script.encode()) < 4_000_000
    models = json.loads(re.search(r"^const MODELS = (.*);$", script, re.MULTILINE)[1])
    assert list(models) == list(tryit.TASKS)
    assert not re.search(r"https?:|fetch\(|XMLHttp|innerHTML|import\(|eval\(", script)
    fragment = (tmp_path / tryit.FRAGMENT).read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="([^"]*)"', fragment) == [f"../_static/downloads/{tryit.SCRIPT}"]


@pytest.mark.parametrize("task", tryit.TASKS)
def test_inputs_are_test_conflicts_of_every_group(task: str) -> None:
    folder = config.root() / MODELS / task
    frame = pd.read_parquet(folder / "data/test.parquet").set_index("prompt")
    rows = frame.loc[[prompt for prompt, _ in tryit.inputs(folder)]]
    assert len(rows) == tryit.N_INPUTS
    assert (rows.kind == "conflict").all() and (rows.variant_of < 0).all()
    assert rows.group.nunique() == frame[frame.kind == "conflict"].group.nunique()


def test_without_published_models_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    tryit.write(tmp_path)
    assert "const MODELS = {};" in (tmp_path / tryit.SCRIPT).read_text(encoding="utf-8")
