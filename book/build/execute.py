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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from book.build.chapters import seal
from book.build.pairs import KERNEL
from memgen.config import require

MARK = "▶"
START_TIMEOUT = 300  # seconds; many kernels may start together on a busy machine
TYPES = {"str": str, "int": int, "float": int | float, "bool": bool}
WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


class Progress(logging.Handler):
    """Sends the progress lines of a notebook to the terminal, each in one piece."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the lines with the mark."""
        for line in record.getMessage().splitlines():
            if MARK in line:
                os.write(sys.stdout.fileno(), (line[line.index(MARK) :].rstrip() + "\n").encode())


def check_parameters(given: Mapping[str, Any], declared: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse what papermill would take: names that the notebook does not have, and values of another type.

    Parameters
    ----------
    given : mapping
        The parameters by name.
    declared : mapping
        What ``papermill.inspect_notebook`` says of the notebook.

    Raises
    ------
    InputError
        The sentence says what is allowed.
    """
    for name, value in given.items():
        require(name in declared, f"The parameter {name!r} is unknown; this notebook has {', '.join(declared)}.")
        kind = declared[name]["inferred_type_name"]
        fits = isinstance(value, TYPES[kind]) and isinstance(value, bool) == (kind == "bool")
        require(fits, f"The parameter {name} must be {WORDS[kind]}, not {value!r}.")


def execute(source: str, copy: str, parameters: dict[str, Any]) -> None:
    """Run a notebook's source with papermill into `copy`.

    The kernel is reached through sockets in a folder of its own: kernels that start together race for ports.
    """
    notebook = jupytext.read(source)
    notebook.metadata.kernelspec = KERNEL
    jupytext.write(notebook, copy, fmt="ipynb")
    check_parameters(parameters, papermill.inspect_notebook(copy))
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        papermill.execute_notebook(
            copy,
            copy,
            parameters,
            kernel_name=KERNEL["name"],
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


def run(source: str, copy: str, folder: str, parameters: dict[str, Any], label: str) -> int:
    """Execute, seal, and say how it went; return the exit status.

    Parameters
    ----------
    source : str
        The notebook's source, ``notebooks/<stage>.py``.
    copy : str
        Where the executed copy goes.
    folder : str
        The folder of results that the notebook makes.
    parameters : dict
        The notebook's parameters.
    label : str
        The name of the run in messages.
    """
    began, text = time.monotonic(), Path(copy).with_suffix(".log")
    text.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("papermill")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [Progress(), logging.FileHandler(text, mode="w", encoding="utf-8")]
    try:
        execute(source, copy, parameters)
        seal(folder, copy)
    except Exception as error:
        logger.exception("The run failed.")
        print(f"✗ {label} failed: {explain(error)}")
        print(f"  The notebook with the error: {copy}; all that it printed: {text}", flush=True)
        return 1
    print(f"{MARK} {label}: done in {time.monotonic() - began:.0f} s", flush=True)
    return 0
