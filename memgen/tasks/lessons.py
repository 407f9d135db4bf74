"""Lessons: what a training shows a model, step by step, before and on the texts of a task."""

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -100  # a label that the loss leaves out
LONGEST_COPY = 20

#: Draws texts of one length [batch pos], and which of their tokens are asked for (boolean [batch pos]).
Draw = Callable[[np.random.Generator, int], tuple[NDArray, NDArray]]


class Lesson(NamedTuple):
    """A part of the curriculum.

    `batch` gives, for a step of the lesson, token ids and labels [batch pos]; the label of a token stands at its own
    place, and is `IGNORED` where nothing is asked. The lesson ends after `steps`, or as soon as the running accuracy on
    the labels reaches `until`.
    """

    name: str
    steps: int
    batch: Callable[[int], tuple[Tensor, Tensor]]
    until: float | None = None


def drawn(name: str, draw: Draw, steps: int, batch_size: int, seed: int, until: float | None = None) -> Lesson:
    """Texts that are drawn anew for each step, by a generator that seed, lesson and step decide."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), step])
        ids, is_asked = draw(rng, batch_size)
        tokens = torch.from_numpy(np.asarray(ids, dtype=np.int64))
        return tokens, tokens.masked_fill(~torch.from_numpy(is_asked), IGNORED)

    return Lesson(name, steps, batch, until)


def copying(vocabulary_size: int, steps: int, batch_size: int, seed: int) -> Lesson:
    """The copy warm-up: random distinct tokens written twice in a row; the second half is asked for."""
    longest = min(LONGEST_COPY, vocabulary_size - 3)  # tokens 0-2 are special

    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        length = int(torch.randint(min(6, longest), longest + 1, (1,), generator=generator))
        ids = torch.rand(batch_size, vocabulary_size - 3, generator=generator).argsort(1)[:, :length] + 3
        first = torch.ones(batch_size, 1, dtype=torch.long)  # the token that begins each text
        labels = torch.cat([torch.full((batch_size, length + 1), IGNORED), ids], 1)
        return torch.cat([first, ids, ids], 1), labels

    return Lesson("copy", steps, batch)


def pack(corpus: pd.DataFrame, pad_id: int) -> Tensor:
    """The texts of a corpus as one array [texts, longest text], padded on the right."""
    lengths = corpus.input_ids.str.len().to_numpy()
    packed = np.full((len(corpus), lengths.max()), pad_id, dtype=np.int64)
    packed[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(corpus.input_ids.to_list())
    return torch.from_numpy(packed)


def from_corpus(corpus: pd.DataFrame, pad_id: int, steps: int, batch_size: int, seed: int) -> Lesson:
    """The texts of a corpus: whole passes, each in a new random order; every token is asked for."""
    texts, needed = pack(corpus, pad_id), steps * batch_size
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(len(texts), generator=generator) for _ in range(math.ceil(needed / len(texts)))]
    order = torch.cat(passes)[:needed].reshape(steps, batch_size)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        ids = texts[order[step]]
        return ids, ids.masked_fill(ids == pad_id, IGNORED)

    return Lesson("texts", steps, batch)
