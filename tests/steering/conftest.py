"""What the tests of steering share: subjects with other positions, a planted shift, trials on the planted model."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations
from memgen.steering import outcomes
from memgen.steering.interventions import Intervention
from memgen.steering.trials import Trials

SHAPE = (2, 32)


def with_n_tokens(setting, n_tokens):
    """The setting's subject, steered at the last `n_tokens` prompt tokens."""
    return dataclasses.replace(setting.subject, n_tokens=n_tokens)


def adding(subject, site, shift):
    """The context that adds ``shift[layer]`` at the last ``subject.n_tokens`` prompt tokens of a batch and after."""

    def context(batch):
        where = batch.from_end(subject.n_tokens)[..., None]
        return activations.edit(
            subject.model,
            [activations.Edit(site, layer, lambda h, v=vector: h + where * v) for layer, vector in enumerate(shift)],
        )

    return context


def ragged(setting):
    """Conflict inputs of three lengths, so that batches are padded."""
    frame = setting.frame[setting.frame.kind == "conflict"].iloc[:9].copy()
    frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
    return frame


def planted_shift(planted, value):
    """A shift of the dimension that decides."""
    vectors = torch.zeros(SHAPE)
    vectors[planted.dimension] = value
    return vectors


def same(shift, _rng):
    return shift


def nothing(shift, _rng):
    return shift * 0


def compare(trials, shifts, target, controls, rng):
    """Rates and net effects of shifts of the residual stream, by `trial`."""
    (compared,) = trials.compare("resid_post", [(shifts, target, controls, rng)])
    return outcomes.summary(compared, ["trial"])


def value(tried, measure, control=None):
    """The values of a measure of shifts, or of a control, in the order of the trials."""
    rows = tried[tried.measure == measure]
    return rows[rows.control.isna() if control is None else rows.control == control].value.to_list()


@pytest.fixture
def shift():
    """A vector for each of two layers of width 32."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def shifts():
    """Seven shifts of width 32: of the first layer, of the last, of both, and of none."""
    drawn = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(3))
    drawn[1, 0], drawn[2, 1], drawn[3], drawn[4, :, 5:] = 0, 0, 0, 0
    return drawn


@pytest.fixture
def trials(planted):
    return Trials.on(planted.subject, planted.frame, n_draws=2)


@pytest.fixture
def single_answer(planted, trials):
    """The planted inputs with kinds: half of each behaviour are conflicts, half have one right answer, and get it."""
    frame, label = planted.frame.copy(), trials.before.behavior
    half = np.arange(len(frame)) % 4 < 2
    frame.loc[half & (label == 1), ["kind", "answer_generalization"]] = ["memorized_only", None]
    frame.loc[half & (label == -1), ["kind", "answer_memorization"]] = ["inferred_only", None]
    return frame


@pytest.fixture
def neurons():
    """A table of neurons of the small models, at two sites."""
    tables = []
    for site, width in (("resid_post", 32), ("mlp.hook_post", 128)):
        places = pd.MultiIndex.from_product([[site], [0, 1], range(width)], names=["site", "layer", "neuron"])
        r = np.random.default_rng(1).uniform(-1, 1, len(places))
        tables.append(places.to_frame(index=False).assign(r=r, nmd=2 * r))
    return pd.concat(tables, ignore_index=True)


def intervention(site, memorization, n_tokens=1):
    """A vector, and its opposite towards generalization."""
    return Intervention(site, n_tokens, memorization, -memorization)
