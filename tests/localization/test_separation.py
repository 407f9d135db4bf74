"""Effect sizes of layers: right where the truth is known, and not a function of the number of groups."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from memgen import behavior
from memgen.localization import separation
from memgen.localization.separation import pair_auroc, pair_differences, pair_distance, variant_pairs


def pairs_of(groups):
    return pd.DataFrame({"group": groups.astype(str)})


def drawn(rng, n_groups, effect):
    """Differences [pairs, 1 layer, 8 neurons] of groups of 5 pairs; the first neuron differs by `effect`."""
    differences = rng.normal(size=(5 * n_groups, 1, 8))
    differences[:, 0, 0] += effect
    return {"site": differences}, np.arange(5 * n_groups) // 5


def test_differences_are_in_the_order_of_the_pairs(planted, planted_pairs):
    differences = pair_differences(
        dataclasses.replace(planted.subject, batch_size=7), planted.frame, planted_pairs, ["mlp.hook_post"]
    )
    layer, neuron = planted.neuron
    assert differences["mlp.hook_post"].shape == (len(planted_pairs), 2, 128)
    assert (differences["mlp.hook_post"][:, layer, neuron] > 0).all()  # it writes what memorization reads


def test_the_planted_model_tells_unseen_pairs_at_every_layer(planted, planted_pairs, rng):
    halves = [planted_pairs[:30], planted_pairs[30:]]
    training, held_out = (pair_differences(planted.subject, planted.frame, half, ["resid_post"]) for half in halves)
    table = pair_auroc(training, held_out, halves[1], rng, n_draws=100).set_index(["layer", "measure"])
    for layer in (0, 1):
        assert table.value[layer, "pair_auroc"] > 0.95
        assert table.ci_low[layer, "pair_auroc"] > 0.5
        assert table.value[layer, "null_pair_auroc"] == pytest.approx(0.5, abs=0.1)
    assert (table.n == 30).all()


def test_it_is_scikit_learns_auroc_of_ordered_and_exchanged_differences(rng, monkeypatch):
    monkeypatch.setattr(separation, "fisher_direction", lambda pairs: pairs.mean(0))
    training, _ = drawn(rng, 20, 1.0)
    held_out, groups = drawn(rng, 10, 1.0)
    table = pair_auroc(training, held_out, pairs_of(groups), rng, 10)
    scores = held_out["site"][:, 0] @ training["site"][:, 0].mean(0)
    expected = roc_auc_score(np.repeat([1, 0], 50), np.concatenate([scores, -scores]))
    assert table.value[0] == pytest.approx(expected)


def test_it_does_not_grow_with_the_number_of_groups(rng):
    auroc = []
    for n_groups in (40, 640):
        training, _ = drawn(rng, n_groups, 0.5)
        held_out, held_out_groups = drawn(rng, 400, 0.5)
        auroc.append(pair_auroc(training, held_out, pairs_of(held_out_groups), rng, 2).value[0])
    assert auroc[1] == pytest.approx(auroc[0], abs=0.05)


def test_where_nothing_differs_the_interval_holds_one_half(rng):
    """In 40 draws about 2 intervals miss."""
    missed = 0
    for _ in range(40):
        training, _ = drawn(rng, 20, 0.0)
        held_out, groups = drawn(rng, 15, 0.0)
        observed = pair_auroc(training, held_out, pairs_of(groups), rng, 2).iloc[0]
        missed += not observed.ci_low <= 0.5 <= observed.ci_high
    assert missed <= 6


def test_without_held_out_pairs_there_is_no_value(planted, planted_pairs, rng):
    training, held_out = (
        pair_differences(planted.subject, planted.frame, pairs, ["resid_post"])
        for pairs in (planted_pairs, planted_pairs[:0])
    )
    table = pair_auroc(training, held_out, planted_pairs[:0], rng, 10)
    assert table.value.isna().all()
    assert (table.n == 0).all()


class TestPairDistance:
    SITES = ("resid_post", "mlp.hook_post")

    @pytest.fixture
    def labelled(self, setting):
        """Every fourth variant shows what its original shows, every fourth the opposite, the others another answer."""
        labels = pd.Series(1, index=setting.frame.index)
        variants = setting.frame.index[setting.frame.variant_of >= 0]
        labels[variants] = np.resize([1, -1, 0, 0], len(variants))
        return setting, labels, variants

    def test_pairs_are_conflicts_with_their_variants(self, labelled):
        setting, labels, variants = labelled
        pairs = variant_pairs(setting.frame, labels)
        assert pairs.variant.to_list() == [variant for i, variant in enumerate(variants) if i % 4 < 2]
        assert (pairs.original == setting.frame.variant_of[pairs.variant].to_numpy()).all()
        assert pairs.pairs.to_list() == ["flip" if labels[variant] < 0 else "same" for variant in pairs.variant]
        assert (pairs.group == setting.frame.group[pairs.variant].to_numpy()).all()
        flips = behavior.flip_pairs(setting.frame, labels)
        assert set(flips.generalization) == set(pairs.variant[pairs.pairs == "flip"])

    def test_distances_are_those_of_the_states_over_that_of_any_two_members(self, labelled):
        setting, labels, _ = labelled
        pairs = variant_pairs(setting.frame, labels)
        table = pair_distance(dataclasses.replace(setting.subject, batch_size=3), setting.frame, pairs, self.SITES)
        for site in self.SITES:
            states = behavior.states(setting.subject, setting.frame, [site])[site].astype(float)
            for layer in (0, 1):
                first, second = (states[pairs[member], layer] for member in ("original", "variant"))
                members = np.concatenate([first, second])
                of_two = np.sqrt(((members[:, None] - members[None]) ** 2).sum(-1).mean())
                distances = np.linalg.norm(first - second, axis=1) / of_two
                for name in ("flip", "same"):
                    (row,) = table.query("site == @site and layer == @layer and pairs == @name").itertuples()
                    assert row.value == pytest.approx(distances[pairs.pairs == name].mean(), rel=1e-3)
                    assert row.n == (pairs.pairs == name).sum()

    def test_where_the_variant_flips_the_members_lie_further_apart(self, planted):
        """Of the planted model all variants flip; an input beside itself is a pair that does not."""
        variants = planted.frame[planted.frame.variant_of >= 0]
        flips = pd.DataFrame(
            {"original": variants.variant_of, "variant": variants.index, "group": variants.group, "pairs": "flip"}
        )
        pairs = pd.concat([flips, flips.assign(variant=flips.original, pairs="same")], ignore_index=True)
        table = pair_distance(planted.subject, planted.frame, pairs, self.SITES).set_index(["site", "layer", "pairs"])
        assert (table.value[:, :, "same"] == 0).all()
        assert (table.ci_low[:, :, "flip"] > 0.9).all()
