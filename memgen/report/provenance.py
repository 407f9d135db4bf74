"""Where, when and from what a result was made."""

import hashlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = [
    "accelerate",
    "altair",
    "ipykernel",
    "jupytext",
    "memgen",
    "numpy",
    "pandas",
    "papermill",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "vl-convert-python",
]


def digest(path: Path) -> dict[str, Any]:
    """Return the sha256 and size of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def digest_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the digest of every file below `folder`, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path) for path in paths}


def packages() -> dict[str, str]:
    """Return the versions of the packages that make the numbers."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def commit(folder: Path) -> dict[str, Any]:
    """Return the git commit of the code, and whether files differ from it; both null outside a repository."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return {"commit": head, "dirty": None if changes is None else bool(changes)}


def machine() -> dict[str, Any]:
    """Describe the machine and the threads in use; torch is asked only where the stage loaded it."""
    torch = sys.modules.get("torch")
    accelerator = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "accelerator": accelerator,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
