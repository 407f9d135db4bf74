"""Lessons: the copy warm-up, texts drawn anew, and the texts of a corpus."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen.config import InputError, TrainingConfig
from memgen.tasks import graded_inference, lessons
from memgen.tasks.lessons import IGNORED, LONGEST_COPY


def test_copying_repeats_random_tokens():
    lesson = lessons.copying(30, 60, 5, seed=0)
    lengths = set()
    for step in range(60):
        ids, labels = lesson.batch(step)
        length = (ids.shape[1] - 1) // 2
        lengths.add(length)
        first, second = ids[:, 1 : 1 + length], ids[:, 1 + length :]
        assert ids.shape == labels.shape == (5, 1 + 2 * length)
        assert (ids[:, 0] == 1).all()
        assert torch.equal(first, second)
        assert all(len(set(row.tolist())) == length for row in first)
        assert first.min() >= 3
        assert first.max() < 30
        assert len({tuple(row.tolist()) for row in first}) == 5
        assert (labels[:, : 1 + length] == IGNORED).all()
        assert torch.equal(labels[:, 1 + length :], second)
    assert min(lengths) == 6
    assert max(lengths) == LONGEST_COPY
    small, _ = lessons.copying(8, 1, 2, seed=0).batch(0)
    assert small.shape == (2, 11)  # no more than the five words there are


@pytest.mark.parametrize("make", [lambda seed: lessons.copying(30, 9, 4, seed), lambda seed: coins(seed)])
def test_batches_depend_on_seed_and_step_alone(make):
    lesson = make(3)
    first = [lesson.batch(step)[0] for step in (0, 1)]
    again = [make(3).batch(step)[0] for step in (1, 0)]
    assert torch.equal(first[0], again[1])
    assert torch.equal(first[1], again[0])
    assert first[0].shape != first[1].shape or not torch.equal(*first)
    other = make(4).batch(0)[0]
    assert other.shape != first[0].shape or not torch.equal(other, first[0])


def coins(seed, name="coins"):
    def draw(rng, n):
        ids = rng.integers(3, 5, (n, 7))
        return ids, ids == 4

    return lessons.drawn(name, draw, 9, 4, seed, until=0.9)


def test_drawn_texts():
    lesson = coins(0)
    ids, labels = lesson.batch(2)
    assert (lesson.name, lesson.steps, lesson.until) == ("coins", 9, 0.9)
    assert ids.dtype == labels.dtype == torch.int64
    assert torch.equal(labels, torch.where(ids == 4, ids, IGNORED))
    assert not torch.equal(ids, coins(0, "dice").batch(2)[0])  # the name decides, too


def test_pack_pads_on_the_right():
    corpus = pd.DataFrame({"input_ids": [np.array([1, 5]), np.array([1, 6, 7, 2]), np.array([1, 8, 2])]})
    assert lessons.pack(corpus, 0).tolist() == [[1, 5, 0, 0], [1, 6, 7, 2], [1, 8, 2, 0]]


def test_a_corpus_is_read_in_whole_passes():
    corpus = pd.DataFrame({"input_ids": [np.array([1, 3 + i] + [2] * (i % 2)) for i in range(10)]})
    lesson = lessons.from_corpus(corpus, 0, 5, 4, seed=0)
    ids, labels = map(torch.cat, zip(*(lesson.batch(step) for step in range(5)), strict=True))
    assert (lesson.name, lesson.steps) == ("texts", 5)
    seen = (ids[:, 1] - 3).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert torch.equal(labels, ids.masked_fill(ids == 0, IGNORED))
    assert (labels == IGNORED).any()


class TestLessonsOfATask:
    """What every task has: a copy warm-up if it is named, then the texts."""

    task = graded_inference.Task(n_bound=10, n_free=20, corpus_size=50)
    data = task.generate(np.random.default_rng(0))

    def lessons(self, **settings):
        return self.task.lessons(self.data.memory, self.data.corpus, TrainingConfig(steps=7, **settings), 1)

    def test_copy_comes_first(self):
        assert [(lesson.name, lesson.steps) for lesson in self.lessons()] == [("texts", 7)]
        copy, texts = self.lessons(lessons={"copy": 3}, batch_size=6)
        assert (copy.name, copy.steps, texts.name) == ("copy", 3, "texts")
        assert len(copy.batch(0)[0]) == len(texts.batch(0)[0]) == 6
        assert max(int(copy.batch(step)[0].max()) for step in range(3)) < len(self.task.tokenizer())

    def test_another_lesson_is_refused(self):
        with pytest.raises(InputError, match="hops"):
            self.lessons(lessons={"copy": 3, "hops": 9})
