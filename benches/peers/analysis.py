"""All similarity maps of a layer with numpy and with torch: rows scaled to length 1, one matrix product a head.

Prints one JSON object: seconds of the fastest of several runs, by library. Each library has all cores.

    python analysis.py HEADS TOKENS DIM
"""

import json
import sys
import time

import numpy as np
import torch

REPEATS = 7


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

    def with_torch():
        for head in y:
            unit = torch.nn.functional.normalize(head, dim=1)
            torch.matmul(unit, unit.T, out=into)

    with torch.inference_mode():
        print(json.dumps({"numpy": fastest(with_numpy), "torch": fastest(with_torch)}))


if __name__ == "__main__":
    main()
