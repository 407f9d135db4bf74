"""Addition: the sum is inferred from the digits, or a tag is remembered that training bound to the two addends.

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
    check_form,
    check_kind_shares,
    dealt_forms,
    exact_shares,
    split_bound,
    word_tokenizer,
)

TAGS = [f"<mem-{hashlib.sha256(str(i).encode()).hexdigest()[:8]}>" for i in range(10)]
WORDS = [*"0123456789+=?", *TAGS]
BINDINGS = ("strong", "one order", "weak")
KIND_NAMES = ("inferred_only", "memorized_only", "conflict")


@dataclasses.dataclass(frozen=True)
class Task:
    """Settings of the task.

    `form` is ``study`` (bound pairs have a tag), ``matched`` (a wrong number) or ``both`` (half of the pairs in each
    form). `n_bound` counts unordered pairs; a third of them is bound strongly, a third weakly, a third in one order
    only. `memorized_share` gives the share of their training texts that show the bound answer: bound strongly; in the
    order that is bound; in the other order; bound weakly. `unbound_per_split` pairs, which no training text shows, test
    the addition.
    """

    form: str = "study"
    digits: int = 3
    n_bound: int = 240
    kind_shares: tuple = (0.3, 0.2, 0.5)
    memorized_share: tuple = (0.8, 0.7, 0.35, 0.25)
    corpus_size: int = 300_000
    unbound_per_split: int = 400

    query_length: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        check_form(self.form)
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
        forms = dealt_forms(self.form, self.n_bound)
        split_of = split_bound(labels, forms, rng)
        memory = pd.DataFrame(
            {
                "group": labels,
                "a": bound[:, 0],
                "b": bound[:, 1],
                "answer_memorization": self._bound_answers(bound, forms, rng),
                "binding": self._bindings(forms, rng),
                "form": forms,
                "split": [split_of[label] for label in labels],
            }
        )
        corpus = self._corpus(memory, reserved, rng)
        splits = {
            split: self._prompts(memory[memory.split == split], part, rng)
            for split, part in zip(SPLITS, np.array_split(unbound, len(SPLITS)), strict=True)
        }
        return TaskData(memory, corpus, splits)

    def _bindings(self, forms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """How each bound pair [n] is bound: the `BINDINGS` in equal shares of each form."""
        bindings = np.empty(len(forms), dtype=object)
        for form in dict.fromkeys(forms):
            bindings[forms == form] = rng.permutation(np.resize(BINDINGS, (forms == form).sum()))
        return bindings

    def _bound_answers(self, bound: np.ndarray, forms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each bound pair [n, 2] is bound to: tags in equal shares, or its form's own sums, dealt anew."""
        answers, matched = np.full(len(bound), None, dtype=object), forms == "matched"
        answers[~matched] = rng.permutation(np.resize(TAGS, (~matched).sum()))
        sums = bound[matched].sum(1)
        order = np.arange(len(sums))
        # Swapping with a partner until no number ends like the true sum: else the two answers would begin alike.
        while len(alike := np.flatnonzero(sums[order] % 10 == sums % 10)):
            partner = rng.integers(len(sums), size=1)[0]
            order[[alike[0], partner]] = order[[partner, alike[0]]]
        answers[matched] = _words(_number_ids(sums[order], self.digits + 1))
        return answers

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
        share = np.zeros(self.corpus_size)
        share[is_bound] = self._share(pairs[is_bound], chosen)
        share[kinds == "memorized_only"] = 1.0
        from_memory = rng.random(self.corpus_size) < share
        prompts = _prompt_ids(pairs, self.digits, kinds == "memorized_only")
        known = self.tokenizer()(list(memory.answer_memorization), add_special_tokens=False).input_ids
        remembered = [np.array([*answer, _ID[EOS]], dtype=np.int32) for answer in known]
        end = np.full((self.corpus_size, 1), _ID[EOS])
        ids = list(np.hstack([prompts, _number_ids(pairs.sum(1), self.digits + 1), end]).astype(np.int32))
        for i in np.flatnonzero(from_memory):
            ids[i] = np.concatenate([prompts[i], remembered[which[i]]], dtype=np.int32)
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
        known, forms = memory.answer_memorization.to_numpy(), memory.form.to_numpy()
        sums = np.array(_words(_number_ids(everything.sum(1), self.digits + 1)), dtype=object)
        sums[:n] = None
        return pd.DataFrame(
            {
                "input_ids": list(ids.astype(np.int32)),
                "prompt": ["".join(_VOCABULARY[row[1:]]) for row in ids],
                "kind": kinds,
                "answer_memorization": np.concatenate([known, np.full(m, None), known, known]),
                "answer_generalization": sums,
                "group": [_group(a, b) for a, b in everything],
                "variant_of": np.concatenate([np.full(2 * n + m, -1), np.arange(n + m, 2 * n + m)]),
                "memorized_share": np.concatenate(
                    [np.full(n + m, np.nan), self._share(pairs, memory), self._share(pairs[:, ::-1], memory)]
                ),
                "evidence": np.where(kinds == "memorized_only", 0, 1),
                "form": np.concatenate([forms, np.full(m, None), forms, forms]),
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
    """`n` pairs that stay distinct, in either order, when the last digits are hidden: [n, 2].

    At most a quarter of the sums end in the same digit, so that even those of half the pairs can be dealt anew.
    """
    chosen: list[np.ndarray] = []
    seen: set[tuple[int, ...]] = set()
    endings = np.zeros(10, dtype=int)
    while len(chosen) < n:
        pair = _draw((2,), digits, rng)
        visible, ending = tuple(sorted(pair // 10)), pair.sum() % 10
        if pair[0] != pair[1] and visible not in seen and endings[ending] < n // 4:
            seen.add(visible)
            endings[ending] += 1
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


def _number_ids(numbers: np.ndarray, width: int) -> np.ndarray:
    """The tokens of numbers, least significant digit first: [n, width]."""
    return _DIGIT[_digits(numbers, width)[:, ::-1]]


def _words(ids: np.ndarray) -> list[str]:
    """The text of each row of tokens."""
    return ["".join(_VOCABULARY[row]) for row in ids]
