"""Published results where a profile has none."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from memgen.config import InputError


def or_published(
    frame: pd.DataFrame, shelves: Iterable[Any], find: Callable[[Any], pd.DataFrame]
) -> tuple[pd.DataFrame, str]:
    """The profile's rows; where it has none, the first that `find` finds in a shelf, with a sentence that says so.

    `shelves` are :class:`memgen.published.Published`. The sentence is empty for the profile's rows, which stay empty
    where nothing is published either.
    """
    for shelf in shelves if frame.empty else ():
        with contextlib.suppress(InputError):  # it has no such table
            published = find(shelf)
            if len(published):
                return published, f" {shelf.label}."
    return frame, ""
