"""Graded in-context inference: conflicts are trained on, and how often memory wins depends on the evidence.

A story is six sentences and a query, after the induction task of bAbI, with kind and colour in one sentence::

    Alan the frog green . Corina the swan white . Dela the frog green . ... Miron the swan -> white

`Miron` may be *bound* to a colour during training; then the colour can be remembered. The story may show what colour
his kind has; then it can be inferred. The evidence is the number of sentences about his kind. A variant is the same
story with its sentences in another order.
"""

import itertools
from typing import Annotated, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerFast

from memgen.config import Count, require
from memgen.tasks import common
from memgen.tasks.common import BOS, EOS, SPLITS, TaskData

ANIMALS = "frog swan lion rhino wolf goat mouse cat sheep horse tiger bear otter crow seal hare".split()
PLAIN_COLORS = "red green blue white black gray yellow brown pink orange".split()
RARE_COLORS = "crimson teal indigo ivory amber scarlet violet olive maroon cyan".split()
BOUND_PALETTES = {"study": RARE_COLORS, "matched": PLAIN_COLORS}
STARTS = "Al Be Co De El Fa Ge Ha Is Jo Ka Lu Mi Ne Ol Pe Ri Sa Te Vi".split()
ENDS = "ra den lia mon nas rek sya tor vin zel".split()
NAMES = [start + end for start, end in itertools.product(STARTS, ENDS)]
N_SENTENCES = 6  # of a story; each takes a name that is neither bound nor asked about
NAMES_BY_PLACE = [NAMES[i * 7 % len(NAMES)] for i in range(len(NAMES))]  # neighbours do not sound alike


