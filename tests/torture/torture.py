"""The smoke book, made under kills, a full disk, read-only results, a clock set back, and by two users: `make torture`.

Each is compared with a book that nothing disturbed, byte for byte. KILLS (20) and SEED (drawn) are of the environment,
and REFERENCE, a project with the finished book of the same sources; without it the book is made first. What mounts a
small file system or takes another user's place needs root, and is skipped without.
"""

import getpass
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.book.conftest import Project, copy_project

from .compare import differences
from .kills import kill_after, start

KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
LONGEST = 90  # seconds from the start of `make book` to a kill
SHARES = (0.02, 0.2, 0.4, 0.6, 0.8)  # of the space that the results need
NEEDS_ROOT = pytest.mark.skipif(getpass.getuser() != "root", reason="it mounts a file system, or needs another user")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose book was made without a disturbance."""
    if given := os.environ.get("REFERENCE"):
        return Path(given)
    project = copy_project(tmp_path_factory.mktemp("reference") / "project")
    done = project.make("book", "PROFILE=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return project.root


@pytest.fixture
def finished(reference: Path, tmp_path: Path) -> Project:
    """A copy of the finished project."""
    shutil.copytree(reference, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB in memory, which tests make larger or read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def n_stages(project: Path) -> int:
    """How many stages are done."""
    return len(list((project / "results/smoke").glob("**/log/*.json")))


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def test_kills_at_random_moments(reference: Path, tmp_path: Path) -> None:
    moments, n_all = random.Random(SEED), n_stages(reference)
    project, killed = copy_project(tmp_path / "project"), 0
    print(f"\nSEED={SEED}\n{'kill':>4} {'after':>7}  {'ran':60} {'done':>6}")
    while killed < KILLS:
        seconds = moments.uniform(1, LONGEST)
        ran = kill_after(project, start(project), seconds)
        done = n_stages(project.root)
        if ran is None:  # whole before the kill: compared, and made again from nothing
            assert differences(reference, project.root) == [], SEED
            print(f"whole after {killed} kills, equal: True")
            shutil.rmtree(project.root)
            copy_project(project.root)
            continue
        killed += 1
        print(f"{killed:4} {seconds:5.1f} s  {', '.join(ran) or 'Snakemake alone':60} {done:3}/{n_all}", flush=True)
    done = project.make("book", "PROFILE=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    different = differences(reference, project.root)
    print(f"whole after {killed} kills, resumed, equal: {not different}")
    assert different == [], SEED
    assert not list(project.root.glob(".snakemake/locks/*")), "no lock stays"


@NEEDS_ROOT
def test_a_full_disk(reference: Path, tmp_path: Path, small_disk: Path) -> None:
    """At five points of the book no byte more can be written; each time there is room again, it goes on."""
    project = copy_project(tmp_path / "project")
    (project.root / "results").symlink_to(small_disk)
    whole = sum(path.stat().st_size for path in (reference / "results/smoke").rglob("*"))
    n_all = n_stages(reference)
    for share in SHARES:
        remount(small_disk, f"size={int(share * whole)}")
        done = project.make("book", "PROFILE=smoke")
        said = [line for line in (done.stdout + done.stderr).splitlines() if "space" in line]
        print(f"\ndisk of {share:.0%}: {n_stages(project.root)} of {n_all} stages; {said[-1:]}", flush=True)
        assert done.returncode != 0
        assert said, done.stdout + done.stderr
    remount(small_disk, f"size={4 * whole}")
    assert project.make("book", "PROFILE=smoke").returncode == 0
    assert differences(reference, project.root) == []


@NEEDS_ROOT
def test_results_that_cannot_be_written(finished: Project, reference: Path, small_disk: Path) -> None:
    remount(small_disk, "size=1g")
    shutil.copytree(finished.root / "results", small_disk, dirs_exist_ok=True)
    shutil.rmtree(finished.root / "results")
    (finished.root / "results").symlink_to(small_disk)
    (small_disk / "smoke/log/synthesis.json").unlink()
    remount(small_disk, "ro")
    done = finished.make("book", "PROFILE=smoke")
    assert done.returncode != 0
    assert "You may not write to results of this project" in done.stderr
    remount(small_disk, "rw")
    assert finished.make("book", "PROFILE=smoke").returncode == 0
    assert differences(reference, finished.root) == []


def test_a_clock_set_back(finished: Project, reference: Path) -> None:
    """Half of the stages are from tomorrow; the others are made again today, once."""
    stamps = sorted(finished.root.glob("results/smoke/*/*/*/log/*.json"))
    tomorrow = stamps[0].stat().st_mtime + 86400
    for stamp in stamps:
        if stamp.stem in ("data", "training", "localization"):
            os.utime(stamp, (tomorrow, tomorrow))
    (finished.root / "results/smoke/log/synthesis.json").unlink()
    assert finished.make("book", "PROFILE=smoke").returncode == 0
    assert differences(reference, finished.root) == []
    assert "Nothing to be done" in finished.make("book", "PROFILE=smoke").stdout


@NEEDS_ROOT
@pytest.mark.parametrize("may_write", [True, False])
def test_two_users_in_one_folder(finished: Project, reference: Path, may_write: bool) -> None:
    """Another user, without a home or a name, goes on where the first one stopped, or is told why not."""
    nobody = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"]
    other = [*nobody, "env", "-u", "LOGNAME", "-u", "USER", "HOME=/nonexistent"]
    if finished.run(*other, sys.executable, "-c", "").returncode:
        pytest.skip("this Python lies where no other user may read it")
    (finished.root / "results/smoke/log/synthesis.json").unlink()
    for folder in (finished.root, *finished.root.parents):
        folder.chmod(folder.stat().st_mode | 0o055)  # the temporary folders are the first user's alone
    mode = "a+rwX" if may_write else "a+rX,go-w"
    subprocess.run(["chmod", "-R", mode, finished.root], check=True)
    done = finished.run(*other, *finished.command("book", "PROFILE=smoke"))
    print(done.stdout[-2000:], done.stderr[-2000:])
    assert (done.returncode == 0) == may_write
    assert ("You may not write to . of this project" in done.stderr) != may_write
    assert finished.make("book", "PROFILE=smoke").returncode == 0
    assert differences(reference, finished.root) == []
