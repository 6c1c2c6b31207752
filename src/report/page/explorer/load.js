// What a pane shows, put together from the page's parts: a head's texts, series, states, and what becomes of its tokens.

import { BY_COSINE, Series, budgetTokens, equalBudget, fatesOf } from "./fates.js";
import { Solver } from "./solve.js";
import { ChangeMap, CosineMap, Vectors, merged } from "./vectors.js";
import { STATES } from "./words.js";

/** Heads whose vectors and tiles are kept. */
const MOST_HEADS = 12;

export class Loader {
  constructor(payload, data) {
    Object.assign(this, { payload, data, heads: new Map(), solvers: [] });
  }

  /** Unpacks the profiles. */
  async start() {
    for (let i = 0; this.payload.has(`profile.${i}`); i++) this.solvers.push(new Solver(await this.payload.part(`profile.${i}`)));
  }

  /** The profile that a rule goes by; null where it goes by none. */
  solver(policy) {
    return policy.startsWith("profile-") ? this.solvers[Number(policy.slice(8))] || null : null;
  }

  /** What a pane is of. */
  async load({ sample: number, layer, head, state }, rule) {
    const sample = this.data.samples[number];
    const key = `${number}.${layer}.${head}`;
    const all = (names) => Promise.all(names.map((name) => this.payload.part(name)));
    const [[texts, series], orders, parts] = await Promise.all([
      all([`${number}.texts`, `${number}.series.${layer}`]), all(sample.orders.map((_, i) => `${number}.order.${i}.${layer}`)),
      all(sample.states.map((of) => `${key}.${of}`)),
    ]);
    const states = Object.assign({}, ...parts);
    if (!this.heads.has(key)) {
      if (this.heads.size >= MOST_HEADS) this.heads.delete(this.heads.keys().next().value);
      this.heads.set(key, { series: this.series(series, orders, sample, layer, head), vectors: {}, maps: {} });
    }
    const kept = this.heads.get(key), d = this.data.model.head_dim;
    const vectors = (name) => {
      if (states[name]) kept.vectors[name] ||= new Vectors(states[name], d);
      return kept.vectors[name] || null;
    };
    const found = this.fates(kept, sample, layer, head, vectors("k"), rule);
    const map = this.map(kept, sample, state, states, vectors, found);
    return { sample, layer, head, state, texts: texts?.texts, series: kept.series, states, vectors, found, map };
  }

  series(part, orders, sample, layer, head) {
    const ofLayer = sample.heads.filter(([l]) => l === layer), place = ofLayer.findIndex(([, h]) => h === head);
    if (!part || place < 0) return null;
    const others = sample.orders.flatMap((key, i) => (orders[i] ? [[key, orders[i].order]] : []));
    return new Series(part, place, sample.n_tokens, new Map(others));
  }

  /** The policy of a head under a rule, and the slots that it may keep of a sample; or an error in words. */
  policyOf(rule, sample, layer, head) {
    const { data } = this, { model } = data;
    const number = layer * model.n_kv_heads + head, reaches = sample.reaches || new Array(model.n_layers).fill(sample.n_tokens);
    const solver = this.solver(rule.policy);
    if (solver) {
      const solved = solver.at(rule.budget);
      if (!solved) return { error: "The curves of the profile's heads do not reach this budget." };
      return { policy: solver.profile.settings[solved[number].setting], budget: budgetTokens((h) => solved[h].share, number, model, reaches) };
    }
    const of = (spec) => data.policies.find((policy) => policy.spec === spec), { step, recent, heavy, bridge } = rule;
    if (rule.policy === BY_COSINE) {
      const policy = of("kvmerger");
      return { policy: { ...policy, params: { ...policy.params, eps: step, recent, heavy, bridge } }, budget: sample.n_tokens };
    }
    const policy = of(rule.policy);
    return { policy: { ...policy, params: { ...policy.params, bridge } }, budget: equalBudget(rule.budget, number, model, reaches) };
  }

  fates(kept, sample, layer, head, keys, rule) {
    if (!kept.series) {
      return {
        error: sample.heads.length > 0 ? "This page does not hold the merging sets of this head."
          : "Nothing is known of merging sets here: keys or attention mass were not captured, or they are left out of this page.",
      };
    }
    const { policy, step, budget, recent, heavy, bridge } = rule, key = JSON.stringify([policy, step, budget, recent, heavy, bridge]);
    if (kept.key !== key) {
      const of = this.policyOf(rule, sample, layer, head);
      kept.found = of.error ? of : fatesOf(kept.series, of.policy, of.budget, keys && ((i, j) => keys.cosine(i, j)));
      kept.found.policy = of.policy;
      kept.key = key;
      delete kept.maps.change;
    }
    return kept.found;
  }

  map(kept, sample, state, states, vectors, found) {
    if (state === "change") {
      const keys = vectors("k");
      if (!keys || found.error) return null;
      if (!kept.maps.change) {
        const { before, after } = merged(keys, found);
        kept.maps.change = new ChangeMap(before, after);
      }
      return kept.maps.change;
    }
    const of = vectors(state);
    if (!of) return null;
    const cells = states[`${state}.highest`];
    kept.maps[state] ||= new CosineMap(of, cells ? { cells, ...sample.highest } : null);
    return kept.maps[state];
  }

  /** Why there is no map. */
  missing({ sample, state, layer, head }) {
    if (sample.shown.some(([l, h]) => l === layer && h === head)) return `The ${STATES[state]} of this head are not on this page.`;
    const here = sample.shown.map(([l, h]) => `${l}:${h}`);
    const which = here.length > 0 ? `This text has maps of the heads ${here.join(", ")} (layer:head).` : "This text has no map on this page.";
    return `No map of layer ${layer}, KV head ${head}. ${which} Its merging sets are shown below. kvscope analyze --maps ${layer}:${head} adds it.`;
  }
}
