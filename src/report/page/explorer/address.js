// The address of a view, which leads back to it.

import { STEPS } from "./fates.js";
import { STATES } from "./words.js";

/** An address of a view begins so. */
export const MARK = "#x:";

/** The address of what is seen. */
export function addressOf(state, view, pin) {
  const place = ({ sample, layer, head, state: of }) => [sample, layer, head, of].join(",");
  const at = [view.x, view.y, view.span].map((x) => Number(x.toFixed(2))).join(",");
  const words = {
    a: place(state.panes[0]), b: state.two ? place(state.panes[1]) : "", at: view.span < view.n ? at : "", pin: pin ? `${pin.row},${pin.column}` : "",
    kind: state.kind, scale: state.scale, policy: encodeURIComponent(state.policy), eps: state.step / STEPS, budget: state.budget,
    recent: state.recent, heavy: state.heavy, bridge: state.bridge ? 1 : "", text: state.start || "",
  };
  return MARK + Object.entries(words).filter(([, value]) => value !== "").map(([name, value]) => `${name}=${value}`).join("&");
}

/** Takes over into a state what an address holds and the page has; gives the part of the map that was seen, and the pinned pair. `rules`: the policies that can be chosen. */
export function takeAddress(address, data, state, rules) {
  const words = new URLSearchParams(address.slice(MARK.length));
  const numbers = (name) => (words.get(name) || "").split(",").map(Number);
  const place = (name, pane) => {
    const [sample, layer, head] = numbers(name), of = (words.get(name) || "").split(",")[3];
    if (!data.samples[sample] || !data.layers.includes(layer) || !data.heads.includes(head) || !Object.hasOwn(STATES, of)) return false;
    Object.assign(state.panes[pane], { sample, layer, head, state: of });
    return true;
  };
  place("a", 0);
  state.two = words.has("b") && place("b", 1);
  const within = (name, low, high) => {
    const value = Number(words.get(name));
    return words.has(name) && value >= low && value <= high ? value : undefined;
  };
  if (["mean", "highest"].includes(words.get("kind"))) state.kind = words.get("kind");
  if (["-1", "0"].includes(words.get("scale"))) state.scale = Number(words.get("scale"));
  if (rules.includes(words.get("policy"))) state.policy = words.get("policy");
  state.step = Math.round((within("eps", -1, 1) ?? state.step / STEPS) * STEPS);
  state.budget = within("budget", 0.02, 1) ?? state.budget;
  state.recent = within("recent", 0, 1) ?? state.recent;
  state.heavy = within("heavy", 0, 1) ?? state.heavy;
  state.bridge = words.get("bridge") === "1";
  state.start = within("text", 0, 1e9) ?? 0;
  const n = data.samples[state.panes[0].sample].n_tokens;
  const at = numbers("at"), pin = numbers("pin");
  return {
    at: at.length === 3 && at.every(Number.isFinite) ? at : [0, 0, n],
    pin: pin.length === 2 && pin.every((t) => Number.isInteger(t) && t >= 0 && t < n) ? { row: pin[0], column: pin[1] } : null,
  };
}
