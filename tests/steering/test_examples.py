"""Examples are taken blindly, and what they show is what the model and the intervention do."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior
from memgen.behavior import NAMES
from memgen.steering.examples import DOSES, answer_probabilities, first_of_groups
from memgen.steering.interventions import Intervention, adding

SITE = "mlp.hook_post"


@pytest.fixture
def intervention(stories):
    vectors = torch.randn(2, *stories.subject.shape(SITE), generator=torch.Generator().manual_seed(0))
    return Intervention(SITE, 1, *vectors)


@pytest.fixture
def inputs(stories):
    frame = stories.frame[stories.frame.kind == "conflict"]
    return frame[frame.answer_memorization != frame.answer_generalization].iloc[:8]


class TestProbabilities:
    def test_are_those_of_the_next_token_under_the_scaled_vector(self, stories, intervention, inputs):
        """Computed anew: one prompt at a time, with a vector that is scaled beforehand."""
        found = answer_probabilities(stories.subject, inputs, intervention, (-0.5, 0.0, 1.0))
        found = found.set_index(["input", "dose"])
        for row in inputs.itertuples():
            for dose, shift in (
                (-0.5, 0.5 * intervention.generalization),
                (0.0, 0 * intervention.memorization),
                (1.0, intervention.memorization),
            ):
                (batch,) = behavior.prepare(stories.subject, inputs.loc[[row.Index]])
                with adding(stories.subject, SITE, shift)(batch), torch.no_grad():
                    logits = behavior.run(stories.subject, batch)[0, int(batch.prompt_length[0]) - 1]
                p = logits.double().softmax(-1)
                for name in ("memorization", "generalization"):
                    token = stories.subject.tokenizer(
                        getattr(row, f"answer_{name}"), add_special_tokens=False
                    ).input_ids[0]
                    assert found.loc[(row.Index, dose), f"p_{name}"] == pytest.approx(float(p[token]), abs=1e-5)

    def test_sum_to_one_and_agree_with_the_behavior(self, stories, intervention, inputs):
        found = answer_probabilities(stories.subject, inputs, intervention)
        assert len(found) == len(inputs) * len(DOSES) == len(inputs) * 21
        shares = found[["p_memorization", "p_generalization", "p_other"]]
        assert shares.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
        assert shares.min().min() >= 0
        sure = found[shares[["p_memorization", "p_generalization"]].max(axis=1) > 0.5]
        larger = np.where(sure.p_memorization > sure.p_generalization, "memorization", "generalization")
        assert (sure.behavior == larger).all()

    def test_dose_zero_is_the_model_left_alone(self, stories, intervention, inputs):
        found = answer_probabilities(stories.subject, inputs, intervention)
        plain = behavior.measure(stories.subject, behavior.prepare(stories.subject, inputs))
        at_zero = found[found.dose == 0].set_index("input")
        assert (at_zero.behavior == plain.behavior.map(NAMES)).all()
        assert np.array_equal(at_zero.p_memorization, np.exp(plain.log_p_memorization))

    def test_alternatives_count_together(self, stories, intervention, inputs):
        """Their probability is the sum of theirs, each asked for alone."""
        answers = inputs.answer_memorization.unique()[:2]
        alone = [
            answer_probabilities(stories.subject, inputs.assign(answer_memorization=answer), intervention)
            for answer in answers
        ]
        both = inputs.assign(answer_memorization="|".join(answers))
        found = answer_probabilities(stories.subject, both, intervention)
        np.testing.assert_allclose(found.p_memorization, sum(part.p_memorization for part in alone), atol=1e-5)


def test_the_first_of_each_group_in_turn_and_no_variants():
    index = pd.Index(100 + np.arange(24))
    about = {"group": np.repeat(["g0", "g1", "g2", "g3"], 6), "variant_of": [-1, -1, -1, 0, 1, 2] * 4}
    frame = pd.DataFrame(about, index)
    assert first_of_groups(frame, 6).index.to_list() == [100, 101, 106, 107, 112, 118]
    assert first_of_groups(frame, 4).group.to_list() == ["g0", "g1", "g2", "g3"]
    assert (frame.variant_of[first_of_groups(frame, 100).index] < 0).sum() == 12