class Task(common.GradedTask):
    """Settings of the task.

    In the study's form bound colours come from a palette of their own (*crimson* against *red*), in the matched form
    both answers come from one palette. The grade of a conflict is the strength of its evidence: one sentence; two, but
    not the last of the story; two, with the last; three. The order of the sentences decides only between the two in
    the middle.
    """

    kind_shares: ClassVar = {"inferred_only": 0.4, "memorized_only": 0.12, "conflict": 0.36, "aligned": 0.12}
    memorized_share: ClassVar = (0.95, 0.85, 0.15, 0.05)

    n_bound: Annotated[int, Field(ge=10)] = 64
    n_free: Annotated[int, Field(ge=20)] = 64
    corpus_size: Count = 100_000
    conflicts_per_group: Count = 48
    others_per_group: Count = 8

    @model_validator(mode="after")
    def _has_enough_names(self) -> Self:
        given = f"{self.n_bound} and {self.n_free}"
        enough = self.n_bound + self.n_free <= len(NAMES)
        require(enough, f"n_bound and n_free must be at most {len(NAMES)} together, not {given}.")
        return self

    @property
    def words(self) -> list[str]:
        """The vocabulary, without the special tokens."""
        rare = RARE_COLORS if self.form != "matched" else []
        return [".", "the", *PLAIN_COLORS, *rare, *ANIMALS, *NAMES_BY_PLACE[: self.n_bound + self.n_free]]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a word."""
        return common.word_tokenizer(self.words, r"[^ ]+", " ")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        names = rng.permutation(NAMES_BY_PLACE[: self.n_bound + self.n_free])
        bound, free = list(names[: self.n_bound]), list(names[self.n_bound :])
        colors = common.deal(BOUND_PALETTES, self.forms, rng)
        split_of = common.split_bound(bound, self.forms, rng) | common.split_groups(free, rng)
        memory = pd.DataFrame({"group": bound, "answer_memorization": colors, "form": self.forms})
        memory["split"] = memory.group.map(split_of)
        writer = _Writer(self, dict(zip(bound, colors, strict=True)), free, rng)
        kinds = self.corpus_kinds(self.corpus_size, rng)
        asked = np.where(
            kinds == "inferred_only",
            rng.permutation(np.resize(free, self.corpus_size)),
            rng.permutation(np.resize(bound, self.corpus_size)),
        )
        corpus = writer.corpus(writer.write(kinds, asked))
        splits = {}
        for split in SPLITS:
            bound_here, free_here = ([name for name in names if split_of[name] == split] for names in (bound, free))
            names_by_kind = {
                "memorized_only": bound_here * self.others_per_group,
                "aligned": bound_here * self.others_per_group,
                "inferred_only": free_here * self.others_per_group,
                "conflict": bound_here * self.conflicts_per_group,
            }
            kinds = np.repeat(list(names_by_kind), list(map(len, names_by_kind.values())))
            prompts = writer.prompts(writer.write(kinds, np.concatenate(list(names_by_kind.values()))))
            splits[split] = prompts.assign(form=prompts.group.map(memory.set_index("group").form))
        return TaskData(memory, corpus, splits)


class _Stories(NamedTuple):
    """`n` stories in token ids: `names`, `animals`, `colors` [n, sentences]; the rest [n]; 0 where there is none."""

    kinds: np.ndarray
    asked: np.ndarray
    asked_animal: np.ndarray
    evidence: np.ndarray
    memorized: np.ndarray
    inferred: np.ndarray
    names: np.ndarray
    animals: np.ndarray
    colors: np.ndarray


class _Writer:
    """Writes stories, whole arrays at a time."""

    def __init__(self, task: Task, memory: dict[str, str], free: list[str], rng: np.random.Generator):
        self.task, self.rng = task, rng
        self.vocabulary = np.array([None, BOS, EOS, *task.words], dtype=object)  # 0, the padding, is no word
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}
        self.memory = {self.ids[name]: self.ids[color] for name, color in memory.items()}
        self.free = self._ids(free)

    def _ids(self, words: list[str]) -> np.ndarray:
        return np.array([self.ids[word] for word in words])

    def _draw(self, values: np.ndarray, n: int, count: int, without: np.ndarray) -> np.ndarray:
        """For each of `n` rows `count` distinct values, none of them the row's `without`."""
        score = self.rng.random((n, len(values)))
        score[values[None] == without[:, None]] = 2.0
        return values[score.argsort(1)[:, :count]]

    def write(self, kinds: np.ndarray, asked_names: np.ndarray) -> _Stories:
        """Stories of the given kinds about the given names."""
        n = len(kinds)
        asked = self._ids(list(asked_names))
        memorized = np.array([self.memory.get(i, 0) for i in asked])
        no_evidence = kinds == "memorized_only"
        evidence = np.where(no_evidence, 0, common.exact_shares(n, [1, 1, 1], self.rng) + 1)
        # Of the four kinds of animal, 0 is the one asked about; the others share the remaining sentences evenly.
        slot = np.arange(N_SENTENCES)
        n_others = np.where(no_evidence, 3, 2)[:, None]
        animal_of = np.where(slot < evidence[:, None], 0, 1 + (slot - evidence[:, None]) % n_others)
        animal_of = self.rng.permuted(animal_of, axis=1)
        animals = self._draw(self._ids(ANIMALS), n, 4, np.zeros(n))
        # A kind has one colour, never the memorized one, except that of the asked kind in an aligned story.
        colors = self._draw(self._ids(PLAIN_COLORS), n, 4, memorized)
        colors[kinds == "aligned", 0] = memorized[kinds == "aligned"]
        return _Stories(
            kinds=kinds,
            asked=asked,
            asked_animal=animals[:, 0],
            evidence=evidence,
            memorized=memorized,
            inferred=np.where(no_evidence, 0, colors[:, 0]),
            names=self._draw(self.free, n, N_SENTENCES, asked),
            animals=np.take_along_axis(animals, animal_of, 1),
            colors=np.take_along_axis(colors, animal_of, 1),
        )

    def _prompt_ids(self, stories: _Stories) -> np.ndarray:
        """The tokens of each prompt: [n, 1 + 5 sentences + 3]."""
        n, size = len(stories.names), stories.names.shape
        the, stop = np.full(size, self.ids["the"]), np.full(size, self.ids["."])
        sentences = np.stack([stories.names, the, stories.animals, stories.colors, stop], axis=2).reshape(n, -1)
        first = np.full(n, self.ids[BOS])
        return np.column_stack([first, sentences, stories.asked, the[:, 0], stories.asked_animal])

    def _memorized_share(self, stories: _Stories) -> np.ndarray:
        """The share of the memorized answer in training, by the strength of the evidence; nan without a conflict."""
        recent = stories.animals[:, -1] == stories.asked_animal
        level = np.select([stories.evidence == 1, stories.evidence == 3], [0, 3], np.where(recent, 2, 1))
        return np.where(stories.kinds == "conflict", self.task.grades[level], np.nan)

    def corpus(self, stories: _Stories) -> pd.DataFrame:
        """Whole training texts; a conflict ends with the memorized answer with the share of its evidence."""
        by_chance = self.rng.random(len(stories.kinds)) < self._memorized_share(stories)
        from_memory = np.where(stories.kinds == "conflict", by_chance, stories.memorized != 0)
        answers = np.where(from_memory, stories.memorized, stories.inferred)
        ids = np.column_stack([self._prompt_ids(stories), answers, np.full(len(answers), self.ids["."])])
        return common.stories_corpus(ids, stories.kinds, self.vocabulary)

    def prompts(self, stories: _Stories) -> pd.DataFrame:
        """The originals and, after them, one variant of each conflict: its sentences in another order."""
        is_conflict = stories.kinds == "conflict"
        written, original = common.with_variants(stories, is_conflict, ("names", "animals", "colors"), self.rng)
        ids, row = self._prompt_ids(written), np.arange(len(original))
        return pd.DataFrame(
            {
                "input_ids": list(ids.astype(np.int32)),
                "prompt": [" ".join(words) for words in self.vocabulary[ids[:, 1:]]],
                "kind": written.kinds,
                "answer_memorization": self.vocabulary[written.memorized],
                "answer_generalization": self.vocabulary[written.inferred],
                "group": self.vocabulary[written.asked],
                "variant_of": np.where(row < len(is_conflict), -1, original),
                "memorized_share": self._memorized_share(written),
                "evidence": written.evidence,
            }
        )
