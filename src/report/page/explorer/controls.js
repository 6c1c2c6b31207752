// The controls: what can be chosen, as the state has it, and what happens when it is.

import { BY_COSINE, STEPS } from "./fates.js";
import { STATES, counted, label, visible } from "./words.js";

/** How a pane's controls end. */
const ENDS = ["", "-2"];
/** What the head grid is of where a profile decides. */
export const SIZES = "sizes";

const GRIDS = { k: "cosine of neighbours, keys", k_pre_rope: "cosine of neighbours, keys before RoPE", v: "cosine of neighbours, values" };

const byId = (id) => document.getElementById(id);

export class Controls {
  /** `onChange()` is called when the state has changed; `onPane(pane, what)` with what is chosen for a pane. */
  constructor(data, solvers, state, onChange, onPane) {
    Object.assign(this, { data, solvers, state });
    this.fillLists();
    this.listen(onChange, onPane);
  }

  /** Names of the rules that can be chosen. */
  static rules(data, solvers) {
    return [BY_COSINE, ...data.policies.map(({ spec }) => spec), ...solvers.map((_, i) => `profile-${i}`)];
  }

  fillLists() {
    const { data, solvers } = this;
    const fill = (id, list) => {
      byId(id).textContent = "";
      for (const [value, text] of list) byId(id).add(new Option(text, value));
    };
    for (const end of ENDS) {
      this.fillSamples(byId(`x-sample${end}`));
      fill(`x-layer${end}`, data.layers.map((layer) => [layer, layer]));
      fill(`x-head${end}`, data.heads.map((head) => [head, head]));
      fill(`x-state${end}`, Object.entries(STATES));
    }
    const policies = data.policies.map(({ spec }) => [spec, `${spec}, to a budget`]);
    const profiles = solvers.map(({ profile }, i) => [`profile-${i}`, `profile ${label(profile.name.replace(/\.profile\.json$/, ""), 40)}`]);
    fill("x-policy", [[BY_COSINE, "kvmerger, above a cosine"], ...policies, ...profiles]);
    const kept = `share kept at ${data.reference_eps ?? "the threshold"}`;
    const grids = data.grids.map(([name]) => [name, name === "kept" ? kept : GRIDS[name] || name]);
    fill("x-grid-of", solvers.length > 0 ? [...grids, [SIZES, "slots kept by the profile"]] : grids);
  }

  fillSamples(select) {
    const { samples } = this.data;
    select.textContent = "";
    for (const name of new Set(samples.map((sample) => sample.dataset))) {
      const group = document.createElement("optgroup");
      group.label = visible(name);
      samples.forEach((sample, i) => {
        if (sample.dataset !== name) return;
        group.append(new Option(`${visible(name)} / ${label(sample.id, 16)} (${counted(sample.n_tokens, "token")})`, i));
      });
      select.append(group);
    }
  }

  /** The controls as the state has them. */
  fill() {
    const { state } = this;
    ENDS.forEach((end, i) => {
      for (const what of ["sample", "layer", "head", "state"]) byId(`x-${what}${end}`).value = state.panes[i][what];
    });
    byId("x-kind").value = state.kind;
    byId("x-scale").value = state.scale;
    byId("x-two").checked = state.two;
    byId("x-second").hidden = !state.two;
    byId("x-policy").value = state.policy;
    byId("x-eps").value = byId("x-eps-number").value = state.step / STEPS;
    byId("x-budget").value = byId("x-budget-number").value = state.budget;
    byId("x-recent").value = state.recent;
    byId("x-heavy").value = state.heavy;
    byId("x-bridge").checked = state.bridge;
    const byCosine = state.policy === BY_COSINE, isProfile = state.policy.startsWith("profile-");
    const fold = this.data.policies.find(({ spec }) => spec === state.policy)?.params.fold;
    const show = (of, isShown) => { for (const element of document.querySelectorAll(of)) element.hidden = !isShown; };
    show(".x-eps", byCosine);
    show(".x-budget", !byCosine);
    show(".x-sets", byCosine || fold === "sets" || fold === "pivots");
    show(".x-profile", isProfile);
    // The grid follows the choice of a profile, and of another policy.
    const grid = byId("x-grid-of"), sizes = [...grid.options].find((option) => option.value === SIZES);
    if (sizes) sizes.disabled = !isProfile;
    if (isProfile !== this.wasProfile && (isProfile || grid.value === SIZES)) grid.value = isProfile ? SIZES : grid.options[0].value;
    this.wasProfile = isProfile;
  }

  listen(onChange, onPane) {
    const on = (id, event, act) => byId(id).addEventListener(event, act);
    ENDS.forEach((end, i) => {
      for (const what of ["sample", "layer", "head"]) {
        on(`x-${what}${end}`, "change", (event) => onPane(i, { [what]: Number(event.target.value) }));
      }
      on(`x-state${end}`, "change", (event) => onPane(i, { state: event.target.value }));
    });
    const set = (id, event, name, read) => on(id, event, (e) => {
      const value = read(e.target);
      if (Number.isNaN(value)) return;
      this.state[name] = value;
      onChange();
    });
    set("x-kind", "change", "kind", (e) => e.value);
    set("x-scale", "change", "scale", (e) => Number(e.value));
    set("x-two", "change", "two", (e) => e.checked);
    set("x-policy", "change", "policy", (e) => e.value);
    const within = (e, low, high) => (e.value === "" ? NaN : Math.min(Math.max(Number(e.value), low), high));
    for (const [id, event] of [["x-eps", "input"], ["x-eps-number", "change"]]) set(id, event, "step", (e) => Math.round(within(e, -1, 1) * STEPS));
    for (const [id, event] of [["x-budget", "input"], ["x-budget-number", "change"]]) set(id, event, "budget", (e) => within(e, 0.02, 1));
    set("x-recent", "change", "recent", (e) => within(e, 0, 1));
    set("x-heavy", "change", "heavy", (e) => within(e, 0, 1));
    set("x-bridge", "change", "bridge", (e) => e.checked);
  }
}
