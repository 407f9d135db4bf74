"""A table of the user's own: read in every format, divided by group, in the model's tokens; refused in a sentence."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from memgen import manifest, tasks
from memgen.config import InputError, TrainingConfig, resolve
from memgen.run import begin
from memgen.tasks import common
from memgen.tasks.lessons import IGNORED
from memgen.tasks.table import COLUMNS, READERS

from ..test_pretrained import root  # noqa: F401 (a fixture)

BOOK = Path(__file__).resolve().parents[2] / "book"
PROFILE = {"runs": {"inference": {"models": ["models/tiny"]}}, "seeds": [0]}
WRITERS = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
}


def written(n_groups=10, single=True):
    """Two conflicts of each group, each with two variants; and rows with one right answer."""
    rows = []
    for i in range(n_groups):
        for j in range(2):
            original = len(rows)
            for k in range(3):
                prompt = f"Story {'x ' * k}{j} of g{i}. Where is g{i}? In"
                rows.append([prompt, f"Old{i} town|The Old{i}", f"New{j}", f"g{i}", original if k else None])
        if single:
            rows.append([f"Where is g{i}? In", f"Old{i} town|The Old{i}", None, f"g{i}", None])
            rows.append([f"Story of h{i}. Where is h{i}? In", None, "New0", f"h{i}", None])
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def project(root, monkeypatch):  # noqa: F811
    (root / "config/tiny.yaml").write_text(json.dumps(PROFILE))
    monkeypatch.chdir(root)
    yield root
    shutil.rmtree(root / "results", ignore_errors=True)


def made(project, frame=None, name="my.csv", adaptation="none", **settings):
    """The task of a table that is written first."""
    WRITERS["." + name.rpartition(".")[2]](written() if frame is None else frame, project / name)
    run = resolve("tiny", "table", table=name)
    assert run.training.adaptation == adaptation
    return tasks.from_config(run.model_copy(update={"data": run.data | settings}))


def generated(task, seed=0):
    return task.generate(np.random.default_rng(seed))


def test_every_format_says_the_same(project):
    assert WRITERS.keys() == READERS.keys()
    several = [generated(made(project, name=f"my{suffix}")) for suffix in READERS]
    for data in several[1:]:
        pd.testing.assert_frame_equal(data.corpus, several[0].corpus)
        for split, frame in data.splits.items():
            pd.testing.assert_frame_equal(frame, several[0].splits[split])


def test_the_contract_of_a_task(project):
    task, frame = made(project), written()
    data = generated(task)
    assert list(data.splits) == list(common.SPLITS)
    everything = pd.concat(data.splits, names=["split", "row"]).reset_index()
    assert len(everything) == len(frame)
    assert set(everything.prompt) == set(frame.prompt)
    assert everything.groupby("group").split.nunique().max() == 1
    conflicts = everything[everything.kind == "conflict"]
    assert (conflicts.groupby("split").group.nunique() >= 2).all()
    by_prompt = frame.set_index("prompt")
    for rows in data.splits.values():
        first = "input_ids prompt kind answer_memorization answer_generalization group variant_of".split()
        assert list(rows)[:7] == first
        assert {"memorized_share", "evidence", "form"} <= set(rows)
        assert [list(ids) for ids in rows.input_ids] == task.tokenizer()(rows.prompt.to_list()).input_ids
        variants = rows[rows.variant_of >= 0]
        original = by_prompt.loc[variants.prompt].variant_of.astype(int)
        assert rows.prompt[variants.variant_of].to_list() == frame.prompt[original].to_list()
        for column, said in (("answer_memorization", " Old0 town| The Old0"), ("answer_generalization", " New0")):
            plain = by_prompt.loc[rows.prompt, column]
            assert rows[column].isna().to_list() == plain.isna().to_list()
            assert said in set(everything[column])
    assert set(data.memory) == {"group", "answer_memorization", "form", "split"}
    assert set(data.memory.group) == {f"g{i}" for i in range(10)}


def test_words_stand_for_the_same_tokens_as_the_prompts_counted_from_the_end(project):
    frame = pd.concat(generated(made(project)).splits.values())
    words, longest = np.stack(frame.words.to_list()), frame.input_ids.str.len().max()
    tokens = np.array([[*[-1] * (longest - len(ids)), *ids] for ids in frame.input_ids])
    assert words.shape == tokens.shape
    assert pd.DataFrame({"word": words.ravel(), "token": tokens.ravel()}).drop_duplicates().shape == (
        words.max() + 1,
        2,
    )
    assert words.max() + 1 == len(np.unique(tokens))


def test_the_seed_decides_the_splits_alone(project):
    task = made(project)
    one, same, other = (generated(task, seed).splits for seed in (0, 0, 1))
    assert one["test"].equals(same["test"])
    assert set(one["test"].group) != set(other["test"].group)
    assert sorted(pd.concat(one.values()).prompt) == sorted(pd.concat(other.values()).prompt)


@pytest.mark.parametrize(
    ("prompt", "answer", "settings", "read", "follows"),
    [
        ("Where is g? In", "Rome", {}, "Where is g? In", " Rome"),
        ("Where is g? In ", "Rome", {}, "Where is g? In", " Rome"),
        ("Where is g? In", " Rome", {}, "Where is g? In", " Rome"),
        ("Where is g?\n", "Rome", {}, "Where is g?\n", "Rome"),
        ("12+30=", "42", {"separator": ""}, "12+30=", "42"),
        ("Where is g? In", "Rome|The Rome", {}, "Where is g? In", " Rome| The Rome"),
        ("Where is g? In", "NA", {}, "Where is g? In", " NA"),
    ],
)
@pytest.mark.parametrize("suffix", READERS)
def test_how_an_answer_follows(project, suffix, prompt, answer, settings, read, follows):
    frame = pd.concat([written(), pd.DataFrame([[prompt, None, answer, "g", -1]], columns=COLUMNS)], ignore_index=True)
    everything = pd.concat(generated(made(project, frame, f"my{suffix}", **settings)).splits.values())
    (row,) = everything[everything.group == "g"].itertuples()
    assert (row.prompt, row.answer_generalization, row.kind) == (read, follows, "inferred_only")


def test_a_model_is_trained_on_rows_with_one_right_answer(project):
    """On what is remembered of all groups, and on what is inferred of the training split."""
    task = made(project)
    data, lora = generated(task), TrainingConfig(adaptation="lora", steps=2, batch_size=4)
    texts = set(data.corpus.text)
    assert {f"Where is g{i}? In{said}" for i in range(10) for said in (f" Old{i} town", f" The Old{i}")} <= texts
    inferred = set(data.splits["train"].query("kind == 'inferred_only'").prompt + " New0")
    assert len(texts) == 20 + len(inferred)
    assert inferred < texts
    (lesson,) = task.lessons(data.memory, data.corpus, lora, 0)
    ids, labels = lesson.batch(0)
    for row, asked in zip(ids, labels != IGNORED, strict=True):
        assert task.tokenizer().decode(row[asked]) in texts
    (nothing,) = task.lessons(data.memory, data.corpus, TrainingConfig(adaptation="none"), 0)
    assert nothing.batch(0)[0].numel() == 0
    only = made(project, written(single=False))
    without = generated(only)
    assert only.lessons(without.memory, without.corpus, TrainingConfig(adaptation="none"), 0)
    with pytest.raises(InputError, match=r"my\.csv.*'none'"):
        only.lessons(without.memory, without.corpus, lora, 0)


def test_the_table_of_the_book_is_what_its_page_makes(tmp_path, monkeypatch):
    (page,) = re.findall(
        r"\n:caption: capitals.py\n\n(.*?)```", (BOOK / "owntable.md").read_text(encoding="utf-8"), re.S
    )
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(page, {})
    assert (tmp_path / "book/capitals.csv").read_bytes() == (BOOK / "capitals.csv").read_bytes()


# --- what is refused


def edit(row, **values):
    """A table in which a row has other values."""
    frame = written().astype(object)
    for name, value in values.items():
        frame.loc[row, name] = value
    return frame


WRONG = {
    "a missing column": (lambda: written().drop(columns="variant_of"), "variant_of"),
    "no prompt": (lambda: edit(3, prompt=None), "row 3"),
    "no group": (lambda: edit(3, group=None), "row 3"),
    "no answer": (lambda: edit(3, answer_memorization=None, answer_generalization=None), "row 3"),
    "a blank answer": (lambda: edit(3, answer_generalization="  "), "row 3"),
    "an empty alternative": (lambda: edit(6, answer_memorization="Rome|"), "row 6"),
    "the same answers": (lambda: edit(6, answer_generalization="Rome", answer_memorization="Rome"), "row 6"),
    "an answer that begins another": (
        lambda: edit(6, answer_memorization="Rome", answer_generalization="Rome two"),
        "row 6",
    ),
    "a variant of no row": (lambda: edit(1, variant_of=999), "row 1"),
    "a variant of half a row": (lambda: edit(1, variant_of=0.5), "row 1"),
    "a variant of words": (lambda: edit(1, variant_of="first"), "row 1"),
    "a variant of a variant": (lambda: edit(2, variant_of=1), "row 2"),
    "a variant of itself": (lambda: edit(2, variant_of=2), "row 2"),
    "a variant of another group": (lambda: edit(2, group="g5"), "row 2"),
    "a variant with another answer": (lambda: edit(2, answer_generalization="Rome"), "row 2"),
    "the same prompt": (lambda: edit(4, prompt=written().prompt[3]), "row 4"),
    "a short prompt": (lambda: edit(6, prompt="g"), "row 6"),
    "a long prompt": (lambda: edit(6, prompt="Where? " * 300), "at most 256"),
    "an unknown kind": (lambda: edit(6, kind="other"), "row 6"),
    "a kind without its answers": (lambda: edit(6, kind="conflict"), "row 6"),
    "an aligned row that is none": (lambda: edit(6, kind="aligned", answer_generalization="New0"), "aligned"),
    "few groups": (lambda: written(7), "7 groups"),
    "no row": (lambda: written().head(0), "no rows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_refused_in_a_sentence(project, case):
    frame, said = WRONG[case]
    with pytest.raises(InputError, match=r"^[^\n]{15,}$") as error:
        generated(made(project, frame()))
    assert said in str(error.value)


def test_numbers_are_no_answers(project):
    frame = edit(6, answer_memorization=42).astype({"answer_memorization": object})
    frame.to_json(project / "my.jsonl", orient="records", lines=True)
    with pytest.raises(InputError, match="row 6"):
        generated(tasks.from_config(resolve("tiny", "table", table="my.jsonl")))


@pytest.mark.parametrize("name", ["my.csv", "my.jsonl", "my.parquet", "my.xlsx"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'{"prompt": '])
def test_a_damaged_file_is_refused_in_a_sentence(project, name, content):
    (project / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^[^\n]*{name}[^\n]*$"):
        generated(tasks.from_config(resolve("tiny", "table", table=name)))


def test_aligned_rows(project):

    frame = edit(6, answer_generalization="The Old0", kind="aligned")
    everything = pd.concat(generated(made(project, frame)).splits.values())
    (row,) = everything[everything.kind == "aligned"].itertuples()
    assert row.answer_generalization in row.answer_memorization.split("|")


# --- a run


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "table"}, "-p table my.csv"),
        ({"task": "table", "table": "other.csv"}, "other.csv"),
        ({"task": "table", "table": 3}, "3"),
        ({"task": "table", "table": "my.csv", "model": "gpt2-1x16"}, "gpt2-1x16"),
        ({"task": "inference", "table": "my.csv"}, "not for inference"),
    ],
)
def test_wrong_parameters(project, given, said):
    written().to_csv(project / "my.csv", index=False)
    with pytest.raises(InputError, match=r"^[^\n]{20,}$") as error:
        begin("data", profile="tiny", **given)
    assert said in str(error.value)
    assert not (project / "results").exists()


def test_a_changed_table_is_noticed(project):
    made(project)
    given = {"profile": "tiny", "task": "table", "table": "my.csv"}
    run = begin("data", **given)
    run.path("one.txt").write_text("one")
    run.finish()
    told = manifest.load_manifest(run.folder)
    assert told["inputs"] == {"my.csv": manifest.digest(project / "my.csv")}
    assert told["parameters"]["table"] == told["config"]["data"]["table"] == "my.csv"
    begin("training", **given)._lock.release()
    written(11).to_csv(project / "my.csv", index=False)
    with pytest.raises(InputError, match=r"my\.csv.*papermill notebooks/data\.ipynb.* -r table my\.csv"):
        begin("training", **given)
