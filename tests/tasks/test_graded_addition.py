"""Sums: every column is checked against what Python's own integers say of the text."""

import io
import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from memgen.config import InputError
from memgen.tasks import graded_addition as addition
from memgen.tasks.common import SPLITS

SETTINGS = {"n_bound": 40, "unbound_per_split": 40}
SHARES = (0.8, 0.7, 0.35, 0.25)  # bound strongly; in the bound order; in the other; weakly


def read(text):
    """The two addends as they are written, and what stands after the equals sign."""
    match = re.fullmatch(r"([1-9]\d*\??)\+([1-9]\d*\??)=(.*)", text)
    assert match, text
    return match[1], match[2], match[3]


def visible(a, b):
    """The unordered pair without its last digits."""
    return tuple(sorted((a[:-1], b[:-1])))


def inferred(a, b):
    """The sum, its least significant digit first."""
    return str(int(a) + int(b)).zfill(4)[::-1]


@pytest.fixture(scope="module", params=["study", "matched", "both"])
def made(request):
    """A task with its data, its prompts together in one frame, and the table of what is bound."""
    task = addition.Task(form=request.param, corpus_size=6000, **SETTINGS)
    data = task.generate(np.random.default_rng(7))
    return SimpleNamespace(
        task=task,
        data=data,
        prompts=pd.concat(data.splits, names=["split", "row"]).reset_index(),
        bound={frozenset((str(row.a), str(row.b))): row for row in data.memory.itertuples()},
    )


def expected_share(a, b, row):
    """The share of training texts with the tag, from the table of what is bound."""
    strong, bound_order, other_order, weak = SHARES
    if row.binding == "one order":
        return bound_order if (str(row.a), str(row.b)) == (a, b) else other_order
    return {"strong": strong, "weak": weak}[row.binding]


