"""The cost of training, recording, steering, and of every stage that has run. `make bench` prints it.

Times on a shared machine are noisy: what is compared is measured in turn within one run, several times, and printed as
a ratio of medians. Peers are asked for the same on the same model: the Trainer of transformers, nnsight, and
TransformerLens.
"""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from memgen import activations, behavior, config, manifest, tasks, training
from memgen.steering.interventions import Intervention
from memgen.steering.trials import Trials
from memgen.subject import Subject
from memgen.tasks.lessons import from_corpus, pack

ROUNDS = 3
N_STEPS = 8
N_SHIFTS = 16
RECORDED = ("resid_post", "mlp.hook_post")


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


class Bench:
    """A task of the default profile: its texts and inputs, and models that know its words."""

    def __init__(self, name: str) -> None:
        self.run = config.resolve("default", name)
        task = tasks.from_config(self.run)
        self.data, self.tokenizer = task.generate(np.random.default_rng(0)), task.tokenizer()
        self.packed = pack(self.data.corpus, self.tokenizer.pad_token_id)
        self.settings = self.run.training.model_copy(
            update={"optimizer": "adamw", "texts_learning_rate": None, "steps": N_STEPS, "evaluate_every": N_STEPS}
        )
        self.inputs = self.data.splits["validation"].query("kind == 'conflict'")

    def model(self, name: str = "") -> PreTrainedModel:
        """A model with random weights, of the run's size or another."""
        size = config.ModelConfig.from_name(name) if name else self.run.model
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            training.model_configuration(size, self.tokenizer, self.packed.shape[1])
        )

    def subject(self, name: str = "") -> Subject:
        """The same, to read and steer."""
        return Subject(self.model(name).eval(), self.tokenizer)

    def train(self) -> None:
        """Print the speed of `training.fit` beside a plain loop and the Trainer, all with AdamW, without evaluation."""
        models = {name: self.model().train() for name in ("ours", "plain", "trainer")}
        size, padding = self.settings.batch_size, self.tokenizer.pad_token_id
        texts = self.packed[: N_STEPS * size]
        batches = list(texts.split(size))
        lesson = from_corpus(self.data.corpus.head(len(texts)), padding, N_STEPS, size, seed=0)
        optimizer = torch.optim.AdamW(models["plain"].parameters(), fused=True)
        rows = [{"input_ids": ids, "labels": ids.masked_fill(ids == padding, -100)} for ids in texts]

        def ours() -> None:
            with tempfile.TemporaryDirectory() as folder:
                training.fit(models["ours"], [lesson], self.settings, lambda _: {}, Path(folder), seed=0)

        def plain() -> None:
            for ids in batches:
                labels = ids.masked_fill(ids == padding, -100)
                loss = training.language_model_loss(models["plain"](ids).logits, labels)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(models["plain"].parameters(), training.CLIP_NORM)
                optimizer.step()

        def trainer() -> None:
            with tempfile.TemporaryDirectory() as folder:
                arguments = TrainingArguments(
                    output_dir=folder,
                    max_steps=N_STEPS,
                    per_device_train_batch_size=size,
                    use_cpu=not torch.cuda.is_available(),
                    report_to=[],
                    save_strategy="no",
                    logging_strategy="no",
                    disable_tqdm=True,
                )
                trained = Trainer(models["trainer"], arguments, train_dataset=rows)
                trained.remove_callback(PrinterCallback)
                trained.train()

        seconds = medians(ours=ours, plain=plain, trainer=trainer)
        tokens = {name: N_STEPS * size * self.packed.shape[1] / took for name, took in seconds.items()}
        print(f"{self.run.label}, training: {tokens['ours']:,.0f} tokens/s; that is")
        print(f"  {tokens['ours'] / tokens['plain']:.2f} x a plain PyTorch loop (which evaluates and saves nothing)")
        print(f"  {tokens['ours'] / tokens['trainer']:.2f} x the Trainer of transformers")

    def record(self) -> None:
        """Print the cost of recording and steering relative to a plain pass, and that of peers."""
        subject = self.subject()
        prompts = torch.tensor(np.stack(self.inputs.input_ids.head(256)))
        frame = self.inputs.head(512)
        prepared, trials = behavior.prepare(subject, frame), Trials.on(subject, frame)
        shift = torch.ones(subject.shape("resid_post"))
        made = Intervention("resid_post", subject.n_tokens, shift, -shift)

        @torch.no_grad()
        def plain() -> None:
            subject.model(prompts)

        def steered() -> None:
            with made.apply(subject.model, "memorization", prompt_length=prompts.shape[1]):
                behavior.measure(subject, prepared)

        @torch.no_grad()
        def ours() -> None:
            with activations.record(subject.model, RECORDED):
                subject.model(prompts)

        with tempfile.TemporaryDirectory() as folder:
            found = peers(subject, prompts, folder)
            cost = medians(plain=plain, memgen=ours, **found)
        print(f"{self.run.label}, recording {' and '.join(RECORDED)} of all layers, relative to a plain forward pass:")
        for name in ("memgen", *found):
            print(f"  {name} {cost[name] / cost['plain']:.2f} x")
        cost = medians(
            plain=lambda: behavior.measure(subject, prepared),
            steered=steered,
            sweep=lambda: trials.run("resid_post", [shift] * N_SHIFTS),
        )
        print(f"{self.run.label}, steering {len(frame)} inputs, relative to measuring their behaviour:")
        print(f"  once {cost['steered'] / cost['plain']:.2f} x")
        print(f"  a trial of a sweep of {N_SHIFTS}: {cost['sweep'] / N_SHIFTS / cost['plain']:.2f} x")

    def growth(self) -> None:
        """Print how recording grows with layers, width and inputs."""
        frame = self.inputs.head(256)
        for what, names in {
            "layers": ["gpt2-3x64", "gpt2-6x64", "gpt2-12x64"],
            "width": ["gpt2-6x64", "gpt2-6x128", "gpt2-6x256"],
        }.items():
            subjects = {name: self.subject(name) for name in names}
            seconds = medians(**{name: self._states(subject, frame) for name, subject in subjects.items()})
            times = ", ".join(f"{name} {seconds[name] / seconds[names[0]]:.1f} x" for name in names)
            print(f"{self.run.label}, states of {len(frame)} inputs by {what}: {times}")
        sizes = (128, 256, 512)
        seconds = medians(**{str(n): self._states(self.subject(), self.inputs.head(n)) for n in sizes})
        times = ", ".join(f"{n} in {seconds[str(n)]:.2f} s" for n in sizes)
        print(f"{self.run.label}, states by inputs: {times}; {sizes[-1] / seconds[str(sizes[-1])]:,.0f} inputs/s")

    @staticmethod
    def _states(subject: Subject, frame: pd.DataFrame) -> Callable[[], object]:
        return lambda: behavior.states(subject, frame, RECORDED)


