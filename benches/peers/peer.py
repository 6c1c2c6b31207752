"""What the peers share: the tokens, and the loop that answers the benchmark's requests."""

import json
import sys
import time


def token_ids(n_tokens):
    """The benchmark's prompt: ids spread over the vocabulary, the same for every engine."""
    return [(i * 7919 + 13) % 49000 + 100 for i in range(n_tokens)]


def serve(operations, **facts):
    """Answers `{"op": NAME, ...}` lines on stdin with `{"secs": ..., ...}` lines on stdout.

    `operations` maps a name to a function of the request; what it returns (a dict, or None) is added to the answer. The
    first line that is written says that the peer is ready, with `facts` about it.
    """
    answers = sys.stdout
    # Whatever a library prints must not come between the answers.
    sys.stdout = sys.stderr
    print(json.dumps({"ready": True, **facts}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        run = operations[request.pop("op")]
        start = time.perf_counter()
        more = run(**request) or {}
        secs = time.perf_counter() - start
        print(json.dumps({"secs": secs, **more}), file=answers, flush=True)
