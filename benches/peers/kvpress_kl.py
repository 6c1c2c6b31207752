"""What kvpress' methods cost on the texts of `kvscope eval`: KL(full || compressed) of a given continuation, in nats.

    kvscope capture --model MODEL.gguf --prompts FILE --samples 2 --raw --max-tokens 3586 \\
        --states v --layers 0 --heads 0 --out dumps/ids
    python benches/peers/kvpress_kl.py --model MODEL.gguf --dump dumps/ids --press kvgrad --out kvpress.jsonl

The dump gives the token ids, so that both sides see the same ones. `eval` takes the beginning of a text. `capture` cuts a long
text in the middle, so `--max-tokens` must be twice the context, the continuation and one. A text is prefilled once. Every press
scores it once, and its own code chooses what stays at each budget. Dropped slots are masked in the continuation. A press is
NAME or NAME:field=value,..., with kvpress' fields. A run goes on where it stopped; rows are those of `eval`, in part.
"""

import argparse
import json
import logging
import math
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, type=Path, help="GGUF file or Hugging Face folder")
parser.add_argument("--dump", required=True, type=Path, help="folder of a `kvscope capture`")
parser.add_argument("--out", required=True, type=Path, help="JSON lines; rows are added")
parser.add_argument("--press", action="append", required=True, metavar="NAME[:field=value,...]", help="may be repeated")
parser.add_argument("--budget", default="0.5,0.35,0.2,0.1,0.05", help="shares of the slots to keep")
parser.add_argument("--context", type=int, default=1536, help="tokens that are compressed")
parser.add_argument("--continuation", type=int, default=256, help="tokens that are fed behind them")
parser.add_argument("--threads", type=int, default=1)
arguments = parser.parse_args()
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = str(arguments.threads)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import kvpress
import torch
from safetensors.torch import safe_open
from transformers import AttentionInterface
from transformers import AutoModelForCausalLM
from transformers import AutoTokenizer
from transformers import DynamicCache

logging.getLogger("kvpress").setLevel(logging.ERROR)
torch.set_num_threads(arguments.threads)
FULL, KVPRESS = "full", "kvpress "
BUDGETS = [float(budget) for budget in arguments.budget.split(",")]

# Each takes a compression ratio and the fields of the press that scores. Only presses whose scores do not depend on the ratio
# belong here: a text is scored once for all budgets.
PRESSES = {
    "adakv": lambda ratio, **fields: kvpress.AdaKVPress(kvpress.SnapKVPress(ratio, **fields)),
    "expected": kvpress.ExpectedAttentionPress,
    "kvgrad": kvpress.KVgradPress,
    "kvzip": kvpress.KVzipPress,
    "kvzip+": lambda ratio, **fields: kvpress.KVzipPress(ratio, kvzip_plus_normalization=True, **fields),
    "observed": kvpress.ObservedAttentionPress,
    "snapkv": kvpress.SnapKVPress,
}


def masked_attention(module, query, key, value, _mask, scaling=None, **_options):
    """Attention of new tokens over themselves and what stays of the context, `module.kept` (`[n_kv_heads, context]`)."""
    group = query.shape[1] // key.shape[1]
    n_new, n_all = query.shape[2], key.shape[2]
    visible = torch.ones(n_new, n_all, dtype=torch.bool).tril_(n_all - n_new).repeat(key.shape[1], 1, 1)
    visible[:, :, : n_all - n_new] &= module.kept[:, None]
    output = torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(group, 1),
        value.repeat_interleave(group, 1),
        attn_mask=visible.repeat_interleave(group, 0)[None],
        scale=scaling,
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register("masked", masked_attention)


class Replay:
    """KVzip, KVzip+ and KVgrad: scores of one more pass, in which the model repeats the context; all heads compete."""

    def __init__(self, press):
        self.press = press

    def hear(self, _attention, _context):
        """Nothing of the prefill is needed but the cache."""

    def score(self, net, ids):
        press = self.press
        for layer in net.layers:
            layer.masked_key_indices = None
        # What the press's own context manager finds out, for a text without a chat template.
        press._context_ids, press._cache, press.prefix_length = ids[None], net.cache(), 0
        press._suffix_ids = net.encoder.encode("\n")
        net.model.set_attn_implementation("sdpa")
        with torch.no_grad():
            press._perform_kvzip_compression(net.model, net.encoder)
        self.scores = press.score_val.clone()

    def kept(self, net, budget):
        press = self.press
        press.compression_ratio, press.score_val = 1 - budget, self.scores.clone()
        press.compress_post(net.model)
        return [unmasked(layer, self.scores.shape[2:]) for layer in net.layers]