def as_bytes(frame):
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def test_the_generator_alone_decides_the_data():
    task = addition.Task(corpus_size=500, **SETTINGS)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    data, same, other = (task.generate(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    for name in ("memory", "corpus"):
        assert as_bytes(getattr(data, name)) == as_bytes(getattr(same, name))
        assert as_bytes(getattr(data, name)) != as_bytes(getattr(other, name))
    for split in SPLITS:
        assert as_bytes(data.splits[split]) == as_bytes(same.splits[split])
        assert as_bytes(data.splits[split]) != as_bytes(other.splits[split])


def test_the_memory(made):
    memory = made.data.memory
    assert len(made.bound) == len(memory) == made.task.n_bound  # no pair twice, in either order
    assert len({visible(str(row.a), str(row.b)) for row in memory.itertuples()}) == len(memory)
    assert (memory.a != memory.b).all()
    assert set(memory.form) == ({"study", "matched"} if made.task.form == "both" else {made.task.form})
    for _, rows in memory.groupby("form"):  # whatever else is dealt, each form gets its share of it
        assert rows.binding.value_counts().max() - rows.binding.value_counts().min() <= 1
        assert set(rows.split) == set(SPLITS)
    assert memory.form.value_counts().max() - memory.form.value_counts().min() <= 1


def test_what_is_bound_in_each_form(made):
    memory = made.data.memory
    tagged, numbers = memory[memory.form == "study"], memory[memory.form == "matched"]
    assert set(tagged.answer_memorization) <= set(addition.TAGS)
    if len(tagged):
        assert tagged.answer_memorization.value_counts().max() <= math.ceil(len(tagged) / len(addition.TAGS))
    # Each number is remembered as often as it is inferred, and never begins like the sum.
    sums = [inferred(row.a, row.b) for row in numbers.itertuples()]
    assert sorted(numbers.answer_memorization) == sorted(sums)
    assert all(answer[0] != total[0] for answer, total in zip(numbers.answer_memorization, sums, strict=True))


def test_splits_share_no_group(made):
    groups = {split: set(frame.group) for split, frame in made.data.splits.items()}
    n_unbound = made.task.unbound_per_split * len(SPLITS)
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == len(made.bound) + n_unbound
    for split in SPLITS:
        bound = made.data.memory[made.data.memory.split == split]
        assert set(bound.group) == groups[split] & set(made.data.memory.group)


def test_prompts(made):
    counts = made.prompts.kind.value_counts()
    n = len(made.bound)
    expected = {"memorized_only": n, "inferred_only": 3 * made.task.unbound_per_split, "conflict": 2 * n}
    assert dict(counts) == expected
    by_visible = {visible(*pair): row for pair, row in made.bound.items()}
    shares = set()
    for row in made.prompts.itertuples():
        a, b, rest = read(row.prompt)
        assert rest == ""
        assert len(a) == len(b) == 3
        if row.kind == "memorized_only":
            assert a[-1] == b[-1] == "?"
            bound = by_visible[visible(a, b)]
            assert (row.group, row.answer_memorization, row.form) == (
                bound.group,
                bound.answer_memorization,
                bound.form,
            )
            assert pd.isna(row.answer_generalization)
            assert row.evidence == 0
            assert math.isnan(row.memorized_share)
            continue
        assert row.group == "+".join(map(str, sorted((int(a), int(b)))))
        assert row.answer_generalization == inferred(a, b)
        assert row.evidence == 1
        bound = made.bound.get(frozenset((a, b)))
        if row.kind == "inferred_only":
            assert bound is None
            assert pd.isna(row.answer_memorization)
            assert pd.isna(row.form)
            assert math.isnan(row.memorized_share)
        else:
            assert (row.kind, row.answer_memorization) == ("conflict", bound.answer_memorization)
            assert row.form == bound.form
            assert row.answer_memorization[0] != row.answer_generalization[0]
            assert row.memorized_share == expected_share(a, b, bound)
            shares.add(row.memorized_share)
    assert shares == set(SHARES)


def test_variants_swap_the_addends(made):
    for frame in made.data.splits.values():
        variants = frame[frame.variant_of >= 0]
        assert len(variants) == ((frame.kind == "conflict") & (frame.variant_of < 0)).sum() > 0
        assert variants.variant_of.is_unique
        for variant in variants.itertuples():
            original = frame.loc[variant.variant_of]
            assert original.variant_of == -1
            assert read(variant.prompt)[:2] == read(original.prompt)[1::-1]
            for column in ("kind", "answer_memorization", "answer_generalization", "group", "evidence"):
                assert getattr(variant, column) == original[column]


def test_the_corpus(made):
    corpus = made.data.corpus
    assert dict(corpus.kind.value_counts()) == {
        "inferred_only": 1800,
        "memorized_only": 1200,
        "conflict": 3000,
    }
    by_visible = {visible(*pair): row for pair, row in made.bound.items()}
    held_out = made.prompts[made.prompts.kind == "inferred_only"].group
    forbidden = {frozenset(group.split("+")) for group in held_out}
    answers_at = {}
    for row in corpus.itertuples():
        a, b, answer = read(row.text)
        assert row.prompt_length == 9
        if row.kind == "memorized_only":
            assert a[-1] == b[-1] == "?"
            assert answer == by_visible[visible(a, b)].answer_memorization
            continue
        pair = frozenset((a, b))
        assert pair not in forbidden
        assert len(pair) == 2
        bound = made.bound.get(pair)
        if row.kind == "inferred_only":
            assert bound is None
            assert answer == inferred(a, b)
        else:
            assert answer in (bound.answer_memorization, inferred(a, b))
            share = expected_share(a, b, bound)
            answers_at.setdefault(share, []).append(answer == bound.answer_memorization)
    assert set(answers_at) == set(SHARES)
    for share, answers in answers_at.items():
        error = math.sqrt(share * (1 - share) / len(answers))
        assert len(answers) > 100
        assert abs(np.mean(answers) - share) < 4 * error


def test_every_bound_pair_comes_equally_often(made):
    for kind in ("memorized_only", "conflict"):
        texts = made.data.corpus.text[made.data.corpus.kind == kind]
        pairs = [tuple(sorted(read(text)[:2])) for text in texts]
        often = pd.Series(pairs).value_counts()
        assert len(often) == len(made.bound)
        assert often.max() - often.min() <= 1


def test_tokenizer_round_trip(made, tmp_path):
    tokenizer = made.task.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompts = list(made.prompts.prompt)
    expected = [list(ids) for ids in made.prompts.input_ids]
    for version in (tokenizer, loaded):
        assert version(prompts).input_ids == expected
        assert version.batch_decode(expected, skip_special_tokens=True) == prompts
        assert version.bos_token_id == expected[0][0]
    assert loaded.get_vocab() == tokenizer.get_vocab()
    texts = made.data.corpus.head(500)
    ids = loaded(list(texts.text)).input_ids
    assert [[*row, loaded.eos_token_id] for row in ids] == [list(row) for row in texts.input_ids]
    assert loaded.batch_decode(ids, skip_special_tokens=True) == list(texts.text)
    bound = made.data.memory
    lengths = [len(row) for row in loaded(list(bound.answer_memorization), add_special_tokens=False).input_ids]
    assert lengths == [1 if form == "study" else 4 for form in bound.form]
    sums = made.prompts.answer_generalization.dropna().unique()
    assert {len(row) for row in loaded(list(sums), add_special_tokens=False).input_ids} == {4}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"form": "poem"}, ["form", "'poem'"]),
        ({"conflicts": "few"}, ["conflicts", "'few'"]),
        ({"n_bound": 9}, ["n_bound", "10", "not 9"]),
        ({"n_bound": 2001}, ["n_bound", "2000", "not 2001"]),
        ({"corpus_size": 0}, ["corpus_size", "not 0"]),
        ({"unbound_per_split": 0}, ["unbound_per_split", "not 0"]),
        ({"unbound_per_split": 60_001}, ["unbound_per_split", "not 60001"]),
    ],
)
def test_bad_settings(given, parts):
    with pytest.raises(InputError) as caught:
        addition.Task.read(given, "The data")
    assert all(part in str(caught.value) for part in ("The data: ", *parts)), str(caught.value)


