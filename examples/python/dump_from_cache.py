"""Write a kvscope dump from the DynamicCache of a transformers model.

    python dump_from_cache.py MODEL_DIR --prompt "..." --out dumps/mine
    python dump_from_cache.py MODEL_DIR --token-ids 5,17,3 --token-ids 8,8,1,40 --out dumps/mine

Keys and values are taken from the cache, attention masses from the attention weights, queries from a hook (they are no
part of a cache). The file layout is described in docs/DUMP.md. Needs torch, transformers, safetensors.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers import AutoTokenizer
from transformers import DynamicCache

WINDOW_TOKENS = 32
N_QUERIES = 64
ELEMENT_TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}


def sha256_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def model_identity(model, folder):
    """The manifest's `model`. Its fingerprint is not kvscope's own: see `--identity`."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    weights = sorted(Path(folder).glob("*.safetensors"))
    parts = [sha256_file(path) for path in [Path(folder) / "config.json", *weights]]
    return {
        "name": Path(folder).resolve().name,
        "architecture": config.architectures[0],
        "fingerprint": hashlib.sha256("".join(parts).encode()).hexdigest(),
        "tokenizer_sha256": None,
        "n_layers": config.num_hidden_layers,
        "n_q_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": head_dim,
        "rope_theta": float(rope.get("rope_theta") or getattr(config, "rope_theta", 10000.0)),
        "max_positions": config.max_position_embeddings,
    }


@torch.no_grad()
def capture(model, token_ids):
    """One pass over the prompt.

    Returns the filled cache, and per layer the attention weights `[n_q_heads, T, T]` and queries `[n_q_heads, T, D]`.
    """
    queries, hooks = {}, []
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        # The query norm, where there is one, already works per head.
        source = getattr(attention, "q_norm", attention.q_proj)

        def keep(_module, _inputs, output, index=index, head_dim=attention.head_dim):
            queries[index] = output.view(len(token_ids), -1, head_dim).transpose(0, 1)

        hooks.append(source.register_forward_hook(keep))
    cache = DynamicCache()
    out = model(torch.tensor([token_ids]), past_key_values=cache, use_cache=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    cos, sin = model.model.rotary_emb(queries[0], torch.arange(len(token_ids))[None])
    queries = [queries[index] * cos + rotate_half(queries[index]) * sin for index in sorted(queries)]
    return cache, [weights[0] for weights in out.attentions], queries


def rotate_half(x):
    low, high = x.chunk(2, dim=-1)
    return torch.cat((-high, low), dim=-1)


def masses(weights, n_kv_heads, window_tokens):
    """Weights summed over the group of query heads of each KV head, and over all queries or the last ones."""
    n_q_heads, n_queries, n_tokens = weights.shape
    grouped = weights.double().view(n_kv_heads, n_q_heads // n_kv_heads, n_queries, n_tokens)
    return grouped.sum((1, 2)).float(), grouped[:, :, -window_tokens:].sum((1, 2)).float()


def sample_tensors(token_ids, cache, attentions, queries, dtype, window_tokens):
    """The tensors of one sample's file."""
    tensors = {"token_ids": torch.tensor(token_ids, dtype=torch.int64)}
    # The last half, and the others spread evenly over the tokens before.
    n_queries = min(N_QUERIES, len(token_ids))
    n_last = (n_queries + 1) // 2
    n_before, first_last = n_queries - n_last, len(token_ids) - n_last
    positions = [i * first_last // n_before for i in range(n_before)] + list(range(first_last, len(token_ids)))
    for index, weights in enumerate(attentions):
        keys, values = cache.layers[index].keys[0], cache.layers[index].values[0]  # [n_kv_heads, T, head_dim]
        assert keys.shape[1] == len(token_ids), "the cache has dropped tokens"
        tensors[f"layers.{index}.k"] = keys.to(ELEMENT_TYPES[dtype]).contiguous()
        tensors[f"layers.{index}.v"] = values.to(ELEMENT_TYPES[dtype]).contiguous()
        tensors[f"layers.{index}.q"] = queries[index][:, positions].to(ELEMENT_TYPES[dtype]).contiguous()
        tensors[f"layers.{index}.q_positions"] = torch.tensor(positions, dtype=torch.int64)
        mass, window = masses(weights, keys.shape[0], window_tokens)
        tensors[f"layers.{index}.attn_mass"] = mass.contiguous()
        tensors[f"layers.{index}.attn_mass_window"] = window.contiguous()
    return tensors


def write_dump(out, identity, samples, dtype="f16", window_tokens=WINDOW_TOKENS, dataset="python"):
    """Writes a folder from an iterable of `(id, token_ids, cache, attentions, queries)`."""
    out = Path(out)
    out.mkdir(parents=True)
    entries = []
    for index, (sample_id, token_ids, cache, attentions, queries) in enumerate(samples):
        path = out / f"{index:05}-{dataset}.safetensors"
        tensors = sample_tensors(token_ids, cache, attentions, queries, dtype, window_tokens)
        save_file(tensors, path, metadata={"format": "pt", "dataset": dataset, "id": sample_id})
        entries.append(
            {
                "index": index,
                "dataset": dataset,
                "id": sample_id,
                "n_tokens": len(token_ids),
                "n_prompt_tokens": len(token_ids),
                "n_tokens_full": len(token_ids),
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
        )
    manifest = {
        "schema": "kvscope.dump/1",
        "provenance": {"tool": "dump_from_cache.py", "command": "capture", "seed": 0, "options": {}, "inputs": []},
        "model": identity,
        "states": ["k", "v", "q", "mass"],
        "layers": list(range(identity["n_layers"])),
        "dtype": dtype,
        "window_tokens": window_tokens,
        "planned_samples": len(entries),
        "samples": entries,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def load_model(folder):
    # Only eager attention gives its weights, from which the masses are summed.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--prompt", action="append", default=[], help="text; may be repeated")
    parser.add_argument("--token-ids", action="append", default=[], help="tokens such as 5,17,3; may be repeated")
    parser.add_argument("--out", required=True, help="folder of the dump, which must not exist yet")
    parser.add_argument("--dataset", default="python", help="name of the data set that the prompts are of")
    parser.add_argument("--dtype", choices=ELEMENT_TYPES, default="f16")
    parser.add_argument("--identity", help="dump that kvscope captured from this model, to take the fingerprint from")
    args = parser.parse_args()
    prompts = [[int(token) for token in text.split(",")] for text in args.token_ids]
    if args.prompt:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        prompts += [tokenizer(text)["input_ids"] for text in args.prompt]
    if not prompts:
        parser.error("give --prompt or --token-ids")
    model = load_model(args.model)
    identity = model_identity(model, args.model)
    if args.identity:
        identity = json.loads((Path(args.identity) / "manifest.json").read_text())["model"]
    samples = ((f"prompt{i}", ids, *capture(model, ids)) for i, ids in enumerate(prompts))
    write_dump(args.out, identity, samples, args.dtype, dataset=args.dataset)
    print(args.out)


if __name__ == "__main__":
    main()
