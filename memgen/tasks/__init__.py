"""The tasks: texts on which a model can answer from memory or by inference.

A task is a module of this package with a frozen dataclass named ``Task``: its fields are the task's settings, its
methods are those of :class:`TaskProtocol`. A new file is a new task; nothing else has to be told.
"""

import importlib
import pkgutil
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerFast

from memgen.config import InputError, RunConfig, base_task, build
from memgen.tasks.common import KINDS, SPLITS, TaskData

__all__ = ["KINDS", "SPLITS", "TaskData", "TaskProtocol", "from_config", "names"]


class TaskProtocol(Protocol):
    """What a task offers to the stages."""

    query_length: int  #: the number of tokens at the end of a prompt that ask the question

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, which adds the first token and knows padding."""

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""


def names() -> list[str]:
    """The names of the tasks that exist."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "common")


def from_config(config: RunConfig) -> TaskProtocol:
    """The task of a run, whose name may have a label; an unknown task or setting is an :class:`InputError`."""
    name = base_task(config.task)
    if name not in names():
        raise InputError(f"The task {config.task!r} is unknown; allowed are {', '.join(names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    return build(module.Task, config.task_options, f"The task {config.task}")
