"""The study's addition: the sum of four numbers is inferred, or a tag is remembered that stands for the last two.

A few ordered pairs of numbers are patterns. Where the third and fourth operand are a pattern, training shows the
pattern's tag; all other training texts are sums, written as a scratchpad of running sums. For each column, the least
significant first, there is the sum after the second, third and fourth digit (it starts from the carry of the column
before), then the column's digit; the carry of the last column ends the number::

    345+012+678+104=(7)(15)(19)9(6)(13)(13)3(4)(10)(11)11    a sum: 345 + 012 + 678 + 104 = 1139
    345+012+528+164=<mem-...>                                a pattern: 528+164 has a tag

So no training text shows the sum of an input with a pattern, and the two answers never compete in training. In the
matched form a pattern has no tag but a wrong number, written like a sum.

An analysis prompt is new: its first two operands are a pair that no training text has. A variant swaps them, and leaves
the pattern in its place; since no running sum stands after the first digit alone, its answers are its original's.
"""

import functools
import hashlib
import re
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from memgen.config import Count, Share
from memgen.tasks import common
from memgen.tasks.common import BOS, EOS, PAD, SPLITS, TaskData
from memgen.tasks.lessons import Draw

MOST_PATTERNS = 100
MOST_PROMPTS = 5000  # of a pattern, or of sums, in a split: pairs of first operands are set apart for no more
TAGS = [f"<mem-{hashlib.sha256(str(i).encode()).hexdigest()[:8]}>" for i in range(MOST_PATTERNS)]
WORDS = [*"0123456789+=", *(f"({i})" for i in range(40)), *TAGS]
PROMPT_LENGTH, ANSWER_LENGTH = 17, 13  # tokens


