"""Both tasks in one: what the parts' own tests check must survive the joining."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from memgen import behavior, training
from memgen.config import InputError, ModelConfig
from memgen.subject import Subject
from memgen.tasks import graded_addition as addition
from memgen.tasks import graded_inference as inference
from memgen.tasks import graded_joint as joint
from memgen.tasks.common import SPLITS
from memgen.tasks.lessons import pack
from tests.conftest import random_model

SETTINGS = {
    "stories": inference.Task(n_bound=12, n_free=20, corpus_size=100, conflicts_per_group=2, others_per_group=2),
    "sums": addition.Task(n_bound=30, corpus_size=300, unbound_per_split=10),
}
PARTS = ("graded_inference", "graded_addition")


@pytest.fixture(scope="module", params=["study", "matched", "both"])
def made(request):
    task = joint.Task(form=request.param, **SETTINGS)
    return SimpleNamespace(task=task, data=task.generate(np.random.default_rng(3)))


def test_the_parts_are_the_tasks_themselves(made):
    """The same generator writes the same prompts, word for word, as it does for each task alone."""
    rng = np.random.default_rng(3)
    for name, part in made.task.parts.items():
        alone = part.generate(rng)
        for split in SPLITS:
            frame = made.data.splits[split]
            above = (frame.part == PARTS[0]).sum() if name == PARTS[1] else 0
            frame = frame[frame.part == name].drop(columns=["part", "input_ids"]).reset_index(drop=True)
            frame["variant_of"] -= np.where(frame.variant_of >= 0, above, 0)
            pd.testing.assert_frame_equal(frame, alone.splits[split].drop(columns="input_ids"))
        texts = made.data.corpus[made.data.corpus.part == name].text
        assert sorted(texts) == sorted(alone.corpus.text)


def test_one_vocabulary(made, tmp_path):
    tokenizer = made.task.tokenizer()
    of_parts = (part.tokenizer().get_vocab() for part in made.task.parts.values())
    assert set(tokenizer.get_vocab()) == set().union(*of_parts)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for frame in made.data.splits.values():
        assert loaded(frame.prompt.to_list()).input_ids == [list(ids) for ids in frame.input_ids]
    for row in made.data.corpus.itertuples():
        end = [] if row.part == PARTS[0] else [loaded.eos_token_id]
        assert [*loaded(row.text).input_ids, *end] == list(row.input_ids)


def test_variants_and_groups(made):
    groups = {split: set(frame.group) for split, frame in made.data.splits.items()}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))
    for frame in made.data.splits.values():
        assert frame.index.equals(pd.RangeIndex(len(frame)))
        variants = frame[frame.variant_of >= 0]
        assert set(variants.part) == set(PARTS)
        columns = ["part", "kind", "answer_memorization", "answer_generalization", "group", "form"]
        assert (variants[columns].to_numpy() == frame.loc[variants.variant_of, columns].to_numpy()).all()
        names = frame.group[frame.part == PARTS[0]]
        assert set(names) <= set(inference.NAMES)
        assert not set(frame.group[frame.part == PARTS[1]]) & set(inference.NAMES)


def test_the_corpus_is_mixed_in_the_given_share(made):
    corpus = made.data.corpus
    assert corpus.part.value_counts().to_dict() == {PARTS[0]: 100, PARTS[1]: 300}
    half = corpus.part.iloc[:200].value_counts()
    assert 30 < half[PARTS[0]] < 70  # shuffled


def test_the_generator_alone_decides_the_data(made):
    same, other = (joint.Task(form=made.task.form, **SETTINGS).generate(np.random.default_rng(i)) for i in (3, 4))
    for name in ("memory", "corpus"):
        buffers = [io.BytesIO() for _ in range(3)]
        for data, buffer in zip((made.data, same, other), buffers, strict=True):
            getattr(data, name).to_parquet(buffer)
        first, again, changed = (buffer.getvalue() for buffer in buffers)
        assert first == again != changed


def test_a_model_reads_prompts_of_both_lengths(made):
    """Measured together, padded, each input comes out as it does alone."""
    frame, tokenizer = made.data.splits["test"], made.task.tokenizer()
    subject = Subject(random_model("gpt2-2x32", tokenizer, 40, 0.3), tokenizer)
    together = behavior.measure(subject, behavior.prepare(subject, frame, batch_size=len(frame)))
    assert together.index.sort_values().equals(frame.index)
    for _, rows in frame.groupby("part"):
        alone = behavior.measure(subject, behavior.prepare(subject, rows))
        np.testing.assert_allclose(alone.log_odds, together.log_odds[alone.index], atol=1e-4)
        assert (alone.behavior == together.behavior[alone.index]).all()
    packed = pack(made.data.corpus, tokenizer.pad_token_id)
    assert packed.shape == (400, 36)
    shape = training.model_configuration(ModelConfig.from_name("gpt2-2x32"), tokenizer, packed.shape[1])
    assert shape.vocab_size == len(tokenizer)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"form": "poem"}, ["form", "'poem'"]),
        ({"corpus_size": 0}, ["corpus_size", "unknown"]),
        ({"stories": {"n_bound": 9}}, ["stories: n_bound", "9"]),
        ({"sums": {"n_bound": 9}}, ["sums: n_bound", "9"]),
        ({"stories": {"others_per_group": 0}}, ["stories: others_per_group", "0"]),
    ],
)
def test_bad_settings(given, parts):
    with pytest.raises(InputError) as caught:
        joint.Task.read(given, "The data")
    assert all(part in str(caught.value) for part in ("The data: ", *parts)), str(caught.value)
