"""In-context inference: the colour of somebody, remembered from training or inferred from others of the same kind.

A story is six sentences and a query, after the induction task of bAbI::

    Alan the frog green . Corina the swan white . Dela the frog green . ... Miron the swan -> white

`Miron` may be *bound* to a colour during training; then the colour can be remembered. The story may show what colour
his kind has; then it can be inferred. The evidence is the number of sentences about his kind. A variant is the same
story with its sentences in another order.
"""

import dataclasses
import itertools

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
    split_groups,
    word_tokenizer,
)

ANIMALS = "frog swan lion rhino wolf goat mouse cat sheep horse tiger bear otter crow seal hare".split()
PLAIN_COLORS = "red green blue white black gray yellow brown pink orange".split()
RARE_COLORS = "crimson teal indigo ivory amber scarlet violet olive maroon cyan".split()
BOUND_PALETTES = {"study": RARE_COLORS, "matched": PLAIN_COLORS}
STARTS = "Al Be Co De El Fa Ge Ha Is Jo Ka Lu Mi Ne Ol Pe Ri Sa Te Vi".split()
ENDS = "ra den lia mon nas rek sya tor vin zel".split()
NAMES = [start + end for start, end in itertools.product(STARTS, ENDS)]
NAMES_BY_PLACE = [NAMES[i * 7 % len(NAMES)] for i in range(len(NAMES))]  # neighbours do not sound alike

KIND_NAMES = ("inferred_only", "memorized_only", "conflict", "aligned")


