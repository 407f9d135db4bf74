"""Both tasks at once: stories and sums among the training texts of one model.

Texts, prompts and bound entities are those of :mod:`memgen.tasks.inference` and :mod:`memgen.tasks.addition`; a column
`part` says of which. The vocabularies are joined, and no word belongs to both. Prompts of the two parts differ in
length, so an analysis takes one part at a time.
"""

from collections.abc import Mapping
from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerFast

from memgen.config import Conflicts, Count, Form, require
from memgen.tasks import addition, inference
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
        n_stories = round(self.inference_share * self.corpus_size)
        require(0 < n_stories < self.corpus_size, f"A corpus of {self.corpus_size} texts is too small for two tasks.")
        _ = self.stories, self.sums  # refuses what the parts refuse
        return self

    @property
    def stories(self) -> inference.Task:
        """The part that is the inference task."""
        return inference.Task(
            form=self.form,
            conflicts=self.conflicts,
            n_bound=self.n_names,
            n_free=max(20, self.n_names),
            corpus_size=round(self.inference_share * self.corpus_size),
            conflicts_per_group=self.conflicts_per_group,
            others_per_group=self.others_per_group,
        )

    @property
    def sums(self) -> addition.Task:
        """The part that is the addition task."""
        return addition.Task(
            form=self.form,
            conflicts=self.conflicts,
            digits=self.digits,  # type: ignore[arg-type]  # the part refuses what is not allowed
            n_bound=self.n_pairs,
            corpus_size=self.corpus_size - round(self.inference_share * self.corpus_size),
            unbound_per_split=self.unbound_per_split,
        )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a word, digit, sign or tag; it writes a space between any two."""
        words = [*self.stories.words, *addition.WORDS]
        return word_tokenizer(words, r"<mem-[0-9a-f]{8}>|[A-Za-z]+|[^ ]", " ")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        parts = {
            "inference": self._translated(self.stories, self.stories.generate(rng)),
            "addition": self._translated(self.sums, self.sums.generate(rng)),
        }
        memory = _joined({name: part.memory for name, part in parts.items()})
        memory = memory.astype({"a": "Int64", "b": "Int64"})  # whole numbers, missing for names
        corpus = _joined({name: part.corpus for name, part in parts.items()})
        corpus = corpus.iloc[rng.permutation(len(corpus))].reset_index(drop=True)
        splits = {split: _joined({name: part.splits[split] for name, part in parts.items()}) for split in SPLITS}
        return TaskData(memory, corpus, splits)

    def _translated(self, part: BaseTask, data: TaskData) -> TaskData:
        """The data of a part with its tokens' numbers in the joint vocabulary."""
        vocabulary, joint_vocabulary = part.tokenizer().get_vocab(), self.tokenizer().get_vocab()
        table = np.zeros(len(vocabulary), dtype=np.int32)
        for word, number in vocabulary.items():
            table[number] = joint_vocabulary[word]

        def translate(frame: pd.DataFrame) -> pd.DataFrame:
            return frame.assign(input_ids=[table[ids] for ids in frame.input_ids])

        splits = {split: translate(frame) for split, frame in data.splits.items()}
        return TaskData(data.memory, translate(data.corpus), splits)


def _joined(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The frames of the parts below one another, with the column `part`; an original is found at its new place."""
    joined = pd.concat([frame.assign(part=name) for name, frame in frames.items()], ignore_index=True)
    if "variant_of" in joined:
        first = np.cumsum([0, *map(len, frames.values())])[:-1]
        moved = joined.variant_of + np.repeat(first, [len(frame) for frame in frames.values()])
        joined["variant_of"] = joined.variant_of.where(joined.variant_of < 0, moved)
    return joined
