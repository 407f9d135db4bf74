"""What the page says of using an intervention elsewhere is run word for word, on a Llama and a GPT-2."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from memgen.steering.interventions import Intervention
from tests.conftest import TASKS, hooks, random_model

from .conftest import ROOT
from .test_commands import blocks

PEERS = Path(sys.prefix) / "peers"  # where `make bench` installs what it compares with
RUN = "results/default/addition/gpt2-6x64/seed12"


@pytest.fixture(scope="module", params=["gpt2-2x32", "llama-2x32"])
def run(request, tmp_path_factory):
    """A folder like that of a run, with as much as the page needs."""
    folder, tokenizer = tmp_path_factory.mktemp("run"), TASKS["addition"].tokenizer()
    model = random_model(request.param, tokenizer, 40, spread=0.3)
    model.save_pretrained(folder / "training" / "model")
    tokenizer.save_pretrained(folder / "data" / "tokenizer")
    prompt = tokenizer("12+345=", add_special_tokens=False).input_ids
    pd.DataFrame({"input_ids": [prompt], "kind": ["conflict"]}).to_parquet(folder / "data" / "test.parquet")
    shift = torch.randn(2, 32, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.0], [3.0]])
    Intervention("resid_post", 2, -shift, shift).save(folder / "steering" / "interventions", "study")
    assert hooks(model) == 0
    return folder


def test_every_way_gives_the_same_answer(run):
    first, with_memgen, alone, in_transformer_lens, in_nnsight, to_gguf = blocks(
        (ROOT / "book" / "outside.md").read_text(encoding="utf-8"), "python"
    )
    ways = {"memgen": with_memgen, "transformers": alone}
    for package, block in (("transformer_lens", in_transformer_lens), ("nnsight", in_nnsight)):
        if (PEERS / package).is_dir():
            ways[package] = block
    plain = "print(tokenizer.decode(model.generate(prompt, max_new_tokens=4, do_sample=False)[0, prompt.shape[1] :]))\n"
    script = "\n".join([first.replace(RUN, str(run)), plain, *ways.values(), to_gguf])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{PEERS}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    unsteered, *answers = [line for line in done.stdout.splitlines() if line]
    assert len(answers) == len(ways)
    assert set(answers) == {answers[0]} != {unsteered}, done.stdout
    assert (run / "generalization.gguf").read_bytes()[:4] == b"GGUF"
