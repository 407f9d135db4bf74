"""The planted model's inputs as parts."""

import pandas as pd
import pytest

from memgen import behavior


@pytest.fixture
def parts(planted):
    """Two parts of the planted inputs, each with inputs of one right answer; in the second the answers are swapped."""
    labels = behavior.measure(planted.subject, behavior.prepare(planted.subject, planted.frame)).behavior
    conflicts = planted.frame.assign(behavior=labels)
    kinds = {behavior.MEMORIZATION: "memorized_only", behavior.GENERALIZATION: "inferred_only"}
    single = conflicts.assign(variant_of=-1, kind=labels.map(kinds))
    single.loc[labels == behavior.MEMORIZATION, "answer_generalization"] = None
    single.loc[labels == behavior.GENERALIZATION, "answer_memorization"] = None
    frame = pd.concat([conflicts, single.set_index(single.index + len(single))])
    answers = {"answer_memorization": frame.answer_generalization, "answer_generalization": frame.answer_memorization}
    other = {"memorized_only": "inferred_only", "inferred_only": "memorized_only"}
    swapped = frame.assign(**answers, behavior=-frame.behavior, group=frame.group + "'", kind=frame.kind.replace(other))
    group = frame.group.astype(int)
    splits = {"train": group % 5 < 2, "validation": group % 5 == 2, "test": group % 5 > 2}
    made = {
        "first": {split: frame[rows] for split, rows in splits.items()},
        "second": {split: swapped[rows] for split, rows in splits.items()},
    }
    test = made["second"]["test"]
    made["second"]["test"] = test.drop(test[test.kind == "conflict"].index[-7:])  # parts differ in size
    return made
