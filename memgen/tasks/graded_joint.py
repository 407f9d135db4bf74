"""Both graded tasks at once, as :mod:`memgen.tasks.joint` joins those of the study."""

from collections.abc import Mapping

from memgen.config import Conflicts, Form
from memgen.tasks import graded_addition, graded_inference
from memgen.tasks.common import BaseTask
from memgen.tasks.joint import Joint


class Task(Joint):
    """Settings of the task: those of its parts, `stories` and `sums`, whose `form` and `conflicts` stand here."""

    form: Form = "study"
    conflicts: Conflicts = "graded"
    stories: graded_inference.Task = graded_inference.Task(corpus_size=75_000)
    sums: graded_addition.Task = graded_addition.Task(corpus_size=225_000)

    @property
    def parts(self) -> Mapping[str, BaseTask]:
        """The two tasks, in the form of this one."""
        variant = {"form": self.form, "conflicts": self.conflicts}
        return {
            "graded_inference": self.stories.model_copy(update=variant),
            "graded_addition": self.sums.model_copy(update=variant),
        }
