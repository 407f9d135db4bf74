"""Both tasks at once: stories and sums among the training texts of one model.

Texts, prompts and bound entities are those of :mod:`memgen.tasks.inference` and :mod:`memgen.tasks.addition`; a column
`part` says of which. The vocabularies are joined, and no word belongs to both. Prompts of the two parts differ in
length, so an analysis takes one part at a time.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerFast

from memgen.config import InputError
from memgen.tasks import addition, inference
from memgen.tasks.common import SPLITS, TaskData, check_counts, word_tokenizer


@dataclasses.dataclass(frozen=True)
class Task:
    """Settings of the task.

    `inference_share` is the share of stories among the training texts. The other settings are those of the parts:
    `form` and `corpus_size` (of both together) hold for the two; `n_names` names and `n_pairs` pairs are bound, and as
    many names are free as are bound, 20 at least.
    """

    form: str = "study"
    inference_share: float = 0.25
    corpus_size: int = 300_000
    n_names: int = 64
    n_pairs: int = 240
    conflicts_per_group: int = 48
    others_per_group: int = 8
    digits: int = 3
    unbound_per_split: int = 400

    query_length: int = dataclasses.field(default=1, init=False)  # the tokens that both kinds of question have

    def __post_init__(self) -> None:
        if not 0 < self.inference_share < 1:
            raise InputError(f"inference_share must be above 0 and below 1, not {self.inference_share}.")
        check_counts(self, "corpus_size")
        n_stories = round(self.inference_share * self.corpus_size)
        if not 0 < n_stories < self.corpus_size:
            raise InputError(f"A corpus of {self.corpus_size} texts is too small for two tasks.")
        _ = self.stories, self.sums  # refuses what the parts refuse

    @property
    def stories(self) -> inference.Task:
        """The part that is the inference task."""
        return inference.Task(
            form=self.form,
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
            digits=self.digits,
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
        stories, sums = self.stories.generate(rng), self.sums.generate(rng)
        made = {"inference": self._translated(self.stories, stories), "addition": self._translated(self.sums, sums)}
        memory = _joined({name: data.memory for name, data in made.items()})
        memory = memory.astype({"a": "Int64", "b": "Int64"})  # whole numbers, missing for names
        corpus = _joined({name: data.corpus for name, data in made.items()})
        corpus = corpus.iloc[rng.permutation(len(corpus))].reset_index(drop=True)
        splits = {split: _prompts({name: data.splits[split] for name, data in made.items()}) for split in SPLITS}
        return TaskData(memory, corpus, splits)

    def _translated(self, part: inference.Task | addition.Task, data: TaskData) -> TaskData:
        """The data of a part with its tokens' numbers in the joint vocabulary."""
        own, joint = part.tokenizer().get_vocab(), self.tokenizer().get_vocab()
        table = np.zeros(len(own), dtype=np.int32)
        for word, number in own.items():
            table[number] = joint[word]

        def translate(frame: pd.DataFrame) -> pd.DataFrame:
            return frame.assign(input_ids=[table[ids] for ids in frame.input_ids])

        splits = {split: translate(frame) for split, frame in data.splits.items()}
        return TaskData(data.memory, translate(data.corpus), splits)


def _joined(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The frames of the parts below one another, with the column `part`."""
    return pd.concat([frame.assign(part=name) for name, frame in frames.items()], ignore_index=True)


def _prompts(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The prompts of the parts below one another; a variant's original is found at its new place."""
    moved, above = {}, 0
    for name, frame in frames.items():
        moved[name] = frame.assign(variant_of=frame.variant_of.where(frame.variant_of < 0, frame.variant_of + above))
        above += len(frame)
    return _joined(moved)
