"""Streamed sums against scipy, and a planted neuron against shuffled labels."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from memgen import behavior, intervals
from memgen.localization.differences import PairStatistics, accumulate, neuron_table, null_selection

SITES = ("resid_post", "mlp.hook_post")


def streamed(plus, minus, groups, splits=()):
    statistics = PairStatistics(plus.shape[1], groups.max() + 1)
    for part in np.split(np.arange(len(plus)), list(splits)):
        statistics.update(plus[part], minus[part], groups[part])
    return statistics


@pytest.fixture
def states(rng):
    """Pairs in six groups; units that differ, do not, never vary, and vary little about a large mean."""
    plus, minus = rng.normal(size=(2, 83, 4))
    plus[:, 0] += 0.7
    plus[:, 2] = minus[:, 2] = 0.1
    plus[:, 3], minus[:, 3] = 1e5 + plus[:, 3], 1e5 + minus[:, 3]
    return plus, minus, np.append(np.arange(6), rng.integers(6, size=77))


def two_pass(plus, minus):
    difference, label = plus - minus, np.repeat([1, -1], len(plus))
    r = [scipy.stats.pearsonr(label, unit).statistic if np.ptp(unit) else 0 for unit in np.concatenate([plus, minus]).T]
    return {"nmd": difference.mean(0), "r": r}


def assert_equal(drawn, plus, minus):
    for name, expected in two_pass(plus, minus).items():
        assert drawn[name] == pytest.approx(np.asarray(expected), rel=1e-6, abs=1e-9), name


class TestPairStatistics:
    def test_equal_the_two_pass_formulas_however_the_pairs_are_split(self, states, rng):
        plus, minus, groups = states
        for splits in ([1, 80], np.arange(1, 83), *(np.sort(rng.integers(1, 83, size=5)) for _ in range(5))):
            statistics = streamed(plus, minus, groups, splits)
            assert_equal(statistics.nmd_and_r(), plus, minus)
            assert statistics.n_pairs == 83

    def test_signs_exchange_the_members_of_groups(self, states):
        plus, minus, groups = states
        signs = np.array([1, -1, -1, 1, 1, -1])
        swap = (signs[groups] < 0)[:, None]
        members = np.where(swap, minus, plus), np.where(swap, plus, minus)
        assert_equal(streamed(plus, minus, groups, [20]).nmd_and_r(signs), *members)

    def test_by_hand(self):
        drawn = streamed(np.array([[3.0], [5.0]]), np.array([[1.0], [1.0]]), np.array([0, 0])).nmd_and_r()
        assert drawn["nmd"].item() == pytest.approx(3)  # differences 2 and 4
        assert drawn["r"].item() == pytest.approx(6 / np.sqrt(4 * 11))  # members 3 5 1 1: squares 11 about 2.5


def test_accumulate_joins_states_pairs_and_groups(setting):
    pairs = setting.pairs.sample(frac=1, random_state=np.random.default_rng(1))
    accumulated = accumulate(dataclasses.replace(setting.subject, batch_size=5), setting.frame, pairs, SITES)
    states = behavior.states(setting.subject, setting.frame, SITES)
    for site in SITES:
        flat = states[site].reshape(len(setting.frame), -1)
        differences = flat[pairs.memorization] - flat[pairs.generalization]
        for group, name in enumerate(sorted(set(pairs.group))):
            rows = pairs.group.to_numpy() == name
            assert accumulated[site].group_sums[group] == pytest.approx(differences[rows].sum(0), abs=1e-3)
        assert accumulated[site].n_pairs == len(pairs)


def test_the_table_names_each_neuron_and_tests_and_shuffles_by_group(accumulated):
    table = neuron_table(accumulated, 2, np.random.default_rng(3), np.random.default_rng(5), 500)
    assert table.groupby(["site", "layer"]).size().to_dict() == {
        ("resid_post", 0): 32, ("resid_post", 1): 32, ("mlp.hook_post", 0): 128, ("mlp.hook_post", 1): 128,
    }  # fmt: skip
    neuron = table.query("site == 'mlp.hook_post' and layer == 1 and neuron == 3").iloc[0]
    assert neuron.nmd == accumulated["mlp.hook_post"].nmd_and_r()["nmd"][128 + 3]
    rng = np.random.default_rng(3)
    p = [intervals.sign_flip_p(accumulated[site].group_sums, rng, 500) for site in SITES]
    assert np.array_equal(table.p_value, np.concatenate(p))
    assert table.q_value.to_numpy() == pytest.approx(scipy.stats.false_discovery_control(np.concatenate(p)))
    signs = np.random.default_rng(5).choice([-1.0, 1.0], size=30)  # of all sites
    drawn = [accumulated[site].nmd_and_r(signs) for site in SITES]
    for name in ("nmd", "r"):
        assert np.array_equal(table[f"{name}_shuffled"], np.concatenate([values[name] for values in drawn]))
    assert table.r_shuffled.abs().mean() < table.r.abs().mean() / 2


@pytest.mark.parametrize("site", SITES)
def test_the_planted_neuron_is_first_in_every_ranking(planted, table, site):
    neurons = table[table.site == site]
    planted_at = planted.dimension if site == "resid_post" else planted.neuron
    for ranking in ("nmd", "r", "attribution"):
        first = neurons.loc[neurons[ranking].abs().idxmax()]
        assert (first.layer, first.neuron) == planted_at, ranking
        assert first[ranking] > 0  # it speaks for memorization
        assert first.q_value < 0.05


class TestShuffled:
    """The members of each pair change places at random: nothing is left to be found."""

    N_SHUFFLES = 40

    @pytest.fixture
    def members(self, planted, planted_pairs):
        states = {name: behavior.states(planted.subject, planted.frame.loc[planted_pairs[name]], SITES)
                  for name in ("memorization", "generalization")}  # fmt: skip
        flat = [np.concatenate([by_site[site].reshape(60, -1) for site in SITES], 1) for by_site in states.values()]
        return *flat, np.unique(planted_pairs.group, return_inverse=True)[1]

    def test_error_rates_stay_at_the_stated_level(self, members):
        plus, minus, groups = members
        tables = []
        for seed in range(self.N_SHUFFLES):
            rng = np.random.default_rng(seed)
            swap = rng.integers(2, size=(len(plus), 1)).astype(bool)
            shuffled = {"all": streamed(np.where(swap, minus, plus), np.where(swap, plus, minus), groups)}
            tables.append(neuron_table(shuffled, 1, rng, rng, 2000))
        # With no true difference every discovery is false, so runs with any are about 2 of 40.
        limit = scipy.stats.binom.ppf(0.99, self.N_SHUFFLES, 0.05)
        assert sum((table.q_value < 0.05).any() for table in tables) <= limit
        assert 0.02 < pd.concat(tables).p_value.lt(0.05).mean() < 0.08

    def test_the_same_procedure_finds_what_is_there(self, members, rng):
        table = neuron_table({"all": streamed(*members)}, 1, rng, rng, 2000)
        assert (table.q_value < 0.05).mean() > 0.5


class TestNullSelection:
    def test_nothing_comes_out_although_there_is_much_to_find(self, accumulated, rng):
        null = null_selection(accumulated, rng, 2000, n_draws=60).set_index(["site", "measure"])
        assert null.value["all", "null_any_selected"] <= scipy.stats.binom.ppf(0.99, 60, 0.05) / 60
        assert null.value["all", "null_selected_share"] < 0.05
        assert (null.n == 60).all()
        assert set(null.index.get_level_values("site")) == {*accumulated, "all"}

    def test_the_rate_of_a_single_neuron_is_its_p_value(self, rng):
        """Sums of 1, 2 and 4: of the eight draws of signs, two are as far from zero as the labels +++ are."""
        statistics = PairStatistics(1, 3)
        statistics.update(np.array([[1.0], [2.0], [4.0]]), np.zeros((3, 1)), np.arange(3))
        null = null_selection({"site": statistics}, rng, 4000, n_draws=400, level=0.28)
        for row in null.itertuples():  # of one neuron, any is the share
            low, high = scipy.stats.binom.ppf([0.005, 0.995], 400, 0.25) / 400
            assert low <= row.value <= high
            assert row.ci_low < row.value < row.ci_high
