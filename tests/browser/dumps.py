"""Dumps with made-up numbers, as docs/DUMP.md describes them, with the standard library only."""

import hashlib
import json
import math
import pathlib
import random
import struct

DIM, GROUP, HEADS = 64, 2, 2
EARLY, LAST = 16, 32
QUERIES = EARLY + LAST
# What pages have been broken with: tags, quotes, directions, control characters, signs beyond the first plane.
HOSTILE = [
    "<script>alert(1)</script>", "</script>", "<!--", "\"'><img src=x onerror=alert(2)>", "\u202eabc\u202c", "\u05e9\u05dc\u05d5\u05dd",
    " \u0645\u0631\u062d\u0628\u0627", "\U0001f980\u200d\U0001f525", "\x00\x07\x1b[2J", "\u2028\u2029", "", "\n", "\t", "&lt;b&gt;", "\u2066x", " the",
]


def positions_of(n_tokens):
    """Of the kept queries: some from everywhere, and the last ones."""
    return [(n_tokens - LAST) * i // EARLY for i in range(EARLY)] + list(range(n_tokens - LAST, n_tokens))


def halves(values):
    return struct.pack(f"<{len(values)}e", *values)


def write_sample(path, n_tokens, n_layers, seed):
    """One sample; gives the file's tensors as lists by name, so that a test can compute from them."""
    draw = random.Random(seed)
    texts = [HOSTILE[t % len(HOSTILE)] if t % 5 == 0 else f" w{t}" for t in range(n_tokens)]
    tensors = {"token_ids": ("I64", [n_tokens], struct.pack(f"<{n_tokens}q", *range(n_tokens)))}
    numbers = {}

    def add(name, shape, values):
        # As the file has them.
        data = halves(values)
        numbers[name] = struct.unpack(f"<{len(values)}e", data)
        tensors[name] = ("F16", shape, data)

    for layer in range(n_layers):
        positions = positions_of(n_tokens)
        tensors[f"layers.{layer}.q_positions"] = ("I64", [QUERIES], struct.pack(f"<{QUERIES}q", *positions))
        # A walk, so that neighbours are alike; every 1,000th token repeats the one 500 before it.
        for name in ["k", "v", "k_pre_rope"]:
            values = []
            for _ in range(HEADS):
                rows = [[draw.gauss(0, 1) for _ in range(DIM)]]
                for t in range(1, n_tokens):
                    turn = 0.9 if draw.random() < 0.2 else 0.5
                    rows.append(rows[t - 500] if t % 1000 == 777 else [(1 - turn) * x + turn * draw.gauss(0, 1) for x in rows[-1]])
                values += [x for row in rows for x in row]
            add(f"layers.{layer}.{name}", [HEADS, n_tokens, DIM], values)
        add(f"layers.{layer}.q", [HEADS * GROUP, QUERIES, DIM], [draw.gauss(0, 1) for _ in range(HEADS * GROUP * QUERIES * DIM)])
        # Attention over all tokens that a query sees, but for a few that get the double of others.
        weights = [2.0 if draw.random() < 0.1 else 1.0 + 1e-3 * draw.random() for _ in range(n_tokens)]
        seen, sums = 0.0, []
        for weight in weights:
            seen += weight
            sums.append(1 / seen)
        rest, after = 0.0, [0.0] * n_tokens
        for t in reversed(range(n_tokens)):
            rest += sums[t]
            after[t] = rest
        mass = [GROUP * weight * of for weight, of in zip(weights, after)] * HEADS
        last = [GROUP * weight * (after[max(t, n_tokens - 32)]) for t, weight in enumerate(weights)] * HEADS
        for name, values in [("attn_mass", mass), ("attn_mass_window", last)]:
            tensors[f"layers.{layer}.{name}"] = ("F32", [HEADS, n_tokens], struct.pack(f"<{len(values)}f", *values))
            numbers[f"layers.{layer}.{name}"] = values
    header, offset = {"__metadata__": {"format": "pt", "token_texts": json.dumps(texts)}}, 0
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors.values()))
    return texts, numbers


def write_dump(folder, lengths, n_layers=1):
    """A dump with a data set for every length; gives texts and numbers of each sample."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    samples, found = [], []
    for index, n_tokens in enumerate(lengths):
        name = f"{index}.safetensors"
        found.append(write_sample(folder / name, n_tokens, n_layers, index))
        data = (folder / name).read_bytes()
        samples.append({
            "index": index, "dataset": ["</script><b>set", "plain"][index % 2], "id": f"row\"{index}<i>", "n_tokens": n_tokens,
            "n_prompt_tokens": n_tokens, "n_tokens_full": n_tokens, "file": name, "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        })
    manifest = {
        "schema": "kvscope.dump/1",
        "provenance": {"tool": "made up", "command": "capture", "seed": 0, "options": {}, "inputs": []},
        "model": {
            "name": "made-up <model>", "architecture": "LlamaForCausalLM", "fingerprint": "none", "tokenizer_sha256": None,
            "n_layers": n_layers, "n_q_heads": HEADS * GROUP, "n_kv_heads": HEADS, "head_dim": DIM, "rope_theta": 10000.0,
            "rope_frequencies": [10000.0 ** (-2 * i / DIM) for i in range(DIM // 2)], "max_positions": max(lengths),
        },
        "states": ["k", "v", "k_pre_rope", "q", "mass"], "layers": list(range(n_layers)), "dtype": "f16", "window_tokens": 32,
        "planned_samples": len(samples), "samples": samples,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return found


def cosine(numbers, state, n_tokens, head, i, j):
    """Of two tokens' vectors, as the file has them."""
    row = lambda t: numbers[f"layers.0.{state}"][(head * n_tokens + t) * DIM:][:DIM]  # noqa: E731
    a, b = row(i), row(j)
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def logit_gap(numbers, n_tokens, head, i, j):
    """Root mean square of q·(k_i - k_j)/√D over the kept queries that see both."""
    row = lambda name, t, n: numbers[f"layers.0.{name}"][t * DIM:][:DIM]  # noqa: E731
    a, b = row("k", head * n_tokens + i, 0), row("k", head * n_tokens + j, 0)
    seen = [at for at, position in enumerate(positions_of(n_tokens)) if position >= max(i, j)]
    assert 2 * len(seen) >= QUERIES
    of_group = [(head * GROUP + of) * QUERIES + at for of in range(GROUP) for at in seen]
    logits = [sum(q * (x - y) for q, x, y in zip(row("q", t, 0), a, b)) for t in of_group]
    return math.sqrt(sum(x * x for x in logits) / len(logits) / DIM)
