"""The tasks: texts on which a model can answer from memory or by inference.

A task is a module of this package with a class ``Task``, a :class:`memgen.tasks.common.BaseTask`: its fields are the
task's settings. A new file is a new task; nothing else needs to change.
"""

import importlib
import pkgutil

from memgen.config import RunConfig, require
from memgen.tasks.common import BaseTask


def names() -> list[str]:
    """The names of the tasks that exist."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "common")


def from_config(config: RunConfig) -> BaseTask:
    """The task of a run; an unknown task or setting is an :class:`memgen.config.InputError`.

    A task without the settings `form` or `conflicts` has the defaults of a run only.
    """
    name = config.base_task
    require(name in names(), f"The task {name!r} is unknown; allowed are {', '.join(names())}.")
    variant = {"form": config.form, "conflicts": config.conflicts}
    for setting in variant:
        require(setting not in config.data, f"{setting} is a setting of a run, not of the data of {config.task}.")
    changed = {setting: value for setting, value in variant.items() if value not in ("study", "graded")}
    return importlib.import_module(f"{__name__}.{name}").Task.read(config.data | changed, f"The data of {config.task}")
