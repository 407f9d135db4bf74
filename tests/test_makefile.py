"""What make does beside running tools: it sets up an environment, and shows what matters of what Snakemake prints."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A Python that only notes what it is asked for; files named as below decide how it answers.
STUB = f"""#!/bin/bash
here=$(dirname "$0")
case "$*" in
    -V) echo Python $(cat "$here/version") ;;
    "-c import pip"*) test ! -e "$here/without_pip" || exit 1 ;;&
    -c*) {sys.executable} -c "import sys; sys.version_info = ($(tr . , < "$here/version")); ${{2#import pip; }}" ;;
    "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; touch "$4/pyvenv.cfg"; cp "$0" "$here/version" "$4/bin"
        echo made >> "$LOG" ;;
    "-m pip install"*) test ! -e "$LOG.fail" || exit 1 ;;
    *) exit 2 ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """Run `make setup` with that Python; return its exit status, what it said, and how often it made .venv so far."""
    for name in ("Makefile", "requirements.lock", "requirements.txt", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "config").mkdir()
    python(tmp_path / "bin")

    def run(*words):
        environment = {name: os.environ[name] for name in ("PATH", "HOME")} | {"LOG": str(tmp_path / "log")}
        command = ["make", "setup", "PYTHON=bin/python", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        log = tmp_path / "log"
        return done.returncode, done.stderr, log.read_text().count("made") if log.exists() else 0

    run.folder = tmp_path
    return run


def python(folder, version="3.11.2"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "python").write_text(STUB)
    (folder / "python").chmod(0o755)
    (folder / "version").write_text(version)


def test_a_whole_environment_stays(setup):
    assert setup() == (0, "", 1)
    assert setup() == (0, "", 1)
    os.utime(setup.folder / ".venv/.ready", (0, 0))  # the lock is newer: packages are added to what is there
    assert setup() == (0, "", 1)


def test_after_a_failed_attempt_the_next_begins_from_scratch(setup):
    (setup.folder / "log.fail").touch()
    assert setup()[0] != 0
    (setup.folder / "log.fail").unlink()
    assert setup() == (0, "", 2)
    assert not (setup.folder / ".venv/.unfinished").exists()


@pytest.mark.parametrize("damage", ["without_pip", "older", "newer", "no python", "empty"])
def test_what_is_no_fit_environment_is_made_again(setup, damage):
    venv = setup.folder / ".venv"
    python(venv / "bin", {"older": "3.8.1", "newer": "3.14.0"}.get(damage, "3.11.2"))
    (venv / "pyvenv.cfg").touch()
    (venv / "bin/without_pip").touch() if damage == "without_pip" else None
    if damage == "no python":
        (venv / "bin/python").unlink()
    if damage == "empty":
        shutil.rmtree(venv)
        venv.mkdir()
    assert setup() == (0, "", 1)
    assert not (venv / "bin/without_pip").exists()


def test_a_folder_that_is_no_environment_is_left_alone(setup):
    (setup.folder / "thesis").mkdir()
    (setup.folder / "thesis/chapter.txt").write_text("years of work")
    status, said, n_made = setup("VENV=thesis")
    assert status != 0
    assert n_made == 0
    assert "thesis is there and is no environment of Python" in said
    assert (setup.folder / "thesis/chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("version", ["2.7.18", "3.10.13", "3.14.0"])
def test_a_python_that_is_not_supported_is_refused_in_a_sentence(setup, version):
    python(setup.folder / "bin", version)
    status, said, n_made = setup()
    assert status != 0
    assert n_made == 0
    assert said.startswith(f"memgen needs Python 3.11, 3.12 or 3.13; bin/python is Python {version}.")
    assert not (setup.folder / ".venv").exists()


SNAKEMAKE = """Building DAG of jobs...
Execute 3 jobs...
▶ a: started
RuleException:
CalledProcessError in file "/home/me/Snakefile", line 5:
Command 'set -euo pipefail;
    echo '▶ a: started'
    kill -9 $$' died with <Signals.SIGKILL: 9>.
▶ b: done
[Thu Nov 26 22:09:52 2026]
▶ c: started
✗ c failed: why
RuleException:
CalledProcessError in file "/home/me/Snakefile", line 11:
Command 'set -euo pipefail;
    exit 1' returned non-zero exit status 1.
RuleException:
OSError in file "/home/me/Snakefile", line 11:
[Errno 28] No space left on device
▶ d: done
"""
SHOWN = [
    "▶ a: started",
    "✗ A command was ended by the signal SIGKILL.",
    "▶ b: done",
    "▶ c: started",
    "✗ c failed: why",
    'OSError in file "/home/me/Snakefile", line 11:',
    "[Errno 28] No space left on device",
    "▶ d: done",
]


def test_nothing_after_a_stage_that_died_is_swallowed():
    makefile = "include Makefile\n.PHONY: filter\nfilter:\n\t@sed -uE $(NOISE)\n"
    command = ["make", "-s", "--eval", makefile, "filter"]
    done = subprocess.run(command, cwd=ROOT, input=SNAKEMAKE, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == SHOWN


@pytest.mark.parametrize("port", ["in use", "http", "", "70000"])
def test_a_port_that_cannot_be_had_is_told_in_a_sentence(tmp_path, port):
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "_build/html").mkdir(parents=True)
    (tmp_path / "_build/html/index.html").touch()
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1] if port == "in use" else port
        # Within `make test`, a make of its own says which folder it enters.
        command = ["make", "--no-print-directory", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready"]
        command += ["serve", f"PORT={port}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert done.stderr.startswith(f"PORT={port} of ADDRESS=localhost is in use, or is none")
    assert done.stdout == ""


@pytest.mark.parametrize(("given", "option"), [("slurm", "slurm"), ("/etc/my cluster", "/etc/my cluster")])
def test_a_cluster_gets_the_whole_graph(tmp_path, given, option):
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    for folder in ("config", "env/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "config/full.yaml").touch()
    (tmp_path / "env/bin/activate").write_text(f"PATH={tmp_path}/env/bin:$PATH\n")
    stub = tmp_path / "env/bin/snakemake"
    stub.write_text('#!/bin/bash\nfor word in "$@" "$PYTHONPATH"; do echo "<$word>"; done\n')
    stub.chmod(0o755)
    command = ["make", "VENV=env", "-o", "env/cluster/.ready", "book", "PROFILE=full", f"CLUSTER={given}"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"<--workflow-profile>\n<{option}>\n" in said
    assert "<--cores>" not in said, "it would limit the jobs at a time to those of this machine"
    assert f"<{tmp_path}/env/cluster:" in said
