"""Graded addition: conflicts are trained on, and how often memory wins depends on how the two addends are bound.

The sum is inferred from the digits, or a tag is remembered that training bound to the addends.

The sum is written with its least significant digit first, in one digit more than the addends have, so that each digit
needs only the digits and the carry before it::

    347+215=2650        an unbound pair: 347 + 215 = 0562
    528+164=<mem-...>   a bound pair: the tag, in part of its training texts

In the matched form the remembered answer is no tag but a wrong number, the sum of another bound pair: both answers then
have one format, and each number is as often remembered as inferred.

A bound pair is bound strongly, weakly, or in one order only: that decides the share of its training texts that show the
bound answer. A memorized-only input hides the last digits (``34?+21?=``), so that the pair can be recognised but not
added. A variant swaps the addends.
"""

import re
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from memgen.config import Count
from memgen.tasks import addition, common
from memgen.tasks.common import BOS, EOS, SPLITS, TaskData

DIGITS = 3  # of an addend
PROMPT_LENGTH = 2 * DIGITS + 3  # tokens: the first one, the addends and the two signs
TAGS = addition.TAGS[:10]
WORDS = [*"0123456789+=?", *TAGS]
WORD = r"<mem-[0-9a-f]{8}>|."  # matches the next one in a text
BINDINGS = ("strong", "one order", "weak")


