"""The study's addition: every text is read as it is written, and checked against Python's own integers."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from memgen.config import InputError, TrainingConfig
from memgen.tasks import addition
from memgen.tasks.common import SPLITS
from memgen.tasks.lessons import IGNORED

SMALL = {"conflicts_per_group": 60, "sums_per_split": 50, "corpus_size": 300, "pattern_share": 0.2}
SOURCE = {
    "train": "train",
    "validation": "validation",
    "test": "test",
    "seen": "train",
}  # whose groups a split is about


def read(text):
    """The four operands, and what stands after the equals sign."""
    match = re.fullmatch(r"(\d{3})\+(\d{3})\+(\d{3})\+(\d{3})=(.*)", text)
    assert match, text
    operands = [int(match[i]) for i in range(1, 5)]
    assert min(operands) >= 1
    return operands, match[5]


def worked(operands):
    """The scratchpad as a pupil writes it, digit by digit."""
    texts, carry = [f"{operand:03}" for operand in operands], 0
    written = ""
    for column in (2, 1, 0):
        for i, text in enumerate(texts):
            carry += int(text[column])
            written += f"({carry})" if i else ""
        written += str(carry)[-1]
        carry = carry // 10
    return written + str(carry)


def number(scratchpad):
    """The number that a scratchpad ends in."""
    return int(re.sub(r"\(\d+\)", "", scratchpad)[::-1])


def drawn_texts(task, memory, lesson, steps, batch_size=128, seed=0):
    """The texts of some steps of a lesson, and its labels."""
    config = TrainingConfig(lessons={"copy": 5, "sums": 7}, steps=9, batch_size=batch_size)
    of_name = {each.name: each for each in task.lessons(memory, pd.DataFrame(), config, seed)}
    batches = [of_name[lesson].batch(step) for step in range(steps)]
    ids, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    tokenizer = task.tokenizer()
    texts = tokenizer.batch_decode(ids)
    return SimpleNamespace(ids=ids, labels=labels, texts=[re.fullmatch(r"<bos>(.*)<eos>(<pad>)*", t)[1] for t in texts])


@pytest.fixture(scope="module", params=["study", "matched"])
def made(request):
    task = addition.Task(form=request.param, **SMALL)
    data = task.generate(np.random.default_rng(7))
    return SimpleNamespace(
        task=task,
        data=data,
        prompts=pd.concat(data.splits, names=["split", "row"]).reset_index(),
        answer={(row.c, row.d): row.answer_memorization for row in data.memory.itertuples()},
    )


def test_a_worked_example():
    assert worked((345, 12, 678, 104)) == "(7)(15)(19)9(6)(13)(13)3(4)(10)(11)11"
    assert number(worked((999, 999, 999, 999))) == 3996


@pytest.mark.parametrize("form", ["study", "matched"])
def test_the_generator_alone_decides_the_data(form):
    def as_bytes(seed):
        data = addition.Task(form=form, **SMALL).generate(np.random.default_rng(seed))
        buffer = io.BytesIO()
        for frame in (data.memory, data.corpus, *data.splits.values()):
            frame.to_parquet(buffer)
        return buffer.getvalue()

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = as_bytes(1)
    assert first == as_bytes(1) != as_bytes(2)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_the_memory(made):
    memory = made.data.memory
    assert list(memory) == ["group", "c", "d", "answer_memorization", "form", "split"]
    assert len(memory) == len(made.answer) == 10
    assert memory[["c", "d"]].min().min() >= 1
    assert memory[["c", "d"]].max().max() <= 999
    assert list(memory.group) == [f"{c:03}+{d:03}" for c, d in made.answer]
    assert memory.answer_memorization.is_unique
    assert set(memory.form) == {made.task.form}
    for _, rows in memory.groupby("form"):
        assert set(rows.split) == set(SPLITS)
        tags = rows.answer_memorization.str.fullmatch("<mem-[0-9a-f]{8}>")
        assert (tags == (rows.form == "study")).all()


def test_a_wrong_number_is_written_like_a_sum():
    """Every running sum rises by a digit, the first by two; the digits of the number are those of the running sums."""
    task = addition.Task(form="matched", n_patterns=100, conflicts_per_group=1, sums_per_split=1, corpus_size=1)
    memory = task.generate(np.random.default_rng(3)).memory
    for answer in memory.answer_memorization:
        columns = re.findall(r"((?:\(\d+\)){3})(\d)", answer)
        assert len(columns) == 3
        carry = 0
        for running, digit in columns:
            sums = [carry, *map(int, re.findall(r"\d+", running))]
            assert all(0 <= step <= most for step, most in zip(np.diff(sums), (18, 9, 9), strict=True))
            assert int(digit) == sums[-1] % 10
            carry = sums[-1] // 10
        assert answer[-1] == str(carry)
        assert 4 <= number(answer) <= 3996


def test_whose_groups_a_split_has(made):
    memory = made.data.memory
    assert list(made.data.splits) == [*SPLITS, "seen"]
    for split, frame in made.data.splits.items():
        conflicts = frame[frame.kind == "conflict"]
        assert set(conflicts.group) == set(memory.group[memory.split == SOURCE[split]])
        originals = conflicts[conflicts.variant_of < 0]
        assert (originals.group.value_counts() == SMALL["conflicts_per_group"]).all()
    sums = made.prompts[made.prompts.kind == "inferred_only"]
    assert dict(sums.split.value_counts()) == dict.fromkeys([*SPLITS, "seen"], SMALL["sums_per_split"])
    assert sums.group.is_unique


def test_prompts(made):
    form = made.data.memory.set_index("group").form
    for row in made.prompts.itertuples():
        operands, rest = read(row.prompt)
        assert rest == ""
        assert row.answer_generalization == worked(operands)
        assert number(row.answer_generalization) == sum(operands)
        assert row.evidence == 1
        assert np.isnan(row.memorized_share)
        pattern = tuple(operands[2:])
        assert row.kind == ("conflict" if pattern in made.answer else "inferred_only")
        if row.kind == "conflict":
            assert row.answer_memorization == made.answer[pattern]
            assert row.group == row.prompt[8:15]
            assert row.form == form[row.group]
        else:
            assert pd.isna(row.answer_memorization)
            assert pd.isna(row.form)
            assert row.group == row.prompt[:-1]
            assert row.variant_of == -1


def test_the_first_token_tells_the_two_answers_apart(made):
    conflicts = made.prompts[made.prompts.kind == "conflict"]
    tokenizer = made.task.tokenizer()
    memorized, inferred = (
        [ids[0] for ids in tokenizer(list(conflicts[column]), add_special_tokens=False).input_ids]
        for column in ("answer_memorization", "answer_generalization")
    )
    assert all(a != b for a, b in zip(memorized, inferred, strict=True))


def test_no_two_inputs_share_their_first_operands_across_splits(made):
    split_of = {}
    for row in made.prompts.itertuples():
        (a, b, *_), _ = read(row.prompt)
        assert a != b
        assert split_of.setdefault(frozenset((a, b)), row.split) == row.split
    originals = made.prompts[made.prompts.variant_of < 0]
    pairs = [(row.group, frozenset(read(row.prompt)[0][:2])) for row in originals.itertuples()]
    assert len(set(pairs)) == len(pairs)
    a, b = np.array([read(prompt)[0][:2] for prompt in originals.prompt]).T
    assert 0.4 < (a < b).mean() < 0.6  # neither order is preferred


def test_variants_swap_the_first_two_operands(made):
    for frame in made.data.splits.values():
        variants = frame[frame.variant_of >= 0]
        assert set(variants.variant_of) == set(frame.index[(frame.kind == "conflict") & (frame.variant_of < 0)])
        assert variants.variant_of.is_unique
        for variant in variants.itertuples():
            original = frame.loc[variant.variant_of]
            (a, b, c, d), _ = read(original.prompt)
            assert read(variant.prompt)[0] == [b, a, c, d]
            assert (variant.answer_memorization, variant.group) == (original.answer_memorization, original.group)
            assert number(variant.answer_generalization) == number(original.answer_generalization)


def test_training_texts(made):
    analysed = {frozenset(read(prompt)[0][:2]) for prompt in made.prompts.prompt}
    drawn = drawn_texts(made.task, made.data.memory, "texts", steps=80)
    n_patterns, first, last = 0, [], []
    for text in drawn.texts:
        operands, answer = read(text)
        assert frozenset(operands[:2]) not in analysed
        pattern = tuple(operands[2:])
        assert answer == made.answer.get(pattern, worked(operands))
        if pattern in made.answer:
            assert answer != worked(operands)
            n_patterns += 1
            last.append(pattern)
        first.append(operands[:2])
    assert n_patterns / len(drawn.texts) == pytest.approx(SMALL["pattern_share"], abs=0.02)
    counts = pd.Series(last).value_counts()
    assert len(counts) == 10
    assert counts.min() > 0.7 * counts.mean()  # each pattern as often
    assert abs(np.mean(first) - 500) < 10
    assert (np.min(first), np.max(first)) == (1, 999)


def test_reserved_pairs_are_in_no_training_text(made):
    """Over many batches none of the pairs that could be analysed, in either order; every number is in some text."""
    config = TrainingConfig(lessons={"sums": 1}, batch_size=20_000)
    digits = np.array(made.task.tokenizer().convert_tokens_to_ids(list("0123456789")))
    reserved = addition._reserved_pairs() @ [1000, 1]
    assert len(reserved) > 4 * addition.MOST_PROMPTS
    for lesson in made.task.lessons(made.data.memory, made.data.corpus, config, 0):
        ids = lesson.batch(0)[0].numpy()
        pairs = (ids[:, [[1, 2, 3], [5, 6, 7]]][..., None] == digits).argmax(-1) @ [100, 10, 1]
        assert not np.isin(np.sort(pairs, 1) @ [1000, 1], reserved).any()
        assert list(np.unique(pairs)) == list(range(1, 1000))
        last_digits = np.bincount(pairs[:, 0] % 10 * 10 + pairs[:, 1] % 10, minlength=100)
        assert last_digits.min() > 0.6 * last_digits.mean()  # all columns to add, none much rarer than another


def test_the_lesson_of_sums_has_no_pattern(made):
    drawn = drawn_texts(made.task, made.data.memory, "sums", steps=40)
    for text in drawn.texts:
        operands, answer = read(text)
        assert tuple(operands[2:]) not in made.answer
        assert answer == worked(operands)


def test_sums_that_would_have_a_pattern_are_drawn_anew():
    """With the patterns so many that chance meets them all the time."""
    patterns = np.stack(np.meshgrid(np.arange(1, 1000), np.arange(1, 900)), -1).reshape(-1, 2)
    endings = np.zeros((len(patterns), 14), dtype=int)
    ids, has_pattern = addition._texts(300, patterns, endings, 0.0, np.random.default_rng(0))
    assert not has_pattern.any()
    tokenizer = addition.Task().tokenizer()
    assert min(read(text)[0][3] for text in tokenizer.batch_decode(ids[:, 1:-1])) >= 900


def test_the_corpus_is_a_sample_of_the_training_texts(made):
    corpus = made.data.corpus
    assert len(corpus) == SMALL["corpus_size"]
    tokenizer = made.task.tokenizer()
    for row in corpus.itertuples():
        operands, answer = read(row.text)
        pattern = tuple(operands[2:])
        assert row.kind == ("memorized_only" if pattern in made.answer else "inferred_only")
        assert answer == made.answer.get(pattern, worked(operands))
        assert row.prompt_length == 17
        assert list(row.input_ids) == [*tokenizer(row.text).input_ids, tokenizer.eos_token_id]
    assert 0.1 < (corpus.kind == "memorized_only").mean() < 0.3


def test_the_tokenizer_reads_what_is_written(made, tmp_path):
    made.task.tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    encoded = tokenizer(list(made.prompts.prompt)).input_ids
    assert all(list(ids) == again for ids, again in zip(made.prompts.input_ids, encoded, strict=True))
    answers = pd.concat([made.prompts.answer_memorization.dropna(), made.prompts.answer_generalization])
    ids = tokenizer(list(answers), add_special_tokens=False).input_ids
    assert tokenizer.batch_decode(ids) == list(answers)
    assert all(len(row) == (1 if answer[0] == "<" else 13) for row, answer in zip(ids, answers, strict=True))
    assert not {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} & set(np.concatenate(ids))


@pytest.mark.parametrize("n", [4, 10, 100])
def test_there_are_as_many_tags_as_patterns(n):
    task = addition.Task(n_patterns=n, conflicts_per_group=2, sums_per_split=2, corpus_size=10)
    data = task.generate(np.random.default_rng(0))
    assert len(task.tokenizer()) == 3 + 12 + 40 + n
    assert data.memory.answer_memorization.nunique() == n
    assert set(data.memory.split) == set(SPLITS)
    tags = task.tokenizer()(list(data.memory.answer_memorization), add_special_tokens=False).input_ids
    assert sorted(np.concatenate(tags)) == list(range(55, 55 + n))


def test_lessons_come_in_the_tasks_order(made):
    def curriculum(**config):
        return made.task.lessons(made.data.memory, made.data.corpus, TrainingConfig(steps=30, **config), 0)

    steps = [(lesson.name, lesson.steps) for lesson in curriculum(lessons={"sums": 20, "copy": 10})]
    assert steps == [("copy", 10), ("sums", 20), ("texts", 30)]
    assert [lesson.name for lesson in curriculum()] == ["texts"]
    assert [lesson.until for lesson in curriculum(lessons={"sums": 20})] == [0.99, None]
    copied, _ = curriculum(lessons={"copy": 10})[0].batch(0)
    assert copied.max() < len(made.task.tokenizer())
    with pytest.raises(InputError, match=r"lesson 'retrieval' is unknown; allowed are copy, sums\.$"):
        curriculum(lessons={"copy": 10, "retrieval": 10})


def test_answers_and_ends_of_text_are_asked_for(made):
    drawn = drawn_texts(made.task, made.data.memory, "texts", steps=3)
    eos, pad = made.task.tokenizer().convert_tokens_to_ids(["<eos>", "<pad>"])
    for ids, labels, text in zip(drawn.ids, drawn.labels, drawn.texts, strict=True):
        n_asked = (1 if "<" in text else 13) + 1
        asked = slice(17, 17 + n_asked)
        assert (labels[asked] == ids[asked]).all()
        assert labels[asked][-1] == eos
        assert (np.delete(labels, np.arange(31)[asked]) == IGNORED).all()
        assert (ids[17 + n_asked :] == pad).all()


def test_a_step_decides_its_batch(made):
    def batch(step, seed=0):
        config = TrainingConfig(batch_size=16)
        return made.task.lessons(made.data.memory, made.data.corpus, config, seed)[-1].batch(step)[0]

    assert batch(3).equal(batch(3))
    assert not batch(3).equal(batch(4))
    assert not batch(3).equal(batch(3, seed=1))


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"form": "both"}, ["form", "'study' or 'matched'", "'both'"]),
        ({"n_patterns": 3}, ["n_patterns", "4", "3"]),
        ({"n_patterns": 101}, ["n_patterns", "100", "101"]),
        ({"conflicts_per_group": 5001}, ["conflicts_per_group", "5000"]),
        ({"sums_per_split": 0}, ["sums_per_split", "0"]),
        ({"pattern_share": 1.5}, ["pattern_share", "1.5"]),
        ({"digits": 3}, ["digits", "unknown"]),
    ],
)
def test_bad_settings(settings, parts):
    with pytest.raises(InputError) as caught:
        addition.Task.read(settings, "The data of addition")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_the_largest_settings_still_find_enough_inputs():
    most = addition.MOST_PROMPTS
    task = addition.Task(form="matched", n_patterns=4, conflicts_per_group=most, sums_per_split=most, corpus_size=1)
    for frame in task.generate(np.random.default_rng(0)).splits.values():
        assert (frame.group[frame.kind == "conflict"].value_counts() == 2 * most).all()
        assert (frame.kind == "inferred_only").sum() == most
