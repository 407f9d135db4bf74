"""The gradient-guided intervention: vectors fitted by gradient descent, several at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memgen import activations, behavior
from memgen.behavior import NAMES
from memgen.steering import passes


def fit_shifts(
    model: PreTrainedModel,
    prepared: Sequence[behavior.Batch],
    site: str,
    neurons: Sequence[Tensor],
    penalties: Sequence[float],
    target: int,
    n_tokens: int,
    steps: int,
    learning_rate: float,
) -> list[Tensor]:
    """Fit shifts by gradient descent, each on its own neurons and with its own penalty, all on the same inputs.

    Each minimises the mean of ``-log p(target answer)`` plus its penalty times its norm, with Adam, over the prepared
    batches in turn. None knows of the others, and the model's parameters stay as they are.

    Parameters
    ----------
    neurons
        For each shift which neurons it may change: boolean [n_layer, d].
    target
        +1 memorization, -1 generalization.

    Returns
    -------
    list of Tensor
        [n_layer, d], zero outside the shift's `neurons`.

    Raises
    ------
    ValueError
        If no input has an answer by the target behaviour, or a mask has another shape.
    """
    expected = (len(activations.blocks(model)), activations.width(model, site))
    for mask in neurons:
        if tuple(mask.shape) != expected:
            raise ValueError(f"The neurons for {site} must have the shape {expected}, not {tuple(mask.shape)}.")
    own = [batch for batch in prepared if NAMES[target] in batch.answers]
    if not own:
        raise ValueError(f"No input has an answer by {NAMES[target]}.")
    inputs = passes.keep(model, own)
    allowed = torch.stack(list(neurons)).to(model.device).float()
    start = min(passes.first_layer(mask) for mask in allowed)
    penalty = torch.tensor(list(penalties), device=model.device)
    vectors = torch.zeros_like(allowed, requires_grad=True)
    optimizer = torch.optim.Adam([vectors], lr=learning_rate)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        for step in range(steps):
            one = inputs[step % len(inputs)]
            shifts = vectors * allowed
            logits = passes.run_side_by_side(model, one, site, shifts, n_tokens, start)
            losses = [-behavior.score(own_logits, one.batch)[NAMES[target]][0].mean() for own_logits in logits]
            norms = (shifts.square().sum((1, 2)) + 1e-12).sqrt()
            optimizer.zero_grad()
            (torch.stack(losses) + penalty * norms).sum().backward()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - 0.9 * step / steps)
            optimizer.step()
    finally:
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
    return list((vectors * allowed).detach().cpu())


def fit_shift(
    model: PreTrainedModel,
    prepared: Sequence[behavior.Batch],
    site: str,
    neurons: Tensor,
    target: int,
    n_tokens: int,
    steps: int,
    learning_rate: float,
    norm_penalty: float,
) -> Tensor:
    """Fit one shift [n_layer, d]; see :func:`fit_shifts`."""
    return fit_shifts(model, prepared, site, [neurons], [norm_penalty], target, n_tokens, steps, learning_rate)[0]
