"""llama.cpp through llama-cpp-python on the same GGUF file, with a full f16 cache.

    python benches/peers/llama_cpp_peer.py --model MODEL.gguf --threads 2

`prefill` runs a prompt; `decode` cuts the cache back to `context` tokens and decodes `steps` greedy tokens behind them.
"""

import argparse
import time

import llama_cpp
import numpy as np

from peer import serve
from peer import token_ids

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="GGUF file")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--context", type=int, default=8192)
parser.add_argument("--flash", action="store_true", help="its fused attention")
arguments = parser.parse_args()

F16 = 1
model = llama_cpp.Llama(
    arguments.model,
    n_ctx=arguments.context,
    n_threads=arguments.threads,
    n_threads_batch=arguments.threads,
    n_batch=2048,
    n_ubatch=512,
    flash_attn=arguments.flash,
    type_k=F16,
    type_v=F16,
    verbose=False,
)


def prefill(n_tokens):
    """All keys and values, and the token of the highest logit."""
    model.reset()
    model.eval(token_ids(n_tokens))
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))
    return {"token": int(logits.argmax())}


def decode(context, steps):
    """Greedy tokens through the C interface, so that no Python stands between two steps; seconds of each."""
    memory = llama_cpp.llama_get_memory(model.ctx)
    assert llama_cpp.llama_memory_seq_rm(memory, 0, context, -1)
    batch = llama_cpp.llama_batch_init(1, 0, 1)
    batch.n_tokens, batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 1, 0, 1
    token, seconds = 100, []
    for position in range(context, context + steps):
        batch.token[0], batch.pos[0] = token, position
        start = time.perf_counter()
        assert llama_cpp.llama_decode(model.ctx, batch) == 0
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, 0), (model.n_vocab(),))
        seconds.append(time.perf_counter() - start)
        token = int(logits.argmax())
    llama_cpp.llama_batch_free(batch)
    return {"step_secs": seconds}


serve({"prefill": prefill, "decode": decode}, name=f"llama-cpp-python {llama_cpp.__version__}")
