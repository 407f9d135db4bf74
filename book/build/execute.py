"""Run a notebook's source and seal its results.

A single process does what jupytext, papermill and the sealing would do in three. The executed copy is written cell by
cell and stays where it is when the run fails. What the notebook prints goes to a text beside the copy; progress lines,
which begin with the mark ▶, come to the terminal too.
"""

import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from book.build.chapters import seal
from book.build.pairs import KERNEL
from book.build.parameters import check, declared

MARK = "▶"
START_TIMEOUT = 300  # seconds; many kernels may start together on a busy machine
LONGEST = 70  # bytes of the path of a folder for sockets: theirs, some 30 longer, may have 103 on macOS, 107 on Linux


class Progress(logging.Handler):
    """Sends the progress lines of a notebook to the terminal, each in one piece."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the lines with the mark."""
        for line in record.getMessage().splitlines():
            if MARK in line:
                os.write(sys.stdout.fileno(), (line[line.index(MARK) :].rstrip() + "\n").encode())


def execute(source: str, copy: str, parameters: dict[str, Any]) -> None:
    """Run a notebook's source with papermill into `copy`.

    The kernel is reached through sockets in a folder of its own: kernels that start together race for ports. It is that
    of this environment, and reads no settings or start-up files of the user's.
    """
    notebook = jupytext.read(source)
    notebook.metadata.kernelspec = KERNEL
    jupytext.write(notebook, copy, fmt="ipynb")
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    check(parameters, declared("\n".join(cells)))
    os.environ.update(JUPYTER_PATH="", JUPYTER_PREFER_ENV_PATH="1")  # else another python3 may come first
    temporary = tempfile.gettempdir()
    short = temporary if len(os.fsencode(temporary)) <= LONGEST else "/tmp"
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=short) as sockets:
        papermill.execute_notebook(
            copy,
            copy,
            parameters,
            kernel_name=KERNEL["name"],
            log_output=True,
            progress_bar=False,
            start_timeout=START_TIMEOUT,
            extra_arguments=[f"--IPKernelApp.ipython_dir={sockets}", "--IPKernelApp.exec_PYTHONSTARTUP=False"],
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )


def explain(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {' '.join(str(error.evalue).split())}"
    if isinstance(error, DeadKernelError):
        return "the kernel died; the machine may have run out of memory."
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def run(source: str, copy: str, folder: str, parameters: dict[str, Any], label: str) -> int:
    """Execute `source` into `copy`, seal the `folder` of results, and say how it went; return the exit status."""
    began, text = time.monotonic(), Path(copy).with_suffix(".log")
    text.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("papermill")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [Progress(), logging.FileHandler(text, mode="w", encoding="utf-8")]
    try:
        execute(source, copy, parameters)
        seal(Path(folder), Path(copy))
    except Exception as error:
        logger.exception("The run failed.")
        print(f"✗ {label} failed: {explain(error)}")
        print(f"  The notebook with the error: {copy}; all that it printed: {text}", flush=True)
        return 1
    print(f"{MARK} {label}: done in {time.monotonic() - began:.0f} s", flush=True)
    return 0