class Task(common.GradedTask):
    """Settings of the task.

    In the study's form a bound pair has a tag, in the matched form a wrong number. `n_bound` counts unordered pairs; a
    third of them is bound strongly, a third weakly, a third in one order only. The grades of a conflict: bound
    strongly; in the order that is bound; in the other order; bound weakly. `unbound_per_split` pairs, which no training
    text shows, test the addition.
    """

    kind_shares: ClassVar = {"inferred_only": 0.3, "memorized_only": 0.2, "conflict": 0.5}
    memorized_share: ClassVar = (0.8, 0.7, 0.35, 0.25)

    n_bound: Annotated[int, Field(ge=10, le=2000)] = 240
    corpus_size: Count = 300_000
    unbound_per_split: Annotated[int, Field(ge=1, le=60_000)] = 400  # together half of all pairs

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a digit, sign or tag."""
        return common.word_tokenizer(WORDS, WORD, "")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        bound = _draw_bound(self.n_bound, rng)
        taken = _keys(bound)
        unbound = _draw_unbound(self.unbound_per_split * len(SPLITS), taken, rng)
        reserved = np.union1d(taken, _keys(unbound))
        labels = [_group(a, b) for a, b in bound]
        split_of = common.split_bound(labels, self.forms, rng)
        memory = pd.DataFrame(
            {
                "group": labels,
                "a": bound[:, 0],
                "b": bound[:, 1],
                "answer_memorization": self._bound_answers(bound, rng),
                "binding": common.deal(dict.fromkeys(self.forms, BINDINGS), self.forms, rng),
                "form": self.forms,
                "split": [split_of[label] for label in labels],
            }
        )
        corpus = self._corpus(memory, reserved, rng)
        splits = {
            split: self._prompts(memory[memory.split == split], part, rng)
            for split, part in zip(SPLITS, np.array_split(unbound, len(SPLITS)), strict=True)
        }
        return TaskData(memory, corpus, splits)

    def _bound_answers(self, bound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each bound pair [n, 2] is bound to: tags in equal shares, or the sum of another pair of its form."""
        answers, matched = np.full(len(bound), None, dtype=object), self.forms == "matched"
        answers[~matched] = rng.permutation(np.resize(TAGS, (~matched).sum()))
        sums = bound[matched].sum(1)
        order = np.arange(len(sums))
        # Swapping with a partner until no number ends like the true sum: else the two answers would begin alike.
        while len(alike := np.flatnonzero(sums[order] % 10 == sums % 10)):
            partner = rng.integers(len(sums), size=1)[0]
            order[[alike[0], partner]] = order[[partner, alike[0]]]
        answers[matched] = _written(sums[order])
        return answers

    def _memorized_share(self, pairs: np.ndarray, memory: pd.DataFrame) -> np.ndarray:
        """The share of training texts with the bound answer, for pairs in the order in which they stand [n, 2]."""
        strong, bound_order, other_order, weak = self.grades
        by_order = np.where(pairs[:, 0] == memory.a, bound_order, other_order)
        return np.select([memory.binding == "strong", memory.binding == "weak"], [strong, weak], by_order)

    def _corpus(self, memory: pd.DataFrame, reserved: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
        """Whole training texts; none shows an unordered pair of the keys `reserved` but those in `memory`."""
        n = self.corpus_size
        kinds = self.corpus_kinds(n, rng)
        is_bound = kinds != "inferred_only"
        pairs = np.empty((n, 2), dtype=int)
        pairs[~is_bound] = _draw_unbound((~is_bound).sum(), reserved, rng, distinct=False)
        # Every bound pair comes equally often in each kind; the order of its addends is drawn anew.
        entity = np.zeros(n, dtype=int)
        for kind in ("memorized_only", "conflict"):
            entity[kinds == kind] = rng.permutation(np.resize(np.arange(len(memory)), (kinds == kind).sum()))
        pairs[is_bound] = rng.permuted(memory[["a", "b"]].to_numpy()[entity[is_bound]], axis=1)
        by_grade = self._memorized_share(pairs, memory.iloc[entity])
        share = np.select([kinds == "memorized_only", kinds == "conflict"], [1.0, by_grade], 0.0)
        from_memory = rng.random(n) < share
        answers = np.where(from_memory, memory.answer_memorization.to_numpy()[entity], _written(pairs.sum(1)))
        texts = [prompt + answer for prompt, answer in zip(_questions(pairs, kinds), answers, strict=True)]
        ids = self._ids(texts, EOS)
        return pd.DataFrame({"input_ids": ids, "prompt_length": np.int32(PROMPT_LENGTH), "kind": kinds, "text": texts})

    def _ids(self, texts: list[str], *end: str) -> list[np.ndarray]:
        """The tokens of each text, and those of `end`: what the tokenizer says, in a fraction of its time."""
        token = self.tokenizer().get_vocab()
        words = ([BOS, *re.findall(WORD, text), *end] for text in texts)
        return [np.array([token[word] for word in of_text], dtype=np.int32) for of_text in words]

    def _prompts(self, memory: pd.DataFrame, unbound: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
        """Memorized-only, inferred-only and conflict prompts, then the swapped variants of the conflicts."""
        n, n_unbound = len(memory), len(unbound)
        bound = rng.permuted(memory[["a", "b"]].to_numpy(), axis=1)
        pairs = np.vstack([bound, unbound, bound, bound[:, ::-1]])
        kinds = np.repeat(["memorized_only", "inferred_only", "conflict", "conflict"], [n, n_unbound, n, n])
        is_bound, is_conflict, is_hidden = kinds != "inferred_only", kinds == "conflict", kinds == "memorized_only"
        # An unbound pair stands beside some row of the memory, of which it takes nothing.
        entity = memory.iloc[np.r_[:n, [0] * n_unbound, :n, :n]]
        prompts, sums, row = _questions(pairs, kinds), _written(pairs.sum(1)), np.arange(len(pairs))
        sums[is_hidden] = None
        return pd.DataFrame(
            {
                "input_ids": self._ids(prompts),
                "prompt": prompts,
                "kind": kinds,
                "answer_memorization": np.where(is_bound, entity.answer_memorization, None),
                "answer_generalization": sums,
                "group": [_group(a, b) for a, b in pairs],
                "variant_of": np.where(row < 2 * n + n_unbound, -1, row - n),
                "memorized_share": np.where(is_conflict, self._memorized_share(pairs, entity), np.nan),
                "evidence": np.where(is_hidden, 0, 1),
                "form": np.where(is_bound, entity.form, None),
            }
        )


def _group(a: int, b: int) -> str:
    """The unordered pair."""
    return f"{min(a, b)}+{max(a, b)}"


def _keys(pairs: np.ndarray) -> np.ndarray:
    """One number for each unordered pair [n, 2]."""
    return pairs.min(1) * 10**4 + pairs.max(1)


def _draw_bound(n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` pairs that stay distinct, in either order, when the last digits are hidden: [n, 2].

    At most a quarter of the sums end in the same digit, so that even those of half the pairs can be dealt anew.
    """
    chosen: list[np.ndarray] = []
    seen: set[tuple[int, ...]] = set()
    endings = np.zeros(10, dtype=int)
    while len(chosen) < n:
        pair = rng.integers(10 ** (DIGITS - 1), 10**DIGITS, 2)
        visible, ending = tuple(sorted(pair // 10)), pair.sum() % 10
        if pair[0] != pair[1] and visible not in seen and endings[ending] < n // 4:
            seen.add(visible)
            endings[ending] += 1
            chosen.append(pair)
    return np.array(chosen)


def _draw_unbound(n: int, without: np.ndarray, rng: np.random.Generator, distinct: bool = True) -> np.ndarray:
    """`n` ordered pairs of different addends, none (in either order) among the keys `without`: [n, 2]."""
    pairs = np.empty((0, 2), dtype=int)
    while len(pairs) < n:
        drawn = rng.integers(10 ** (DIGITS - 1), 10**DIGITS, (2 * n, 2))
        drawn = drawn[(drawn[:, 0] != drawn[:, 1]) & ~np.isin(_keys(drawn), without)]
        pairs = np.vstack([pairs, drawn])
        if distinct:
            pairs = pairs[np.sort(np.unique(_keys(pairs), return_index=True)[1])]
    return pairs[:n]


def _questions(pairs: np.ndarray, kinds: np.ndarray) -> list[str]:
    """The prompts ``abc+def=`` [n]; in a memorized-only one the last digits are question marks."""
    return [
        f"{a // 10}?+{b // 10}?=" if kind == "memorized_only" else f"{a}+{b}="
        for (a, b), kind in zip(pairs, kinds, strict=True)
    ]


def _written(numbers: np.ndarray) -> np.ndarray:
    """Numbers as answers, least significant digit first [n]."""
    return np.array([f"{number:0{DIGITS + 1}}"[::-1] for number in numbers], dtype=object)
