"""The package of tasks: which there are, how one is made from a run, and what they share."""

import sys

import numpy as np
import pytest

from memgen import tasks
from memgen.config import (
    AnalysisConfig,
    InputError,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    load_profile,
    profiles,
    resolve,
)
from memgen.tasks import common
from memgen.tasks.lessons import IGNORED

ALLOWED = ", ".join(tasks.names())
SMALL = {
    "inference": {"n_names": 12, "conflicts_per_group": 5, "aligned_per_group": 5, "corpus_size": 50},
    "addition": {"conflicts_per_group": 5, "sums_per_split": 10, "corpus_size": 50},
    "joint": {
        "stories": {"n_names": 12, "conflicts_per_group": 5, "aligned_per_group": 5, "corpus_size": 50},
        "sums": {"conflicts_per_group": 5, "sums_per_split": 10, "corpus_size": 50},
    },
    "graded_joint": {name: {"n_bound": 12, "corpus_size": 50} for name in ("stories", "sums")},
}

THIRD = '''
"""A task that another wrote: one file beside the others, or in a folder of its own."""
from memgen.tasks.common import BaseTask


class Task(BaseTask):
    n: int = 3

    def tokenizer(self):
        return "a tokenizer"

    def generate(self, rng):
        return rng.random(self.n)
'''


def run_of(task, form="study", conflicts="none", **data):
    return RunConfig(
        profile="tiny",
        task=f"{task}-of-a-run",
        base_task=task,
        form=form,
        conflicts=conflicts,
        model=ModelConfig.from_name("gpt2-1x16"),
        seed=0,
        data=data,
        training=TrainingConfig(),
        analysis=AnalysisConfig(),
    )


@pytest.fixture
def third(tmp_path, monkeypatch):
    """A third task, as a new file in the package."""
    (tmp_path / "echo.py").write_text(THIRD)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    yield
    sys.modules.pop("memgen.tasks.echo", None)
    vars(tasks).pop("echo", None)


def test_names():
    assert {"addition", "graded_addition", "graded_inference", "graded_joint", "inference"} <= set(tasks.names())
    assert not {"common", "lessons"} & set(tasks.names())


def test_a_new_file_is_a_new_task(third):
    assert "echo" in tasks.names()
    made = tasks.from_config(run_of("echo", n=4))
    assert type(made).__module__ == "memgen.tasks.echo"
    assert made.generate(np.random.default_rng(0)).shape == (4,)
    with pytest.raises(InputError, match=r"The data of echo-of-a-run: m: this setting is unknown; allowed are n\."):
        tasks.from_config(run_of("echo", m=4))
    for setting, value in (("form", "matched"), ("conflicts", "graded")):
        with pytest.raises(InputError, match=f"The task echo has no {setting} '{value}', only"):
            tasks.from_config(run_of("echo", **{setting: value}))


@pytest.mark.parametrize("profile", profiles())
def test_the_settings_of_every_run_of_a_profile_are_allowed(profile):
    loaded = load_profile(profile)
    for name in loaded.names():
        task, spec = tasks.from_config(resolve(profile, name)), loaded.spec(name)
        assert getattr(task, "form", "study") == spec.form
        assert getattr(task, "conflicts", "none") == spec.conflicts


@pytest.mark.parametrize(
    ("task", "options", "parts"),
    [
        ("chess", {}, ["'chess'", ALLOWED]),
        ("common", {}, ["'common'", ALLOWED]),
        ("lessons", {}, ["'lessons'", ALLOWED]),
        ("inference", {"n_bound": 3}, ["n_bound", "form, n_names", "colors_per_name"]),
        ("inference", {"n_names": "many"}, ["n_names", "integer", "'many'"]),
        ("inference", {"n_names": True}, ["n_names", "True"]),
        ("inference", {"form": "matched"}, ["form", "'study'", "'matched'"]),
        ("addition", {"pattern_share": 2.0}, ["pattern_share", "2.0"]),
        ("graded_inference", {"n_names": 3}, ["n_names", "form, conflicts", "n_bound, n_free"]),
        ("graded_addition", {"n_bound": 3}, ["n_bound", "3"]),
    ],
)
def test_bad_settings(task, options, parts):
    with pytest.raises(InputError) as caught:
        tasks.from_config(run_of(task, **options))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("setting", ["form", "conflicts"])
