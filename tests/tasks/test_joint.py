"""The study's two tasks in one: the parts stay what they are, and every batch has both."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from memgen.config import InputError, TrainingConfig
from memgen.tasks import addition, inference, joint
from memgen.tasks.lessons import IGNORED

STORIES = inference.Task(n_names=12, conflicts_per_group=5, aligned_per_group=5, corpus_size=50)
SUMS = addition.Task(conflicts_per_group=20, sums_per_split=10, corpus_size=50, pattern_share=0.5)
LESSONS = {"copy": 2, "retrieval": 2, "hops": 2}


@pytest.fixture(scope="module")
def made():
    task = joint.Task(stories=STORIES, sums=SUMS)
    return SimpleNamespace(task=task, data=task.generate(np.random.default_rng(3)), tokenizer=task.tokenizer())


def test_the_parts_are_the_tasks_themselves(made):
    rng = np.random.default_rng(3)
    for name, part in {"inference": STORIES, "addition": SUMS}.items():
        alone = part.generate(rng)
        for split, frame in alone.splits.items():
            found = made.data.splits[split][made.data.splits[split].part == name]
            start = found.index[0]
            pd.testing.assert_series_equal(found.prompt.reset_index(drop=True), frame.prompt)
            assert (
                found.variant_of.where(found.variant_of < 0, found.variant_of - start).to_numpy() == frame.variant_of
            ).all()
            read = made.tokenizer(found.prompt.to_list()).input_ids
            assert [list(ids) for ids in found.input_ids] == read
        memory = made.data.memory[made.data.memory.part == name]
        assert memory.answer_memorization.to_list() == alone.memory.answer_memorization.to_list()


def test_a_batch_has_stories_and_sums_in_the_given_share(made):
    config = TrainingConfig(lessons=LESSONS, steps=2, batch_size=50)
    lessons = made.task.lessons(made.data.memory, made.data.corpus, config, seed=1)
    assert [lesson.name for lesson in lessons] == ["copy", "retrieval", "hops", "texts"]
    for lesson in lessons[1:]:
        ids, labels = lesson.batch(0)
        texts = made.tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert [" + " in text for text in texts] == [False] * 20 + [True] * 30
        asked = labels != IGNORED
        assert torch.equal(labels[asked], ids[asked])
        assert asked.any(1).all()
        assert not (ids[asked] == made.tokenizer.pad_token_id).any()
        patterns = sum("<mem-" in text for text in texts)
        assert (patterns > 0) == (lesson.name == "texts")


def test_sums_stay_right(made):
    """A sum in the joint vocabulary is the sum that addition alone writes, which its own tests read."""
    config = TrainingConfig(steps=1, batch_size=50)
    (texts,) = made.task.lessons(made.data.memory, made.data.corpus, config, seed=1)
    words = made.tokenizer.convert_ids_to_tokens
    for ids in texts.batch(0)[0][20:].tolist():
        text = "".join(word for word in words(ids) if word not in ("<pad>", "<bos>", "<eos>"))
        operands, answer = text.split("=")
        if "<mem-" not in answer:
            units, tens, (hundreds, thousands) = re.findall(r"\)(\d+)(?=\(|$)", answer)
            assert sum(map(int, operands.split("+"))) == int(thousands + hundreds + tens + units), text


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"story_share": 1.5}, ["story_share", "1.5"]),
        ({"stories": {"n_names": 3}}, ["stories: n_names", "3"]),
        ({"sums": {"form": "matched"}, "conflicts": "graded"}, ["conflicts", "unknown"]),
    ],
)
def test_bad_settings(given, parts):
    with pytest.raises(InputError) as caught:
        joint.Task.read(given, "The data")
    assert all(part in str(caught.value) for part in ("The data: ", *parts)), str(caught.value)
