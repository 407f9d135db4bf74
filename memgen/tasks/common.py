"""What the tasks share: their protocol, the frames they make, the splits by group, the tokenizer."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from memgen.config import Conflicts, Form, NotNegative, Settings, Share, TrainingConfig, require
from memgen.tasks import lessons
from memgen.tasks.lessons import Lesson

KINDS = ("memorized_only", "inferred_only", "aligned", "conflict")
SPLITS = ("train", "validation", "test")
SPLIT_SHARES = (0.5, 0.2, 0.3)
BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
#: Shares of kinds of text, and of the memorized answer at four grades; a list is fine for a tuple.
KindShares = Annotated[tuple[NotNegative, ...], Field(strict=False)]
Grades = Annotated[tuple[Share, ...], Field(strict=False, min_length=4, max_length=4)]


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The data of one run.

    Attributes
    ----------
    memory
        One row per bound entity: `group`, `answer_memorization`, `form` (how the bound answer compares with an inferred
        one: ``study``, as the study has it; ``matched``, of the same format), `split`.
    corpus
        Training texts: `input_ids` (the whole text), `prompt_length` (tokens), `text`, `kind`. What the model is
        trained on, or a sample to look at where the task's lessons draw texts anew.
    splits
        Prompts for the analysis: ``train``, ``validation`` and ``test``, disjoint in `group`, and where a task has it
        ``seen``, new inputs about the groups of ``train``. Columns `input_ids`, `prompt`, `kind`,
        `answer_memorization`, `answer_generalization` (None where there is none; several that count alike are separated
        by ``|``), `group`, `variant_of` (the index of the row it rewrites, -1 for an original), `memorized_share` (the
        share of training texts with such a conflict that end with the memorized answer; nan where no training text
        shows one), `evidence` (how often the input supports the inferred answer), `form` (that of the bound entity,
        None where nothing is bound). For a pretrained model `words` holds the prompt in the task's own words.
    """

    memory: pd.DataFrame
    corpus: pd.DataFrame
    splits: Mapping[str, pd.DataFrame]


class BaseTask(Settings, abc.ABC):
    """What a task offers to the stages; the fields of a subclass are its settings."""

    @abc.abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, which adds the first token and knows padding."""

    @abc.abstractmethod
    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""

    def lessons(self, memory: pd.DataFrame, corpus: pd.DataFrame, config: TrainingConfig, seed: int) -> list[Lesson]:
        """The curriculum: lessons that `config` names, and last the texts of the corpus.

        Every task knows the copy warm-up, ``copy``; a task with further lessons overrides this method, and finds what
        its texts are bound to in `memory`.
        """
        unknown = ", ".join(sorted(set(config.lessons) - {"copy"}))
        require(not unknown, f"The lesson {unknown} is unknown; this task has copy.")
        tokenizer, batch_size = self.tokenizer(), config.batch_size
        curriculum = [lessons.from_corpus(corpus, tokenizer.pad_token_id, config.steps, batch_size, seed)]
        if "copy" in config.lessons:
            curriculum.insert(0, lessons.copying(len(tokenizer), config.lessons["copy"], batch_size, seed))
        return curriculum


class GradedTask(BaseTask):
    """A task whose training texts grade the conflict between the two answers.

    Attributes
    ----------
    form
        ``study`` (the two answers differ in format), ``matched`` (they do not) or ``both`` (each for half of the bound
        entities).
    conflicts
        ``graded`` (by `memorized_share`), ``half`` (every conflict has each answer in half of its training texts) or
        ``none`` (no training text is a conflict).
    kind_shares
        The shares of the training texts that are of each of the task's `kinds`.
    memorized_share
        At each of four grades, the share of a conflict's training texts that end with the memorized answer.
    n_bound
        The number of bound entities.
    """

    kinds: ClassVar[tuple[str, ...]]  # in the order of `kind_shares`

    form: Form = "study"
    conflicts: Conflicts = "graded"
    kind_shares: KindShares
    memorized_share: Grades
    n_bound: int

    @model_validator(mode="after")
    def _has_a_share_for_each_kind(self) -> Self:
        require(
            len(self.kind_shares) == len(self.kinds) and sum(self.corpus_shares) > 0,
            f"kind_shares must be the {len(self.kinds)} shares of {', '.join(self.kinds)}, with texts among them, "
            f"not {list(self.kind_shares)}.",
        )
        return self

    @property
    def corpus_shares(self) -> tuple[float, ...]:
        """The shares of the kinds among the training texts."""
        if self.conflicts != "none":
            return self.kind_shares
        return tuple(0.0 if self.kinds[i] == "conflict" else share for i, share in enumerate(self.kind_shares))

    @property
    def grades(self) -> np.ndarray:
        """The share of the memorized answer at each grade [4]."""
        return np.full(4, 0.5) if self.conflicts == "half" else np.array(self.memorized_share)

    @property
    def forms(self) -> np.ndarray:
        """The form of each bound entity [n_bound]: in equal shares where the setting is ``both``."""
        forms = ("study", "matched") if self.form == "both" else (self.form,)
        return np.resize(np.array(forms, dtype=object), self.n_bound)


def deal(values: Mapping[str, Sequence[str]], forms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A value for each bound entity [n]: the values of its form in equal shares, in random order."""
    dealt = np.empty(len(forms), dtype=object)
    for form in dict.fromkeys(forms):
        rows = forms == form
        dealt[rows] = rng.permutation(np.resize(values[form], rows.sum()))
    return dealt


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
        split_of |= split_groups(list(np.array(groups)[forms == form]), rng)
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
