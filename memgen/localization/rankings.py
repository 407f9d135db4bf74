"""Rankings of neurons: their picture, how far two agree, and the sets of neurons at their ends."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

RANKINGS = ("r", "nmd", "attribution")


@dataclasses.dataclass(frozen=True)
class Units:
    """Neurons of one site.

    Attributes
    ----------
    site
        Where (:data:`memgen.activations.SITES`).
    chosen
        Which neurons: truth values [n_layer, d].
    about
        What these are; columns of the resulting tables.
    """

    site: str
    chosen: np.ndarray
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def ranked(table: pd.DataFrame, max_columns: int = 256) -> pd.DataFrame:
    """The table for the heat map: `site, layer, rank, nmd`, neurons sorted by NMD within their layer.

    Where a layer has more than `max_columns` neurons, neighbours in rank are averaged.
    """
    frame = table[["site", "layer", "nmd"]].copy()
    size = frame.groupby(["site", "layer"]).nmd.transform("size")
    order = frame.groupby(["site", "layer"]).nmd.rank(method="first").sub(1)
    frame["rank"] = (order * np.minimum(size, max_columns) // size).astype(int)
    return (
        frame.groupby(["site", "layer", "rank"], as_index=False, sort=False)
        .nmd.mean()
        .sort_values(["site", "layer", "rank"], ignore_index=True)
    )


def agreement(table: pd.DataFrame, one: str, other: str, share: float) -> pd.DataFrame:
    """How far two rankings by absolute value agree: `site, spearman, overlap` of their top `share`, `neurons`."""
    rows = []
    for site, own in table.groupby("site"):
        a, b = own[one].abs(), own[other].abs()
        n = count(share, len(own))
        overlap = len(set(a.nlargest(n).index) & set(b.nlargest(n).index)) / n
        rows.append({"site": site, "spearman": a.corr(b, method="spearman"), "overlap": overlap, "neurons": len(own)})
    return pd.DataFrame(rows)


def count(share: float, n_units: int) -> int:
    """The number of neurons in a share of them, at least one."""
    return max(1, round(share * n_units))


def choose_units(
    table: pd.DataFrame, site: str, ranking: str, end: str, share: float, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Mark a share of a site's neurons, over all its layers: truth values [n_layer, d].

    Parameters
    ----------
    table
        Columns `site, layer, neuron` and `ranking`.
    end
        ``top`` or ``bottom`` of the ranking by absolute value, or ``random``, which needs `rng`.

    Raises
    ------
    ValueError
        For another `end`.
    """
    own = table[table.site == site].sort_values(["layer", "neuron"])
    n = count(share, len(own))
    if end == "random" and rng is not None:
        chosen = rng.permutation(len(own))[:n]
    elif end in ("top", "bottom"):
        order = np.argsort(-own[ranking].abs().to_numpy(), kind="stable")
        chosen = order[:n] if end == "top" else order[-n:]
    else:
        raise ValueError(f"end must be top, bottom, or random with a generator, not {end!r}.")
    marked = np.zeros(len(own), dtype=bool)
    marked[chosen] = True
    return marked.reshape(own.layer.nunique(), -1)


def sets_of_units(
    table: pd.DataFrame,
    sites: Sequence[str],
    shares: Sequence[float],
    rng: np.random.Generator,
    rankings: Sequence[str] = RANKINGS,
    ends: Sequence[str] = ("top", "bottom"),
    n_random: int = 3,
) -> list[Units]:
    """The sets that exact patching looks at, about `ranking, end, share, draw`.

    Random sets stand once, not once a ranking: their `ranking` is ``random``.
    """
    sets = []
    for site in sites:
        for share in shares:
            for ranking in rankings:
                for end in ends:
                    about = {"ranking": ranking, "end": end, "share": share, "draw": 0}
                    sets.append(Units(site, choose_units(table, site, ranking, end, share), about))
            for draw in range(n_random):
                about = {"ranking": "random", "end": "random", "share": share, "draw": draw}
                sets.append(Units(site, choose_units(table, site, "", "random", share, rng), about))
    return sets
