// What becomes of each token of a head under a policy: kvscope's own rules (modules `merge` and `policy`), on saved orders, so that
// every decision is the one that `kvscope show` and `kvscope analyze` report.

import { fromBf16 } from "./payload.js";

export const FATES = ["kept", "recent", "heavy", "merged", "evicted"];
export const [KEPT, RECENT, HEAVY, MERGED, EVICTED] = [0, 1, 2, 3, 4];
/** Code of a cosine that is undefined. */
const UNDEFINED = 0xffff;
/** Steps of a threshold in a unit of cosine. */
export const STEPS = 1000;
/** First tokens that streaming keeps. */
const SINKS = 4;

/** The policies: whether a cosine decides, or a budget. */
export const POLICIES = {
  "kvmerger-eps": { title: "kvmerger, above a cosine", by: "eps" },
  "kvmerger": { title: "kvmerger, to a budget", by: "budget" },
  "evict": { title: "evict, to a budget", by: "budget" },
  "h2o": { title: "h2o, to a budget", by: "budget" },
  "streaming": { title: "streaming, to a budget", by: "budget" },
};

/** A head's neighbours and masses, in order. */
export class Series {
  /** Of the head at a place of a sample's part. */
  constructor(part, place, nTokens) {
    const n = nTokens, pairs = n - 1;
    this.nTokens = n;
    /** Pairs of neighbours, most alike first, and how many thresholds each is above. */
    this.linkOrder = part.link_order.subarray(place * pairs, (place + 1) * pairs);
    this.linkCode = spread(this.linkOrder, summed(part.link_codes.subarray(place * pairs, (place + 1) * pairs)));
    /** Tokens, heaviest first, and their places in that order. */
    this.massOrder = part.mass_order.subarray(place * n, (place + 1) * n);
    this.massRank = new Uint16Array(n);
    this.massOrder.forEach((token, rank) => { this.massRank[token] = rank; });
    this.mass = fromBf16(spread(this.massOrder, summed(part.mass_codes.subarray(place * n, (place + 1) * n))));
  }

  /** Whether the neighbours t and t + 1 are more alike than a threshold in steps. */
  isAbove(t, step) {
    return this.linkCode[t] !== UNDEFINED && this.linkCode[t] > step + STEPS;
  }
}

/** The numbers of which these are the differences. */
function summed(steps) {
  const out = new Uint16Array(steps.length);
  let sum = 0;
  for (let i = 0; i < steps.length; i++) out[i] = sum = (sum - steps[i]) & 0xffff;
  return out;
}

function spread(order, values) {
  const out = new Uint16Array(order.length);
  for (let i = 0; i < order.length; i++) out[order[i]] = values[i];
  return out;
}

/** KVMerger's protected shares at a budget: `Shares::of_paper`. */
export function sharesOfPaper(kept) {
  const low = { recent: 0.08, heavy: 0.02 }, high = { recent: 0.17, heavy: 0.12 };
  if (kept >= 0.5) return high;
  if (kept >= 0.35) {
    const t = (kept - 0.35) / 0.15;
    return { recent: low.recent + t * (high.recent - low.recent), heavy: low.heavy + t * (high.heavy - low.heavy) };
  }
  const t = Math.max(kept / 0.35, 0);
  return { recent: low.recent * t, heavy: low.heavy * t };
}

function counts(shares, n) {
  const recent = Math.min(Math.round(n * shares.recent), n);
  return [recent, Math.min(Math.round(n * shares.heavy), n - recent)];
}

/** The last tokens, and of the others the heaviest. */
function protect(series, nRecent, nHeavy) {
  const n = series.nTokens, first = Math.max(n - nRecent, 0);
  const isProtected = new Uint8Array(n).fill(1, first);
  let left = nHeavy;
  for (let rank = 0; rank < n && left > 0; rank++) {
    const token = series.massOrder[rank];
    if (token >= first) continue;
    isProtected[token] = 1;
    left--;
  }
  return isProtected;
}

/** The most heavy tokens of the first `older` that leave a budget within reach. */
function heavyWithin(series, older, nHeavy, nSlots, bridge) {
  const taken = new Uint8Array(older);
  const isFree = (i) => i >= 0 && i < older && !taken[i];
  let chains = older > 0 ? 1 : 0, most = 0, rank = 0;
  for (const token of series.massOrder) {
    if (rank >= nHeavy) break;
    if (token >= older) continue;
    taken[token] = 1;
    const beside = Number(isFree(token - 1)) + Number(isFree(token + 1));
    chains = bridge ? Number(rank + 1 < older) : chains + beside - 1;
    if (rank + 1 + chains <= nSlots) most = rank + 1;
    rank++;
  }
  return most;
}

/** Slots of a head when all heads have the same share: `Compression::budget_tokens`. */
export function budgetTokens(share, head, model, n) {
  const each = (share * model.n_layers) / model.n_layers;
  const slots = Math.round(each * (head + 1) * n) - Math.round(each * head * n);
  return Math.min(Math.max(slots, 1), Math.max(n, 1));
}

/**
 * What becomes of every token.
 *
 * `rule`: policy, step (threshold in steps), budget (share), recent and heavy (shares, where a cosine decides), bridge.
 * `head`: number of the head in the model. `similarity(i, j)`: cosine of two keys, needed with `bridge`; else null.
 * Gives fates, sets (lists of tokens), slots (the place of each token's slot, or -1) and counts; or an error in words.
 */