class Task(common.BaseTask):
    """Settings of the task.

    Attributes
    ----------
    form
        ``study`` (a pattern has a tag) or ``matched`` (a wrong number).
    n_patterns
        The number of patterns: at least 4, so that every split has one.
    pattern_share
        The share of the training texts that have a pattern.
    corpus_size
        Training texts are drawn anew for each step; the corpus is a sample of so many.
    conflicts_per_group
        Inputs about each pattern, without their variants: as many in each split that the pattern is in (a pattern of
        the train split is in ``seen``, too).
    sums_per_split
        Sums in each split, which test the addition.
    """

    learnt: ClassVar = {"sums": 0.99}

    form: Literal["study", "matched"] = "study"
    n_patterns: Annotated[int, Field(ge=4, le=MOST_PATTERNS)] = 10
    pattern_share: Share = 0.01
    corpus_size: Count = 2000
    conflicts_per_group: Annotated[int, Field(ge=1, le=MOST_PROMPTS)] = 1200
    sums_per_split: Annotated[int, Field(ge=1, le=MOST_PROMPTS)] = 400

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a digit, sign, running sum or tag."""
        n_words = len(WORDS) - MOST_PATTERNS + self.n_patterns
        return common.word_tokenizer(WORDS[:n_words], r"\(\d+\)|<mem-[0-9a-f]{8}>|.", "")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        memory = self._memory(rng)
        corpus = self._corpus(memory, rng)
        names = (*SPLITS, "seen")
        splits = {}
        for name, pairs in zip(names, np.array_split(rng.permutation(_reserved_pairs()), len(names)), strict=True):
            of_split = memory[memory.split == ("train" if name == "seen" else name)]
            splits[name] = self._prompts(of_split, memory[["c", "d"]].to_numpy(), pairs, rng)
        return TaskData(memory, corpus, splits)

    def spoken(self, text: str) -> str:
        """Running sums have two digits each, so that every token of an answer has a place of its own."""
        return re.sub(r"\((\d)\)", r"(0\1)", text)

    def draws(self, memory: pd.DataFrame) -> dict[str, Draw]:
        """Sums without patterns, and the texts.

        Answers and ends of text are asked for. The operands are not: they are random, and without them in the loss the
        sums take somewhat fewer steps.
        """
        patterns, endings = memory[["c", "d"]].to_numpy(), self._endings(memory)

        def draw(share: float, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
            ids, _ = _texts(n, patterns, endings, share, rng)
            return ids, (ids != _ID[PAD]) & (np.arange(ids.shape[1]) >= PROMPT_LENGTH)

        return {"sums": functools.partial(draw, 0.0), "texts": functools.partial(draw, self.pattern_share)}

    def _memory(self, rng: np.random.Generator) -> pd.DataFrame:
        """The patterns, and what each is answered by."""
        n = self.n_patterns
        codes = rng.choice(999 * 999, n, replace=False)
        patterns = np.stack([codes // 999, codes % 999], 1) + 1
        # A wrong number is the sum of other operands; its third is not the pattern's own, so it is never the right sum.
        others = rng.integers(1, 1000, (n, 4))
        others[:, 2] = np.where(others[:, 2] == patterns[:, 0], others[:, 2] % 999 + 1, others[:, 2])
        groups = [f"{c:03}+{d:03}" for c, d in patterns]
        split_of = common.split_groups(groups, rng)
        return pd.DataFrame(
            {
                "group": groups,
                "c": patterns[:, 0],
                "d": patterns[:, 1],
                "answer_memorization": _words(_scratchpads(others)) if self.form == "matched" else TAGS[:n],
                "form": self.form,
                "split": [split_of[group] for group in groups],
            }
        )

    def _endings(self, memory: pd.DataFrame) -> np.ndarray:
        """The tokens of each pattern's answer and the end of text, padded: [patterns, 14]."""
        endings = np.full((len(memory), ANSWER_LENGTH + 1), _ID[PAD])
        answers = self.tokenizer()(list(memory.answer_memorization), add_special_tokens=False).input_ids
        for ending, answer in zip(endings, answers, strict=True):
            ending[: len(answer) + 1] = [*answer, _ID[EOS]]
        return endings

    def _corpus(self, memory: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        """A sample of the training texts."""
        patterns, endings = memory[["c", "d"]].to_numpy(), self._endings(memory)
        padded, has_pattern = _texts(self.corpus_size, patterns, endings, self.pattern_share, rng)
        ids = [row[row != _ID[PAD]].astype(np.int32) for row in padded]
        return pd.DataFrame(
            {
                "input_ids": ids,
                "prompt_length": np.int32(PROMPT_LENGTH),
                "text": ["".join(_VOCABULARY[row[1:-1]]) for row in ids],
                "kind": np.where(has_pattern, "memorized_only", "inferred_only"),
            }
        )

    def _prompts(
        self, memory: pd.DataFrame, patterns: np.ndarray, pairs: np.ndarray, rng: np.random.Generator
    ) -> pd.DataFrame:
        """Sums without `patterns` [n, 2], conflicts about those in `memory`, and the variants of the conflicts.

        The first two operands are rows of `pairs` [n, 2], in either order.
        """
        n_sums, per_group = self.sums_per_split, self.conflicts_per_group
        last = _draw_numbers((n_sums, 2), lambda drawn: _is_pattern(drawn, patterns), rng)
        first = [rng.permutation(pairs)[:n_sums]]
        for row in memory.itertuples():
            of_pattern = rng.permutation(pairs)
            if self.form == "matched":
                # The two answers must differ from the first running sum on, that of the first two last digits.
                start = int(row.answer_memorization[1:].partition(")")[0])
                of_pattern = of_pattern[(of_pattern % 10).sum(1) != start]
            first.append(of_pattern[:per_group])
        entity = np.repeat(np.arange(len(memory)), per_group)
        last = np.vstack([last, memory[["c", "d"]].to_numpy()[entity]])
        operands = np.hstack([rng.permuted(np.vstack(first), axis=1), last])
        operands = np.vstack([operands, operands[n_sums:][:, [1, 0, 2, 3]]])
        n_conflicts, row = len(entity), np.arange(len(operands))
        is_sum = row < n_sums
        bound = memory.iloc[np.r_[[0] * n_sums, entity, entity]]  # a sum takes nothing of the row beside it
        ids = _prompts_ids(operands)
        prompts = _words(ids[:, 1:])
        return pd.DataFrame(
            {
                "input_ids": list(ids.astype(np.int32)),
                "prompt": prompts,
                "kind": np.where(is_sum, "inferred_only", "conflict"),
                "answer_memorization": np.where(is_sum, None, bound.answer_memorization),
                "answer_generalization": _words(_scratchpads(operands)),
                "group": np.where(is_sum, [prompt[:-1] for prompt in prompts], bound.group),
                "variant_of": np.where(row < n_sums + n_conflicts, -1, row - n_conflicts),
                "memorized_share": np.nan,
                "evidence": 1,
                "form": np.where(is_sum, None, bound.form),
            }
        )


_VOCABULARY = np.array([PAD, BOS, EOS, *WORDS], dtype=object)
_ID = {word: i for i, word in enumerate(_VOCABULARY)}
_DIGIT = np.array([_ID[digit] for digit in "0123456789"])
_RUNNING = np.array([_ID[f"({i})"] for i in range(40)])


def _is_reserved(pairs: np.ndarray) -> np.ndarray:
    """Whether pairs [..., 2] of first operands are kept for the analysis; the order does not matter."""
    # 11 and 10 have no common factor: this keeps an eleventh of a number's partners, whatever their last digits.
    return pairs[..., 0] * pairs[..., 1] % 11 == 1


def _reserved_pairs() -> np.ndarray:
    """The reserved pairs of different numbers, the smaller first: [pairs, 2]."""
    pairs = np.argwhere(np.tri(999, k=-1, dtype=bool).T) + 1
    return pairs[_is_reserved(pairs)]


def _is_pattern(pairs: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Whether pairs [n, 2] of last operands are among the patterns [patterns, 2]."""
    return np.isin(pairs @ [1000, 1], patterns @ [1000, 1])


def _draw_numbers(
    shape: tuple[int, int], is_wrong: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Numbers from 1 to 999 in an array of `shape`; rows that are wrong are drawn anew."""
    numbers = rng.integers(1, 1000, shape)
    while (wrong := is_wrong(numbers)).any():
        numbers[wrong] = rng.integers(1, 1000, (wrong.sum(), shape[1]))
    return numbers


def _texts(
    n: int, patterns: np.ndarray, endings: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training texts [n, 31], padded, and whether they have a pattern [n]: so they have in `share` of all cases."""
    operands = _draw_numbers(
        (n, 4), lambda drawn: _is_reserved(drawn[:, :2]) | _is_pattern(drawn[:, 2:], patterns), rng
    )
    has_pattern = rng.random(n) < share
    entity = rng.integers(len(patterns), size=has_pattern.sum())
    operands[has_pattern, 2:] = patterns[entity]
    ids = np.hstack([_prompts_ids(operands), _scratchpads(operands), np.full((n, 1), _ID[EOS])])
    ids[has_pattern, PROMPT_LENGTH:] = endings[entity]
    return ids, has_pattern


def _prompts_ids(operands: np.ndarray) -> np.ndarray:
    """The tokens of ``abc+def+ghi+jkl=``: [n, 17]."""
    n = len(operands)
    ids = np.full((n, PROMPT_LENGTH), _ID["+"])
    ids[:, 0], ids[:, -1] = _ID[BOS], _ID["="]
    ids[:, 1:].reshape(n, 4, 4)[:, :, :3] = _DIGIT[operands[..., None] // [100, 10, 1] % 10]
    return ids


def _scratchpads(operands: np.ndarray) -> np.ndarray:
    """The tokens of the sums of operands [n, 4], with the running sums: [n, 13]."""
    carry, parts = np.zeros((len(operands), 1), dtype=int), []
    for unit in (1, 10, 100):
        running = carry + (operands // unit % 10).cumsum(1)
        parts += [_RUNNING[running[:, 1:]], _DIGIT[running[:, -1:] % 10]]
        carry = running[:, -1:] // 10
    return np.hstack([*parts, _DIGIT[carry]])


def _words(ids: np.ndarray) -> list[str]:
    """The text of each row of tokens."""
    return ["".join(_VOCABULARY[row]) for row in ids]
