"""``python -m memgen.report seal DIR NOTEBOOK`` and ``python -m memgen.report stage PROFILE``."""

import argparse
import sys

from memgen.config import InputError
from memgen.report.book import seal, stage_book


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m memgen.report", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sealing = commands.add_parser("seal", help="put an executed notebook beside the results that it made")
    sealing.add_argument("folder", help="the stage's folder below results/")
    sealing.add_argument("notebook", help="what papermill wrote")
    staging = commands.add_parser("stage", help="copy a profile's finished notebooks into the book")
    staging.add_argument("profile", help="the name of a file in config/")
    staging.add_argument("--results", default="results", help="the folder that holds the results")
    given = parser.parse_args(arguments)
    try:
        if given.command == "seal":
            seal(given.folder, given.notebook)
        else:
            chapters = stage_book(given.profile, given.results)
            print(f"Staged {len(chapters)} chapters of the profile {given.profile}.")
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