def test_a_variant_is_no_setting_of_the_data(setting):
    with pytest.raises(InputError, match=f"{setting} is a setting of a run"):
        tasks.from_config(run_of("inference").model_copy(update={"data": {setting: "study"}}))


@pytest.fixture(scope="module", params=sorted({*tasks.names()} - {"table"}))
def made(request):
    """A small instance of each task that makes its data, and these."""
    name = request.param
    conflicts = "graded" if name.startswith("graded") else "none"
    task = tasks.from_config(run_of(name, conflicts=conflicts, **SMALL.get(name, {"n_bound": 12, "corpus_size": 50})))
    return task, task.generate(np.random.default_rng(0))


def test_every_task_keeps_the_contract(made):
    task, data = made
    assert isinstance(task, common.BaseTask)
    assert {"group", "answer_memorization", "form", "split"} <= set(data.memory)
    assert {"input_ids", "prompt_length", "text", "kind"} <= set(data.corpus)
    assert list(data.splits) in (list(common.SPLITS), [*common.SPLITS, "seen"])
    for frame in data.splits.values():
        expected = "input_ids prompt kind answer_memorization answer_generalization group variant_of".split()
        assert list(frame)[:7] == expected
        assert "conflict" in set(frame.kind) <= set(common.KINDS)
        assert {"memorized_share", "evidence", "form"} <= set(frame)
        has = frame[["answer_memorization", "answer_generalization"]].notna()
        assert (has.answer_memorization == (frame.kind != "inferred_only")).all()
        assert (has.answer_generalization == (frame.kind != "memorized_only")).all()
    ids = np.unique(np.concatenate(data.corpus.input_ids.to_list()))
    assert ids.max() < len(task.tokenizer())


def test_groups_are_in_one_split_and_seen_has_those_of_train(made):
    _, data = made
    groups = {split: set(frame.group[frame.kind == "conflict"]) for split, frame in data.splits.items()}
    seen = groups.pop("seen", groups["train"])
    assert seen == groups["train"]
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))


def test_every_task_writes_lessons_of_which_the_last_is_its_texts(made):
    task, data = made
    settings = TrainingConfig(lessons={"copy": 2}, steps=3, batch_size=4)
    curriculum = task.lessons(data.memory, data.corpus, settings, seed=0)
    assert [(lesson.name, lesson.steps) for lesson in curriculum] == [("copy", 2), ("texts", 3)]
    for lesson in curriculum:
        ids, labels = lesson.batch(1)
        assert ids.shape == labels.shape
        assert len(ids) == 4
        is_asked = labels != IGNORED
        assert is_asked.any()
        assert (labels[is_asked] == ids[is_asked]).all()
        assert ids.max() < len(task.tokenizer())
    with pytest.raises(InputError, match="greek"):
        task.lessons(data.memory, data.corpus, TrainingConfig(lessons={"greek": 2}), seed=0)


@pytest.mark.parametrize("n", [10, 11, 97])
def test_split_groups(n):
    groups = [f"g{i}" for i in range(n)]
    split_of, same, other = (common.split_groups(groups, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert split_of == same != other
    assert set(split_of) == set(groups)
    counts = {split: list(split_of.values()).count(split) for split in common.SPLITS}
    for split, share in zip(common.SPLITS, common.SPLIT_SHARES, strict=True):
        assert abs(counts[split] - share * n) <= 1


@pytest.mark.parametrize("shares", [(0.4, 0.12, 0.36, 0.12), (1, 1, 1), (0, 3, 1)])
def test_exact_shares(shares):
    labels = common.exact_shares(1000, shares, np.random.default_rng(0))
    for label, share in enumerate(shares):
        assert abs((labels == label).sum() - 1000 * share / sum(shares)) <= 1
    assert (labels[:500] != labels[500:]).any()


def test_word_tokenizer_refuses_a_word_twice():
    with pytest.raises(ValueError, match="twice"):
        common.word_tokenizer(["a", "b", "a"], r"[^ ]+", " ")


def test_padding_goes_to_the_mask():
    tokenizer = common.word_tokenizer(["a", "b"], r"[^ ]+", " ")
    both = tokenizer(["a", "a b a"], padding=True)
    assert both.input_ids == [[1, 3, 0, 0], [1, 3, 4, 3]]
    assert both.attention_mask == [[1, 1, 0, 0], [1, 1, 1, 1]]
