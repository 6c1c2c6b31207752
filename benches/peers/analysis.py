"""All similarity maps of a layer with numpy and with torch: rows scaled to length 1, one matrix product a head.

Prints one JSON object: seconds of the fastest of several runs, by way. Each library has all cores and writes into memory
that it has written before. What ends in "to f16" also rounds the product to half precision, as a map's file holds it;
the others leave that out.

    python analysis.py HEADS TOKENS DIM
"""

import json
import sys
import time

import numpy as np
import torch

REPEATS = 5


def fastest(run):
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    heads, tokens, dim = (int(x) for x in sys.argv[1:4])
    x = np.random.default_rng(0).standard_normal((heads, tokens, dim), dtype=np.float32)
    out = np.empty((tokens, tokens), dtype=np.float32)

    def with_numpy():
        for head in x:
            unit = head / np.linalg.norm(head, axis=1, keepdims=True)
            np.matmul(unit, unit.T, out=out)

    y, into = torch.from_numpy(x), torch.from_numpy(out)
    halves = torch.empty((tokens, tokens), dtype=torch.float16)

    def with_torch():
        for head in y:
            unit = torch.nn.functional.normalize(head, dim=1)
            torch.matmul(unit, unit.T, out=into)

    def with_torch_to_f16():
        for head in y:
            unit = torch.nn.functional.normalize(head, dim=1)
            torch.matmul(unit, unit.T, out=into)
            halves.copy_(into)

    all_heads = torch.empty((heads, tokens, tokens), dtype=torch.float32)

    def with_bmm():
        unit = torch.nn.functional.normalize(y, dim=2)
        torch.bmm(unit, unit.transpose(1, 2), out=all_heads)

    ways = {"numpy": with_numpy, "torch": with_torch, "torch bmm": with_bmm, "torch to f16": with_torch_to_f16}
    with torch.inference_mode():
        print(json.dumps({name: fastest(run) for name, run in ways.items()}))


if __name__ == "__main__":
    main()
