//! The policies by name: each line names its four parts. The fourth, the refit, is typed behind any of them.

use crate::policy::score::LEARNED;
use crate::policy::{PolicyEntry, Standing};

/// A method that ranks tokens and drops the rest, with every head's share equal: what most lines change a part of.
const EVICTION: PolicyEntry = PolicyEntry {
    name: "",
    summary: "",
    source: "",
    standing: Standing::Published,
    score: "mass",
    allocation: "equal",
    fold: "drop",
    with: "",
    published: "",
    bases: &[],
    evicting: &[],
};

/// Every policy, by name.
pub const POLICIES: &[PolicyEntry] = &[
    PolicyEntry {
        name: "adakv",
        summary: "snapkv's tokens (window 32, largest of 7 neighbours); the heads of a layer compete for slots (safeguard=)",
        source: "Feng et al. 2024, arXiv 2407.11550",
        score: "window",
        allocation: "layer",
        with: "pool=7,pooling=max",
        ..EVICTION
    },
    PolicyEntry {
        name: "cam",
        summary: "evicts one token at a time (base=streaming or h2o) and adds its value to the next ones (merge=, seed=)",
        source: "Zhang et al. 2024, CaM: Cache Merging for Memory-efficient LLMs Inference, ICML 2024",
        score: "recency",
        fold: "cam",
        bases: &[("streaming", "score=recency"), ("h2o", "score=mass,recent=0.5")],
        evicting: &[("recency", "streaming"), ("mass", "h2o")],
        ..EVICTION
    },
    PolicyEntry {
        name: "evict",
        summary: "keeps KVMerger's protected tokens and pivots and drops the rest",
        source: "a control for Wang et al. 2024, arXiv 2407.08454",
        standing: Standing::Control,
        fold: "pivots",
        ..EVICTION
    },
    PolicyEntry {
        name: "expected",
        summary: "keeps the first tokens and those that queries to come are expected to attend to, by their mean and covariance (span=, sinks=, eps=)",
        source: "Devoto et al. 2025, arXiv 2510.00636",
        score: "expected-attention",
        ..EVICTION
    },
    PolicyEntry {
        name: "full",
        summary: "keeps every token",
        source: "Vaswani et al. 2017, arXiv 1706.03762",
        standing: Standing::Reference,
        fold: "keep",
        ..EVICTION
    },
    PolicyEntry {
        name: "h2o",
        summary: "keeps the last B/2 tokens and the B/2 of largest accumulated attention (recent=)",
        source: "Zhang et al. 2023, arXiv 2306.14048",
        with: "recent=0.5",
        ..EVICTION
    },
    PolicyEntry {
        name: "keydiff",
        summary: "keeps the tokens whose keys differ most from the mean key; needs no attention",
        source: "Park et al. 2025, arXiv 2504.15364",
        score: "key-difference",
        ..EVICTION
    },
    PolicyEntry {
        name: "kvgrad",
        summary: "as kvzip, with attention times the length of the projected value, times how much the model's last states depend on the query token's attention output; needs a backward pass",
        source: "KVgrad, openreview.net/forum?id=cg1wTCJjjk",
        score: "repetition",
        allocation: "model",
        with: "by=gradient,chunk=512",
        ..EVICTION
    },
    PolicyEntry {
        name: "kvmerger",
        summary: "merges runs of similar neighbours (variant=, kernel=, sigma=, eps=, bridge=, recent=, heavy=)",
        source: "Wang, Jin, Yu, Zhang 2024, arXiv 2407.08454",
        standing: Standing::Paper,
        fold: "sets",
        published: "variant=paper",
        evicting: &[("mass", "evict")],
        ..EVICTION
    },
    PolicyEntry {
        name: "kvzap",
        summary: "keeps the last tokens (window=) and those that a linear map predicts to be worth most to kvzip+ (weights=FILE of `kvscope learn`); all heads of the model compete for slots; with tau=, in place of a budget, what is predicted to be worth as much",
        source: "KVzap 2026, arXiv 2601.07891, its linear map",
        score: LEARNED,
        allocation: "model",
        ..EVICTION
    },
    PolicyEntry {
        name: "kvzip",
        summary: "keeps the first tokens (sinks=) and those that a replay of the prompt attends to most; all heads of the model compete for slots",
        source: "Kim et al. 2025, arXiv 2505.23416",
        score: "repetition",
        allocation: "model",
        ..EVICTION
    },
    PolicyEntry {
        name: "kvzip+",
        summary: "as kvzip, with attention times the length of the projected value, over the length of the query token's state",
        source: "KVzap 2026, arXiv 2601.07891",
        score: "repetition",
        allocation: "model",
        with: "by=output",
        ..EVICTION
    },
    PolicyEntry {
        name: "massfold",
        summary: "keeps the tokens of kvzip and folds the others into them by worth (sinks=); snapkv:fold=massfold folds snapkv's",
        source: "Gast 2026, MassFold (kvfold 0.1.1); Kim et al. 2025, arXiv 2505.23416",
        score: "repetition",
        allocation: "model",
        fold: "massfold",
        evicting: &[("repetition", "kvzip")],
        ..EVICTION
    },
    PolicyEntry {
        name: "matching",
        summary: "keeps the tokens of largest root mean square attention from the prompt's queries turned to later positions (queries=, span=, from=)",
        source: "Zweiger et al. 2026, arXiv 2602.16284, its keys; with +refit its masses and values, too",
        score: "queries",
        with: "first=4,last=32",
        ..EVICTION
    },
    PolicyEntry {
        name: "pursuit",
        summary: "keeps the tokens that add up to the attention mass of matching's queries, by matching pursuit; for small budgets (step=, queries=, span=, from=)",
        source: "Zweiger et al. 2026, arXiv 2602.16284, its keys by OMP; with +refit its masses and values, too",
        score: "pursuit",
        with: "first=4,last=32",
        ..EVICTION
    },
    PolicyEntry {
        name: "pyramidkv",
        summary: "snapkv's tokens; many slots for the first layers, few for the last ones (beta=)",
        source: "Cai et al. 2024, arXiv 2406.02069",
        score: "window",
        allocation: "pyramid",
        ..EVICTION
    },
    PolicyEntry {
        name: "random",
        summary: "keeps the recent tokens and others at random (seed=)",
        source: "a control, not a published method",
        standing: Standing::Chance,
        score: "random",
        ..EVICTION
    },
    PolicyEntry {
        name: "restkv",
        summary: "keeps the tokens whose loss changes the head's output most (queries=, span=, from=)",
        source: "An et al. 2026, ReST-KV, ICLR 2026",
        score: "leave-one-out",
        with: "first=4,last=32",
        ..EVICTION
    },
    PolicyEntry {
        name: "snapkv",
        summary: "keeps the last 32 tokens (window=) and those they attend to most, averaged over 5 neighbours (pool=)",
        source: "Li et al. 2024, arXiv 2404.14469",
        score: "window",
        ..EVICTION
    },
    PolicyEntry {
        name: "streaming",
        summary: "keeps the first 4 tokens (sinks=) and the last ones",
        source: "Xiao et al. 2023, arXiv 2309.17453",
        score: "recency",
        ..EVICTION
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint;
    use crate::policy::parse;

    #[test]
    fn the_table_is_well_formed() {
        for (i, entry) in POLICIES.iter().enumerate() {
            assert!(i == 0 || POLICIES[i - 1].name < entry.name, "{} is out of order", entry.name);
            assert!(!entry.summary.is_empty() && !entry.source.is_empty());
            if entry.needs_weights() {
                let error = parse(entry.name).unwrap_err();
                assert!(error.hint().unwrap().contains("kvscope learn"), "{error}");
                continue;
            }
            let policy = parse(entry.name).unwrap().1;
            assert_eq!(policy.params()["fold"], entry.fold, "{}", entry.name);
            for (base, _) in entry.bases {
                parse(&format!("{}:base={base}", entry.name)).unwrap();
            }
        }
    }

    #[test]
    fn a_merge_names_the_eviction_of_the_same_slots() {
        let of = |spec: &str| parse(spec).unwrap().1.control().map(str::to_string);
        let is = |spec: &str, control: &str| assert_eq!(of(spec).as_deref(), Some(control), "{spec}");
        is("kvmerger:variant=convex,bridge=true,recent=0.2", "evict:bridge=true,recent=0.2");
        is("kvmerger+refit:lambda=1", "evict+refit:lambda=1");
        is("cam:merge=8,sinks=2", "streaming:sinks=2");
        is("cam:base=h2o,seed=4", "h2o");
        is("snapkv:window=8,fold=nearest,eps=0.5", "snapkv:score=window,allocation=equal,fold=drop,window=8");
        is("kvmerger:allocation=layer,bridge=true", "kvmerger:score=mass,allocation=layer,fold=pivots,bridge=true");
        assert_eq!((of("h2o"), of("evict"), of("kvmerger:kernel=pivot")), (None, None, None));
        for entry in POLICIES.iter().filter(|entry| !entry.needs_weights()) {
            if let Some(control) = of(entry.name) {
                assert!(parse(&control).unwrap().1.control().is_none(), "{control}");
            }
        }
    }
}
