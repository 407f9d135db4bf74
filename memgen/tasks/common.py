"""What the tasks share: their protocol, the frames they make, the splits by group, the tokenizer."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from memgen.config import Conflicts, Form, Settings, TrainingConfig, require
from memgen.tasks import lessons
from memgen.tasks.lessons import Draw, Lesson

KINDS = ("memorized_only", "inferred_only", "aligned", "conflict")
SPLITS = ("train", "validation", "test")
SPLIT_SHARES = (0.5, 0.2, 0.3)
BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"


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

    learnt: ClassVar[Mapping[str, float]] = {}  # the running accuracy at which a lesson of the task's own ends

    @abc.abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which adds the first token and knows padding."""

    @abc.abstractmethod
    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""

    def lessons(self, memory: pd.DataFrame, corpus: pd.DataFrame, config: TrainingConfig, seed: int) -> list[Lesson]:
        """The curriculum: copying and the task's own lessons, where `config` names them, and last the texts."""
        tokenizer, draws, size = self.tokenizer(), self.draws(memory), config.batch_size
        texts = draws.pop("texts", None)
        allowed = ["copy", *draws]
        for name in config.lessons:
            require(name in allowed, f"The lesson {name!r} is unknown; allowed are {', '.join(allowed)}.")
        curriculum = []
        if "copy" in config.lessons:
            curriculum.append(lessons.copying(len(tokenizer), config.lessons["copy"], size, seed))
        for name in [name for name in draws if name in config.lessons]:
            until = self.learnt.get(name)
            curriculum.append(lessons.drawn(name, draws[name], config.lessons[name], size, seed, until))
        if texts is None:
            return [*curriculum, lessons.from_corpus(corpus, tokenizer.pad_token_id, config.steps, size, seed)]
        return [*curriculum, lessons.drawn("texts", texts, config.steps, size, seed)]

    def spoken(self, text: str) -> str:
        """A text in the words of the task as running text, which a pretrained model reads."""
        return text.replace(" .", ".")

    def draws(self, memory: pd.DataFrame) -> dict[str, Draw]:
        """The task's own lessons by name, in their order; and ``texts``, unless those are the ones of the corpus."""
        return {}


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
    n_bound
        The number of bound entities.
    """

    kind_shares: ClassVar[Mapping[str, float]]  # of the training texts
    memorized_share: ClassVar[tuple[float, ...]]  # of a conflict's training texts, at each of four grades

    form: Form = "study"
    conflicts: Conflicts = "graded"
    n_bound: int

    def corpus_kinds(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """The kinds of `n` training texts, in random order."""
        without = "conflict" if self.conflicts == "none" else None
        shares = [0.0 if kind == without else share for kind, share in self.kind_shares.items()]
        return np.array(list(self.kind_shares))[exact_shares(n, shares, rng)]

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


def with_variants(
    stories: Any, is_conflict: np.ndarray, sentences: Sequence[str], rng: np.random.Generator
) -> tuple[Any, np.ndarray]:
    """Stories, and after them each conflict again with its sentences in another order; and the original of each row.

    `stories` is a named tuple of arrays with a row a story; `sentences` are the fields that have a column a sentence.
    """
    n, conflicts = len(is_conflict), np.flatnonzero(is_conflict)
    original = np.concatenate([np.arange(n), conflicts])
    written = type(stories)(*(values[original] for values in stories))
    place = np.arange(getattr(written, sentences[0]).shape[1])
    order = rng.permuted(np.tile(place, (len(conflicts), 1)), axis=1)
    same = (order == place).all(1)
    order[same] = order[same][:, ::-1]
    for words in (getattr(written, name) for name in sentences):
        words[n:] = np.take_along_axis(words[n:], order, 1)
    return written, original


def stories_corpus(ids: np.ndarray, kinds: np.ndarray | str, vocabulary: np.ndarray) -> pd.DataFrame:
    """The training texts of whole stories [n, tokens], which end with an answer and a full stop."""
    return pd.DataFrame(
        {
            "input_ids": list(ids.astype(np.int32)),
            "prompt_length": np.int32(ids.shape[1] - 2),
            "kind": kinds,
            "text": [" ".join(words) for words in vocabulary[ids[:, 1:]]],
        }
    )


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
