"""The package of tasks: which there are, how one is made from a run, and what they share."""

import sys

import numpy as np
import pytest

from memgen import tasks
from memgen.config import AnalysisConfig, InputError, ModelConfig, RunConfig, TrainingConfig, load_profile, resolve
from memgen.tasks import common

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


def run_of(task, form="study", conflicts="graded", **data):
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
    assert tasks.names() == ["addition", "inference", "joint"]


def test_a_new_file_is_a_new_task(third):
    assert tasks.names() == ["addition", "echo", "inference", "joint"]
    made = tasks.from_config(run_of("echo", n=4))
    assert type(made).__module__ == "memgen.tasks.echo"
    assert made.generate(np.random.default_rng(0)).shape == (4,)
    with pytest.raises(InputError, match=r"The data of echo-of-a-run: m: this setting is unknown; allowed are n\."):
        tasks.from_config(run_of("echo", m=4))
    with pytest.raises(InputError, match=r"form: this setting is unknown"):
        tasks.from_config(run_of("echo", form="matched"))


@pytest.mark.parametrize("profile", ["smoke", "default", "full", "paper"])
def test_the_settings_of_every_run_of_a_profile_are_allowed(profile):
    loaded = load_profile(profile)
    for name in loaded.names():
        task, spec = tasks.from_config(resolve(profile, name)), loaded.spec(name)
        assert (task.form, task.conflicts) == (spec.form, spec.conflicts)


@pytest.mark.parametrize(
    ("task", "options", "parts"),
    [
        ("chess", {}, ["'chess'", "addition, inference, joint"]),
        ("common", {}, ["'common'", "addition, inference, joint"]),
        ("inference", {"n_names": 3}, ["n_names", "form, conflicts", "n_bound, n_free"]),
        ("inference", {"n_bound": "many"}, ["n_bound", "integer", "'many'"]),
        ("inference", {"n_bound": True}, ["n_bound", "True"]),
        ("addition", {"kind_shares": 0.5}, ["kind_shares", "tuple", "0.5"]),
        ("addition", {"memorized_share": ["a", "b", "c", "d"]}, ["memorized_share", "number", "'a'"]),
        ("addition", {"n_bound": 3}, ["n_bound", "3"]),
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


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_keeps_the_contract(name):
    small = {"n_names": 12, "n_pairs": 12} if name == "joint" else {"n_bound": 12}
    task = tasks.from_config(run_of(name, corpus_size=50, **small))
    assert isinstance(task, common.BaseTask)
    data = task.generate(np.random.default_rng(0))
    assert {"group", "answer_memorization", "split"} <= set(data.memory)
    assert {"input_ids", "prompt_length", "text", "kind"} <= set(data.corpus)
    assert list(data.splits) == list(common.SPLITS)
    for frame in data.splits.values():
        expected = "input_ids prompt kind answer_memorization answer_generalization group variant_of".split()
        assert list(frame)[:7] == expected
        assert set(frame.kind) <= set(common.KINDS)
        assert {"memorized_share", "evidence"} <= set(frame)
        has = frame[["answer_memorization", "answer_generalization"]].notna()
        assert (has.answer_memorization == (frame.kind != "inferred_only")).all()
        assert (has.answer_generalization == (frame.kind != "memorized_only")).all()
    ids = np.unique(np.concatenate(data.corpus.input_ids.to_list()))
    assert ids.max() < len(task.tokenizer())


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