class Scored(kvpress.ScorerPress):
    """A press whose scores are known."""

    def score(self, *_arguments):
        return self.known.clone()


class Prefill:
    """Presses that score a layer's tokens when it has been prefilled."""

    def __init__(self, press):
        self.press = press
        self.scorer = getattr(press, "press", press)
        self.scores = []

    def hear(self, attention, context):
        """Scores a layer (`[1, n_kv_heads, context]`) from what kvpress' hook would pass."""
        self.scores.append(self.scorer.score(attention, *context))

    def score(self, _net, _ids):
        """All is heard."""

    def kept(self, net, budget):
        return [self.kept_of(layer, scores, budget) for layer, scores in zip(net.layers, self.scores)]

    def kept_of(self, layer, scores, budget):
        n_heads, n_tokens = scores.shape[1:]
        # Whole slots a head, rounded up in the press's favour; the half keeps the press's own rounding away from the edge.
        known = Scored(1 - (math.ceil(budget * n_tokens - 1e-9) + 0.5) / n_tokens)
        known.known = scores
        chooser = known
        if self.scorer is not self.press:
            self.press.press, chooser = known, self.press
        layer.masked_key_indices = None
        # Places instead of keys: what comes back is where the kept ones stood.
        places = torch.arange(n_tokens)[None, None, :, None].expand(1, n_heads, n_tokens, layer.head_dim)
        left, _ = chooser.compress(layer, None, places, places, None, {})
        if layer.masked_key_indices is not None:
            return unmasked(layer, (n_heads, n_tokens))
        return torch.zeros(n_heads, n_tokens, dtype=torch.bool).scatter_(1, left[0, :, :, 0], True)


def unmasked(layer, shape):
    """What a press has not marked as dropped, `[n_kv_heads, context]`."""
    _, heads, places = layer.masked_key_indices
    kept = torch.ones(shape, dtype=torch.bool)
    kept[heads, places] = False
    layer.masked_key_indices = None
    return kept


def press_of(policy):
    """The press of a policy: its name and fields."""
    name, _, fields = policy.removeprefix(KVPRESS).partition(":")
    if name not in PRESSES:
        sys.exit(f"--press {name}: no such press; there are {', '.join(sorted(PRESSES))}")
    try:
        pairs = (field.partition("=") for field in fields.split(",") if field)
        press = PRESSES[name](0.5, **{key: json.loads(value) for key, _, value in pairs})
    except (TypeError, ValueError, AssertionError) as why:
        sys.exit(f"--press {name}:{fields}: {why}")
    return Replay(press) if isinstance(press, kvpress.KVzipPress) else Prefill(press)


class Net:
    """The model, and one text's prefilled cache."""

    def __init__(self, path):
        source = {"gguf_file": path.name} if path.is_file() else {}
        folder = path.parent if path.is_file() else path
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **source).eval()
        self.layers = [layer.self_attn for layer in self.model.model.layers]
        for layer in self.layers:
            layer.rotary_emb = self.model.model.rotary_emb
        self.encoder = Encoder(AutoTokenizer.from_pretrained(folder, **source))

    @torch.no_grad()
    def prefill(self, ids, presses):
        """Keys and values of the context; every press hears of every layer."""
        cache = DynamicCache()

        def hook(attention, _inputs, named, output):
            layer = cache.layers[attention.layer_idx]
            context = (named["hidden_states"], layer.keys, layer.values, output[1], named)
            for press in presses:
                press.hear(attention, context)

        hooks = [layer.register_forward_hook(hook, with_kwargs=True) for layer in self.layers]
        # The one implementation that hands out attention weights.
        self.model.set_attn_implementation("eager")
        self.model.model(ids[None], past_key_values=cache)
        for each in hooks:
            each.remove()
        self.states = [(layer.keys, layer.values) for layer in cache.layers]

    def cache(self):
        cache = DynamicCache()
        for i, (keys, values) in enumerate(self.states):
            cache.update(keys, values, i)
        return cache

    @torch.no_grad()
    def continued(self, ids, kept):
        """Log-probabilities after each of the ids, `[n, vocabulary]`, at the positions of the whole text."""
        n_context = self.states[0][0].shape[2]
        for layer, mask in zip(self.layers, kept):
            layer.kept = mask
        self.model.set_attn_implementation("masked")
        positions = torch.arange(n_context, n_context + len(ids))[None]
        logits = self.model(ids[None], past_key_values=self.cache(), position_ids=positions).logits[0]
        return logits.float().log_softmax(-1)


