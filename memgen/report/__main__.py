"""``python -m memgen.report COMMAND ...``: what is done with finished stages.

- ``seal DIR NOTEBOOK``: put an executed notebook beside the results that it made;
- ``stage PROFILE``: copy a profile's finished notebooks into the book;
- ``publish PROFILE``: keep the small results of a profile in the repository;
- ``check PROFILE CELL``: compare a run, task/model/seed<n>, with what was published;
- ``compare A B``: show the numbers of two folders of results side by side;
- ``archive``: pack the built book in one file.
"""

import argparse
import os
import sys

from memgen.config import InputError
from memgen.report.archive import write_archive
from memgen.report.book import seal, stage_book
from memgen.report.compare import side_by_side
from memgen.report.publication import folder_of
from memgen.report.publish import EQUAL, compare, publish


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m memgen.report", description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sealing = commands.add_parser("seal", help="put an executed notebook beside the results that it made")
    sealing.add_argument("folder", help="the stage's folder below results/")
    sealing.add_argument("notebook", help="what papermill wrote")
    staging = commands.add_parser("stage", help="copy a profile's finished notebooks into the book")
    staging.add_argument("profile", help="the name of a file in config/")
    staging.add_argument("--results", default="results", help="the folder that holds the results")
    publishing = commands.add_parser("publish", help="keep the small results of a profile in the repository")
    publishing.add_argument("profile", help="the name of a file in config/")
    publishing.add_argument("--results", default="results", help="the folder that holds the results")
    checking = commands.add_parser("check", help="compare a run with what was published; fails unless all is equal")
    checking.add_argument("profile", help="the name of a file in config/")
    checking.add_argument("cell", help="the run: task/model/seed<n>")
    checking.add_argument("--results", default="results", help="the folder that holds the results")
    comparing = commands.add_parser("compare", help="show the numbers of two folders of results side by side")
    comparing.add_argument("a", help="a run's or a profile's folder, or one of book/published/")
    comparing.add_argument("b", help="another one")
    archiving = commands.add_parser("archive", help="pack the built book in one file")
    archiving.add_argument("--html", default="_build/html", help="the folder that holds the book")
    archiving.add_argument("--target", default="dist", help="the folder that the file is written to")
    given = parser.parse_args(arguments)
    try:
        if given.command == "seal":
            seal(given.folder, given.notebook)
        elif given.command == "stage":
            chapters = stage_book(given.profile, given.results)
            print(f"Staged {len(chapters)} chapters of the profile {given.profile}.")
        elif given.command == "publish":
            folder = publish(given.profile, given.results)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"Published the profile {given.profile}: {os.path.relpath(folder)}, {size / 1e6:.1f} MB.")
        elif given.command == "compare":
            print(side_by_side(given.a, given.b))
        elif given.command == "archive":
            path = write_archive(given.html, given.target)
            print(f"The book in one file: {os.path.relpath(path)}, {path.stat().st_size / 1e6:.1f} MB.")
        else:
            return _check(given.profile, given.cell, given.results)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 1
    return 0


def _check(profile: str, cell: str, results: str) -> int:
    """Say how each stage of a run compares with the published one."""
    compared = compare(profile, cell, results)
    for comparison in compared:
        detail = f" ({comparison.detail})" if comparison.detail else ""
        print(f"{comparison.stage:14}{comparison.outcome}{detail}")
    if all(comparison.outcome == EQUAL for comparison in compared):
        print(f"{cell}: every number is the published one, to the last digit.")
        return 0
    print(f"{cell}: not all numbers are those in {os.path.relpath(folder_of(profile))}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
