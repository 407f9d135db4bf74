"""What a power cut leaves: nothing stands in its place before all of it is on the disk."""

import os
from pathlib import Path

import pytest
import torch

from book.build.chapters import seal
from memgen.resume import RESUME, Position, save_state

from .book.made import executed
from .conftest import tiny_model
from .test_run import make, project  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def on_disk(monkeypatch):
    """What was synced, by inode. Nothing else may be renamed, and what says that its folder is whole is the last."""
    synced, whole = set(), ("manifest.json", RESUME)

    def noted(descriptor):
        synced.add(os.fstat(descriptor).st_ino)

    def checked(move):
        def moved(path, target):
            spoken_for = path.parent if Path(target).name in whole else path
            missing = [each for each in (path, *spoken_for.rglob("*")) if each.stat().st_ino not in synced]
            assert missing == []
            return move(path, target)

        return moved

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", checked(Path.rename))
    monkeypatch.setattr(Path, "replace", checked(Path.replace))
    return synced


@pytest.mark.parametrize("times", [1, 2])
def test_a_finished_stage(project, on_disk, times):  # noqa: F811
    for _ in range(times):
        folder = make("data", files=("one.txt", "model/weights", "tables/rows.csv"))
        seal(folder, executed(project / "copy.ipynb"))
    assert (folder / "manifest.json").stat().st_ino in on_disk


def test_the_state_of_a_training(tmp_path, on_disk):
    (tmp_path / "step3").mkdir()
    (tmp_path / "step3/model.safetensors").write_bytes(b"weights")
    model = tiny_model("gpt2")
    save_state(model, [torch.optim.AdamW(model.parameters())], tmp_path, Position(total=3), [])
    assert (tmp_path / RESUME).stat().st_ino in on_disk