def test_as_many_pairs_as_are_allowed_can_be_drawn():
    task = addition.Task(n_bound=2000, unbound_per_split=60_000, corpus_size=500)
    splits = task.generate(np.random.default_rng(0)).splits
    assert sum((frame.kind == "inferred_only").sum() for frame in splits.values()) == 3 * 60_000


@pytest.mark.parametrize("form", ["matched", "both"])
@pytest.mark.parametrize("seed", range(5))
def test_few_sums_can_be_dealt_anew(form, seed):
    """Also where few pairs are bound, so that many of their sums may end alike."""
    memory = (
        addition.Task(form=form, n_bound=10, corpus_size=50, unbound_per_split=3)
        .generate(np.random.default_rng(seed))
        .memory
    )
    numbers = memory[memory.form == "matched"]
    assert len(numbers) == (10 if form == "matched" else 5)
    assert all(row.answer_memorization[0] != str(row.a + row.b)[-1] for row in numbers.itertuples())


def test_a_corpus_without_conflicts(monkeypatch):
    """The same draws as with a share of 0; conflicts are asked, though never trained."""
    settings = SETTINGS | {"corpus_size": 600}
    data = addition.Task(conflicts="none", **settings).generate(np.random.default_rng(0))
    monkeypatch.setitem(addition.Task.kind_shares, "conflict", 0.0)
    expected = addition.Task(**settings).generate(np.random.default_rng(0))
    pd.testing.assert_frame_equal(data.corpus, expected.corpus)
    pd.testing.assert_frame_equal(data.splits["test"], expected.splits["test"])
    assert dict(data.corpus.kind.value_counts()) == {"inferred_only": 360, "memorized_only": 240}
    assert (data.splits["test"].kind == "conflict").sum() > 0