@dataclasses.dataclass(frozen=True)
class Task:
    """Settings of the task.

    `form` is ``study`` (bound colours come from a palette of their own, as *crimson* against *red*), ``matched`` (one
    palette for both) or ``both`` (half the bound names in each form). `memorized_share` gives the share of training
    texts that end with the memorized colour, for conflicts by the strength of their evidence: one sentence; two, but
    not the last of the story; two, with the last; three. The order of the sentences decides only between the two in
    the middle.
    """

    form: str = "study"
    n_bound: int = 64
    n_free: int = 64
    n_sentences: int = 6
    kind_shares: tuple = (0.4, 0.12, 0.36, 0.12)
    memorized_share: tuple = (0.95, 0.85, 0.15, 0.05)
    corpus_size: int = 100_000
    conflicts_per_group: int = 48
    others_per_group: int = 8

    query_length: int = dataclasses.field(default=3, init=False)

    def __post_init__(self) -> None:
        check_form(self.form)
        if not 10 <= self.n_bound <= len(NAMES) - self.n_free or self.n_free < 20:
            raise InputError(
                f"n_bound must be 10 or more and n_free 20 or more, at most {len(NAMES)} together, "
                f"not {self.n_bound} and {self.n_free}."
            )
        if not 5 <= self.n_sentences < 20:  # each has a name of its own, of those that are not bound nor asked about
            raise InputError(f"n_sentences must be from 5 to 19, not {self.n_sentences}.")
        if len(self.memorized_share) != 4 or not all(0 <= share <= 1 for share in self.memorized_share):
            raise InputError(f"memorized_share must be four shares from 0 to 1, not {list(self.memorized_share)}.")
        check_kind_shares(self.kind_shares, KIND_NAMES)
        check_counts(self, "corpus_size", "conflicts_per_group", "others_per_group")

    @property
    def words(self) -> list[str]:
        """The vocabulary, without the special tokens."""
        rare = RARE_COLORS if self.form != "matched" else []
        return [".", "the", *PLAIN_COLORS, *rare, *ANIMALS, *NAMES_BY_PLACE[: self.n_bound + self.n_free]]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a word."""
        return word_tokenizer(self.words, r"[^ ]+", " ")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        names = rng.permutation(NAMES_BY_PLACE[: self.n_bound + self.n_free])
        bound, free = list(names[: self.n_bound]), list(names[self.n_bound :])
        forms = dealt_forms(self.form, self.n_bound)  # of names in random order
        colors = np.empty(self.n_bound, dtype=object)
        for form in dict.fromkeys(forms):
            colors[forms == form] = rng.permutation(np.resize(BOUND_PALETTES[form], (forms == form).sum()))
        split_of = split_bound(bound, forms, rng) | split_groups(free, rng)
        memory = pd.DataFrame(
            {
                "group": bound,
                "answer_memorization": colors,
                "form": forms,
                "split": [split_of[name] for name in bound],
            }
        )
        writer = _Writer(self, dict(zip(bound, colors, strict=True)), free, rng)

        kinds = np.array(KIND_NAMES)[exact_shares(self.corpus_size, self.kind_shares, rng)]
        asked = np.where(
            kinds == "inferred_only",
            rng.permutation(np.resize(free, self.corpus_size)),
            rng.permutation(np.resize(bound, self.corpus_size)),
        )
        corpus = writer.corpus(writer.write(kinds, asked))
        splits = {}
        for split in SPLITS:
            own, own_free = ([name for name in some if split_of[name] == split] for some in (bound, free))
            plan = [(kind, name) for kind in ("memorized_only", "aligned") for name in own * self.others_per_group]
            plan += [("inferred_only", name) for name in own_free * self.others_per_group]
            plan += [("conflict", name) for name in own * self.conflicts_per_group]
            stories = writer.write(np.array([kind for kind, _ in plan]), np.array([name for _, name in plan]))
            prompts = writer.prompts(stories)
            splits[split] = prompts.assign(form=prompts.group.map(dict(zip(bound, forms, strict=True))))
        return TaskData(memory, corpus, splits)


@dataclasses.dataclass
class _Stories:
    """`n` stories in token ids: `names`, `animals`, `colors` [n, n_sentences]; the rest [n]; 0 where there is none."""

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
        self.vocabulary = np.array([PAD, BOS, EOS, *task.words], dtype=object)
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
        n, n_sentences = len(kinds), self.task.n_sentences
        asked = self._ids(list(asked_names))
        memorized = np.array([self.memory.get(i, 0) for i in asked])
        no_evidence = kinds == "memorized_only"
        evidence = np.where(no_evidence, 0, exact_shares(n, [1, 1, 1], self.rng) + 1)
        # Of the four kinds of animal, 0 is the one asked about; the others share the remaining sentences evenly.
        slot = np.arange(n_sentences)
        n_others = np.where(no_evidence, 3, 2)[:, None]
        which = np.where(slot < evidence[:, None], 0, 1 + (slot - evidence[:, None]) % n_others)
        which = self.rng.permuted(which, axis=1)
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
            names=self._draw(self.free, n, n_sentences, asked),
            animals=np.take_along_axis(animals, which, 1),
            colors=np.take_along_axis(colors, which, 1),
        )

    def _prompt_ids(self, stories: _Stories) -> np.ndarray:
        """The tokens of each prompt: [n, 1 + 5 n_sentences + 3]."""
        n, n_sentences = stories.names.shape
        the, stop = np.full((n, n_sentences), self.ids["the"]), np.full((n, n_sentences), self.ids["."])
        sentences = np.stack([stories.names, the, stories.animals, stories.colors, stop], axis=2).reshape(n, -1)
        first = np.full(n, self.ids[BOS])
        return np.column_stack([first, sentences, stories.asked, the[:, 0], stories.asked_animal])

    def _text(self, ids: np.ndarray) -> list[str]:
        return [" ".join(row) for row in self.vocabulary[ids[:, 1:]]]

    def _answer(self, ids: np.ndarray) -> np.ndarray:
        """The answers as words, None where there is none."""
        words = self.vocabulary[ids]
        words[ids == 0] = None
        return words

    def _memorized_share(self, stories: _Stories) -> np.ndarray:
        """The share of the memorized answer in training, by the strength of the evidence; nan without a conflict."""
        recent = stories.animals[:, -1] == stories.asked_animal
        level = np.select([stories.evidence == 1, stories.evidence == 3], [0, 3], np.where(recent, 2, 1))
        return np.where(stories.kinds == "conflict", np.array(self.task.memorized_share)[level], np.nan)

    def corpus(self, stories: _Stories) -> pd.DataFrame:
        """Whole training texts; a conflict ends with the memorized answer with the share of its evidence."""
        by_chance = self.rng.random(len(stories.kinds)) < self._memorized_share(stories)
        from_memory = np.where(stories.kinds == "conflict", by_chance, stories.memorized != 0)
        answers = np.where(from_memory, stories.memorized, stories.inferred)
        prompts = self._prompt_ids(stories)
        ids = np.column_stack([prompts, answers, np.full(len(answers), self.ids["."])])
        return pd.DataFrame(
            {
                "input_ids": list(ids.astype(np.int32)),
                "prompt_length": np.int32(prompts.shape[1]),
                "kind": stories.kinds,
                "text": self._text(ids),
            }
        )

    def prompts(self, stories: _Stories) -> pd.DataFrame:
        """The originals and, after them, one variant of each conflict: its sentences in another order."""
        original = np.flatnonzero(stories.kinds == "conflict")
        n, n_sentences = stories.names.shape
        order = self.rng.permuted(np.tile(np.arange(n_sentences), (len(original), 1)), axis=1)
        same = (order == np.arange(n_sentences)).all(1)
        order[same] = order[same][:, ::-1]
        rows = np.concatenate([np.arange(n), original])
        both = _Stories(**{f.name: getattr(stories, f.name)[rows] for f in dataclasses.fields(_Stories)})
        for part in (both.names, both.animals, both.colors):
            part[n:] = np.take_along_axis(part[n:], order, 1)
        ids = self._prompt_ids(both)
        return pd.DataFrame(
            {
                "input_ids": list(ids.astype(np.int32)),
                "prompt": self._text(ids),
                "kind": both.kinds,
                "answer_memorization": self._answer(both.memorized),
                "answer_generalization": self._answer(both.inferred),
                "group": self.vocabulary[both.asked],
                "variant_of": np.concatenate([np.full(n, -1), original]),
                "memorized_share": self._memorized_share(both),
                "evidence": both.evidence,
            }
        )
