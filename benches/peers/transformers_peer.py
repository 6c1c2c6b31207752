"""transformers + torch in f32 on the CPU: prefill with SDPA, and the capture of K, V and attention mass.

    python benches/peers/transformers_peer.py --model MODEL.gguf --threads 2

The capture takes K and V from the cache and computes attention inside transformers' attention interface, in blocks of
queries: the probabilities of a block serve both its output and the mass. This is the fastest of three ways (`--mass own`).
The others leave the output to torch's attention for the CPU and compute the probabilities once more: `logsumexp` from the
logarithms of the denominators that it returns, `softmax` anew.
"""

import argparse
import os

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="GGUF file")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--mass", choices=["logsumexp", "softmax", "own"], default="own")
parser.add_argument("--block", type=int, default=256, help="query tokens of a block of the mass")
arguments = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(arguments.threads)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
from safetensors.torch import save_file
from transformers import AttentionInterface
from transformers import AutoModelForCausalLM

from peer import serve
from peer import token_ids

torch.set_num_threads(arguments.threads)
masses = []


def causal_block(query, key, start, scaling):
    """Logits of the queries of one block against the visible keys, `[heads, rows, end]`, the future at -inf."""
    end = min(start + arguments.block, query.shape[1])
    logits = torch.matmul(query[:, start:end] * scaling, key[:, :end].transpose(1, 2))
    future = torch.ones(end - start, end - start, dtype=torch.bool).triu_(1)
    logits[:, :, start:].masked_fill_(future, float("-inf"))
    return logits, end


def capturing_attention(module, query, key, value, _mask, scaling=None, **_options):
    """Attention that leaves the mass `[kv_heads, T]` behind."""
    group = query.shape[1] // key.shape[1]
    n_tokens = query.shape[2]
    keys = key[0].repeat_interleave(group, 0)
    mass = torch.zeros(query.shape[1], n_tokens)
    if arguments.mass == "own":
        values = value[0].repeat_interleave(group, 0)
        output = torch.empty_like(query[0])
        for start in range(0, n_tokens, arguments.block):
            logits, end = causal_block(query[0], keys, start, scaling)
            weights = torch.softmax(logits, -1)
            mass[:, :end] += weights.sum(1)
            torch.matmul(weights, values[:, :end], out=output[:, start:end])
        output = output[None]
    else:
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys[None], value.repeat_interleave(group, 1), 0.0, True, scale=scaling
        )
        logsumexp = logsumexp[0] if logsumexp.shape[1] == query.shape[1] else logsumexp[0].transpose(0, 1)
        for start in range(0, n_tokens, arguments.block):
            logits, end = causal_block(query[0], keys, start, scaling)
            if arguments.mass == "logsumexp":
                weights = logits.sub_(logsumexp[:, start:end, None]).exp_()
            else:
                weights = torch.softmax(logits, -1)
            mass[:, :end] += weights.sum(1)
    masses.append(mass.view(-1, group, n_tokens).sum(1))
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register("capturing", capturing_attention)


def load(attention):
    folder, file = os.path.split(os.path.abspath(arguments.model))
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()


model = load("sdpa")


@torch.inference_mode()
def prefill(n_tokens):
    """All keys and values, and the last token's logits."""
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([token_ids(n_tokens)])
    logits = model(ids, use_cache=True, logits_to_keep=1).logits[0, -1]
    return {"token": int(logits.argmax()), "logit": float(logits.max())}


@torch.inference_mode()
def capture(n_tokens, out):
    """K and V in f16 and the mass in f32, written as one safetensors file."""
    model.set_attn_implementation("capturing")
    masses.clear()
    ids = torch.tensor([token_ids(n_tokens)])
    cache = model.model(ids, use_cache=True).past_key_values
    tensors = {}
    for i, layer in enumerate(cache.layers):
        tensors[f"layers.{i}.k"] = layer.keys[0].half().contiguous()
        tensors[f"layers.{i}.v"] = layer.values[0].half().contiguous()
        tensors[f"layers.{i}.attn_mass"] = masses[i]
    save_file(tensors, out)
    return {"mass": float(sum(m.double().sum() for m in masses))}


serve(
    {"prefill": prefill, "capture": capture},
    name=f"transformers {transformers.__version__}, torch {torch.__version__}",
)
