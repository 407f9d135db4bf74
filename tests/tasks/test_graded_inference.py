"""Stories: every column is checked against what a reader finds in the text itself."""

import io
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from memgen.config import InputError
from memgen.tasks import graded_inference as inference
from memgen.tasks.common import SPLITS

SETTINGS = {
    "n_bound": 12,
    "n_free": 24,
    "corpus_size": 5000,
    "conflicts_per_group": 12,
    "others_per_group": 4,
}
SHARES = (0.95, 0.85, 0.15, 0.05)  # by evidence: one sentence; two; two, one of them the last; three


def read(prompt):
    """Read a story as a person would: its sentences, who is asked about, and what they say of his kind."""
    *sentences, query = prompt.split(" . ")
    name, the, animal = query.split()
    assert the == "the"
    sentences = [tuple(sentence.split()) for sentence in sentences]
    assert all(len(words) == 4 and words[1] == "the" for words in sentences)
    evidence = [words for words in sentences if words[2] == animal]
    return SimpleNamespace(
        sentences=sentences,
        query=query,
        name=name,
        names=[words[0] for words in sentences],
        colors={words[2]: {w[3] for w in sentences if w[2] == words[2]} for words in sentences},
        evidence=len(evidence),
        answers={words[3] for words in evidence},
        at_the_end=sentences[-1][2] == animal,
    )


def expected_share(story, shares=SHARES):
    return shares[{1: 0, 2: 1 + story.at_the_end, 3: 3}[story.evidence]]


@pytest.fixture(scope="module", params=["study", "matched", "both"])
def made(request):
    """A task with its data, its prompts together in one frame, and the stories in them."""
    task = inference.Task(form=request.param, **SETTINGS)
    data = task.generate(np.random.default_rng(7))
    prompts = pd.concat(data.splits, names=["split", "row"]).reset_index()
    return SimpleNamespace(
        task=task,
        data=data,
        prompts=prompts,
        stories=[read(prompt) for prompt in prompts.prompt],
        color_of=dict(zip(data.memory.group, data.memory.answer_memorization, strict=True)),
    )


def of_kind(made, kind):
    chosen = np.flatnonzero(made.prompts.kind == kind)
    assert len(chosen) > 20
    return [(made.prompts.iloc[i], made.stories[i]) for i in chosen]


