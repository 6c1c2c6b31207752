// What becomes of each token of a head under a policy: kvscope's own rules (modules `merge` and `policy`), on saved orders, so that
// every decision is the one that `kvscope show` and `kvscope analyze` report.

import { fromBf16 } from "./payload.js";

export const FATES = ["kept", "recent", "heavy", "merged", "evicted"];
export const [KEPT, RECENT, HEAVY, MERGED, EVICTED] = [0, 1, 2, 3, 4];
/** Code of a cosine that is undefined. */
const UNDEFINED = 0xffff;
/** Steps of a threshold in a unit of cosine. */
export const STEPS = 1000;
/** The name of the rule by which all neighbours above a cosine merge. */
export const BY_COSINE = "kvmerger-eps";

/** A head's neighbours and masses, in order. */
export class Series {
  /** Of the head at a place of a sample's part. `others`: the orders of other scores by name, each of all heads of the layer. */
  constructor(part, place, nTokens, others = new Map()) {
    const n = nTokens, pairs = n - 1;
    this.nTokens = n;
    /** Pairs of neighbours, most alike first, and how many thresholds each is above. */
    this.linkOrder = part.link_order.subarray(place * pairs, (place + 1) * pairs);
    this.linkCode = spread(this.linkOrder, summed(part.link_codes.subarray(place * pairs, (place + 1) * pairs)));
    /** Tokens, heaviest first, and their places in that order. */
    this.massOrder = part.mass_order.subarray(place * n, (place + 1) * n);
    this.orders = new Map([...others].map(([name, of]) => [name, of.subarray(place * n, (place + 1) * n)]));
    this.mass = fromBf16(spread(this.massOrder, summed(part.mass_codes.subarray(place * n, (place + 1) * n))));
  }

