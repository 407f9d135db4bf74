"""Both graded tasks at once: stories and sums among the training texts of one model.

Texts, prompts and bound entities are those of :mod:`memgen.tasks.graded_inference` and
:mod:`memgen.tasks.graded_addition`; a column `part` says of which. The vocabularies are joined, and no word belongs to
both. Prompts of the two parts differ in length, so an analysis takes one part at a time.
"""

from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerFast

from memgen.config import Conflicts, Count, Form, require
from memgen.tasks import graded_addition, graded_inference
from memgen.tasks.common import SPLITS, BaseTask, TaskData, word_tokenizer


class Task(BaseTask):
    """Settings of the task.

    `inference_share` is the share of stories among the training texts. The other settings are those of the parts:
    `form`, `conflicts` and `corpus_size` (of both together) hold for the two; `n_names` names and `n_pairs` pairs are
    bound, and as many names are free as are bound, 20 at least.
    """

    form: Form = "study"
    conflicts: Conflicts = "graded"
    inference_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    corpus_size: Count = 300_000
    n_names: int = 64
    n_pairs: int = 240
    conflicts_per_group: int = 48
    others_per_group: int = 8
    digits: int = 3
    unbound_per_split: int = 400

    @model_validator(mode="after")
    def _parts_are_allowed(self) -> Self:
        enough = 0 < self._n_stories < self.corpus_size
        require(enough, f"A corpus of {self.corpus_size} texts is too small for two tasks.")
        _ = self.stories, self.sums  # refuses what the parts refuse
        return self

    @property
    def _n_stories(self) -> int:
        return round(self.inference_share * self.corpus_size)

    @property
    def stories(self) -> graded_inference.Task:
        """The part that is graded inference."""
        return graded_inference.Task(
            form=self.form,
            conflicts=self.conflicts,
            n_bound=self.n_names,
            n_free=max(20, self.n_names),
            corpus_size=self._n_stories,
            conflicts_per_group=self.conflicts_per_group,
            others_per_group=self.others_per_group,
        )

    @property
    def sums(self) -> graded_addition.Task:
        """The part that is graded addition."""
        return graded_addition.Task(
            form=self.form,
            conflicts=self.conflicts,
            digits=self.digits,  # type: ignore[arg-type]  # the part refuses what is not allowed
            n_bound=self.n_pairs,
            corpus_size=self.corpus_size - self._n_stories,
            unbound_per_split=self.unbound_per_split,
        )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a word, digit, sign or tag; it writes a space between any two."""
        words = [*self.stories.words, *graded_addition.WORDS]
        return word_tokenizer(words, r"<mem-[0-9a-f]{8}>|[A-Za-z]+|[^ ]", " ")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        stories, sums = (self._translated(part, part.generate(rng)) for part in (self.stories, self.sums))
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
