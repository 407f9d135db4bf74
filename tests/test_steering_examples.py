"""Examples are taken blindly, and what they show is what the model and the intervention do."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior, steering
from memgen.behavior import NAMES

SITE = "mlp.hook_post"


@pytest.fixture
def intervention(stories):
    shape = (len(activations.blocks(stories.model)), activations.width(stories.model, SITE))
    vectors = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return steering.Intervention(SITE, 1, *vectors)


@pytest.fixture
def inputs(stories):
    frame = stories.frame[stories.frame.kind == "conflict"]
    return frame[frame.answer_memorization != frame.answer_generalization].iloc[:8]


class TestProbabilities:
    def test_are_those_of_the_next_token_under_the_scaled_vector(self, stories, intervention, inputs):
        """Computed anew: one prompt at a time, with a vector that is scaled beforehand."""
        told = steering.answer_probabilities(stories.model, inputs, stories.tokenizer, intervention, (-0.5, 0.0, 1.0))
        told = told.set_index(["input", "alpha"])
        for row in inputs.itertuples():
            for alpha, shift in (
                (-0.5, 0.5 * intervention.generalization),
                (0.0, 0 * intervention.memorization),
                (1.0, intervention.memorization),
            ):
                (batch,) = behavior.prepare(stories.model, inputs.loc[[row.Index]], stories.tokenizer)
                with steering.adding(stories.model, SITE, shift, 1)(batch), torch.no_grad():
                    logits = behavior.run(stories.model, batch)[0, int(batch.prompt_length[0]) - 1]
                p = logits.double().softmax(-1)
                for name in ("memorization", "generalization"):
                    token = stories.tokenizer(getattr(row, f"answer_{name}"), add_special_tokens=False).input_ids[0]
                    assert told.loc[(row.Index, alpha), f"p_{name}"] == pytest.approx(float(p[token]), abs=1e-5)

    def test_sum_to_one_and_agree_with_the_behavior(self, stories, intervention, inputs):
        told = steering.answer_probabilities(stories.model, inputs, stories.tokenizer, intervention)
        assert len(told) == len(inputs) * len(steering.ALPHAS) == len(inputs) * 21
        shares = told[["p_memorization", "p_generalization", "p_other"]]
        assert shares.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
        assert shares.min().min() >= 0
        sure = told[shares[["p_memorization", "p_generalization"]].max(axis=1) > 0.5]
        larger = np.where(sure.p_memorization > sure.p_generalization, "memorization", "generalization")
        assert (sure.behavior == larger).all()

    def test_strength_zero_is_the_model_left_alone(self, stories, intervention, inputs):
        told = steering.answer_probabilities(stories.model, inputs, stories.tokenizer, intervention)
        plain = behavior.measure(stories.model, behavior.prepare(stories.model, inputs, stories.tokenizer))
        at_zero = told[told.alpha == 0].set_index("input")
        assert (at_zero.behavior == plain.behavior.map(NAMES)).all()
        assert np.array_equal(at_zero.p_memorization, np.exp(plain.log_p_memorization))


class TestChoice:
    def frame(self, **columns):
        n = 24
        return pd.DataFrame(
            {
                "evidence": np.tile([1, 2, 3], n // 3),
                "memorized_share": 0.5,
                "group": [f"g{i // 6}" for i in range(n)],
                "variant_of": [-1, -1, -1, 0, 1, 2] * (n // 6),
                **columns,
            },
            index=100 + np.arange(n),
        )

    def test_takes_every_level_alike_and_no_variants(self):
        frame = self.frame()
        chosen = steering.first_of_levels(frame, 6)
        assert chosen.evidence.value_counts().to_dict() == {1: 2, 2: 2, 3: 2}
        assert (chosen.variant_of < 0).all()
        assert set(chosen.group) == {"g0", "g1"}  # the first two of each level, from different groups
        assert chosen.index.is_monotonic_increasing

    def test_levels_are_shares_where_evidence_does_not_vary(self):
        frame = self.frame(evidence=1, memorized_share=np.repeat([0.1, 0.9], 12))
        assert steering.first_of_levels(frame, 4).memorized_share.value_counts().to_dict() == {0.1: 2, 0.9: 2}

    def test_does_not_depend_on_answers_and_takes_all_where_there_are_few(self):
        frame = self.frame()
        other = frame.assign(answer_memorization="x", behavior=np.arange(24))
        assert steering.first_of_levels(frame, 5).index.equals(steering.first_of_levels(other, 5).index)
        assert len(steering.first_of_levels(frame, 100)) == (frame.variant_of < 0).sum()
