"""Sweeps try the whole grid, and one rule chooses: in interventions, tables and figures alike."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from memgen.behavior import NAMES, TARGETS
from memgen.config import AnalysisConfig, InputError
from memgen.localization.differences import accumulate, neuron_table
from memgen.steering.controls import controls, random_direction, random_neurons
from memgen.steering.fitting import fit, layer_sets
from memgen.steering.shifts import mean_candidates, mean_difference, study_candidates
from memgen.steering.sweep import COSTS, KEYS, best_trials, choose, frontier, sweep
from memgen.steering.trials import Trials

from .conftest import SHAPE, value

LIMITS = AnalysisConfig()


@pytest.fixture
def both(trials):
    return dict.fromkeys(TARGETS, trials)


class TestSweep:
    @pytest.mark.parametrize("site", ["resid_post", "mlp.hook_post"])
    def test_the_studys_shift_finds_the_neuron(self, planted, planted_pairs, both, site, rng):
        accumulated = accumulate(planted.subject, planted.frame, planted_pairs, [site])
        table = neuron_table(accumulated, SHAPE[0], rng, rng, 100)
        shape = planted.subject.shape(site)
        candidates = {t: study_candidates(table, site, [1, 2], [0.1, 1.0], shape, t) for t in TARGETS}
        found = sweep(both, candidates, site, controls("study", table, site), rng)
        trials = found.tried[KEYS].drop_duplicates()
        assert trials[["target", "candidate", "n_neurons", "alpha", "dose"]].to_numpy().tolist() == [
            [NAMES[target], f"top {n}", n, alpha, 1.0] for target in TARGETS for n in (1, 2) for alpha in (0.1, 1.0)
        ]
        for target in TARGETS:
            chosen = choose(found.tried, target)
            assert chosen.alpha == 1.0
            assert chosen.reached > 0.95
            assert chosen.wrong_way == 0
            first = found.tried[(found.tried.target == NAMES[target]) & (found.tried.trial == 1)]
            assert max(value(first, "reached", "random_neurons") + value(first, "reached", "least_correlated")) < 0.5
            made = found.intervention("study")
            assert torch.equal(made.shift(target), found.shifts[NAMES[target], chosen.trial])

    def test_fitted_shifts_in_every_dose(self, planted, both, rng):
        settings = AnalysisConfig(fit_steps=40)
        labels = both[1].before.behavior
        sets = layer_sets("fitted", SHAPE, [0.1, 0.01], 9)
        candidates = {
            target: fit(
                planted.subject, planted.frame[labels == -target].iloc[:24], "resid_post", sets, target, settings
            )
            for target in TARGETS
        }
        found = sweep(both, candidates, "resid_post", {"random_direction": random_direction}, rng, [0.5, 1.0])
        assert len(found.shifts) == 2 * len(sets) * 2
        trials = found.tried[KEYS].drop_duplicates()
        for row in trials.itertuples():
            label = {"memorization": 1, "generalization": -1}[row.target]
            candidate = candidates[label][row.trial // 2]
            assert (row.candidate, row.penalty) == (candidate.name, candidate.penalty)
            shift = found.shifts[row.target, row.trial]
            assert torch.equal(shift, row.dose * candidate.shift)
            assert row.norm == float(shift.norm())
            assert row.n_neurons == int((shift != 0).sum())
        made = found.intervention("fitted")
        for target, name in NAMES.items():
            if target:
                row = choose(found.tried, target)
                assert row.net > 0.9
                assert (made.how["dose"][name], made.how["penalty"][name]) == (row.dose, row.penalty)
                assert made.how["validation"][name] == row[["reached", "best_control", "net"]].to_dict()
        assert "alpha" not in made.how  # the study's scale and nothing else
        json.dumps(made.how)

    def test_means_find_the_layer(self, planted, both, rng):
        difference = mean_difference(planted.subject, planted.frame, both[1].before.behavior, "resid_post")
        candidates = {target: mean_candidates(difference, target, 9) for target in TARGETS}
        found = sweep(both, candidates, "resid_post", {"random_neurons": random_neurons}, rng, [0.5, 1.0, 2.0])
        assert found.tried.candidate.unique().tolist() == ["layer 0", "layer 1", "all"]
        assert all(choose(found.tried, target).reached > 0.95 for target in TARGETS)

    def test_nothing_was_there_to_be_moved(self, planted, single_answer, rng):
        trials = Trials.make(
            planted.subject, single_answer, pd.Series(1, planted.frame.index), 1, AnalysisConfig(), rng
        )
        candidates = {1: mean_candidates(torch.ones(SHAPE), 1, 9)}
        tried = sweep({1: trials}, candidates, "resid_post", {"random_neurons": random_neurons}, rng).tried
        sentence = "No input showed generalization, so nothing can be chosen that leads to memorization"
        with pytest.raises(InputError, match=sentence):
            choose(tried, 1)


def grid(**columns):
    """Trials of one method towards memorization, in the form of a sweep, from a list of values for each measure."""
    parts = []
    for measure, values in columns.items():
        part = pd.DataFrame({"trial": range(len(values)), "measure": measure, "value": values})
        parts.append(part.assign(ci_low=part.value - 0.1, ci_high=part.value + 0.1, n=512))
    tried = pd.concat(parts, ignore_index=True).assign(method="study", target="memorization", penalty=np.nan, norm=1.0)
    candidate = "top " + (tried.trial // 2).astype(str)
    return tried.assign(candidate=candidate, n_neurons=tried.trial, alpha=1.0, dose=1.0, control=None)


#: The third trial is over each limit, and has the largest net effect.
TRIED = grid(
    reached=[0.148, 0.3, 0.889, 0.6, 0.6],
    best_control=[0.02, 0.29, 0.35, 0.1, 0.1],
    net=[0.128, 0.01, 0.539, 0.5, 0.5],
    other=[0.0, 0.0, 0.04, 0.01, 0.01],
    lost_memorized_only=[0.0, 0.0, 0.1, 0.0, 0.0],
    lost_inferred_only=[0.0, 0.2, 0.7, 0.0, 0.0],
    preferred=[0.1, 0.9, 0.4, 0.2, 0.2],
)


class TestRule:
    def test_the_largest_net_effect_whatever_it_costs(self):
        chosen = choose(TRIED, 1)
        assert chosen.trial == 2
        for measure, limit in (("best_control", LIMITS.max_control), ("other", LIMITS.max_other)):
            assert chosen[measure] > limit
        assert chosen.lost_inferred_only > LIMITS.max_loss

    def test_of_equals_the_likeliest_then_the_first(self):
        equal = TRIED.assign(value=TRIED.value.where(TRIED.measure != "net", 0.5 + 1e-16 * TRIED.trial))
        assert choose(equal, 1).trial == 1
        for of in (["net", "preferred"], ["net"]):
            same = TRIED.assign(value=TRIED.value.where(~TRIED.measure.isin(of), 0.5))
            assert choose(same, 1).trial == {2: 0, 1: 1}[len(of)]

    def test_one_rule_for_every_table(self):
        """What a caption calls preferred is what the rule prefers, also where a limit is exceeded."""
        methods = TRIED.assign(method=TRIED.candidate)
        best = best_trials(methods)
        assert best.trial.to_list() == [0, 2, 4]
        assert best.trial.to_list() == [choose(rows, 1).trial for _, rows in methods.groupby("method")]


class TestFrontier:
    def test_every_trial_against_every_cost_with_intervals(self):
        table = frontier(TRIED)
        assert len(table) == 5 * 4
        assert set(table.cost) == set(COSTS) - {"lost_aligned"}  # no input is of this kind
        wide = TRIED.pivot(index="trial", columns="measure", values="value")
        for row in table.itertuples():
            assert row.value == wide.reached[row.trial]
            assert row.cost_value == wide.loc[row.trial, row.cost]
            assert row.cost_low < row.cost_value < row.cost_high
            assert row.ci_low < row.value < row.ci_high

    def test_the_chosen_trial_is_the_rules_and_others_are_dominated(self):
        table = frontier(TRIED)
        assert set(table[table.is_chosen].trial) == {choose(TRIED, 1).trial}
        against = table[table.cost == "best_control"].set_index("trial")
        assert against.is_frontier.to_dict() == {0: True, 1: False, 2: True, 3: True, 4: False}
