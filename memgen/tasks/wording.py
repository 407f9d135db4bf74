"""A task in the tokens of a pretrained model.

A task writes in words of its own, one token each. For a pretrained model they become running text, which the model's
tokenizer reads: `Ada is frog . Ben is green . Ada is` is "Ada is frog. Ben is green. Ada is", and the answer `green` is
" green". Words that the tokenizer splits stay: a name or an answer may be several tokens.

Prompt and answer are read one after the other, as they are when a prompt is given and an answer follows: no token
reaches from one into the other, as `=(` would in a sum.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from memgen import pretrained
from memgen.config import PretrainedConfig, TrainingConfig
from memgen.tasks.common import BaseTask, TaskData
from memgen.tasks.lessons import IGNORED, Lesson


class Worded(BaseTask):
    """A task for a pretrained model.

    In what it generates, `memory` and the `input_ids` of `corpus` stay in the words of the task, which its lessons are
    written in; lessons are translated batch by batch.
    """

    task: BaseTask
    model: PretrainedConfig

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer."""
        return pretrained.load_tokenizer(self.model)

    def generate(self, rng: np.random.Generator) -> TaskData:
        """The task's data; prompts that the model has no room for are an :class:`memgen.config.InputError`."""
        reader, data = self._reader(), self.task.generate(rng)
        splits = {name: reader.prompts(frame) for name, frame in data.splits.items()}
        pretrained.require_room(self.model, max(map(reader.longest, splits.values())))
        return TaskData(data.memory, data.corpus.assign(text=reader.texts(data.corpus.input_ids)), splits)

    def lessons(self, memory: pd.DataFrame, corpus: pd.DataFrame, config: TrainingConfig, seed: int) -> list[Lesson]:
        """The task's lessons, translated."""
        reader = self._reader()
        own = self.task.lessons(memory, corpus, config, seed)
        return [lesson._replace(batch=reader.translated(lesson.batch)) for lesson in own]

    def _reader(self) -> "_Reader":
        return _Reader(self.task, self.task.tokenizer(), self.tokenizer())


class _Reader(NamedTuple):
    """Translates from the `words` of a task, by its tokenizer, to tokens."""

    task: BaseTask
    words: PreTrainedTokenizerBase
    tokenizer: PreTrainedTokenizerBase

    def texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Running text."""
        words = self.words.batch_decode([list(of_text) for of_text in ids], skip_special_tokens=True)
        return list(map(self.task.spoken, words))

    def following(self, text: str) -> str:
        """A text as it follows another: after a space, where there is one between two words."""
        has_spaces = " " in self.words.decode([3, 4])  # the first words after the special tokens
        return f" {text}" if has_spaces and text and not text.startswith(".") else text

    def prompts(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame of prompts, with the answers as they follow; a column `words` keeps those of the task."""
        texts = self.texts(frame.input_ids)
        ids = [np.array(tokens, dtype=np.int32) for tokens in self.tokenizer(texts).input_ids]
        answers = {}
        for name in ("answer_memorization", "answer_generalization"):
            of_frame = frame[name].dropna()
            spoken = {
                answer: "|".join(map(self.following, self.task.spoken(answer).split("|")))
                for answer in of_frame.unique()
            }
            answers[name] = frame[name].map(spoken).astype(object).where(frame[name].notna(), None)
        return frame.assign(words=frame.input_ids, input_ids=ids, prompt=texts, **answers)

    def longest(self, frame: pd.DataFrame) -> int:
        """The tokens of the longest prompt and the longest answer."""
        answers = pd.concat([frame.answer_memorization, frame.answer_generalization]).dropna().unique()
        options = sorted(set(itertools.chain(*(answer.split("|") for answer in answers))))
        return max(map(len, frame.input_ids)) + max(map(len, self._tokens(options)))

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False).input_ids

    def translated(self, batch: Callable[[int], tuple[Tensor, Tensor]]) -> Callable[[int], tuple[Tensor, Tensor]]:
        """A lesson's batches in tokens: what is asked of a word is asked of all its tokens."""

        def of_step(step: int) -> tuple[Tensor, Tensor]:
            rows = [self._parts(*row) for row in zip(*(tensor.tolist() for tensor in batch(step)), strict=True)]
            ids = [torch.tensor([token for token, _ in row]) for row in rows]
            labels = [torch.tensor([token if is_asked else IGNORED for token, is_asked in row]) for row in rows]
            pad = int(self.tokenizer.pad_token_id)
            return pad_sequence(ids, True, pad), pad_sequence(labels, True, IGNORED)

        return of_step

    def _parts(self, words: list[int], labels: list[int]) -> list[tuple[int, bool]]:
        """The tokens of a text, and whether each is asked for; parts that are asked and not are read one by one."""
        result: list[tuple[int, bool]] = []
        kept = [(word, label != IGNORED) for word, label in zip(words, labels, strict=True)]
        pad, end = self.words.pad_token_id, self.words.eos_token_id
        kept = [(word, is_asked) for word, is_asked in kept if word not in (pad, end)]
        for is_asked, part in itertools.groupby(kept, lambda pair: pair[1]):
            (text,) = self.texts([[word for word, _ in part]])
            tokens = self._tokens([self.following(text)])[0] if result else self.tokenizer(text).input_ids
            result += [(token, is_asked) for token in tokens]
        if end in words:
            result.append((int(self.tokenizer.eos_token_id), labels[words.index(end)] != IGNORED))
        return result
