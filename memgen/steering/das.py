"""Distributed alignment search: a direction along which one input's state, put into another, changes the behaviour.

A receiver and a source show opposite behaviours and are of different groups. At the last prompt token of a layer, the
receiver's state gets the source's coordinate along a unit vector w, ``h + ((h_source - h) . w) w``, and nothing else of
the source. If w holds the behaviour, the receiver then gives *its own* other answer, not the source's. The direction is
fitted by gradient descent on such interchanges (rank 1: Geiger et al. 2024, arXiv 2303.02536).
"""

import contextlib
import dataclasses
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from memgen import activations, behavior, intervals
from memgen.behavior import NAMES, OTHER, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering.trials import by_group
from memgen.subject import Subject

SITE = "resid_post"


def along(difference: Tensor, direction: Tensor) -> Tensor:
    """The part of differences [n, d] that lies along a unit vector [d]."""
    return (difference @ direction)[:, None] * direction


@dataclasses.dataclass(frozen=True)
class Interchanges:
    """Receivers and what their sources have that they lack.

    Attributes
    ----------
    receivers
        Their inputs, in random order.
    target
        The behaviour of each one's source.
    difference
        Source minus receiver at the last prompt token [receiver layer d].
    batches
        The receivers, with what enters each layer.
    """

    subject: Subject
    receivers: pd.DataFrame
    target: pd.Series
    difference: Tensor
    batches: list[behavior.Batch]

    @classmethod
    def draw(
        cls,
        subject: Subject,
        frame: pd.DataFrame,
        labels: pd.Series,
        n: int,
        rng: np.random.Generator,
        batch_size: int | None = None,
    ) -> Self:
        """At most `n` conflicts with a source each, where there is one; `labels` is the behaviour on the frame.

        They are run in batches of `batch_size`, by default the subject's.
        """
        shown = frame[labels[frame.index] != OTHER]
        label, group, sources = labels[shown.index].to_numpy(), shown.group.to_numpy(), {}
        for row in by_group(shown, n, rng).index:
            receiver = shown.index.get_loc(row)
            fitting = np.flatnonzero((label == -label[receiver]) & (group != group[receiver]))
            if len(fitting):
                sources[row] = shown.index[rng.choice(fitting)]
        receivers = shown.loc[list(sources)].sample(frac=1, random_state=rng)
        difference = torch.zeros(0, *subject.shape(SITE))
        if sources:
            donors = frame.loc[[sources[row] for row in receivers.index]].reset_index(drop=True)  # some stand twice
            states = (behavior.states(subject, part, [SITE])[SITE] for part in (donors, receivers))
            difference = torch.from_numpy(np.subtract(*states))
        batches = behavior.batches(subject, receivers, True, batch_size)
        cached = [behavior.cache_residuals(subject, batch) for batch in batches]
        return cls(subject, receivers, -labels[receivers.index], difference, cached)

    def edited(self, layer: int, edits: Tensor) -> behavior.Context:
        """The context that adds each receiver's edit [receiver d] at its last prompt token."""

        def context(batch: behavior.Batch) -> contextlib.AbstractContextManager:
            position = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
            at_last = position[None] == batch.prompt_length[:, None] - 1
            of_batch = edits[self.receivers.index.get_indexer(batch.rows)].to(batch.input_ids.device)
            added = at_last[..., None] * of_batch[:, None]
            edit = activations.Edit(SITE, layer, lambda h: h + added.to(h.dtype))
            return behavior.editing(self.subject, batch, [edit])

        return context

    def fit(self, layer: int, config: AnalysisConfig, rng: np.random.Generator) -> Tensor:
        """The unit vector [d] that minimises the mean of ``-log p(own other answer)``; parameters stay as they are."""
        difference = self.difference[:, layer]
        direction = torch.from_numpy(rng.standard_normal(difference.shape[1])).float().requires_grad_()
        optimizer = torch.optim.Adam([direction], lr=config.fit_learning_rate)
        for step in range(config.fit_steps):
            batch = self.batches[step % len(self.batches)]
            with self.edited(layer, along(difference, direction / direction.norm()))(batch):
                scores = behavior.score(behavior.run(self.subject, batch), batch)
            target = self.target[batch.rows].map(NAMES)
            log_p = [score[torch.tensor((target == name).to_list())].sum() for name, (score, _) in scores.items()]
            (direction.grad,) = torch.autograd.grad(-torch.stack(log_p).sum() / len(target), direction)
            optimizer.step()
        return (direction / direction.norm()).detach()

    def rates(self, layer: int, direction: Tensor, n_draws: int, rng: np.random.Generator) -> pd.DataFrame:
        """The share that gives its own other answer: `layer, control, target, value, ci_low, ci_high, n`.

        Controls: an edit of the same length along a ``random_direction`` (mean over draws), and the source's
        ``whole_state`` in place of the receiver's, which brings along what its answer is.
        """
        difference = self.difference[:, layer]
        random = torch.from_numpy(rng.standard_normal((n_draws, len(direction)))).float()
        edits: dict[str | None, list[Tensor]] = {None: [along(difference, direction)]}
        edits["random_direction"] = [(difference @ direction)[:, None] * vector / vector.norm() for vector in random]
        edits["whole_state"] = [difference]
        rows = []
        for control, of_draws in edits.items():
            after = [
                behavior.measure(self.subject, self.batches, self.edited(layer, edit)).behavior for edit in of_draws
            ]
            reached = pd.concat([shown.eq(self.target) for shown in after], axis=1).mean(axis=1)
            for target in TARGETS:
                of_target = self.target.index[self.target == target]
                estimate = intervals.share(reached[of_target], self.receivers.group[of_target])
                rows.append({"layer": layer, "control": control, "target": NAMES[target], **estimate._asdict()})
        return pd.DataFrame(rows)
