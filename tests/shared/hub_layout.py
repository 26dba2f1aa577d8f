"""A cache of Hugging Face's hub and a folder in its format, laid out by hand: saved steps of a tiny GPT-NeoX."""

import hashlib
from pathlib import Path

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

STEPS = (0, 1, 16, 512, 1000)
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40,
    "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def neox(seed: int, **sizes) -> GPTNeoXForCausalLM:
    """A random model, all weights of which do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**{**SIZES, **sizes}))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn(weight.shape))
    return model.eval()


def lay_folder(folder: Path, steps=STEPS, **sizes) -> Path:
    """Sub-folders `checkpoint-<step>` as `save_pretrained` writes them."""
    for step in steps:
        neox(step, **sizes).save_pretrained(folder / f"checkpoint-{step}")
    return folder


def lay_cache(cache: Path, name: str = "owner/tiny-neox", steps=STEPS, **sizes) -> Path:
    """`models--owner--name` with refs, snapshots and blobs, as a download leaves it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    for part in ("blobs", "refs"):
        (repository / part).mkdir(parents=True)
    for step in steps:
        commit = hashlib.sha1(str(step).encode()).hexdigest()
        snapshot = repository / "snapshots" / commit
        neox(step, **sizes).save_pretrained(snapshot)
        for file in list(snapshot.iterdir()):
            blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            file.rename(blob)
            file.symlink_to(Path("../../blobs") / blob.name)
        (repository / "refs" / f"step{step}").write_text(commit)
    return cache
