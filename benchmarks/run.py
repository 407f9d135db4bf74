"""What things cost: training, recording, steering, and every stage that has run. `make bench` prints it.

Times on a shared machine are noisy. What is compared is measured in turn within one run, several times, and told as a
ratio of medians.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM

from memgen import activations, behavior, config, report, steering, tasks, training

ROUNDS = 7
N_STEPS = 20
N_SHIFTS = 16


def medians(**functions: Callable[[], object]) -> dict[str, float]:
    """The median seconds of each function, all called in turn, after one call that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(ROUNDS + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def training_steps(model, packed: torch.Tensor, settings: config.TrainingConfig) -> Callable[[], None]:
    """Some training steps of the loop's own parts, without evaluations."""
    optimizer = training._optimizer(model, settings)

    def run() -> None:
        for i in range(N_STEPS):
            ids = packed[i * settings.batch_size : (i + 1) * settings.batch_size]
            loss = training.language_model_loss(model(ids).logits, ids)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.CLIP_NORM)
            optimizer.step()

    return run


def bench_task(name: str) -> None:
    """Training speed, and what recording and steering cost beside a plain pass, for one task's default model."""
    resolved = config.resolve("default", name)
    task = tasks.from_config(resolved)
    data, tokenizer = task.generate(np.random.default_rng(0)), task.tokenizer()
    packed = training.pack(data.corpus, tokenizer.pad_token_id)
    torch.manual_seed(0)
    settings = training.model_configuration(resolved.model, tokenizer, packed.shape[1])
    model = AutoModelForCausalLM.from_config(settings)
    settings = resolved.training
    steps = medians(steps=training_steps(model, packed, settings))["steps"]
    tokens = N_STEPS * settings.batch_size * packed.shape[1]
    print(f"{name} ({resolved.model.name}): training {tokens / steps:,.0f} tokens/s, {N_STEPS / steps:.1f} steps/s")

    model.eval()
    frame = data.splits["validation"].query("kind == 'conflict'").head(512)
    whole = behavior.prepare(model, frame, tokenizer)
    kept = behavior.prepare(model, frame, tokenizer, keep=1)
    trials = steering.Trials(model, kept, behavior.measure(model, kept), 1, 1)
    shift = torch.ones(len(activations.blocks(model)), activations.width(model, "resid_post"))
    steer = steering.adding(model, "resid_post", shift, 1)

    def record() -> None:
        with activations.record(model, activations.SITES):
            behavior.measure(model, whole)

    cost = medians(
        plain=lambda: behavior.measure(model, whole),
        record=record,
        steer=lambda: behavior.measure(model, whole, steer),
        sweep=lambda: trials.run_many("resid_post", [shift] * N_SHIFTS),
    )
    print(f"  {len(frame)} conflict inputs, plain forward pass: {cost['plain'] * 1000:.0f} ms; relative to it:")
    print(f"  recording all {len(activations.SITES)} sites {cost['record'] / cost['plain']:.2f} x")
    print(f"  steering {cost['steer'] / cost['plain']:.2f} x")
    sweep = cost["sweep"] / N_SHIFTS / cost["plain"]
    print(f"  steering in a sweep, each of {N_SHIFTS} configurations (at most 1.2 allowed) {sweep:.2f} x")


def stages() -> None:
    """Wall time and peak memory of every stage that finished, from the manifests."""
    rows = []
    for path in sorted((config.root() / "results").rglob("manifest.json")):
        manifest = report.load_manifest(path.parent)
        run = str(path.parent.parent.relative_to(config.root() / "results"))
        seconds, memory = manifest["wall_seconds"], manifest["peak_memory_bytes"] / 2**20
        rows.append({"run": run, "stage": path.parent.name, "seconds": round(seconds, 1), "MiB": round(memory)})
    print(pd.DataFrame(rows).to_string(index=False) if rows else "No stage has run yet: make book.")


if __name__ == "__main__":
    for task_name in config.load_profile("default").runs:
        bench_task(task_name)
    stages()
