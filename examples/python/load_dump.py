"""Load a sample of a kvscope dump into a DynamicCache and go on generating from it.

    python load_dump.py MODEL_DIR DUMP_DIR --sample 0 --max-new-tokens 20

The dump must hold `k` and `v` of every layer. Needs torch, transformers, safetensors.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers import AutoTokenizer
from transformers import DynamicCache


def load_sample(dump, sample=0, dtype=torch.float32):
    """`(token_ids, cache)` of one sample: its tokens, and a cache that holds all of them."""
    dump = Path(dump)
    manifest = json.loads((dump / "manifest.json").read_text())
    name, _, version = manifest["schema"].partition("/")
    if name != "kvscope.dump" or int(version) > 1:
        raise ValueError(f"{dump} holds {manifest['schema']}, not kvscope.dump/1")
    n_layers = manifest["model"]["n_layers"]
    if "kv_heads" in manifest:
        raise ValueError(f"{dump} holds the KV heads {manifest['kv_heads']} only")
    if manifest["layers"] != list(range(n_layers)) or not {"k", "v"} <= set(manifest["states"]):
        raise ValueError(f"{dump} does not hold k and v of all {n_layers} layers")
    tensors = load_file(dump / manifest["samples"][sample]["file"])
    cache = DynamicCache()
    for layer in range(n_layers):
        keys, values = (tensors[f"layers.{layer}.{state}"].to(dtype)[None] for state in "kv")
        cache.update(keys, values, layer)  # [1, n_kv_heads, T, head_dim]
    return tensors["token_ids"].tolist(), cache


@torch.no_grad()
def next_logits(model, token_ids, cache):
    """Logits after the last token. The last token is run again: a cache holds no logits."""
    cache.crop(-1)
    return model(torch.tensor([token_ids[-1:]]), past_key_values=cache, use_cache=True).logits[0, -1]


@torch.no_grad()
def generate(model, token_ids, cache, max_new_tokens):
    """Greedy tokens after the sample's own."""
    logits, new = next_logits(model, token_ids, cache), []
    while len(new) < max_new_tokens:
        new.append(int(logits.argmax()))
        logits = model(torch.tensor([new[-1:]]), past_key_values=cache, use_cache=True).logits[0, -1]
    return new


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("dump", help="folder of the dump")
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=20)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    token_ids, cache = load_sample(args.dump, args.sample)
    new = generate(model, token_ids, cache, args.max_new_tokens)
    print(AutoTokenizer.from_pretrained(args.model).decode(new))


if __name__ == "__main__":
    main()
