"""The manifest of a finished stage: what it was made from, on which machine, and every file that it left.

``manifest.json`` is written last and atomically: a folder without it belongs to a stage that did not finish.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from memgen import config
from memgen.config import InputError

PACKAGES = (
    "accelerate altair ipykernel jupytext memgen numpy pandas papermill peft pyarrow safetensors scikit-learn scipy "
    "tokenizers torch transformers vl-convert-python"
).split()
DECISIVE = ("memgen", "notebooks", "config", "requirements.lock")  # what git is asked about
NUMBER_FIELDS = ("value", "ci_low", "ci_high", "n", "unit", "definition")
#: Columns of every frame of records, filled where they apply; a record may have others.
COORDINATES = (
    "site layer neuron method control target population inputs kind probe baseline ranking end share dose alpha "
    "source destination form conflicts split step statistic answer behavior rank"
).split()


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that a reader sees the old file or the whole new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())  # what is renamed into place is on the disk
    beside.replace(path)


def digest(path: Path) -> dict[str, Any]:
    """The sha256 and size of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def digest_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """The digest of every file below `folder`, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path) for path in paths}


def load_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Read the manifest of a finished stage."""
    return _load(Path(folder) / "manifest.json")


def load_metrics(folder: str | os.PathLike) -> pd.DataFrame:
    """Read the numbers of a finished stage, one a row."""
    path = Path(folder) / "metrics.json"
    records = _load(path)
    try:
        return records_frame(records)
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path} does not hold what a stage records; make the stage again.") from None


def records_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as a table with the columns `measure`, coordinates, and those of `NUMBER_FIELDS`."""
    return in_order(pd.DataFrame(records), ["measure"]).astype({"value": float, "ci_low": float, "ci_high": float})


def in_order(frame: pd.DataFrame, first: list[str]) -> pd.DataFrame:
    """A frame of records with the `first` columns, `COORDINATES` and all others, and `NUMBER_FIELDS` at the end."""
    names = dict.fromkeys([*first, *COORDINATES, *frame.columns])
    return frame.reindex(columns=[*(name for name in names if name not in NUMBER_FIELDS), *NUMBER_FIELDS])


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise InputError(f"{path} cannot be read ({kind}); the stage in its folder did not finish.") from None


def provenance() -> dict[str, Any]:
    """The machine, the packages that make the numbers, the commit of the code, and the most memory held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,  # macOS counts bytes, Linux KiB
        "machine": _machine(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git": commit(),
    }


def means(*scripts: Path) -> dict[str, Any]:
    """What decides a stage's numbers beside settings and inputs: its code, of these scripts, and what it runs on."""
    texts = {name: Path(name).read_text(encoding="utf-8") for name in config.sources(*scripts)}
    code = [ast.dump(ast.parse(text)) if name.endswith(".py") else text for name, text in texts.items()]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    machine, names = _machine(), ("python", "threads", "processor", "accelerator")
    means = {"code": code, "packages": versions}  # comments and prose aside
    return means | {name: machine[name] for name in names}


def commit() -> dict[str, Any]:
    """The commit of the project, and whether what decides its numbers was changed since; None where it has none.

    A project inside another repository has none, even if that repository would ignore or hold it.
    """
    top, _, head = (_git("rev-parse", "--show-toplevel", "HEAD") or "").partition("\n")
    if not head or not Path(top).samefile(config.root()):
        return {"commit": None, "dirty": None}
    changes = _git("status", "--porcelain", "--", *DECISIVE)
    return {"commit": head, "dirty": None if changes is None else bool(changes)}


def _git(*words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(config.root()), *words]
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set where a hook of another repository runs
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # asked only where the stage loaded it
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "accelerator": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
