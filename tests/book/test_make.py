"""The Makefile alone, with stubs for the commands behind it, and run as by make 3.81, which knows no .SHELLFLAGS."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(tmp_path: Path):
    """Run make where the named command fails and the others succeed; each notes how it was called."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    for folder in ("config", "env/bin", "_build/html"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("config/0011.yaml", "config/full.yaml", "_build/html/index.html", "requirements.lock", "env/.ready"):
        (tmp_path / file).write_text("before\n")
    (tmp_path / "env/bin/activate").write_text(f"PATH={tmp_path}/env/bin:$PATH\n")
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/bash\nwhile [ "$1" != -c ]; do shift; done\nexec /bin/bash "$@"\n')
    shell.chmod(0o755)

    def run(*words: str, fails: str = "") -> subprocess.CompletedProcess:
        for name in ("snakemake", "python", "tar", "jupyter", "ruff", "gzip"):
            stub = tmp_path / "env/bin" / name
            status = 1 if name == fails else 0
            note = f'echo "{name} $*" >> {tmp_path}/called\necho "$LOGNAME" > {tmp_path}/user\n'
            stub.write_text(f"#!/bin/bash\n{note}echo some output\nexit {status}\n")
            stub.chmod(0o755)
        path = f"{tmp_path}/env/bin{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", f"SHELL={shell}", "VENV=env", "-o", "env/.ready", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=kept | {"PATH": path}, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("fails", ["", "snakemake"])
def test_a_book_that_failed_is_no_success(make, tmp_path: Path, fails: str) -> None:
    done = make("book", "PROFILE=0011", fails=fails)
    assert (done.returncode != 0) == bool(fails), done.stderr
    assert ("The book" in done.stdout) != bool(fails)
    assert '--config profile="0011" ' in (tmp_path / "called").read_text(), "text for Snakemake, not the number 11"


@pytest.mark.parametrize("name", ["", "ada"])
def test_snakemake_finds_a_name_where_the_user_has_none(make, tmp_path: Path, monkeypatch, name: str) -> None:
    """In a container a user may be a number alone; `getpass.getuser` takes the variable first."""
    monkeypatch.delenv("USER", raising=False)
    monkeypatch.setenv("LOGNAME", name)
    assert make("book", "PROFILE=full").returncode == 0
    assert (tmp_path / "user").read_text() == f"{name or 'memgen'}\n"


@pytest.mark.parametrize(("target", "fails"), [("lock", "python"), ("dist", "tar"), ("dist", "gzip")])
def test_what_a_failed_command_was_to_write_stays_as_it_was(make, tmp_path: Path, target: str, fails: str) -> None:
    assert make(target, fails=fails).returncode != 0
    assert (tmp_path / "requirements.lock").read_text() == "before\n"
    assert not list(tmp_path.glob("dist/*.tar.gz"))


@pytest.mark.parametrize("target", ["lab", "format"])
def test_nothing_goes_on_where_pairs_cannot_be_brought_in_line(make, tmp_path: Path, target: str) -> None:
    assert make(target, fails="python").returncode != 0
    assert (tmp_path / "called").read_text().splitlines() == ["python -m book.build pairs"]
    assert make(target).returncode == 0
