"""Two folders of results side by side."""

import pytest

from book.build import __main__ as command_line
from book.build.compare import as_text, read_numbers, side_by_side
from book.build.publish import write_metrics
from memgen.config import InputError
from memgen.intervals import Estimate
from memgen.manifest import load_metrics
from memgen.published import RUN_COLUMNS
from tests.book.recorded import DESCRIBED, PROFILE, started

RUN = "results/tiny/inference/gpt2-2x32/seed{}"


def in_both(rows):
    return rows[rows["_merge"] == "both"]


def record(seed, *numbers):
    """Make the data stage of a run with these numbers: value, interval and coordinates of each."""
    run = started("data", seed=seed)
    for value, ci, coordinates in numbers:
        run.record("accuracy", Estimate(value, *(ci or (None, None)), 10), **coordinates, **DESCRIBED)
    run.finish()


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs: a number whose intervals are apart, two whose intervals meet or are missing, and one of one run."""
    for name in ("notebooks", "config"):
        (tmp_path / name).mkdir()
    (tmp_path / "config/tiny.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    apart, meets, bare = {"layer": 0, "method": "study"}, {"layer": 1, "method": "study"}, {"layer": 1}
    record(0, (0.5, (0.4, 0.6), apart), (0.5, (0.4, 0.6), meets), (1.0, None, bare), (1.0, (0.0, 2.0), {}))
    record(1, (0.8, (0.7, 0.9), apart), (0.7, (0.6, 0.8), meets), (9.0, None, bare))
    return tmp_path


def test_intervals_that_do_not_overlap_are_marked(two):
    rows = side_by_side(RUN.format(0), RUN.format(1))
    by_place = in_both(rows).fillna({"method": ""}).set_index(["layer", "method"]).apart
    assert by_place.to_dict() == {(0, "study"): True, (1, "study"): False, (1, ""): False}
    lines = as_text(rows).splitlines()
    assert [line.split()[1:4] for line in lines if line.startswith("*")] == [["accuracy", "0", "study"]]
    assert "0.5 [0.4, 0.6]  0.8 [0.7, 0.9]" in as_text(rows)
    assert lines[-2:] == ["3 numbers in both, 1 with intervals apart (*).", "1 only in A."]


def test_the_order_of_the_folders_does_not_matter(two):
    there, back = side_by_side(RUN.format(0), RUN.format(1)), side_by_side(RUN.format(1), RUN.format(0))
    assert in_both(there).apart.to_list() == in_both(back).apart.to_list()
    assert as_text(there).splitlines()[-1] == "1 only in A."
    assert as_text(back).splitlines()[-1] == "1 only in B."


def test_a_folder_beside_itself_has_nothing_apart(two):
    rows = side_by_side("results/tiny", "results/tiny")
    assert as_text(rows).splitlines()[-1] == "7 numbers in both, 0 with intervals apart (*)."
    assert set(rows["where"]) == {f"inference/gpt2-2x32/seed{seed}/data" for seed in (0, 1)}
    assert (rows.value_a == rows.value_b).all()


def test_a_profile_is_compared_with_what_was_published(two):
    folder = two / "book/published/tiny"
    folder.mkdir(parents=True)
    run = dict(zip(RUN_COLUMNS, ("inference", "gpt2-2x32", 0, "data", "inference", "study", "graded"), strict=True))
    numbers = load_metrics(two / RUN.format(0) / "data").assign(**run)
    write_metrics(numbers, folder)
    rows = side_by_side("results/tiny", folder)
    assert rows["_merge"].value_counts().to_dict() == {"both": 4, "left_only": 3, "right_only": 0}
    assert (in_both(rows).value_a == in_both(rows).value_b).all()


def test_a_stage_of_the_whole_profile_keeps_the_task_as_a_coordinate(two):
    folder = two / "book/published/tiny"
    folder.mkdir(parents=True)
    numbers = load_metrics(two / RUN.format(0) / "data").head(2).assign(layer=None, method=None)
    write_metrics(numbers.assign(stage="synthesis", seed=None, task=["inference", "addition"]), folder)
    assert read_numbers(folder)[["where", "task"]].values.tolist() == [
        ["synthesis", "inference"],
        ["synthesis", "addition"],
    ]
    assert len(in_both(side_by_side(folder, folder))) == 2


def test_numbers_at_the_same_place_are_compared_in_their_order(two):
    """Two forms in one model have the same coordinates but for the form, which belongs to the run."""
    record(0, (0.1, None, {"form": "study"}), (0.2, None, {"form": "matched"}))
    record(1, (0.3, None, {"form": "study"}), (0.4, None, {"form": "matched"}))
    rows = in_both(side_by_side(RUN.format(0), RUN.format(1)))
    assert sorted(zip(rows.value_a, rows.value_b, strict=True)) == [(0.1, 0.3), (0.2, 0.4)]


def test_a_stage_is_named_whatever_way_its_folder_is(two):
    assert set(read_numbers(RUN.format(0) + "/data")["where"]) == {"data"}


def test_unfinished_stages_are_left_out(two):
    (two / RUN.format(1) / "data/manifest.json").unlink()
    with pytest.raises(InputError, match="No stage finished below"):
        side_by_side(RUN.format(0), RUN.format(1))


def test_folders_without_a_common_number_are_refused(two):
    record(1, (1.0, None, {"layer": 9}))
    with pytest.raises(InputError, match="no number in common"):
        side_by_side(RUN.format(0), RUN.format(1))
    with pytest.raises(InputError, match="There is no folder nowhere"):
        side_by_side("nowhere", RUN.format(1))


def test_the_command(two, capsys):
    assert command_line.main(["compare", RUN.format(0), RUN.format(1)]) == 0
    assert "3 numbers in both" in capsys.readouterr().out
    assert command_line.main(["compare", RUN.format(0), "nowhere"]) == 1
    assert "InputError: There is no folder nowhere." in capsys.readouterr().err
