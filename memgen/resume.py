"""The state that an interrupted training resumes from: one file, written whole, with a digest of all that is in it."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from memgen.place import sync

RESUME = "resume.safetensors"


class Position(NamedTuple):
    """How far a training is: steps done over all lessons, the lesson, the steps of it done, its running accuracy."""

    total: int = 0
    lesson: int = 0
    step: int = 0
    accuracy: float = 0.0


def save_state(
    model: PreTrainedModel, optimizers: Sequence[Optimizer], folder: Path, at: Position, rows: list[dict]
) -> None:
    """Save the state to resume from, moved into place when it and the checkpoint beside it are whole on the disk."""
    state = {
        f"{number}.{i}.{name}": value.detach().cpu().contiguous()
        for number, optimizer in enumerate(optimizers)
        for i, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    state |= {f"model.{name}": value.detach().cpu().clone() for name, value in trained.items()}
    # Position and trajectory travel as text in the file's header, so that they and the weights cannot come apart.
    header = {"at": json.dumps(at), "rows": json.dumps(rows)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "resume.partial", metadata=header | {"sha256": _sha256(state, header)})
    sync(folder / "resume.partial", *folder.glob(f"step{at.total}"))
    (folder / "resume.partial").replace(folder / RESUME)


def _sha256(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    """The digest of a state: of each tensor's and text's name and content, in the order of their names."""
    whole = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(tensors):
        whole.update(name.encode())
        whole.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def load_state(model: PreTrainedModel, optimizers: Sequence[Optimizer], folder: Path) -> tuple[Position, list[dict]]:
    """Load the state of an interrupted training into the model and the optimizers; return what else was saved.

    Where there is no state, that is the first position and no rows. A damaged one is not read: what the training left
    is removed, and it begins anew.
    """
    if not (folder / RESUME).exists():
        return Position(), []
    try:
        with safe_open(folder / RESUME, "pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a mapping)
        is_whole = header.pop("sha256") == _sha256(tensors, header)
    except (SafetensorError, AttributeError, KeyError):  # no such file, no header, no digest
        is_whole = False
    if not is_whole:
        print(f"{folder / RESUME} is damaged: the training begins anew.")
        shutil.rmtree(folder)
        return Position(), []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors.pop(f"model.{name}"))
    states = [optimizer.state_dict() for optimizer in optimizers]
    for name, value in tensors.items():
        number, index, entry = name.split(".", 2)
        states[int(number)]["state"].setdefault(int(index), {})[entry] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    return Position(*json.loads(header["at"])), json.loads(header["rows"])