def peers(subject: Subject, prompts: torch.Tensor, folder: str) -> dict[str, Callable[[], object]]:
    """Recording of the same by nnsight and TransformerLens; one that is not installed is left out."""
    found: dict[str, Callable[[], object]] = {}
    try:
        from nnsight import NNsight
    except ImportError:
        print("nnsight is not installed: `make bench` installs benchmarks/requirements.txt.")
    else:
        traced = NNsight(subject.model)

        @torch.no_grad()
        def with_nnsight() -> None:
            saved = []
            with traced.trace(prompts):
                for block in traced.transformer.h:
                    saved.append(block.mlp.act.output.save())
                    saved.append(block.output.save())

        found["nnsight"] = with_nnsight
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        print("TransformerLens is not installed: `make bench` installs benchmarks/requirements.txt.")
    else:
        subject.model.save_pretrained(folder)
        subject.tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, device="cpu", tokenizer=tokenizer)
        names = [f"blocks.{layer}.{hook}" for layer in range(subject.n_layer) for hook in ("hook_out", "mlp.hook_out")]

        @torch.no_grad()
        def with_transformer_lens() -> None:
            bridge.run_with_cache(prompts, names_filter=names)

        found["TransformerLens"] = with_transformer_lens
    return found


def stages() -> None:
    """Wall time, share of its run, and peak memory of every stage that finished, from the manifests."""
    results, rows = config.root() / "results", []
    for path in sorted(results.rglob("manifest.json")):
        content = manifest.load_manifest(path.parent)
        run = str(path.parent.parent.relative_to(results))
        seconds, memory = content["wall_seconds"], content["peak_memory_bytes"] / 2**20
        rows.append({"run": run, "stage": path.parent.name, "seconds": round(seconds, 1), "MiB": round(memory)})
    if not rows:
        print("No stage has run yet: make book.")
        return
    table = pd.DataFrame(rows)
    share = table.seconds / table.groupby("run").seconds.transform("sum")
    print(table.assign(percent=(100 * share).round().astype(int)).to_string(index=False))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for task_name in config.load_profile("default").runs:
        bench = Bench(task_name)
        bench.train()
        bench.record()
    bench.growth()
    stages()
