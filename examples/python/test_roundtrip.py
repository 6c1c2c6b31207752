"""Dumps go from kvscope to transformers and back. Run by hand:

    cargo build --release
    python examples/python/test_roundtrip.py

Set KVSCOPE to use another program than target/release/kvscope.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import dump_from_cache
import load_dump

KVSCOPE = os.environ.get("KVSCOPE", str(ROOT / "target/release/kvscope"))
MODEL = ROOT / "tests/fixtures/models/llama-gqa"
PROMPTS = [
    "the ring and then in a stone, another thing on the shore, again.",
    "in a stone on the shore and then the ring reeds, again. another thing reeds",
    "another thing in a stone reeds and then on the shore the ring, again.",
    "the ring reeds on the shore, again. in a stone and then another thing",
]


def kvscope(folder, *args):
    subprocess.run([KVSCOPE, *map(str, args)], cwd=folder, check=True)


@torch.no_grad()
def logits_after(model, token_ids):
    return model(torch.tensor([token_ids])).logits[0, -1]


def check_a_dump_of_kvscope_continues_in_transformers(folder, model):
    prompts = folder / "prompts.txt"
    prompts.write_text(PROMPTS[0])
    kvscope(folder, "capture", "--model", MODEL, "--prompts", prompts, "--dtype", "f32", "--out", "ours")
    token_ids, cache = load_dump.load_sample(folder / "ours")
    expected = logits_after(model, token_ids)
    difference = (load_dump.next_logits(model, token_ids, cache) - expected).abs().max().item()
    print(f"logits differ by {difference:.2e} at most, largest {expected.abs().max().item():.2f}")
    assert difference <= 1e-3
    token_ids, cache = load_dump.load_sample(folder / "ours")
    new = load_dump.generate(model, token_ids, cache, 5)
    for i, token in enumerate(new):
        assert int(logits_after(model, token_ids + new[:i]).argmax()) == token


def check_a_dump_of_transformers_passes_through_kvscope(folder, model):
    prompts = [argument for prompt in PROMPTS for argument in ("--prompt", prompt)]
    script = [sys.executable, str(HERE / "dump_from_cache.py"), str(MODEL), "--out", "theirs", "--identity", "ours"]
    subprocess.run([*script, *prompts], cwd=folder, check=True)
    kvscope(folder, "verify", "theirs")
    kvscope(folder, "analyze", "theirs")
    kvscope(folder, "tune", "theirs", "--budget", "0.6")


def check_both_dumps_agree(folder, model):
    ours, cache = load_dump.load_sample(folder / "ours")
    out = folder / "again"
    sample = ("again", ours, *dump_from_cache.capture(model, ours))
    dump_from_cache.write_dump(out, dump_from_cache.model_identity(model, MODEL), [sample], "f32")
    kvscope(folder, "verify", "again")
    _, theirs = load_dump.load_sample(out)
    for layer, other in zip(cache.layers, theirs.layers, strict=True):
        assert (layer.keys - other.keys).abs().max() <= 1e-3
        assert (layer.values - other.values).abs().max() <= 1e-3


if __name__ == "__main__":
    loaded = dump_from_cache.load_model(MODEL)
    with tempfile.TemporaryDirectory() as name:
        check_a_dump_of_kvscope_continues_in_transformers(Path(name), loaded)
        check_a_dump_of_transformers_passes_through_kvscope(Path(name), loaded)
        check_both_dumps_agree(Path(name), loaded)
    print("ok")
