// What is known of a pair of tokens, in words.

import { EVICTED, FATES, MERGED } from "./fates.js";
import { ChangeMap, logitGap } from "./vectors.js";
import { STATES, counted, label, number, rough, visible } from "./words.js";

/** Tokens about one whose text is shown. */
const CONTEXT = 30;
/** Tokens that are most like a pinned one. */
const NEAREST = 8;

/** What becomes of a token. */
export function fateWords(found, token) {
  if (!found || found.error) return "–";
  const fate = found.fates[token];
  if (fate === EVICTED) return "dropped";
  if (fate !== MERGED) return { kept: "kept", recent: "protected, recent", heavy: "protected, heavy" }[FATES[fate]];
  const others = found.sets.find((set) => found.slots[set[0]] === found.slots[token]).length - 1;
  return `merged with ${counted(others, "other")}`;
}

/** What is known of a pair: names and values. */
export function facts(loaded, { row, column }) {
  const { vectors, states, series, found, map } = loaded;
  const facts = [];
  for (const state of ["k", "k_pre_rope", "v"]) {
    const of = vectors(state);
    if (of) facts.push([`Cosine, ${STATES[state]}`, number(of.cosine(row, column), 4)]);
  }
  if (map instanceof ChangeMap) facts.push(["Change of the keys' cosine by merging", number(map.value(row, column), 4)]);
  const keys = vectors("k");
  if (keys && states.q?.length) facts.push(["Logit gap, nats", number(logitGap(keys, states.q, states.q_positions, row, column), 3)]);
  if (series) {
    const mass = states.mass?.length ? states.mass : series.mass;
    facts.push(["Attention mass", row === column ? rough(mass[row]) : `${rough(mass[row])} and ${rough(mass[column])}`]);
  }
  if (found && !found.error) {
    const [a, b] = [fateWords(found, row), fateWords(found, column)];
    const together = row !== column && found.fates[row] === MERGED && found.slots[row] === found.slots[column];
    facts.push(["Becomes", together ? "merged into the same slot" : row === column ? a : `${a}; ${b}`]);
  }
  return facts;
}

/** A token by number and text. */
export function tokenName(loaded, token) {
  return loaded.texts ? `${token} “${label(loaded.texts[token], 24)}”` : `token ${token}`;
}

/** What the cell under the cursor holds, where it is more than a pair. */
export function cellWords({ map, state }, level, { row, column }) {
  if (level === 0 || !map || state === "change") return null;
  const size = 2 ** level, [i, j] = [row >> level, column >> level];
  const range = (k) => `${k * size} to ${Math.min((k + 1) * size, map.n) - 1}`;
  const highest = size <= 64 ? map.vectors.highest(level, i, j) : null;
  const most = highest && highest.row >= 0 ? `, highest ${number(highest.cosine, 3)} of ${highest.row} and ${highest.column}` : "";
  return `Cell of ${range(i)} by ${range(j)}: mean ${number(map.vectors.mean(level, i, j), 3)}${most}`;
}

/** The text about a token, which is marked. */
function fillContext(element, texts, token) {
  element.textContent = "";
  if (!texts) return;
  const part = (from, to) => texts.slice(Math.max(from, 0), to).map(visible).join("");
  const mark = document.createElement("mark");
  mark.textContent = visible(texts[token]) || "∅";
  element.append(part(token - CONTEXT, token), mark, part(token + 1, token + 1 + CONTEXT));
}

/** What is known of a pinned pair: facts of every map that is shown, its texts, and the tokens most like it. `onChoose(token)`. */
export function fillPair(pin, shown, onChoose) {
  const byId = (id) => document.getElementById(id), [{ loaded }] = shown;
  const list = byId("x-pair-facts");
  list.textContent = "";
  shown.forEach(({ loaded: of }, i) => {
    if (Math.max(pin.row, pin.column) >= of.sample.n_tokens) return;
    for (const [name, value] of facts(of, pin)) {
      const [group, term, description] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      term.textContent = shown.length > 1 ? `${name} (map ${i + 1})` : name;
      description.textContent = value;
      group.append(term, description);
      list.append(group);
    }
  });
  for (const [which, token] of [["row", pin.row], ["column", pin.column]]) {
    byId(`x-${which}-title`).textContent = `${which === "row" ? "Row" : "Column"}: token ${token}`;
    fillContext(byId(`x-${which}-text`), loaded.texts, token);
  }
  const by = loaded.state === "change" ? "k" : loaded.state, of = loaded.vectors(by);
  byId("x-nearest").textContent = "";
  byId("x-nearest-title").textContent = of ? `Most like token ${pin.row} in this head, by ${STATES[by]}` : "";
  for (const [cosine, token] of of ? of.nearest(pin.row, NEAREST) : []) {
    const [item, button] = ["li", "button"].map((tag) => document.createElement(tag));
    button.type = "button";
    button.textContent = `${number(cosine, 3)}  ${tokenName(loaded, token)}`;
    button.addEventListener("click", () => onChoose(token));
    item.append(button);
    byId("x-nearest").append(item);
  }
}
