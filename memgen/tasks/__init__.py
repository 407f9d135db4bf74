"""The tasks: texts on which a model can answer from memory or by inference.

A task is a module of this package with a class ``Task``, a :class:`memgen.tasks.common.BaseTask`: its fields are the
task's settings. A new file is a new task; nothing else needs to change.
"""

import importlib
import pkgutil

from memgen.config import PretrainedConfig, RunConfig, require
from memgen.tasks.common import BaseTask
from memgen.tasks.wording import Worded

NO_TASKS = ("common", "lessons", "wording")  # modules of this package that tasks share


def names() -> list[str]:
    """The names of the tasks that exist."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in NO_TASKS)


def from_config(config: RunConfig) -> BaseTask:
    """The task of a run, for a pretrained model in its tokens; an unknown task or setting is an InputError."""
    name = config.base_task
    require(name in names(), f"The task {name!r} is unknown; allowed are {', '.join(names())}.")
    task = importlib.import_module(f"{__name__}.{name}").Task
    variant = {"form": (config.form, "study"), "conflicts": (config.conflicts, "none")}
    settings = dict(config.data)
    for setting, (value, default) in variant.items():
        require(setting not in config.data, f"{setting} is a setting of a run, not of the data of {config.task}.")
        if setting in task.model_fields:
            settings[setting] = value
        require(
            setting in settings or value == default, f"The task {name} has no {setting} {value!r}, only {default!r}."
        )
    of_texts = {"model": config.model} if "model" in task.model_fields else {}  # which its own tokenizer reads
    made = task.read(settings | of_texts, f"The data of {config.task}")
    if isinstance(config.model, PretrainedConfig) and not of_texts:
        return Worded(task=made, model=config.model)
    return made
