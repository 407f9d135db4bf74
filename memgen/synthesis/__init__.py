"""All runs of a profile together: numbers over seeds, what was to be reached, and a verdict on each claim."""

from memgen.synthesis.claims import Condition, claims, verdict
from memgen.synthesis.summary import (
    HEADLINE,
    METHODS,
    depth,
    headline,
    over_seeds,
    reach,
    run_names,
    steering_rates,
    with_controls,
)

__all__ = [
    "HEADLINE",
    "METHODS",
    "Condition",
    "claims",
    "depth",
    "headline",
    "over_seeds",
    "reach",
    "run_names",
    "steering_rates",
    "verdict",
    "with_controls",
]
