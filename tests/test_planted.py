"""Planted memory, on tiny models where everything about it can be told."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior, planted
from memgen.config import AnalysisConfig, PlantedConfig

CONFIG = PlantedConfig(ranks=(2,), steps=3, batch_size=8)


@pytest.fixture
def base(stories):
    """Each architecture with the conflicts of stories."""
    return dataclasses.replace(stories, frame=stories.frame[stories.frame.kind == "conflict"])


def weights(subject):
    """The model's weights by name, with what adapters add to them left out."""
    return {name.replace(".base_layer", ""): value for name, value in subject.model.state_dict().items()}


@pytest.mark.parametrize("site", planted.SITES)
def test_one_block_changes_and_switching_off_undoes_it_exactly(base, site):
    subject, frame = base.subject, base.frame
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    model = planted.plant(subject, frame, site, 1, 2, CONFIG, np.random.default_rng(0))
    batches = behavior.prepare(subject, frame)

    def scores():
        return behavior.measure(model.subject, batches).log_odds.to_numpy()

    assert model.n_steps == CONFIG.steps
    unchanged = behavior.measure(subject, batches).log_odds.to_numpy()
    assert not np.allclose(scores(), unchanged)
    with model.adapter.disable_adapter():
        assert np.array_equal(scores(), unchanged)
    assert not np.allclose(scores(), unchanged), "it is switched on again"
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    adapters = {name for name in model.subject.model.state_dict() if "lora_" in name}
    layers = planted.linear_layers(subject, site, 1)
    assert {name.partition(".lora_")[0] for name in adapters} == set(layers)
    kept = {name: value for name, value in weights(model.subject).items() if "lora_" not in name}
    assert kept.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in kept.items())


def test_the_generator_decides_all(base):
    scores = []
    for seed in (0, 0, 1):
        model = planted.plant(base.subject, base.frame, "mlp_out", 0, 1, CONFIG, np.random.default_rng(seed))
        scores.append(behavior.measure(model.subject, behavior.prepare(model.subject, base.frame)).log_odds.to_numpy())
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_every_block_gets_a_score_from_every_localizer(base):
    scores = planted.score_blocks(base.subject, base.frame, base.pairs, np.random.default_rng(0))
    counts = scores.groupby("ranking").size()
    assert (counts == 2 * base.subject.n_layer).all()
    assert len(counts) == 4
    assert np.isfinite(scores.score).all()


def test_a_block_that_adds_nothing_that_differs_is_not_found(base):
    """Where a block's output is the same for every input, no localizer may point at it."""
    subject = dataclasses.replace(base.subject, model=copy.deepcopy(base.subject.model))
    for parameter in activations.blocks(subject.model)[1].mlp.parameters():
        parameter.data.zero_()
    scores = planted.score_blocks(subject, base.frame, base.pairs, np.random.default_rng(0))
    dead = scores[(scores.site == "mlp_out") & (scores.layer == 1)].set_index("ranking").score
    assert dead[["r", "nmd", "summed_attribution"]].abs().max() == 0


def test_a_find_is_the_highest_score_alone():
    blocks = [("attn_out", 0), ("attn_out", 1), ("mlp_out", 0), ("mlp_out", 1)]
    values = {"right": [0.1, 0.2, 0.9, 0.3], "second": [0.1, 0.95, 0.9, 0.3], "tie": [0.9, 0.1, 0.9, 0.1]}
    rows = [(name, *place, score) for name, of in values.items() for place, score in zip(blocks, of, strict=True)]
    found = planted.find(pd.DataFrame(rows, columns=["ranking", "site", "layer", "score"]), "mlp_out", 0)
    found = found.set_index("ranking")
    assert found.found.to_dict() == {"right": 1, "second": 0, "tie": 0}
    assert found.place.to_dict() == {"right": 1, "second": 2, "tie": 2}
    assert (found.found_site["second"], found.found_layer["second"]) == ("attn_out", 1)
    assert (found.n_blocks == 4).all()


def test_parts_share_no_conflict_and_keep_variants_together(base):
    parts = planted.parts(base.frame, np.random.default_rng(0))
    rows = pd.concat(parts)
    assert rows.index.is_unique
    assert (rows.kind == "conflict").all()
    for part in parts:
        variants = part[part.variant_of >= 0]
        assert variants.variant_of.isin(part.index).all()


def test_a_base_infers_and_was_kept():
    trajectory = pd.DataFrame(
        {
            "step": [10, 20, 30, 40],
            "kept": [True, False, True, True],
            "conflict_memorization": [0.0, 0.0, 0.05, 0.3],
            "conflict_generalization": [0.2, 0.9, 0.8, 0.6],
        }
    )
    assert planted.first_that_infers(trajectory) == 30
    assert planted.first_that_infers(trajectory[:2]) is None


def test_rates_are_means_over_blocks():
    values = [("attn_out", 0, 1, 0.2), ("attn_out", 0, 4, 0.4), ("mlp_out", 0, 1, 0.9)]
    undone = pd.DataFrame(values, columns=["site", "layer", "rank", "value"])
    undone = undone.assign(method="study", control=np.nan, measure="reached")
    (rate,) = planted.undone_rates(undone).to_dict("records")
    assert rate["value"] == pytest.approx(0.6)
    assert rate["n"] == 2


def test_memory_is_planted_looked_for_and_undone(base):
    """The whole of it; with a model that hardly infers, what counts is that every table is there and of its size."""
    config = PlantedConfig(ranks=(4,), steps=40, batch_size=32)
    analysis = AnalysisConfig(top_fractions=(0.5,), alphas=(4.0,), sweep_rows=8, sweep_draws=1, random_draws=1)
    thirds = [base.frame] * 3
    tables = planted.examine(base.subject, thirds, ("mlp_out", 1, 4), config, analysis, np.random.default_rng(0))
    assert (tables["planted"][["memorization", "generalization", "other"]].sum(axis=1) == 1).all()
    if len(tables) > 1:
        assert len(tables["found"]) == 4
        assert set(tables["undone"].method) == {"adapter off", "study"}
