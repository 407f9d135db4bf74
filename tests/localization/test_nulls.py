"""Observed values against their definitions, and null distributions where the truth is known."""

import numpy as np
import pytest
import scipy.stats

from memgen.localization import nulls
from memgen.localization.differences import PairStatistics
from tests.localization.test_differences import streamed


def test_mean_abs_is_that_of_the_layers_neurons_and_r_has_no_scale(rng):
    plus, minus = rng.normal(size=(2, 60, 4))
    plus += 0.5
    groups = np.arange(60) % 6
    tables = {
        scale: nulls.mean_abs({"site": streamed(scale * plus, scale * minus, groups)}, 2, np.random.default_rng(0))
        for scale in (1, 1000)
    }
    for statistic, factor in (("nmd", 1000), ("r", 1)):
        small, large = (table.set_index("statistic").value[statistic].to_numpy() for table in tables.values())
        assert large == pytest.approx(factor * small)
    label = np.repeat([1, -1], 60)
    r = [abs(scipy.stats.pearsonr(label, unit).statistic) for unit in np.concatenate([plus, minus]).T]
    nmd = np.abs((plus - minus).mean(0))
    observed = tables[1].query("measure == 'mean_abs'").set_index("statistic")
    assert observed.value["nmd"].to_list() == pytest.approx([nmd[:2].mean(), nmd[2:].mean()])
    observed = observed.loc["r"]
    assert observed.value.to_list() == pytest.approx([np.mean(r[:2]), np.mean(r[2:])])
    assert (observed.ci_low < observed.value).all() and (observed.value < observed.ci_high).all()
    assert (tables[1].n == 60).all()


def test_the_planted_difference_lies_above_the_null(accumulated, rng):
    table = nulls.mean_abs(accumulated, 2, rng).set_index(["statistic", "site", "layer", "measure"])
    for statistic in ("nmd", "r"):
        for layer in (0, 1):
            at = (statistic, "resid_post", layer)
            assert table.ci_high[*at, "null_mean_abs"] < table.ci_low[*at, "mean_abs"]


class TestNullSelection:
    def test_nothing_comes_out_although_there_is_much_to_find(self, accumulated, rng):
        null = nulls.null_selection(accumulated, rng, 2000, n_draws=60).set_index(["site", "measure"])
        assert null.value["all", "null_any_selected"] <= scipy.stats.binom.ppf(0.99, 60, 0.05) / 60
        assert null.value["all", "null_selected_share"] < 0.05
        assert (null.n == 60).all()
        assert set(null.index.get_level_values("site")) == {*accumulated, "all"}

    def test_the_rate_of_a_single_neuron_is_its_p_value(self, rng):
        """Sums of 1, 2 and 4: of the eight draws of signs, two are as far from zero as the labels +++ are."""
        statistics = PairStatistics(1, 3)
        statistics.update(np.array([[1.0], [2.0], [4.0]]), np.zeros((3, 1)), np.arange(3))
        null = nulls.null_selection({"site": statistics}, rng, 4000, n_draws=400, level=0.28)
        for row in null.itertuples():  # of one neuron, any is the share
            low, high = scipy.stats.binom.ppf([0.005, 0.995], 400, 0.25) / 400
            assert low <= row.value <= high
            assert row.ci_low < row.value < row.ci_high


class TestConcentration:
    def values(self, sums, rng):
        return nulls.concentration({"site": sums}, 9, rng, n_draws=50).set_index(["statistic", "measure"])

    @pytest.mark.parametrize("single", [False, True])
    def test_equal_effects_and_a_single_neuron(self, rng, single):
        sums = np.tile(rng.choice([-2.0, 2.0], 200), (3, 1))
        expected = {"top10": 0.1, "participation": 1}
        if single:
            sums[:, np.arange(200) != 17] = 0.0
            expected = {"top10": 1, "participation": 1 / 200}
        table = self.values(sums, rng)
        for name, value in expected.items():
            assert table.value[name, "concentration"] == pytest.approx(value, abs=1e-9)
            assert 0 <= table.ci_low[name, "concentration"] <= table.ci_high[name, "concentration"] <= 1

    def test_participation_and_the_top_tenth_of_any_effects(self, rng):
        effects = rng.normal(size=(1, 57)) ** 3
        sizes = np.abs(effects[0])
        table = self.values(effects, rng)
        assert table.value["top10", "concentration"] == pytest.approx(np.sort(sizes)[-6:].sum() / sizes.sum())
        participation = sizes.sum() ** 2 / (57 * (sizes**2).sum())
        assert table.value["participation", "concentration"] == pytest.approx(participation)

    def test_sign_flips_take_away_what_groups_share(self, rng):
        """Ten neurons have the same effect in every group; all others have effects as large that change their sign."""
        sums = rng.choice([-1.0, 1.0], size=(100, 300))
        sums[:, :10] = 1.0
        table = self.values(sums, rng)
        assert table.value["top10", "concentration"] > 1.5 * table.ci_high["top10", "null_concentration"]
