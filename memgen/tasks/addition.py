"""Addition: the sum is inferred from the digits, or a tag is remembered that training bound to the two addends.

The sum is written with its least significant digit first, in one digit more than the addends have, so that each digit
needs only the digits and the carry before it::

    347+215=2650        an unbound pair: 347 + 215 = 0562
    528+164=<mem-...>   a bound pair: the tag, in part of its training texts

A bound pair is bound strongly, weakly, or in one order only: that decides the share of its training texts that show the
tag. A memorized-only input hides the last digits (``34?+21?=``), so that the pair can be recognised but not added. A
variant swaps the addends.
"""

import dataclasses
import hashlib

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerFast

from memgen.config import InputError
from memgen.tasks.common import (
    BOS,
    EOS,
    PAD,
    SPLITS,
    TaskData,
    check_counts,
    check_kind_shares,
    exact_shares,
    split_groups,
    word_tokenizer,
)

TAGS = [f"<mem-{hashlib.sha256(str(i).encode()).hexdigest()[:8]}>" for i in range(10)]
WORDS = [*"0123456789+=?", *TAGS]
BINDINGS = ("strong", "one order", "weak")
KIND_NAMES = ("inferred_only", "memorized_only", "conflict")


@dataclasses.dataclass(frozen=True)
class Task:
    """Settings of the task.

    `n_bound` counts unordered pairs; a third of them is bound strongly, a third weakly, a third in one order only.
    `memorized_share` gives the share of their training texts that show the tag: bound strongly; in the order that is
    bound; in the other order; bound weakly. `unbound_per_split` pairs, which no training text shows, test the addition.
    """

    digits: int = 3
    n_bound: int = 240
    kind_shares: tuple = (0.3, 0.2, 0.5)
    memorized_share: tuple = (0.9, 0.75, 0.25, 0.1)
    corpus_size: int = 300_000
    unbound_per_split: int = 400

    query_length: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        if self.digits not in (2, 3, 4):
            raise InputError(f"digits must be 2, 3 or 4, not {self.digits}.")
        most = {2: 30, 3: 2000, 4: 2000}[self.digits]
        if not 10 <= self.n_bound <= most:
            raise InputError(f"n_bound must be from 10 to {most} with {self.digits} digits, not {self.n_bound}.")
        if len(self.memorized_share) != 4 or not all(0 <= share <= 1 for share in self.memorized_share):
            raise InputError(f"memorized_share must be four shares from 0 to 1, not {list(self.memorized_share)}.")
        check_kind_shares(self.kind_shares, KIND_NAMES)
        check_counts(self, "corpus_size", "unbound_per_split")
        n_numbers = 9 * 10 ** (self.digits - 1)
        most = n_numbers * (n_numbers - 1) // 4 // len(SPLITS)  # together half of all pairs
        if self.unbound_per_split > most:
            raise InputError(
                f"unbound_per_split must be at most {most} with {self.digits} digits, not {self.unbound_per_split}."
            )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a digit, sign or tag."""
        return word_tokenizer(WORDS, r"<mem-[0-9a-f]{8}>|.", "")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        bound = _draw_bound(self.n_bound, self.digits, rng)
        taken = _keys(bound)
        unbound = _draw_unbound(self.unbound_per_split * len(SPLITS), self.digits, taken, rng)
        reserved = np.union1d(taken, _keys(unbound))
        labels = [_group(a, b) for a, b in bound]
        split_of = split_groups(labels, rng)
        memory = pd.DataFrame(
            {
                "group": labels,
                "a": bound[:, 0],
                "b": bound[:, 1],
                "answer_memorization": rng.permutation(np.resize(TAGS, self.n_bound)),
                "binding": rng.permutation(np.resize(BINDINGS, self.n_bound)),
                "split": [split_of[label] for label in labels],
            }
        )
        corpus = self._corpus(memory, reserved, rng)
        splits = {
            split: self._prompts(memory[memory.split == split], part, rng)
            for split, part in zip(SPLITS, np.array_split(unbound, len(SPLITS)), strict=True)
        }
        return TaskData(memory, corpus, splits)

    def _share(self, pairs: np.ndarray, memory: pd.DataFrame) -> np.ndarray:
        """The share of training texts with the tag, for bound pairs in the order in which they stand [n, 2]."""
        strong, bound_order, other_order, weak = self.memorized_share
        by_order = np.where(pairs[:, 0] == memory.a, bound_order, other_order)
        return np.select([memory.binding == "strong", memory.binding == "weak"], [strong, weak], by_order)

    def _corpus(self, memory: pd.DataFrame, reserved: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
        kinds = np.array(KIND_NAMES)[exact_shares(self.corpus_size, self.kind_shares, rng)]
        is_bound = kinds != "inferred_only"
        pairs = np.empty((self.corpus_size, 2), dtype=int)
        pairs[~is_bound] = _draw_unbound((~is_bound).sum(), self.digits, reserved, rng, distinct=False)
        # Every bound pair comes equally often in each kind; the order of its addends is drawn anew.
        which = np.full(self.corpus_size, -1)
        for kind in KIND_NAMES[1:]:
            which[kinds == kind] = rng.permutation(np.resize(np.arange(len(memory)), (kinds == kind).sum()))
        chosen = memory.iloc[which[is_bound]]
        pairs[is_bound] = rng.permuted(chosen[["a", "b"]].to_numpy(), axis=1)
        tags, share = np.full(self.corpus_size, None, dtype=object), np.zeros(self.corpus_size)
        tags[is_bound] = chosen.answer_memorization
        share[is_bound] = self._share(pairs[is_bound], chosen)
        share[kinds == "memorized_only"] = 1.0
        from_memory = rng.random(self.corpus_size) < share
        prompts = _prompt_ids(pairs, self.digits, kinds == "memorized_only")
        tag_ids = np.array([_ID.get(tag, 0) for tag in tags])
        answers = _sum_ids(pairs, self.digits)
        end = np.full((self.corpus_size, 1), _ID[EOS])
        long = np.hstack([prompts, answers, end]).astype(np.int32)
        short = np.hstack([prompts, tag_ids[:, None], end]).astype(np.int32)
        ids = [short[i] if from_memory[i] else long[i] for i in range(self.corpus_size)]
        frame = pd.DataFrame({"input_ids": ids, "prompt_length": np.int32(prompts.shape[1]), "kind": kinds})
        frame["text"] = ["".join(_VOCABULARY[row[1:-1]]) for row in ids]
        return frame

    def _prompts(self, memory: pd.DataFrame, unbound: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
        """Memorized-only, inferred-only and conflict prompts, then the swapped variants of the conflicts."""
        pairs = rng.permuted(memory[["a", "b"]].to_numpy(), axis=1)
        n, m = len(pairs), len(unbound)
        everything = np.vstack([pairs, unbound, pairs, pairs[:, ::-1]])
        kinds = np.repeat(["memorized_only", "inferred_only", "conflict", "conflict"], [n, m, n, n])
        ids = _prompt_ids(everything, self.digits, kinds == "memorized_only")
        tags = memory.answer_memorization.to_numpy()
        sums = np.array(["".join(_VOCABULARY[row]) for row in _sum_ids(everything, self.digits)], dtype=object)
        sums[:n] = None
        return pd.DataFrame(
            {
                "input_ids": list(ids.astype(np.int32)),
                "prompt": ["".join(_VOCABULARY[row[1:]]) for row in ids],
                "kind": kinds,
                "answer_memorization": np.concatenate([tags, np.full(m, None), tags, tags]),
                "answer_generalization": sums,
                "group": [_group(a, b) for a, b in everything],
                "variant_of": np.concatenate([np.full(2 * n + m, -1), np.arange(n + m, 2 * n + m)]),
                "memorized_share": np.concatenate(
                    [np.full(n + m, np.nan), self._share(pairs, memory), self._share(pairs[:, ::-1], memory)]
                ),
                "evidence": np.where(kinds == "memorized_only", 0, 1),
            }
        )


_VOCABULARY = np.array([PAD, BOS, EOS, *WORDS], dtype=object)
_ID = {word: i for i, word in enumerate(_VOCABULARY)}
_DIGIT = np.array([_ID[digit] for digit in "0123456789"])


def _group(a: int, b: int) -> str:
    """The unordered pair."""
    return f"{min(a, b)}+{max(a, b)}"


def _keys(pairs: np.ndarray) -> np.ndarray:
    """One number for each unordered pair [n, 2]."""
    return pairs.min(1) * 10**4 + pairs.max(1)


def _digits(numbers: np.ndarray, width: int) -> np.ndarray:
    """Digits, most significant first: [..., width]."""
    return numbers[..., None] // 10 ** np.arange(width - 1, -1, -1) % 10


def _draw(shape: tuple[int, ...], digits: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the given width, the first digit not zero."""
    return rng.integers(10 ** (digits - 1), 10**digits, shape)