class Encoder:
    """The tokenizer as the replaying presses use it: for their own few words. The one that transformers builds from a GGUF file
    splits some texts wrongly, so it must give those words back."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode(self, text, **_options):
        ids = self.tokenizer.encode(text, return_tensors="pt", add_special_tokens=False)
        if self.tokenizer.decode(ids[0]) != text:
            sys.exit(f"{arguments.model}: the tokenizer does not give {text!r} back")
        return ids


def measured(full, compressed, targets):
    """Means over the continuation, of float32 log-probabilities in double precision."""
    kl = (full.exp() * (full - compressed)).sum(-1).double().mean()
    nll = -compressed.gather(1, targets[:, None]).double().mean()
    return {
        "kl": float(kl),
        "nll": float(nll),
        "top1_agreement": float((full.argmax(-1) == compressed.argmax(-1)).double().mean()),
    }


def rows_done(path):
    """`(dataset, id, policy, budget)` of the rows that stand in the file."""
    if not path.exists():
        return set()
    done = set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            sys.exit(f"{path}: line {number} is no row; remove it to go on")
        done.add((row["dataset"], row["_id"], row["policy"], row["budget"]))
    return done


def texts():
    """`(dataset, id, ids)` of the dump's samples: the context, the continuation, and the token that is only predicted."""
    wanted = arguments.context + arguments.continuation + 1
    manifest = json.loads((arguments.dump / "manifest.json").read_text())
    for sample in manifest["samples"]:
        with safe_open(arguments.dump / sample["file"], "pt") as file:
            ids = file.get_tensor("token_ids")
        whole = sample["n_tokens"] == sample["n_tokens_full"]
        # Of a text that lost its middle, the first half is the text's own beginning.
        beginning = len(ids) if whole else len(ids) // 2
        if beginning < wanted:
            sys.exit(
                f"{arguments.dump}: {sample['dataset']} {sample['id']} begins with {beginning} tokens, {wanted} are needed"
                + ("" if whole else f"; capture with --max-tokens {2 * wanted}")
            )
        yield sample["dataset"], sample["id"], ids[:wanted]


def rows_of_text(net, ids, left):
    """`(policy, budget, kept share, metrics)` of one text, for the policies and budgets that are left."""
    context, fed = ids[: arguments.context], ids[arguments.context : -1]
    targets = ids[arguments.context + 1 :]
    presses = {policy: press_of(policy) for policy in left if policy != FULL}
    net.prefill(context, presses.values())
    whole = [torch.ones(keys.shape[1], arguments.context, dtype=torch.bool) for keys, _ in net.states]
    full = net.continued(fed, whole)
    if FULL in left:
        yield FULL, None, 1.0, measured(full, full, targets)
    for policy, press in presses.items():
        press.score(net, context)
        for budget in left[policy]:
            kept = press.kept(net, budget)
            share = float(torch.stack(kept).double().mean())
            yield policy, budget, share, measured(full, net.continued(fed, kept), targets)


def main():
    done = rows_done(arguments.out)
    wanted = {FULL: [None], **{f"{KVPRESS}{spec}": BUDGETS for spec in arguments.press}}
    for policy in wanted.keys() - {FULL}:
        press_of(policy)  # A wrong name is told before the model is loaded.
    net = Net(arguments.model)
    for dataset, identity, ids in texts():
        left = {
            policy: [budget for budget in budgets if (dataset, identity, policy, budget) not in done]
            for policy, budgets in wanted.items()
        }
        left = {policy: budgets for policy, budgets in left.items() if budgets}
        if not left:
            continue
        for policy, budget, share, metrics in rows_of_text(net, ids, left):
            row = {
                "task": "kl",
                "dataset": dataset,
                "_id": identity,
                "policy": policy,
                "budget": budget,
                "kept_fraction": share,
                "metrics": metrics,
            }
            with arguments.out.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(f"{dataset} {identity[:8]} {policy} {budget}: KL {metrics['kl']:.5f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