export function fatesOf(series, rule, head, model, similarity) {
  const n = series.nTokens;
  const budget = budgetTokens(rule.budget, head, model, n);
  const byBudget = POLICIES[rule.policy].by === "budget";
  if (byBudget && budget >= n) return finish(series, new Uint8Array(n).fill(1), [], "single", null);
  if (rule.policy === "h2o") {
    const recent = Math.trunc(budget * 0.5);
    return finish(series, protect(series, recent, budget - recent), [], "single", null);
  }
  if (rule.policy === "streaming") {
    const sinks = Math.min(SINKS, budget - 1);
    const stays = new Uint8Array(n).fill(1, 0, sinks).fill(1, n - (budget - sinks));
    return finish(series, stays, [], "single", null);
  }
  if (rule.bridge && !similarity) return { error: "Chains across protected tokens need this head's keys, which this page does not hold." };
  let [recent, heavy] = counts(byBudget ? sharesOfPaper(budget / n) : rule, n);
  if (byBudget) {
    recent = Math.min(Math.max(recent, 1), Math.max(budget - 1, 0));
    heavy = heavyWithin(series, n - recent, heavy, Math.max(budget - recent, 0), rule.bridge);
  }
  const isProtected = protect(series, recent, heavy);
  const tokens = [];
  for (let t = 0; t < n; t++) if (!isProtected[t]) tokens.push(t);
  const joined = new Uint8Array(tokens.length);
  let lowest = null;
  if (!byBudget && !rule.bridge) {
    for (let r = 0; r + 1 < tokens.length; r++) {
      const t = tokens[r];
      if (tokens[r + 1] !== t + 1 || !series.isAbove(t, rule.step)) continue;
      joined[r] = 1;
      if (lowest === null || series.linkCode[t] < series.linkCode[lowest]) lowest = t;
    }
  } else {
    const links = ordered(series, tokens, rule.bridge, similarity);
    const nSets = budget - recent - heavy;
    if (byBudget && nSets < 0) {
      return { error: `${recent + heavy} tokens are protected but only ${budget} may be kept.` };
    }
    const eps = Math.fround(rule.step / STEPS);
    const toJoin = byBudget ? Math.max(tokens.length - nSets, 0) : links.filter((link) => link.cosine > eps).length;
    if (links.length < toJoin) {
      const reachable = recent + heavy + tokens.length - links.length;
      return { error: `At least ${reachable} slots remain when every neighbour is joined, and only ${budget} are allowed.` };
    }
    for (const link of links.slice(0, toJoin)) joined[link.rank] = 1;
    if (toJoin > 0) lowest = tokens[links[toJoin - 1].rank];
  }
  const sets = [];
  let start = 0;
  for (let r = 0; r < tokens.length; r++) {
    if (joined[r]) continue;
    sets.push(tokens.slice(start, r + 1));
    start = r + 1;
  }
  return finish(series, isProtected, sets, rule.policy === "evict" ? "evict" : "merge", lowest);
}

/** Links of unprotected neighbours, most alike first, the earlier first of equals. */
function ordered(series, tokens, bridge, similarity) {
  if (bridge) {
    const links = [];
    for (let rank = 0; rank + 1 < tokens.length; rank++) {
      const cosine = Math.fround(similarity(tokens[rank], tokens[rank + 1]));
      if (!Number.isNaN(cosine)) links.push({ rank, cosine });
    }
    return links.sort((a, b) => b.cosine - a.cosine || a.rank - b.rank);
  }
  const rankOf = new Int32Array(series.nTokens).fill(-1);
  tokens.forEach((token, rank) => { rankOf[token] = rank; });
  const links = [];
  for (const t of series.linkOrder) {
    if (series.linkCode[t] !== UNDEFINED && rankOf[t] >= 0 && rankOf[t + 1] >= 0) links.push({ rank: rankOf[t] });
  }
  return links;
}

/** Fates, slots and counts of tokens that stay as they are, and of sets. */
function finish(series, stays, sets, how, lowest) {
  const n = series.nTokens;
  const fates = new Uint8Array(n).fill(EVICTED);
  const pivots = [];
  let firstRecent = n;
  while (firstRecent > 0 && stays[firstRecent - 1]) firstRecent--;
  for (let t = 0; t < n; t++) {
    if (!stays[t]) continue;
    fates[t] = how === "single" ? KEPT : t >= firstRecent ? RECENT : HEAVY;
    pivots.push([t, null]);
  }
  let largest = 0, nSets = 0, inSets = 0;
  for (const set of sets) {
    let pivot = set[0];
    for (const token of set) if (series.massRank[token] < series.massRank[pivot]) pivot = token;
    pivots.push([pivot, set]);
    const isSet = how === "merge" && set.length > 1;
    if (isSet) {
      nSets++;
      inSets += set.length;
      largest = Math.max(largest, set.length);
      for (const token of set) fates[token] = MERGED;
    } else {
      fates[pivot] = KEPT;
    }
  }
  pivots.sort((a, b) => a[0] - b[0]);
  const slots = new Int32Array(n).fill(-1);
  pivots.forEach(([pivot, set], slot) => {
    if (set && how === "merge") for (const token of set) slots[token] = slot;
    else slots[pivot] = slot;
  });
  let evicted = 0;
  for (const fate of fates) evicted += Number(fate === EVICTED);
  const kept = pivots.length;
  return {
    error: null, fates, slots, sets: how === "merge" ? sets.filter((set) => set.length > 1) : [], pivots, lowest,
    counters: { seen: n, kept, merged: n - evicted - kept, evicted }, nSets, largest, inSets,
  };
}
