"""The built book in one file, the same bytes for the same book."""

import gzip
import os
import tarfile
import tomllib
from pathlib import Path

from memgen import config
from memgen.config import InputError


def write_archive(html: str | os.PathLike = "_build/html", target: str | os.PathLike = "dist") -> Path:
    """Pack the built book as ``memgen-book-<version>.tar.gz``: sorted, without times and owners; return its path.

    Raises
    ------
    InputError
        If there is no built book in `html`.
    """
    root = config.root()
    html, target = root / html, root / target
    if not (html / "index.html").is_file():
        raise InputError(f"There is no book in {os.path.relpath(html, root)}: make it with `make book`.")
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    name = f"memgen-book-{version}"
    target.mkdir(parents=True, exist_ok=True)
    path, beside = target / f"{name}.tar.gz", target / f".{name}.{os.getpid()}"
    with (
        beside.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for source in sorted(path for path in html.rglob("*") if path.is_file()):
            entry = archive.gettarinfo(source, f"{name}/{source.relative_to(html).as_posix()}")
            entry.mtime, entry.mode = 0, 0o644
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with source.open("rb") as content:
                archive.addfile(entry, content)
    beside.replace(path)
    return path
