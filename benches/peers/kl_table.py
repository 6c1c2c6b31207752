"""Pairs the rows of kvpress_kl.py with those of `kvscope eval` on the same texts, as a markdown table.

    python benches/peers/kl_table.py --rivals kvpress.jsonl --eval reports/policies --policy 'profile *.json'

For each rival and budget: the ratio of mean KL, the policy's over the rival's, with a bootstrap interval over texts (both KLs
of a text are drawn together), on how many texts the policy is lower, and the sign test. `--policy` is a pattern: the profiles
of several budgets are one policy. stderr tells how far the two sides' full caches are apart.
"""

import argparse
import fnmatch
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

RESAMPLES = 10_000


def rows_of(path):
    """Rows of a file, of the family `kl`."""
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return [row for row in rows if row["task"] == "kl"]


def by_text(rows):
    """`{budget: {text: metrics}}`; one row a text and budget."""
    found = defaultdict(dict)
    for row in rows:
        texts, text = found[row["budget"]], (row["dataset"], row["_id"])
        if text in texts:
            sys.exit(f"{row['policy']} at {row['budget']} has two rows of {text}: give a narrower pattern")
        texts[text] = row["metrics"]
    return found


def ratio_interval(ours, theirs):
    """95 % of the ratios of means over texts drawn anew, from a seed."""
    drawn = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
    return np.quantile(ours[drawn].mean(1) / theirs[drawn].mean(1), [0.025, 0.975])


def sign_test(n_lower, n_higher):
    """Two-sided, ties left out."""
    n, most = n_lower + n_higher, max(n_lower, n_higher)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", action="append", required=True, type=Path, help="rows of kvpress_kl.py; may be repeated")
    parser.add_argument("--eval", action="append", required=True, type=Path, help="folder of an evaluation; may be repeated")
    parser.add_argument("--policy", default="profile *.json", help="which of its policies")
    arguments = parser.parse_args()

    rivals = [row for path in arguments.rivals for row in rows_of(path)]
    rows = [row for folder in arguments.eval for row in rows_of(folder / "rows.jsonl")]
    ours = by_text([row for row in rows if fnmatch.fnmatchcase(row["policy"], arguments.policy)])
    if not ours:
        sys.exit(f"no policy is like {arguments.policy!r}; there are {', '.join(sorted({row['policy'] for row in rows}))}")

    # Several evaluations of one text have the same full cache.
    full = {(row["dataset"], row["_id"]): row["metrics"] for row in rows if row["policy"] == "full"}
    apart = [
        abs(metrics["nll"] - full[text]["nll"])
        for text, metrics in by_text([row for row in rivals if row["policy"] == "full"])[None].items()
        if text in full
    ]
    if apart:
        print(f"full caches: NLL at most {max(apart):.1e} apart on {len(apart)} texts", file=sys.stderr)

    sides = ["its mean KL", "worst text", f"`{arguments.policy}`", "worst text"]
    head = ["kept", "rival", *sides, "ratio", "95 % interval", "lower on", "p"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    names = sorted({row["policy"] for row in rivals} - {"full"})
    for name in names:
        theirs = by_text([row for row in rivals if row["policy"] == name])
        for budget in sorted(theirs.keys() & ours.keys(), reverse=True):
            texts = sorted(theirs[budget].keys() & ours[budget].keys())
            if not texts:
                continue
            mine, other = (np.array([side[budget][text]["kl"] for text in texts]) for side in (ours, theirs))
            low, high = ratio_interval(mine, other)
            n_lower, n_higher = int((mine < other).sum()), int((mine > other).sum())
            print(
                f"| {100 * budget:g} % | {name} | {other.mean():.5f} | {other.max():.4f} | {mine.mean():.5f} | {mine.max():.4f} "
                f"| {mine.mean() / other.mean():.3f} | {low:.3f} to {high:.3f} | {n_lower} of {len(texts)} "
                f"| {sign_test(n_lower, n_higher):.2g} |"
            )


if __name__ == "__main__":
    main()
