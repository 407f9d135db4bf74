"""Both graded tasks at once: stories and sums among the training texts of one model.

Texts, prompts and bound entities are those of :mod:`memgen.tasks.graded_inference` and
:mod:`memgen.tasks.graded_addition`; a column `part` says of which. The vocabularies are joined, and no word belongs to
both. Prompts of the two parts differ in length, so an analysis takes one part at a time.
"""

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerFast

from memgen.config import Conflicts, Form
from memgen.tasks import graded_addition, graded_inference
from memgen.tasks.common import SPLITS, BaseTask, TaskData, word_tokenizer


class Task(BaseTask):
    """Settings of the task: those of its parts, `stories` and `sums`, whose `form` and `conflicts` stand here."""

    form: Form = "study"
    conflicts: Conflicts = "graded"
    stories: graded_inference.Task = graded_inference.Task(corpus_size=75_000)
    sums: graded_addition.Task = graded_addition.Task(corpus_size=225_000)

    @property
    def parts(self) -> tuple[graded_inference.Task, graded_addition.Task]:
        """The two tasks, in the form of this one."""
        variant = {"form": self.form, "conflicts": self.conflicts}
        return self.stories.model_copy(update=variant), self.sums.model_copy(update=variant)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a word, digit, sign or tag; it writes a space between any two."""
        words = [*self.parts[0].words, *graded_addition.WORDS]
        return word_tokenizer(words, r"<mem-[0-9a-f]{8}>|[A-Za-z]+|[^ ]", " ")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        stories, sums = (self._translated(part, part.generate(rng)) for part in self.parts)
        memory = _joined(stories.memory, sums.memory)
        memory = memory.astype({"a": "Int64", "b": "Int64"})  # whole numbers, missing for names
        corpus = _joined(stories.corpus, sums.corpus)
        corpus = corpus.iloc[rng.permutation(len(corpus))].reset_index(drop=True)
        splits = {split: _joined(stories.splits[split], sums.splits[split]) for split in SPLITS}
        return TaskData(memory, corpus, splits)

    def _translated(self, part: BaseTask, data: TaskData) -> TaskData:
        """The data of a part with its tokens' numbers in the joint vocabulary."""
        tokenizer = part.tokenizer()
        words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        table = np.array(self.tokenizer().convert_tokens_to_ids(words), dtype=np.int32)
        corpus, *splits = (
            frame.assign(input_ids=[table[ids] for ids in frame.input_ids])
            for frame in (data.corpus, *data.splits.values())
        )
        return TaskData(data.memory, corpus, dict(zip(data.splits, splits, strict=True)))


def _joined(stories: pd.DataFrame, sums: pd.DataFrame) -> pd.DataFrame:
    """The stories above the sums, with the column `part`; an original is found at its new place."""
    if "variant_of" in sums:
        sums = sums.assign(variant_of=sums.variant_of.where(sums.variant_of < 0, sums.variant_of + len(stories)))
    return pd.concat([stories.assign(part="graded_inference"), sums.assign(part="graded_addition")], ignore_index=True)
