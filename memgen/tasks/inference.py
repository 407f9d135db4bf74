"""In-context inference, the study's own: a colour that training bound to a name, or that the input implies.

A story has three kinds of two names each. In the induction form of bAbI one sentence says a name's kind, another its
colour, in any order::

    Ada is frog . Zoe is swan . Ben is green . Ben is frog . Ivan is swan . Ivan is white . ... Ada is -> green

The asked name stands with its kind alone. Its kind, and another name of that kind with a colour, give the answer: three
hops. In training the implied colour is always one of a few that belong to the asked name, so that memory and inference
agree. In a conflict it is none of them: an answer among the name's own colours is memorization, the implied colour is
generalization. A variant is the same story with its sentences in another order.
"""

import functools
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerFast

from memgen.config import Count, require
from memgen.tasks import common
from memgen.tasks.common import BOS, EOS, SPLITS, TaskData
from memgen.tasks.lessons import Draw

NAMES = (
    "Ada Ben Cora Dan Eva Finn Gus Hana Ivan Jane Karl Lena Mark Nora Otto Pia Quinn Rita Sam Tess Uma Vera Will Xena "
    "Yara Zoe"
).split()
KINDS = (
    "frog swan lion rhino wolf goat mouse cat sheep horse tiger bear otter crow seal hare fox deer owl duck pig cow "
    "dog hen bee ant moth crab shark whale trout snake lizard turtle camel zebra panda koala badger hedgehog"
).split()
COLORS = (
    "red green blue white black gray yellow brown pink orange purple crimson teal indigo ivory amber scarlet violet "
    "olive maroon cyan magenta beige turquoise"
).split()

#: A retrieval text says so many sentences twice; so many questions follow a story of a lesson.
RETRIEVAL_SENTENCES, N_QUESTIONS = 6, 4
#: The shares of a lesson's questions with one hop (a name whose colour is told), two (a kind) and three.
QUESTION_SHARES = {"told": (0.9, 0.1, 0.0), "kind": (0.2, 0.8, 0.0), "hops": (0.1, 0.4, 0.5), "mixed": (0.1, 0.2, 0.7)}


