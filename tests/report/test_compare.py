"""Two folders of results side by side, and the book in one file."""

import shutil
import tarfile

import pandas as pd
import pytest

from memgen import report
from memgen.config import InputError
from memgen.report import __main__ as command_line
from memgen.report import publication, stages
from memgen.report.archive import write_archive
from memgen.report.compare import read_numbers, side_by_side
from tests.report.stage_runs import DESCRIBED, namespace

RUN = "results/tiny/inference/gpt2-2x32/seed{}"


def record(seed, **metrics):
    """Make the data stage of a run with these numbers: value, low, high."""
    run = report.begin("data", namespace(seed=seed))
    for name, (value, low, high) in metrics.items():
        run.record(name, value, n=10, interval=None if low is None else (low, high), **DESCRIBED)
    run.finish()


@pytest.fixture
def two(project):
    """Two runs: a number whose intervals are apart, two whose intervals meet or are missing, and one of one run."""
    record(0, apart=(0.5, 0.4, 0.6), meets=(0.5, 0.4, 0.6), bare=(1.0, None, None), only_here=(1.0, 0.0, 2.0))
    record(1, apart=(0.8, 0.7, 0.9), meets=(0.7, 0.6, 0.8), bare=(9.0, None, None))
    return project


def test_intervals_that_do_not_overlap_are_marked(two):
    compared = side_by_side(RUN.format(0), RUN.format(1))
    assert dict(zip(compared.both.name, compared.both.apart, strict=True)) == {
        "apart": True,
        "meets": False,
        "bare": False,
    }
    assert (compared.only_a, compared.only_b, compared.n_apart) == (1, 0, 1)
    lines = str(compared).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["apart"]
    assert "0.5 [0.4, 0.6]  0.8 [0.7, 0.9]" in str(compared)
    assert lines[-2:] == ["3 numbers in both, 1 with intervals apart (*).", "1 only in A."]


def test_the_order_of_the_folders_does_not_matter(two):
    one, other = side_by_side(RUN.format(0), RUN.format(1)), side_by_side(RUN.format(1), RUN.format(0))
    assert one.both.apart.to_list() == other.both.apart.to_list()
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a)


def test_a_folder_beside_itself_has_nothing_apart(two):
    compared = side_by_side("results/tiny", "results/tiny")
    assert compared.n_apart == 0
    assert len(compared.both) == 7
    assert set(compared.both["where"]) == {f"inference/gpt2-2x32/seed{seed}/data" for seed in (0, 1)}
    assert (compared.both.value_a == compared.both.value_b).all()


def test_a_profile_is_compared_with_what_was_published(two):
    folder = two / "book/published/tiny"
    folder.mkdir(parents=True)
    rows = [
        stages.load_metrics(two / RUN.format(seed) / "data").assign(
            task="inference", model="gpt2-2x32", seed=seed, stage="data"
        )
        for seed in (0, 1)
    ]
    whole = rows[0].assign(task="", model="", seed=0, stage="synthesis")
    pd.concat([*rows, whole]).to_csv(folder / publication.METRICS, index=False)
    compared = side_by_side("results/tiny", folder)
    assert (len(compared.both), compared.only_a, compared.only_b) == (7, 0, 4)
    assert set(read_numbers(folder)["where"]) == {*compared.both["where"], "synthesis"}


def test_a_stage_is_named_whatever_way_its_folder_is(two):
    assert set(read_numbers(RUN.format(0) + "/data")["where"]) == {"data"}


def test_unfinished_stages_are_left_out(two):
    (two / RUN.format(1) / "data/manifest.json").unlink()
    with pytest.raises(InputError, match="No stage finished below"):
        side_by_side(RUN.format(0), RUN.format(1))


def test_folders_without_a_common_number_are_refused(two):
    record(1, another=(1.0, None, None))
    with pytest.raises(InputError, match="no number in common"):
        side_by_side(RUN.format(0), RUN.format(1))
    with pytest.raises(InputError, match="There is no folder nowhere"):
        side_by_side("nowhere", RUN.format(1))


def test_the_commands(two, capsys):
    assert command_line.main(["compare", RUN.format(0), RUN.format(1)]) == 0
    assert "3 numbers in both" in capsys.readouterr().out
    assert command_line.main(["compare", RUN.format(0), "nowhere"]) == 1
    assert "InputError: There is no folder nowhere." in capsys.readouterr().err
    assert command_line.main(["archive"]) == 1
    assert "make it with `make book`" in capsys.readouterr().err


@pytest.fixture
def html(project):
    """A built book of three files."""
    (project / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    folder = project / "_build/html"
    (folder / "book").mkdir(parents=True)
    for name in ("index.html", "book/b.html", "book/a.html"):
        (folder / name).write_text(name)
    return folder


def test_the_archive_holds_the_book_and_is_reproducible(html, tmp_path):
    path = write_archive()
    assert path == tmp_path / "dist/memgen-book-1.2.3.tar.gz"
    first = path.read_bytes()
    with tarfile.open(path) as archive:
        names = [f"memgen-book-1.2.3/{name}" for name in ("book/a.html", "book/b.html", "index.html")]
        assert archive.getnames() == names
        assert archive.extractfile(names[0]).read() == b"book/a.html"
        assert all((entry.mtime, entry.uid, entry.uname) == (0, 0, "") for entry in archive)
    shutil.copytree(html, tmp_path / "elsewhere")  # other times, other order on disk
    (tmp_path / "elsewhere/index.html").chmod(0o600)
    assert write_archive(tmp_path / "elsewhere", tmp_path / "other").read_bytes() == first
    (html / "book/a.html").write_text("another text")
    assert write_archive().read_bytes() != first
