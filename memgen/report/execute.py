"""``python -m memgen.report.execute NOTEBOOK.py COPY.ipynb FOLDER``: run a notebook and seal what it made.

One process does what the command line would do in three (jupytext, papermill, seal). The executed copy is
written cell by cell and stays where it is when the run fails. Everything that the notebook prints goes to a
text beside the copy; its progress lines, which begin with the mark ▶, come to the terminal too.
"""

import argparse
import json
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

from memgen.report.book import seal

MARK = "▶"
START_TIMEOUT = 300  # seconds; many kernels may start together on a busy machine


class Progress(logging.Handler):
    """Sends the progress lines of a notebook to the terminal, each in one piece."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the lines with the mark."""
        for line in record.getMessage().splitlines():
            if MARK in line:
                os.write(sys.stdout.fileno(), (line[line.index(MARK) :].rstrip() + "\n").encode())


def execute(source: str, copy: str, parameters: dict[str, Any]) -> None:
    """Run a notebook's source with papermill into `copy`.

    The kernel is reached through sockets in a folder of its own: kernels that start together race for ports.
    """
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        papermill.execute_notebook(
            jupytext.read(source),
            copy,
            parameters,
            kernel_name="python3",
            log_output=True,
            progress_bar=False,
            start_timeout=START_TIMEOUT,
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )


def explain(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {' '.join(str(error.evalue).split())}"
    if isinstance(error, DeadKernelError):
        return "the kernel died; the machine may have run out of memory."
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def main(arguments: list[str] | None = None) -> int:
    """Run, seal, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m memgen.report.execute", description=__doc__.split("\n\n")[0])
    parser.add_argument("source", help="the notebook's source, notebooks/<stage>.py")
    parser.add_argument("copy", help="where the executed copy goes")
    parser.add_argument("folder", help="the folder of results that the notebook makes")
    parser.add_argument("--parameters", type=json.loads, default={}, help="the notebook's parameters, as JSON")
    parser.add_argument("--label", default="", help="what to call the run in messages")
    given = parser.parse_args(arguments)
    label, began = given.label or given.source, time.monotonic()
    text = Path(given.copy).with_suffix(".log")
    text.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("papermill")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [Progress(), logging.FileHandler(text, mode="w", encoding="utf-8")]
    try:
        execute(given.source, given.copy, given.parameters)
        seal(given.folder, given.copy)
    except Exception as error:
        logger.exception("The run failed.")
        print(f"✗ {label} failed: {explain(error)}")
        print(f"  The notebook with the error: {given.copy}; all that it printed: {text}", flush=True)
        return 1
    print(f"{MARK} {label}: done in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
