"""NMD at adapted projections, against that of the merged weights."""

import copy
import dataclasses

import numpy as np
import peft
import pytest
import torch

from memgen.localization.adapters import projection_nmd
from memgen.localization.differences import accumulate

PATHS = {"gpt2": ["attn.c_attn"], "llama": ["self_attn.q_proj", "self_attn.v_proj"]}


@pytest.fixture
def adapted(setting):
    """The setting's subject with a random adapter beside its weights, and with the adapter merged."""
    paths = PATHS[setting.subject.model.config.model_type]
    targets = [path.rpartition(".")[2] for path in paths]
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False)
    config.fan_in_fan_out = targets == ["c_attn"]
    torch.manual_seed(0)
    beside = peft.get_peft_model(copy.deepcopy(setting.subject.model), config).eval()
    merged = copy.deepcopy(beside).merge_and_unload()
    models = beside.get_base_model(), merged
    return paths, *(dataclasses.replace(setting.subject, model=model) for model in models)


def test_both_parts_add_up_to_what_the_merged_projection_puts_out(setting, adapted):
    """Signed NMD: of the base's part plus three times that of B A x, since alpha is three times the rank."""
    paths, beside, merged = adapted
    sites = [f"{path}.{part}" for path in paths for part in ("base_layer", "lora_B.default")]
    parts = accumulate(beside, setting.frame, setting.pairs, sites)
    whole = accumulate(merged, setting.frame, setting.pairs, paths)
    found = projection_nmd(beside, setting.frame, setting.pairs)
    assert len(found) == len(paths) * 2 * 2 * 2
    for path in paths:
        base, added = (parts[f"{path}.{part}"].nmd_and_r()["nmd"] for part in ("base_layer", "lora_B.default"))
        together = whole[path].nmd_and_r()["nmd"]
        assert np.abs(together).max() > 0.01
        np.testing.assert_allclose(base + 3 * added, together, rtol=0, atol=1e-5)
        for part, values in {"base": base, "adapter": 3 * added}.items():
            rows = found[(found.projection == path.rpartition(".")[2]) & (found.part == part)]
            by_layer = np.abs(values.reshape(2, -1))
            for measure, expected in (("nmd", by_layer.mean(1)), ("largest_nmd", by_layer.max(1))):
                measured = rows[rows.measure == f"projection_{measure}"].sort_values("layer").value
                np.testing.assert_allclose(measured, expected, rtol=1e-9)
            assert set(rows.n) == {by_layer.shape[1]}