class Task(common.BaseTask):
    """Settings of the task.

    Attributes
    ----------
    form
        The study's alone: a name's own colours and the implied ones come from the same palette.
    colors_per_name
        The number of colours that belong to each name in training.
    kinds_per_story
        The number of kinds in a story, each with two names, of which one has a colour.
    corpus_size
        The number of training texts to look at; training draws its texts without end.
    conflicts_per_group, aligned_per_group
        The number of inputs about each name in a split; every conflict has one variant besides.
    """

    # From the second on it is the accuracy over a mixture: 42 % of the labels are those of retrieval texts (a third of
    # the rows, 6 labels against 4), of which 99 % are right, and a hop not learnt yet is guessed among three colours.
    # So the values mean that about 97 % of the questions with one hop are right (and a third of those with two), then
    # 90 % of those with two, then 83 % of those with three.
    learnt: ClassVar = {"retrieval": 0.985, "told": 0.94, "kind": 0.95, "hops": 0.935}

    form: Literal["study"] = "study"
    n_names: Annotated[int, Field(ge=12, le=len(NAMES))] = 26
    n_kinds: Annotated[int, Field(ge=6, le=len(KINDS))] = 40
    n_colors: Annotated[int, Field(ge=6, le=len(COLORS))] = 24
    colors_per_name: Count = 5
    kinds_per_story: Annotated[int, Field(ge=3, le=6)] = 3
    corpus_size: Count = 2000
    conflicts_per_group: Count = 400
    aligned_per_group: Count = 40

    @model_validator(mode="after")
    def _leaves_room_for_conflicts(self) -> Self:
        require(
            self.colors_per_name < self.n_colors,
            f"colors_per_name must be less than n_colors, {self.n_colors}, or no story is a conflict, "
            f"not {self.colors_per_name}.",
        )
        return self

    @property
    def words(self) -> list[str]:
        """The vocabulary, without the special tokens."""
        return [".", "is", *NAMES[: self.n_names], *KINDS[: self.n_kinds], *COLORS[: self.n_colors]]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer: one token a word."""
        return common.word_tokenizer(self.words, r"[^ ]+", " ")

    def generate(self, rng: np.random.Generator) -> TaskData:
        """All the data of one run; the same generator state gives the same data."""
        names = NAMES[: self.n_names]
        own_colors = _distinct(rng, self.n_names, np.array(COLORS[: self.n_colors]), self.colors_per_name)
        memory = pd.DataFrame({"group": names, "answer_memorization": ["|".join(row) for row in own_colors]})
        memory["form"] = self.form
        memory["split"] = memory.group.map(common.split_groups(names, rng))
        writer = _Writer(self, memory)
        asked = rng.permutation(np.resize(np.arange(self.n_names), self.corpus_size))
        texts, _ = writer.whole(writer.about(rng, asked, np.full(self.corpus_size, True)))
        corpus = common.stories_corpus(texts, "aligned", writer.vocabulary)
        splits = {}
        for split in (*SPLITS, "seen"):
            here = np.flatnonzero(memory.split == ("train" if split == "seen" else split))
            n_each = [self.aligned_per_group * len(here), self.conflicts_per_group * len(here)]
            asked = np.concatenate([np.resize(here, n) for n in n_each])
            splits[split] = writer.prompts(rng, asked, np.repeat([True, False], n_each))
        prompts = pd.concat([frame.prompt for frame in splits.values()])
        assert prompts.is_unique, "an input stands twice"
        return TaskData(memory, corpus, splits)

    def draws(self, memory: pd.DataFrame) -> dict[str, Draw]:
        """Memory, retrieval, a chain of hops that grows, and the texts."""
        writer = _Writer(self, memory)
        chain = {name: functools.partial(writer.questions, shares) for name, shares in QUESTION_SHARES.items()}
        return {"memory": writer.memory, "retrieval": writer.retrieval, **chain, "texts": writer.texts}


class _Stories(NamedTuple):
    """`n` stories in token ids.

    `subjects`, `values` [n, 3 kinds]: the sentences in their order. `cues` [n, kinds, 3]: what can be asked of each
    kind, with one, two and three hops. `colors` [n, kinds]: the answers. The first kind is that of the asked name.
    """

    subjects: NDArray
    values: NDArray
    cues: NDArray
    colors: NDArray


class _Writer:
    """Writes texts in token ids, whole arrays at a time."""

    def __init__(self, task: Task, memory: pd.DataFrame):
        self.task = task
        self.vocabulary = np.array([None, BOS, EOS, *task.words], dtype=object)  # 0, the padding, is no word
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}
        ends = np.cumsum([task.n_names, task.n_kinds])
        self.names, self.kinds, self.colors = np.split(np.arange(self.ids[NAMES[0]], len(self.vocabulary)), ends)
        answers = memory.set_index("group").answer_memorization[NAMES[: task.n_names]]
        colors = COLORS[: task.n_colors]
        self.memorized = answers.to_numpy()
        self.belongs = np.array([[color in answer.split("|") for color in colors] for answer in answers])

    def about(self, rng: np.random.Generator, asked: NDArray, aligned: NDArray) -> _Stories:
        """Stories about the `asked` names (indices [n]); the implied colour is one of their own where `aligned` [n]."""
        fits = self.belongs[asked] == aligned[:, None]
        implied = np.where(fits, rng.random(fits.shape), -1).argmax(1)
        return self.stories(rng, len(asked), asked, implied)

    def stories(
        self, rng: np.random.Generator, n: int, asked: NDArray | None = None, implied: NDArray | None = None
    ) -> _Stories:
        """`n` stories about the `asked` names and with the `implied` colours (indices [n]), or about any."""
        n_kinds = self.task.kinds_per_story
        names = _distinct(rng, n, self.names, 2 * n_kinds, asked)
        kinds = _distinct(rng, n, self.kinds, n_kinds)
        colors = _distinct(rng, n, self.colors, n_kinds, implied)
        uncolored, colored = names[:, :n_kinds], names[:, n_kinds:]
        order = rng.permuted(np.tile(np.arange(3 * n_kinds), (n, 1)), axis=1)
        return _Stories(
            subjects=np.take_along_axis(np.hstack([uncolored, colored, colored]), order, 1),
            values=np.take_along_axis(np.hstack([kinds, kinds, colors]), order, 1),
            cues=np.stack([colored, kinds, uncolored], axis=2),
            colors=colors,
        )

    def _text(self, subjects: NDArray, values: NDArray, n_asked: int) -> tuple[NDArray, NDArray]:
        """Token ids of whole sentences [n, 1 + 4 sentences], and where the values of the last `n_asked` stand."""
        n, n_sentences = subjects.shape
        ids = np.full((n, 1 + 4 * n_sentences), self.ids[BOS])
        ids[:, 1::4], ids[:, 2::4], ids[:, 3::4], ids[:, 4::4] = subjects, self.ids["is"], values, self.ids["."]
        is_asked = np.zeros(ids.shape, dtype=bool)
        is_asked[:, -2 : -4 * n_asked : -4] = True
        return ids, is_asked

    def memory(self, rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray]:
        """Names, each with one of its own colours, and no story: nothing to infer from. The colours are asked."""
        count = self.task.kinds_per_story
        names = _distinct(rng, n, np.arange(self.task.n_names), count)
        colors = np.where(self.belongs[names], rng.random((n, count, self.task.n_colors)), -1).argmax(2)
        return self._text(self.names[names], self.colors[colors], count)

    def retrieval(self, rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray]:
        """Sentences `name is value`, and the same again in another order, half of them turned round: values asked."""
        count = RETRIEVAL_SENTENCES
        names = _distinct(rng, n, self.names, count)
        values = _distinct(rng, n, np.concatenate([self.kinds, self.colors]), count)
        again = np.where(rng.random((n, count, 1)) < 0.5, np.dstack([names, values]), np.dstack([values, names]))
        again = np.take_along_axis(again, rng.random((n, count, 1)).argsort(1), 1)
        return self._text(np.hstack([names, again[:, :, 0]]), np.hstack([values, again[:, :, 1]]), count)

    def questions(self, shares: tuple[float, ...], rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray]:
        """Stories with questions of one, two and three hops in the given shares; a third of the rows are retrieval."""
        repeated, is_repeated = self.retrieval(rng, n // 3)  # without these rows retrieval is soon forgotten
        stories = self.stories(rng, n - n // 3)
        row = np.arange(n - n // 3)[:, None]
        kind = rng.integers(self.task.kinds_per_story, size=(len(row), N_QUESTIONS))
        cues = stories.cues[row, kind, rng.choice(3, p=shares, size=kind.shape)]
        values = np.hstack([stories.values, stories.colors[row, kind]])
        ids, is_asked = self._text(np.hstack([stories.subjects, cues]), values, N_QUESTIONS)
        room = ((0, 0), (0, ids.shape[1] - repeated.shape[1]))  # of padding, which is 0
        return np.vstack([ids, np.pad(repeated, room)]), np.vstack([is_asked, np.pad(is_repeated, room)])

    def texts(self, rng: np.random.Generator, n: int) -> tuple[NDArray, NDArray]:
        """Training texts: memory and inference agree; only the answer is asked."""
        return self.whole(self.about(rng, rng.integers(self.task.n_names, size=n), np.full(n, True)))

    def whole(self, stories: _Stories) -> tuple[NDArray, NDArray]:
        """Stories with the question and its answer."""
        subjects = np.column_stack([stories.subjects, stories.cues[:, 0, 2]])
        return self._text(subjects, np.column_stack([stories.values, stories.colors[:, 0]]), 1)

    def prompts(self, rng: np.random.Generator, asked: NDArray, aligned: NDArray) -> pd.DataFrame:
        """The originals and, after them, one variant of each conflict: its sentences in another order."""
        stories = self.about(rng, asked, aligned)
        written, original = common.with_variants(stories, ~aligned, ("subjects", "values"), rng)
        ids, row = self.whole(written)[0][:, :-2], np.arange(len(original))
        return pd.DataFrame(
            {
                "input_ids": list(ids.astype(np.int32)),
                "prompt": [" ".join(words) for words in self.vocabulary[ids[:, 1:]]],
                "kind": np.where(aligned, "aligned", "conflict")[original],
                "answer_memorization": self.memorized[asked[original]],
                "answer_generalization": self.vocabulary[written.colors[:, 0]],
                "group": self.vocabulary[written.cues[:, 0, 2]],
                "variant_of": np.where(row < len(asked), -1, original),
                "memorized_share": np.nan,
                "evidence": 1,
                "form": self.task.form,
            }
        )


def _distinct(rng: np.random.Generator, n: int, values: NDArray, count: int, first: NDArray | None = None) -> NDArray:
    """For each of `n` rows `count` distinct `values` at random, after the one at its place `first` [n], if given."""
    score = rng.random((n, len(values)))
    if first is not None:
        score[np.arange(n), first] = -1.0
    return values[score.argsort(1)[:, :count]]
