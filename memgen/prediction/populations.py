"""Which inputs a probe is asked about: those where the training texts do not settle the behaviour."""

import pandas as pd


def most_balanced(frame: pd.DataFrame, column: str) -> int:
    """The value of `column` at which the rarer `behavior` is most frequent."""
    rarer = frame.groupby(column).behavior.agg(lambda b: min((b == 1).sum(), (b == -1).sum()))
    return int(rarer.idxmax())


def middle_shares(frame: pd.DataFrame) -> list[float]:
    """The values of `memorized_share` nearest to a half: one above and one below, or a half itself.

    Among inputs with these shares, training showed both answers to each entity in comparable parts. Of addition they
    are the pairs bound in one order only; both orders are in, so that what is bound does not tell the behaviour.
    """
    distance = (pd.Series(frame.memorized_share.unique()) - 0.5).abs().round(6)
    return sorted(pd.Series(frame.memorized_share.unique())[distance == distance.min()])
