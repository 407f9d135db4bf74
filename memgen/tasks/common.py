"""What the tasks share: the frames they make, the splits by group, the tokenizer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from memgen.config import InputError

KINDS = ("memorized_only", "inferred_only", "aligned", "conflict")
SPLITS = ("train", "validation", "test")
FORMS = ("study", "matched")  # whether the two answers differ in format
FORMS_BY_NAME = {form: (form,) for form in FORMS} | {"both": FORMS}  # what the setting `form` may be
SPLIT_SHARES = (0.5, 0.2, 0.3)
BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The data of one run.

    Attributes
    ----------
    memory
        One row per bound entity: `group`, `answer_memorization`, `form` (how the bound answer compares with an inferred
        one: ``study``, of a format of its own; ``matched``, of the same), `split`.
    corpus
        The texts that the language model is trained on: `input_ids` (the whole text), `prompt_length` (tokens),
        `text`, `kind`.
    splits
        ``train``, ``validation`` and ``test``: prompts for the analysis, disjoint in `group`. Columns `input_ids`,
        `prompt`, `kind`, `answer_memorization`, `answer_generalization` (None where there is none), `group`,
        `variant_of` (the index of the row it rewrites, -1 for an original), `memorized_share` (the share of training
        texts with such a conflict that end with the memorized answer; nan where there is no conflict), `evidence` (how
        often the input supports the inferred answer), `form` (that of the bound entity, None where nothing is bound).
    """

    memory: pd.DataFrame
    corpus: pd.DataFrame
    splits: Mapping[str, pd.DataFrame]


def check_form(form: str) -> None:
    """The form is one of `FORMS`, or both; else an :class:`InputError`."""
    if form not in FORMS_BY_NAME:
        raise InputError(f"The form {form!r} is unknown; allowed are {', '.join(FORMS_BY_NAME)}.")


def dealt_forms(form: str, n: int) -> np.ndarray:
    """The form of each of `n` bound entities [n]: in equal shares where the setting is ``both``."""
    return np.resize(np.array(FORMS_BY_NAME[form], dtype=object), n)


def check_counts(task: Any, *names: str) -> None:
    """Settings that must be 1 or more; else an :class:`InputError`."""
    for name in names:
        if getattr(task, name) < 1:
            raise InputError(f"{name} must be 1 or more, not {getattr(task, name)}.")


def check_kind_shares(shares: Sequence[float], kinds: Sequence[str]) -> None:
    """One share a kind, 0 or more; else an :class:`InputError`."""
    if len(shares) != len(kinds) or not all(share >= 0 for share in shares) or sum(shares) <= 0:
        raise InputError(
            f"kind_shares must be the {len(kinds)} shares of {', '.join(kinds)}, 0 or more and one of them above 0, "
            f"not {list(shares)}."
        )


def split_groups(groups: Sequence[str], rng: np.random.Generator) -> dict[str, str]:
    """Assign each group to one split, at random, in the shares of `SPLIT_SHARES`."""
    order = rng.permutation(len(groups))
    edges = np.round(np.cumsum(SPLIT_SHARES) * len(groups)).astype(int)
    split_of = np.searchsorted(edges, np.arange(len(groups)), side="right")
    return {groups[i]: SPLITS[split_of[position]] for position, i in enumerate(order)}


def split_bound(groups: Sequence[str], forms: np.ndarray, rng: np.random.Generator) -> dict[str, str]:
    """Assign each bound group to one split; every split gets its share of each form [groups]."""
    split_of: dict[str, str] = {}
    for form in dict.fromkeys(forms):
        split_of |= split_groups([group for group, own in zip(groups, forms, strict=True) if own == form], rng)
    return split_of


def exact_shares(n: int, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """`n` labels 0, 1, ... in (nearly) exactly the given shares, in random order."""
    edges = np.cumsum(shares) / np.sum(shares)
    return rng.permutation(np.searchsorted(edges, (np.arange(n) + 0.5) / n))


def word_tokenizer(words: Sequence[str], pattern: str, joiner: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: one token a match of `pattern`, a first token before each text."""
    vocabulary = {word: i for i, word in enumerate([PAD, BOS, EOS, *words])}
    if len(vocabulary) != len(words) + 3:
        raise ValueError("A word stands twice in the vocabulary.")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.decoder = decoders.Fuse() if joiner == "" else decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
