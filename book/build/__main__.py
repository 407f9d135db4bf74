"""``python -m book.build COMMAND``: from notebooks to results, and from results to pages.

- ``execute SOURCE COPY FOLDER``: run a notebook's source and keep the executed copy with the results in FOLDER;
- ``pairs``: bring the two files of each notebook in line, the one that was saved last first;
- ``stage PROFILE``: copy a profile's finished notebooks into the book;
- ``publish PROFILE``: keep the small results of a profile in the repository;
- ``models PROFILE``: keep the models of its chapters, and what was found in them, in the repository;
- ``check PROFILE CELL``: compare a run, task/model/seed<n>, with what was published;
- ``compare A B``: show the numbers of two folders of results side by side;
- ``pdf``: print the built book into one file, dist/memgen-book-<version>.pdf.
"""

import argparse
import io
import json
import os
import sys

from memgen import config
from memgen.config import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book.build", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    executing = commands.add_parser("execute", help="run a notebook's source")
    executing.add_argument("source", help="notebooks/<stage>.py")
    executing.add_argument("copy", help="where the executed copy goes")
    executing.add_argument("folder", help="the folder of results that the notebook makes")
    executing.add_argument("--parameters", type=json.loads, default={}, help="the notebook's parameters, as JSON")
    executing.add_argument("--label", default="", help="the name of the run in messages")
    pairing = commands.add_parser("pairs", help="bring the two files of each notebook in line")
    pairing.add_argument("--tidy", action="store_true", help="clear the .ipynb of outputs and of what editors leave")
    staging = commands.add_parser("stage", help="copy a profile's finished notebooks into the book")
    publishing = commands.add_parser("publish", help="keep the small results of a profile in the repository")
    keeping = commands.add_parser("models", help="keep the models of a profile's chapters in the repository")
    checking = commands.add_parser("check", help="compare a run with what was published; fails unless all is equal")
    for command in (staging, publishing, keeping, checking):
        command.add_argument("profile", help="the name of a file in config/")
        command.add_argument("--results", default="results", help="the folder that holds the results")
    checking.add_argument("cell", help="the run: task/model/seed<n>")
    comparing = commands.add_parser("compare", help="show the numbers of two folders of results side by side")
    for name in ("a", "b"):
        comparing.add_argument(name, help="the folder of a run or of a profile, or one of book/published/")
    commands.add_parser("pdf", help="print the built book into one file, dist/memgen-book-<version>.pdf")
    given = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # the locale's may have no ▶
    try:
        return run(given)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 1


def run(given: argparse.Namespace) -> int:
    """Run a command with its arguments; a command loads only what it needs."""
    match given.command:
        case "execute":
            from book.build import execute

            return execute.run(given.source, given.copy, given.folder, given.parameters, given.label or given.source)
        case "pairs":
            from book.build.pairs import bring_in_line

            bring_in_line(tidy=given.tidy)
        case "stage":
            from book.build import chapters, tryit

            staged = chapters.stage_book(given.profile, given.results)
            tryit.write(config.root() / chapters.DOWNLOADS)
            print(f"Staged {len(staged)} chapters of the profile {given.profile}.")
        case "publish":
            from book.build.publish import publish

            folder = publish(given.profile, given.results)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"Published the profile {given.profile}: {os.path.relpath(folder)}, {size / 1e6:.1f} MB.")
        case "models":
            from book.build.models import publish_models

            print(f"Published: {', '.join(map(os.path.relpath, publish_models(given.profile, given.results)))}")
        case "check":
            from book.build.publish import check

            return check(given.profile, given.cell, given.results)
        case "compare":
            from book.build.compare import as_text, side_by_side

            print(as_text(side_by_side(given.a, given.b)))
        case "pdf":
            from book.build.pdf import make_pdf

            path, n_sheets = make_pdf()
            print(f"The book as a PDF: {os.path.relpath(path)}, {n_sheets} pages, {path.stat().st_size / 1e6:.1f} MB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
