"""All similarity maps of a layer with numpy and with torch: rows scaled to length 1, one matrix product a head; and what it
takes to load the files of a dump.

    python benches/peers/analysis_peer.py --threads 2

Each library has all threads and writes into memory that it has written before. What ends in `f16` also rounds the product
to half precision, as a map's file holds it; the others leave that out.
"""

import argparse
import os

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = str(arguments.threads)

import numpy as np
import torch
from safetensors.numpy import load_file

from peer import serve

torch.set_num_threads(arguments.threads)
layers = {}


class Layer:
    """A layer's rows, and room for what is made of them."""

    def __init__(self, heads, tokens, dim):
        self.rows = np.random.default_rng(0).standard_normal((heads, tokens, dim), dtype=np.float32)
        self.tensors = torch.from_numpy(self.rows)
        self.product = np.empty((tokens, tokens), dtype=np.float32)
        self.into = torch.from_numpy(self.product)
        self.halves = torch.empty((tokens, tokens), dtype=torch.float16)
        self.all_heads = torch.empty((heads, tokens, tokens), dtype=torch.float32)


def of_layer(run):
    def operation(heads, tokens, dim):
        shape = (heads, tokens, dim)
        if shape not in layers:
            layers.clear()
            layers[shape] = Layer(*shape)
        with torch.inference_mode():
            run(layers[shape])

    return operation


def with_numpy(layer):
    for head in layer.rows:
        unit = head / np.linalg.norm(head, axis=1, keepdims=True)
        np.matmul(unit, unit.T, out=layer.product)


def with_torch(layer):
    for head in layer.tensors:
        unit = torch.nn.functional.normalize(head, dim=1)
        torch.matmul(unit, unit.T, out=layer.into)


def with_torch_to_f16(layer):
    for head in layer.tensors:
        unit = torch.nn.functional.normalize(head, dim=1)
        torch.matmul(unit, unit.T, out=layer.into)
        layer.halves.copy_(layer.into)


def with_bmm(layer):
    unit = torch.nn.functional.normalize(layer.tensors, dim=2)
    torch.bmm(unit, unit.transpose(1, 2), out=layer.all_heads)


def load(paths):
    for path in paths:
        load_file(path)


serve(
    {
        "load": load,
        "numpy": of_layer(with_numpy),
        "torch": of_layer(with_torch),
        "torch_bmm": of_layer(with_bmm),
        "torch_f16": of_layer(with_torch_to_f16),
    },
    name=f"numpy {np.__version__}, torch {torch.__version__}",
)
