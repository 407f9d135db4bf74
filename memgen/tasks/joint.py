"""The study's two tasks at once: stories and sums among the training texts of one model.

Prompts, bound entities and lessons are those of :mod:`memgen.tasks.inference` and :mod:`memgen.tasks.addition`; a
column `part` says of which. The vocabularies are joined, and no word belongs to both. Prompts of the two parts differ
in length, so an analysis takes one part at a time.

Each batch of a lesson of stories, and of the texts, has sums beside the stories: what is not shown is forgotten.
"""

import abc
import functools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from memgen.config import Share
from memgen.tasks import addition, inference
from memgen.tasks.common import BaseTask, TaskData, word_tokenizer
from memgen.tasks.lessons import Draw


class Joint(BaseTask):
    """A task that consists of two, the first of stories."""

    @property
    @abc.abstractmethod
    def parts(self) -> Mapping[str, BaseTask]:
        """The two tasks by name."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a word, digit, sign, running sum or tag; it writes a space between any two."""
        words = [word for part in self.parts.values() for word in _vocabulary(part)[3:]]  # without special tokens
        return word_tokenizer(words, r"<mem-[0-9a-f]{8}>|\(\d+\)|[A-Za-z]+|[^ ]", " ")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        made = [(name, self._translated(part, part.generate(rng))) for name, part in self.parts.items()]
        memory = _joined({name: data.memory for name, data in made})
        numbers = {column: "Int64" for column in "abcd" if column in memory}  # whole numbers, missing for names
        corpus = _joined({name: data.corpus for name, data in made})
        corpus = corpus.iloc[rng.permutation(len(corpus))].reset_index(drop=True)
        splits = {split: _joined({name: data.splits[split] for name, data in made}) for split in made[0][1].splits}
        return TaskData(memory.astype(numbers), corpus, splits)

    def tokens(self, part: BaseTask) -> NDArray[np.int32]:
        """The number in the joint vocabulary of each token of a part."""
        return np.array(self.tokenizer().convert_tokens_to_ids(_vocabulary(part)), dtype=np.int32)

    def _translated(self, part: BaseTask, data: TaskData) -> TaskData:
        """The data of a part with its tokens' numbers in the joint vocabulary."""
        table = self.tokens(part)
        corpus, *splits = (
            frame.assign(input_ids=[table[ids] for ids in frame.input_ids])
            for frame in (data.corpus, *data.splits.values())
        )
        return TaskData(data.memory, corpus, dict(zip(data.splits, splits, strict=True)))


class Task(Joint):
    """Settings of the task: those of its parts, `stories` and `sums`, and the share of stories in a batch."""

    stories: inference.Task = inference.Task()
    sums: addition.Task = addition.Task()
    story_share: Share = 0.4

    @property
    def parts(self) -> Mapping[str, BaseTask]:
        """The two tasks."""
        return {"inference": self.stories, "addition": self.sums}

    def draws(self, memory: pd.DataFrame) -> dict[str, Draw]:
        """The lessons of stories, each with sums beside them; and the texts of both tasks."""
        stories, sums = (
            part.draws(memory[memory.part == name].astype({c: int for c in "cd" if name == "addition"}))
            for name, part in self.parts.items()
        )
        tables = [self.tokens(part) for part in self.parts.values()]

        def draw(story: Draw, of_sums: Draw, rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray]:
            n_stories = round(self.story_share * n)
            drawn = [story(rng, n_stories), of_sums(rng, n - n_stories)]
            longest = max(ids.shape[1] for ids, _ in drawn)
            room = [((0, 0), (0, longest - ids.shape[1])) for ids, _ in drawn]  # of padding, which is 0
            ids = [np.pad(table[rows], space) for table, (rows, _), space in zip(tables, drawn, room, strict=True)]
            is_asked = [np.pad(asked, space) for (_, asked), space in zip(drawn, room, strict=True)]
            return np.vstack(ids), np.vstack(is_asked)

        beside = {name: sums["texts" if name == "texts" else "sums"] for name in stories}
        return {name: functools.partial(draw, story, beside[name]) for name, story in stories.items()}


def _vocabulary(part: BaseTask) -> list[str]:
    tokenizer = part.tokenizer()
    return list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))


def _joined(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The frames of both parts, one above the other, with the column `part`; an original is found at its new place."""
    parts, start = [], 0
    for name, frame in frames.items():
        if "variant_of" in frame:
            frame = frame.assign(variant_of=frame.variant_of.where(frame.variant_of < 0, frame.variant_of + start))
        parts.append(frame.assign(part=name))
        start += len(frame)
    return pd.concat(parts, ignore_index=True)