  /**
   * Tokens from the one that a policy's score says is worth most at a budget; null where this page cannot tell. `policy`: parameters,
   * `key` of its score, and `beside`, where a second score takes a share of the slots.
   */
  ranked({ params, key, beside }, budget) {
    const { nTokens: n } = this;
    if (beside) {
      const [own, other] = [this.ranked({ params, key }, budget), beside.params && this.ranked(beside, budget)];
      if (!own || !other) return null;
      const worth = new Float32Array(n), places = new Uint16Array(n);
      own.forEach((token, place) => { places[token] = place; });
      other.forEach((token, place) => {
        worth[token] = -Math.min((places[token] + 1) / (1 - beside.share), (place + 1) / beside.share);
      });
      return Uint16Array.from({ length: n }, (_, t) => t).sort((a, b) => worth[b] - worth[a] || a - b);
    }
    if (params.beside) return null;
    if (params.score === "mass") return this.massOrder;
    if (params.score === "recency") {
      const sinks = Math.min(params.sinks, budget - 1);
      return Uint16Array.from({ length: n }, (_, rank) => (rank < sinks ? rank : n - 1 - (rank - sinks)));
    }
    // Of a window that does not fit a budget only its last queries stay in any case.
    if (params.score === "window" && budget < params.window) return null;
    return this.orders.get(key) || null;
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

/** The last tokens, and of the others those that are worth most, of which those below `first` are worth more than all. */
function protect(order, nRecent, nHeavy, first = 0) {
  const n = order.length, newest = Math.max(n - nRecent, 0);
  const isProtected = new Uint8Array(n).fill(1, newest).fill(1, 0, Math.min(first, nHeavy, newest));
  let left = nHeavy - Math.min(first, nHeavy, newest);
  for (let rank = 0; rank < n && left > 0; rank++) {
    const token = order[rank];
    if (isProtected[token]) continue;
    isProtected[token] = 1;
    left--;
  }
  return isProtected;
}

/** The most heavy tokens of the first `older` that leave a budget within reach. */
function heavyWithin(order, older, nHeavy, nSlots, bridge) {
  const taken = new Uint8Array(older);
  const isFree = (i) => i >= 0 && i < older && !taken[i];
  let chains = older > 0 ? 1 : 0, most = 0, rank = 0;
  for (const token of order) {
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

/** Slots of a head: `Compression::budget_tokens`. `shareOf(head)`: of each head; `reaches`: what a head of each layer has in whole. */
export function budgetTokens(shareOf, head, { n_kv_heads: nHeads }, reaches) {
  let before = 0;
  for (let other = 0; other < head; other++) before += shareOf(other) * reaches[Math.floor(other / nHeads)];
  const of = reaches[Math.floor(head / nHeads)];
  const slots = Math.round(before + shareOf(head) * of) - Math.round(before);
  return Math.min(Math.max(slots, 1), Math.max(of, 1));
}

/** Slots of a head when all heads have the same share. */
export function equalBudget(share, head, { n_kv_heads: nHeads }, reaches) {
  const upTo = (end) => {
    const layer = Math.floor(end / nHeads);
    let sum = 0;
    for (let l = 0; l < layer; l++) sum += share * reaches[l];
    return nHeads * sum + (layer < reaches.length ? (end % nHeads) * (share * reaches[layer]) : 0);
  };
  const slots = Math.round(upTo(head + 1)) - Math.round(upTo(head));
  return Math.min(Math.max(slots, 1), Math.max(reaches[Math.floor(head / nHeads)], 1));
}

/** What this page cannot tell. */
const elsewhere = (error) => ({ error, elsewhere: true });

/**
 * What becomes of every token.
 *
 * `policy`: parameters and `key` of its score. `budget`: slots that the head may keep. `similarity(i, j)`: cosine of two keys, needed
 * where chains cross protected tokens; else null. Where a threshold decides, `params.eps` is in steps.
 * Gives fates, sets (lists of tokens), slots (the place of each token's slot, or -1) and counts; or an error in words.
 */
export function fatesOf(series, policy, budget, similarity) {
  const n = series.nTokens, { params } = policy;
  if (!params) return elsewhere(`This page does not know the policy ${policy.spec}.`);
  const byCosine = params.eps !== null && params.eps !== undefined;
  if (!["drop", "sets", "pivots"].includes(params.fold) || (params.tau ?? null) !== null) {
    return elsewhere(`What ${policy.spec} does is not computed on this page.`);
  }
  if (!byCosine && budget >= n) return finish(series.massOrder, new Uint8Array(n).fill(1), [], "single", null);
  const order = series.ranked(policy, budget);
  if (!order) return elsewhere(`The scores by which ${policy.spec} ranks this head's tokens at ${budget} slots are not on this page.`);
  if (params.fold === "drop") {
    const recent = Math.max(Math.trunc(budget * params.recent), Math.min(params.last, Math.ceil(budget / 2)));
    const first = Math.min(params.first, Math.floor((budget - recent) / 2));
    return finish(order, protect(order, recent, budget - recent, first), [], "single", null);
  }
  if (params.bridge && !similarity) return elsewhere("Chains across protected tokens need this head's keys, which this page does not hold.");
  const shares = sharesOfPaper(byCosine ? 0.5 : budget / n);
  let [recent, heavy] = counts({ recent: params.recent ?? shares.recent, heavy: params.heavy ?? shares.heavy }, n);
  if (!byCosine) {
    if ((params.recent ?? null) === null) recent = Math.min(Math.max(recent, 1), Math.max(budget - 1, 0));
    if ((params.heavy ?? null) === null) heavy = heavyWithin(order, n - recent, heavy, Math.max(budget - recent, 0), params.bridge);
  }
  const isProtected = protect(order, recent, heavy);
  const tokens = [];
  for (let t = 0; t < n; t++) if (!isProtected[t]) tokens.push(t);
  const joined = new Uint8Array(tokens.length);
  let lowest = null;
  if (byCosine && !params.bridge) {
    for (let r = 0; r + 1 < tokens.length; r++) {
      const t = tokens[r];
      if (tokens[r + 1] !== t + 1 || !series.isAbove(t, params.eps)) continue;
      joined[r] = 1;
      if (lowest === null || series.linkCode[t] < series.linkCode[lowest]) lowest = t;
    }
  } else {
    const links = ordered(series, tokens, params.bridge, similarity);
    const nSets = budget - recent - heavy;
    if (!byCosine && nSets < 0) {
      return { error: `${recent + heavy} tokens are protected but only ${budget} may be kept.` };
    }
    const eps = Math.fround(params.eps / STEPS);
    const toJoin = byCosine ? links.filter((link) => link.cosine > eps).length : Math.max(tokens.length - nSets, 0);
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
  return finish(order, isProtected, sets, params.fold === "pivots" || params.kernel === "pivot" ? "evict" : "merge", lowest);
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
function finish(order, stays, sets, how, lowest) {
  const n = order.length, rankOf = new Uint16Array(n);
  order.forEach((token, rank) => { rankOf[token] = rank; });
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
    for (const token of set) if (rankOf[token] < rankOf[pivot]) pivot = token;
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
