"""Where an adapter tells the members of a pair apart: NMD of what the adapted projections put out."""

import numpy as np
import pandas as pd

from memgen import activations
from memgen.localization import differences
from memgen.subject import Subject


def projection_nmd(subject: Subject, frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """NMD over flip pairs of `frame` at every adapted projection: of the base's part of its output, and the adapter's.

    `subject` has its adapter beside its weights (``merge=False``): an adapted projection puts out ``W x + s B A x``.

    Returns
    -------
    pandas.DataFrame
        `projection` (such as ``q_proj``), `part` (``base``: of ``W x``; ``adapter``: of ``s B A x``), `layer, measure,
        value, n` (neurons). Measures are the mean over a layer's neurons of the absolute NMD
        (`projection_nmd`), and the largest one (`projection_largest_nmd`).
    """
    modules = activations.blocks(subject.model)[0].named_modules()
    adapted = {path: layer.scaling["default"] for path, layer in modules if hasattr(layer, "lora_B")}
    parts = {"base": "base_layer", "adapter": "lora_B.default"}
    sites = [f"{path}.{site}" for path in adapted for site in parts.values()]
    accumulated, rows = differences.accumulate(subject, frame, pairs, sites), []
    for path, scale in adapted.items():
        for part, site in parts.items():
            nmd = accumulated[f"{path}.{site}"].nmd_and_r()["nmd"].reshape(subject.n_layer, -1)
            nmd = np.abs(nmd if part == "base" else scale * nmd)
            for measure, values in (("projection_nmd", nmd.mean(1)), ("projection_largest_nmd", nmd.max(1))):
                about = {"projection": path.rpartition(".")[2], "part": part, "measure": measure, "n": nmd.shape[1]}
                rows += [about | {"layer": layer, "value": value} for layer, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["projection", "part", "layer", "measure", "value", "n"])
