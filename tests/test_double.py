"""No stage asks the device for double precision, which Apple's has not: numbers are doubled on the host."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from memgen import behavior, training
from memgen.config import AnalysisConfig
from memgen.localization import attribution, patching
from memgen.steering import effects, fitting

QUICK = AnalysisConfig(fit_steps=2)


class OnHost(torch.Tensor):
    """What `.cpu()` gave, and what was made of it."""


class WithoutDouble(TorchFunctionMode):
    """A device that refuses double precision: a CPU, but for tensors that `.cpu()` gave."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            return result.as_subclass(OnHost)
        is_on_host = any(isinstance(leaf, OnHost) for leaf in tree_leaves((args, kwargs)))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64 and not is_on_host:
            raise TypeError("Cannot convert a tensor to float64: the device does not support it.")
        return result


def all_neurons(subject):
    return fitting.NeuronSet("fitted", "all", torch.ones(subject.shape("resid_post"), dtype=torch.bool), 0.1)


USES = {
    "measure": lambda each, _: behavior.measure(each.subject, behavior.prepare(each.subject, each.frame, prefix=True)),
    "states": lambda each, _: behavior.states(each.subject, each.frame, ["mlp.hook_post"]),
    "evaluate": lambda each, _: training.evaluate(each.subject, each.frame.assign(split="train")),
    "attribution": lambda each, pairs: attribution.attributions(each.subject, each.frame, pairs, ["resid_post"]),
    "patch": lambda each, pairs: patching.patch_positions(
        each.subject, each.frame, pairs, patching.HEADS, {"last": slice(-1, None)}, by_head=True
    ),
    "fit": lambda each, _: fitting.fit(each.subject, each.frame, "resid_post", [all_neurons(each.subject)], 1, QUICK),
    "divergence": lambda each, _: effects.divergence(
        each.subject, each.frame, "resid_post", [torch.ones(each.subject.shape("resid_post"))]
    ),
}


@pytest.mark.parametrize("use", USES)
def test_no_double_precision_on_the_device(planted, planted_pairs, use):
    with WithoutDouble():
        USES[use](planted, planted_pairs.iloc[:6])


def test_a_device_that_has_none_refuses_it():
    with WithoutDouble():
        assert torch.ones(2).cpu().double().sum() == 2
        for ask in (
            torch.ones(2).double,
            lambda: torch.zeros(2, dtype=torch.float64),
            lambda: torch.tensor([1.0]).to(float),
        ):
            with pytest.raises(TypeError, match="float64"):
                ask()
