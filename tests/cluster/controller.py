"""A SLURM of one controller and two nodes on this machine, in a folder of its own, as the user who starts it."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MpiDefault=none
SlurmdTimeout=10
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=40000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=40000
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Where the cluster is, and its daemons: only these, and what they started, are ever ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{folder}/bin{os.pathsep}{Path(sys.prefix)}/bin{os.pathsep}{os.environ['PATH']}"
        self.environment = {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path}
        self._daemons: dict[str, subprocess.Popen] = {}

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a session of its own."""
        environment = os.environ | self.environment
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints."""
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def processes(self, node: str) -> list[int]:
        """The processes of a node's jobs, from their environment, and those that watch over its steps."""
        found = []
        here, there = f"{self.folder}/bin".encode(), f"\0SLURMD_NODENAME={node}\0".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = b"\0" + (path / "environ").read_bytes()
                files = [file.readlink() for file in (path / "fd").iterdir()]
            except OSError:
                continue
            if self.folder / f"{node}.log" in files or (here in variables and there in variables):
                found.append(int(path.name))
        return found

    def start_node(self, node: str) -> None:
        """Start a node."""
        self.start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """End a node as a power cut does: its daemon and all that runs on it, at once."""
        self.end(node)
        for number in self.processes(node):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def end(self, name: str) -> None:
        """End a daemon."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster, up; afterwards its daemons and jobs are ended."""
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir()
    (folder / "bin").mkdir()
    srun = folder / "bin/srun"  # the plugin's jobs call it without the variables of SLURM
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    text = CONFIGURATION.format(folder=folder, host=socket.gethostname(), user=getpass.getuser(), ports=free_ports(3))
    (folder / "slurm.conf").write_text(text)
    here = Cluster(folder)
    files = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    try:
        here.start(
            "munged",
            "munged",
            "--foreground",
            "--force",
            f"--log-file={folder}/munged.log",
            *(f"--{option}={folder}/{name}" for option, name in files.items()),
        )
        wait_until(lambda: (folder / "munge.socket").exists(), 10)
        here.start("slurmctld", "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for node in ("one", "two"):
            here.start_node(node)
        wait_until(lambda: here.ask("sinfo", "-h", "-N", "-o", "%t").split() == ["idle", "idle"], 60)
        yield here
    finally:
        for node in ("one", "two"):
            if node in here._daemons:
                here.kill_node(node)
        for name in list(here._daemons):
            here.end(name)


def wait_until(condition, seconds: float) -> None:
    """Wait for a condition; an error while it is checked counts as not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except subprocess.CalledProcessError:
            pass
        time.sleep(0.3)
    raise TimeoutError
