"""`kill -9` of a whole `make book`: of make, of Snakemake, of the stages and their kernels, all at once."""

import os
import signal
import subprocess
import time
from contextlib import suppress

import psutil

from tests.book.conftest import Project


def start(project: Project, *words: str) -> subprocess.Popen:
    """Begin `make book PROFILE=smoke`; what it prints goes to ``.snakemake/printed.txt``."""
    (project.root / ".snakemake").mkdir(exist_ok=True)
    with (project.root / ".snakemake/printed.txt").open("w") as printed:
        return subprocess.Popen(
            project.command("book", "PROFILE=smoke", *words),
            cwd=project.root,
            env=project.environment,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )


def kill_after(project: Project, process: subprocess.Popen, seconds: float, said: str = "") -> list[str] | None:
    """Kill it and all that it started, some time after it said something (or began); return the stages that ran.

    None if it had ended before.
    """
    end = 0.0 if said else time.monotonic() + seconds
    while not end or time.monotonic() < end:
        if not end and said in project.read(".snakemake/printed.txt"):
            end = time.monotonic() + seconds
        if process.poll() is not None:
            return None
        time.sleep(0.02)
    root = psutil.Process(process.pid)
    root.suspend()  # it starts nothing more
    tree = [root, *root.children(recursive=True)]
    for each in tree:
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    tree = [root, *root.children(recursive=True)]  # with what they started meanwhile
    stages = [_stage(each) for each in tree]
    for each in tree:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    _wait_for_all(tree, 10)
    return sorted({stage for stage in stages if stage})


def end_after(project: Project, process: subprocess.Popen, said: str) -> None:
    """Ask it and all that it started to end (SIGTERM, as `timeout` and shutdowns do) once it said something."""
    while said not in project.read(".snakemake/printed.txt"):
        assert process.poll() is None
        time.sleep(0.02)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    _wait_for_all(tree, 60)


def _wait_for_all(tree: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(tree, timeout=seconds)
    stay = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    for each in stay:
        each.kill()
    assert stay == [], "no process stays"


def _stage(process: psutil.Process) -> str:
    """The stage that a process executes, as ``inference/gpt2-2x32/seed10 training``; empty for other processes."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    if "execute" in words and "--label" in words:
        return words[words.index("--label") + 1]
    return next((name for name in ("jupyter-book", "stage") if any(word.endswith(name) for word in words)), "")