def as_bytes(frame):
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["study", "matched", "both"])
def test_the_generator_alone_decides_the_data(form):
    task = inference.Task(form=form, **SETTINGS | {"corpus_size": 300})
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    data, same, other = (task.generate(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    for name in ("memory", "corpus"):
        assert as_bytes(getattr(data, name)) == as_bytes(getattr(same, name))
        assert as_bytes(getattr(data, name)) != as_bytes(getattr(other, name))
    for split in SPLITS:
        assert as_bytes(data.splits[split]) == as_bytes(same.splits[split])
        assert as_bytes(data.splits[split]) != as_bytes(other.splits[split])


def test_splits_share_no_group(made):
    groups = {split: set(frame.group) for split, frame in made.data.splits.items()}
    assert set(groups) == set(SPLITS)
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 12 + 24
    for split in SPLITS:
        bound = made.data.memory.group[made.data.memory.split == split]
        assert set(bound) == groups[split] & set(made.color_of)
        assert len(bound) >= 2


def test_the_group_is_the_one_asked_about_who_is_not_in_the_story(made):
    for group, story in zip(made.prompts.group, made.stories, strict=True):
        assert story.name == group
        assert len(story.sentences) == 6
        assert len(set(story.names)) == 6
        assert not set(story.names) & {group, *made.color_of}  # only unbound names tell of others
        assert all(len(colors) == 1 for colors in story.colors.values())  # a kind has one colour ...
        assert len(story.colors) == len(set.union(*story.colors.values())) == 3  # ... and three kinds have three


def test_memorized_only(made):
    for row, story in of_kind(made, "memorized_only"):
        assert story.evidence == row.evidence == 0
        assert pd.isna(row.answer_generalization)
        assert row.answer_memorization == made.color_of[row.group]
        assert row.answer_memorization not in set.union(*story.colors.values())
        assert math.isnan(row.memorized_share)


def test_inferred_only(made):
    for row, story in of_kind(made, "inferred_only"):
        assert row.group not in made.color_of
        assert pd.isna(row.answer_memorization)
        assert story.answers == {row.answer_generalization}
        assert story.evidence == row.evidence
        assert math.isnan(row.memorized_share)


def test_aligned(made):
    for row, story in of_kind(made, "aligned"):
        assert row.answer_memorization == row.answer_generalization == made.color_of[row.group]
        assert story.answers == {row.answer_generalization}
        assert story.evidence == row.evidence
        assert math.isnan(row.memorized_share)


def test_conflict(made):
    seen = set()
    for row, story in of_kind(made, "conflict"):
        assert row.answer_memorization == made.color_of[row.group]
        assert row.answer_memorization not in set.union(*story.colors.values())
        assert story.answers == {row.answer_generalization}
        assert row.answer_generalization != row.answer_memorization
        assert story.evidence == row.evidence
        assert row.memorized_share == expected_share(story)
        seen.add((row.evidence, row.memorized_share))
    assert seen == {(1, 0.95), (2, 0.85), (2, 0.15), (3, 0.05)}


def test_palettes(made):
    rare, memory = set(inference.RARE_COLORS), made.data.memory
    palettes = {"study": rare, "matched": set(inference.PLAIN_COLORS)}
    assert set(memory.form) == (set(palettes) if made.task.form == "both" else {made.task.form})
    assert memory.form.value_counts().max() - memory.form.value_counts().min() <= 1
    for form, rows in memory.groupby("form"):
        assert set(rows.answer_memorization) <= palettes[form]
        assert set(rows.split) == set(SPLITS)  # every split has names of each form
    inferred = {row.answer_generalization for row, _ in of_kind(made, "conflict")}
    assert not inferred & rare


def test_the_form_of_a_prompt_is_that_of_the_name_asked_about(made):
    form_of = dict(zip(made.data.memory.group, made.data.memory.form, strict=True))
    for row in made.prompts.itertuples():
        if row.group in form_of:
            assert row.form == form_of[row.group]
        else:
            assert row.kind == "inferred_only"
            assert pd.isna(row.form)


def test_a_corpus_without_conflicts():
    task = inference.Task(conflicts="none", **SETTINGS | {"corpus_size": 640})
    data = task.generate(np.random.default_rng(0))
    assert dict(data.corpus.kind.value_counts()) == {"inferred_only": 400, "memorized_only": 120, "aligned": 120}
    assert (data.splits["test"].kind == "conflict").sum() > 0  # they are asked, though never trained


def test_variants_are_the_same_sentences_in_another_order(made):
    by_place = {(row.split, row.row): i for i, row in enumerate(made.prompts.itertuples())}
    variants = made.prompts[made.prompts.variant_of >= 0]
    assert (variants.kind == "conflict").all()
    assert len(variants) == ((made.prompts.kind == "conflict") & (made.prompts.variant_of < 0)).sum()
    moved = 0
    for i, variant in variants.iterrows():
        of = by_place[variant.split, variant.variant_of]
        original, own, story = made.prompts.iloc[of], made.stories[i], made.stories[of]
        assert original.variant_of == -1
        assert sorted(own.sentences) == sorted(story.sentences)
        assert own.sentences != story.sentences
        assert own.query == story.query
        for column in ("kind", "answer_memorization", "answer_generalization", "group", "evidence"):
            assert variant[column] == original[column]
        moved += variant.memorized_share != original.memorized_share
    assert moved > 10  # the order can change what training suggests


def test_the_corpus_keeps_the_memory_and_the_evidence(made):
    corpus = made.data.corpus
    assert len(corpus) == 5000
    answers = {}
    for row in corpus.itertuples():
        prompt, answer, stop = row.text.rsplit(" ", 2)
        story = read(prompt)
        assert (stop, row.prompt_length, len(row.input_ids)) == (".", 34, 36)
        memorized = made.color_of.get(story.name)
        if row.kind == "memorized_only":
            assert (story.evidence, answer) == (0, memorized)
        elif row.kind == "inferred_only":
            assert memorized is None
            assert story.answers == {answer}
        elif row.kind == "aligned":
            assert story.answers == {memorized} == {answer}
        else:
            assert row.kind == "conflict"
            assert answer == memorized or {answer} == story.answers
            assert {memorized} != story.answers
            answers.setdefault(expected_share(story), []).append(answer == memorized)
    assert set(answers) == set(SHARES)
    for share, said in answers.items():
        error = math.sqrt(share * (1 - share) / len(said))
        assert len(said) > 100
        assert abs(np.mean(said) - share) < 4 * error


def test_the_mix_of_the_corpus(made):
    counts = made.data.corpus.kind.value_counts()
    assert dict(counts) == {"inferred_only": 2000, "memorized_only": 600, "conflict": 1800, "aligned": 600}
    asked = made.data.corpus.text.str.split(" . ").str[-1].str.split().str[0]
    for names, n in ((list(made.color_of), 12), (set(asked) - set(made.color_of), 24)):
        often = asked[asked.isin(names)].value_counts()
        assert len(often) == n
        assert (abs(often - often.mean()) < 4 * math.sqrt(often.mean())).all()  # nobody much more than others


def test_the_make_up_of_a_split(made):
    for split, frame in made.data.splits.items():
        n_bound = (made.data.memory.split == split).sum()
        n_free = frame.group[~frame.group.isin(list(made.color_of))].nunique()
        own = frame[frame.variant_of < 0].kind.value_counts()
        assert own["conflict"] == 12 * n_bound
        assert own["memorized_only"] == own["aligned"] == 4 * n_bound
        assert own["inferred_only"] == 4 * n_free
        assert (frame.index == np.arange(len(frame))).all()


def test_tokenizer_round_trip(made, tmp_path):
    tokenizer = made.task.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompts = list(made.prompts.prompt)
    expected = [list(ids) for ids in made.prompts.input_ids]
    for version in (tokenizer, loaded):
        assert version(prompts).input_ids == expected
        assert version.batch_decode(expected, skip_special_tokens=True) == prompts
        assert version.pad_token_id not in np.unique(expected)
        assert (version.bos_token_id, len(version)) == (expected[0][0], len(made.task.words) + 3)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    texts = made.data.corpus.head(200)
    assert loaded(list(texts.text)).input_ids == [list(ids) for ids in texts.input_ids]
    answers = pd.concat([made.prompts.answer_memorization, made.prompts.answer_generalization]).dropna().unique()
    ids = loaded(list(answers), add_special_tokens=False).input_ids
    assert all(len(answer) == 1 and answer[0] not in loaded.all_special_ids for answer in ids)


def test_conflicts_with_each_answer_in_half_of_the_texts(monkeypatch):
    """The same draws as with shares of a half at every grade."""
    settings = SETTINGS | {"corpus_size": 400}
    data = inference.Task(conflicts="half", **settings).generate(np.random.default_rng(0))
    monkeypatch.setattr(inference.Task, "memorized_share", (0.5,) * 4)
    expected = inference.Task(**settings).generate(np.random.default_rng(0))
    pd.testing.assert_frame_equal(data.corpus, expected.corpus)
    pd.testing.assert_frame_equal(data.splits["test"], expected.splits["test"])
    assert set(data.splits["test"].memorized_share.dropna()) == {0.5}


def test_names_are_words_of_their_own():
    words = inference.Task(n_bound=100, n_free=100).words
    assert len(set(words)) == len(words) == 2 + 20 + 16 + 200


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"form": "poem"}, ["form", "'poem'"]),
        ({"n_bound": 9}, ["n_bound", "10", "not 9"]),
        ({"n_bound": 150, "n_free": 60}, ["at most 200 together, not 150 and 60"]),
        ({"n_free": 19}, ["n_free", "20", "not 19"]),
        ({"corpus_size": 0}, ["corpus_size", "not 0"]),
        ({"conflicts_per_group": 0}, ["conflicts_per_group", "not 0"]),
        ({"others_per_group": -1}, ["others_per_group", "not -1"]),
    ],
)
def test_bad_settings(given, parts):
    with pytest.raises(InputError) as caught:
        inference.Task.read(given, "The data")
    assert all(part in str(caught.value) for part in ("The data: ", *parts)), str(caught.value)


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        inference.Task().form = "matched"
