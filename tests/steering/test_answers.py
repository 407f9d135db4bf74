"""What an answer is: by hand, and under a shift that writes one."""

import pytest
import torch

from memgen import behavior
from memgen.steering.answers import category, first_tokens, shares
from memgen.steering.interventions import Intervention

from .conftest import adding

STORY = {"Ada", "is", "frog", "Zoe", "red", "teal", "olive"}
COLORS = {"red", "blue", "teal", "olive", "pink"}
SUM = set("345+012+528+164=")
SUMS = {"<mem-1>", "<mem-2>", "(9)", "(4)"}


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("teal", "inferred"),
        ("red", "memorized, in the prompt"),
        ("blue", "memorized, not in the prompt"),
        ("olive", "another answer, in the prompt"),
        ("pink", "another answer, not in the prompt"),
        ("frog", "no answer"),
        (".", "no answer"),
    ],
)
def test_colours_of_a_story(token, expected):
    assert category(token, STORY, {"red", "blue"}, {"teal"}, COLORS) == expected


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("<mem-1>", "memorized"),
        ("<mem-2>", "another tag"),
        ("(9)", "inferred"),
        ("(4)", "another number"),
        ("7", "another number"),
        ("=", "no answer"),
        ("<eos>", "no answer"),
    ],
)
def test_answers_to_a_sum(token, expected):
    assert category(token, SUM, {"<mem-1>"}, {"(9)"}, SUMS) == expected


def test_answers_that_begin_alike():
    assert category("(9)", SUM, {"(9)"}, {"(9)"}, SUMS) == "either"


def test_first_tokens_are_the_most_probable_next_ones(setting):
    """Computed anew: one prompt at a time, without a cache, with the shift as a context of its own."""
    subject, frame = setting.subject, setting.frame.iloc[::9]
    shift = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    found = first_tokens(subject, frame, "resid_post", [shift * 0, shift])
    for column, row in enumerate(frame.itertuples()):
        ids = torch.tensor([list(row.input_ids)])
        (batch,) = behavior.prepare(subject, frame.iloc[[column]].assign(answer_memorization="red"))[:1]
        with torch.no_grad():
            assert found[0, column] == subject.model(ids).logits[0, -1].argmax()
            with adding(subject, "resid_post", shift)(batch):
                assert found[1, column] == behavior.run(subject, batch)[0, int(batch.prompt_length) - 1].argmax()


def test_shares_of_behaviours_before_and_under_a_shift(planted, trials):
    """A shift of what decides makes every answer the target's; `crimson` and `red` are the only answers."""
    vectors = torch.zeros(2, 32)
    vectors[planted.dimension] = 4.0
    frame, labels = planted.frame, trials.before.behavior
    found = shares(planted.subject, frame, labels, {"study": Intervention("resid_post", 1, vectors, -vectors)})
    found["target"] = found.target.fillna("none")
    before = found[found.method == "none"].set_index("category")
    assert before.value["memorized, not in the prompt"] == pytest.approx((labels == 1).mean())
    assert before.value["inferred"] == pytest.approx((labels == -1).mean())
    assert set(before.n) == {len(frame)}
    under = found[found.method == "study"].set_index(["target", "category"])
    assert under.value["memorization", "memorized, not in the prompt"] > 0.95
    assert under.value["generalization", "inferred"] > 0.95
    assert under.n["memorization", "memorized, not in the prompt"] == (labels == -1).sum()
    totals = found.groupby(["method", "target"]).value.sum()
    assert totals.to_list() == pytest.approx([1.0] * 3)