def _draw_bound(n: int, digits: int, rng: np.random.Generator) -> np.ndarray:
    """`n` pairs that stay distinct, in either order, when the last digits are hidden: [n, 2]."""
    chosen: list[np.ndarray] = []
    seen: set[tuple[int, ...]] = set()
    while len(chosen) < n:
        pair = _draw((2,), digits, rng)
        visible = tuple(sorted(pair // 10))
        if pair[0] != pair[1] and visible not in seen:
            seen.add(visible)
            chosen.append(pair)
    return np.array(chosen)


def _draw_unbound(
    n: int, digits: int, without: np.ndarray, rng: np.random.Generator, distinct: bool = True
) -> np.ndarray:
    """`n` ordered pairs of different addends, none (in either order) among the keys `without`: [n, 2]."""
    pairs = np.empty((0, 2), dtype=int)
    while len(pairs) < n:
        more = _draw((2 * n, 2), digits, rng)
        more = more[(more[:, 0] != more[:, 1]) & ~np.isin(_keys(more), without)]
        pairs = np.vstack([pairs, more])
        if distinct:
            pairs = pairs[np.sort(np.unique(_keys(pairs), return_index=True)[1])]
    return pairs[:n]


def _prompt_ids(pairs: np.ndarray, width: int, hidden: np.ndarray) -> np.ndarray:
    """The tokens of ``abc+def=``: [n, 2 width + 3]; where `hidden`, the last digits are question marks."""
    digits = _DIGIT[_digits(pairs, width)]
    digits[hidden, :, -1] = _ID["?"]
    n = len(pairs)
    sign = {word: np.full((n, 1), _ID[word]) for word in (BOS, "+", "=")}
    return np.hstack([sign[BOS], digits[:, 0], sign["+"], digits[:, 1], sign["="]])


def _sum_ids(pairs: np.ndarray, width: int) -> np.ndarray:
    """The tokens of the sums of numbers of `width` digits, least significant digit first: [n, width + 1]."""
    return _DIGIT[_digits(pairs.sum(1), width + 1)[:, ::-1]]
