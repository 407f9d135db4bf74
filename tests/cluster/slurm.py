"""The smoke profile through a real SLURM that loses a job and a node, compared with a run that nothing disturbed.

`make test-slurm` runs it; it needs the daemons (on Debian: slurmctld, slurmd, slurm-client, munge) and some 15 minutes.
REFERENCE names a project with a finished book of this profile, made by the same sources; else it is made first.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.book.conftest import copy_project
from tests.torture.compare import differences

from .controller import Cluster, cluster, wait_until

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
TIME_LIMIT = 3600  # seconds
#: There is no accounting database, the file system is local, and jobs are short.
HERE = "slurm-status-command: squeue\nslurm-init-seconds-before-status-checks: 3\n"

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, DAEMONS)), reason=f"it needs SLURM and MUNGE: {', '.join(DAEMONS)}"
)


def running(here: Cluster, *, node: str = "", rule: str = "") -> str:
    """A job that has been running for some seconds on a node (any), of a rule (any); empty if there is none."""
    for line in here.ask("squeue", "-h", "--states=running", "-o", "%i %N %M %k").splitlines():
        job, on, lasted, comment = line.split(maxsplit=3)
        if lasted >= "0:15" and node in on and rule in comment:
            return job
    return ""


def test_a_cluster_that_loses_a_job_and_a_node_leaves_the_same_bytes(tmp_path: Path) -> None:
    engine = os.environ["ENGINE"]
    reference = Path(os.environ.get("REFERENCE", tmp_path / "reference"))
    if not reference.exists():
        assert copy_project(reference).make("book", "PROFILE=smoke").returncode == 0
    project = copy_project(tmp_path / "project")
    shutil.copytree(project.root / "profiles/slurm", project.root / "profiles/here")
    profile = project.root / "profiles/here/profile.yaml"
    profile.write_text(re.sub("latency-wait: .*", "latency-wait: 5", profile.read_text()) + HERE)
    command = project.command("book", "PROFILE=smoke", "CLUSTER=here", f"ENGINE={engine}", "-o", f"{engine}/.ready")
    with cluster(tmp_path / "slurm") as here, (tmp_path / "printed.txt").open("w") as printed:
        process = subprocess.Popen(
            command, cwd=project.root, env=project.environment | here.environment, stdout=printed, stderr=printed
        )
        try:
            wait_until(lambda: process.poll() or running(here, rule="rule_training"), TIME_LIMIT)
            lost = running(here, rule="rule_training")
            here.ask("scancel", "--signal=KILL", "--full", lost)
            print("killed: job", lost)
            wait_until(lambda: process.poll() or running(here, node="two", rule="rule_localization"), TIME_LIMIT)
            lost = running(here, node="two", rule="rule_localization")
            here.kill_node("two")
            print("killed: node two, which ran job", lost)
            wait_until(lambda: "down" in here.ask("sinfo", "-h", "-n", "two", "-o", "%t"), 120)
            here.start_node("two")
            assert process.wait(TIME_LIMIT) == 0, (tmp_path / "printed.txt").read_text()
        finally:
            process.terminate()
            process.wait()
        time.sleep(5)  # SLURM writes down the last job
        print((tmp_path / "slurm/jobs.txt").read_text())
        assert not here.ask("squeue", "-h"), "no job stays"
    assert differences(reference, project.root) == []
