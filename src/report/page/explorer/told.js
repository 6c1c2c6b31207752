// What is told of a head and of a profile, in words.

import { BY_COSINE, EVICTED, FATES, MERGED, STEPS } from "./fates.js";
import { STATES, counted, number, percent, quoted, thousands } from "./words.js";

/** The head in one line, as `kvscope show` has it. */
export function headWords({ found, vectors, series, layer, head }) {
  const { counters, nSets, largest, inSets, lowest, policy } = found;
  let words = `Layer ${layer}, KV head ${head}: ${thousands(counters.seen)} tokens in ${thousands(counters.kept)} slots (${percent(counters.kept / counters.seen)})`;
  if (nSets > 0) words += `; ${counted(nSets, "set")} of 2 to ${largest} tokens ${nSets === 1 ? "holds" : "hold"} ${thousands(inSets)}`;
  if (lowest !== null) {
    // Of a head without a map its thousandths are known: those that it reaches.
    const keys = vectors("k");
    words += `, lowest cosine joined ${number(policy.params.bridge || !keys ? (series.linkCode[lowest] - 1 - STEPS) / STEPS : keys.cosine(lowest, lowest + 1), 3)}`;
  }
  if (counters.evicted > 0) words += `; ${thousands(counters.evicted)} dropped`;
  return `${words}.`;
}

/** Numbers of the part of a map that is seen. */
export function viewWords(view, loaded, name) {
  const n = loaded.sample.n_tokens;
  const [rows, columns] = [view.y, view.x].map((from) => [Math.floor(from), Math.min(Math.ceil(from + view.span), n)]);
  if (rows[0] >= rows[1] || columns[0] >= columns[1]) return "";
  const range = ([from, to]) => `${thousands(from)} to ${thousands(to - 1)}`;
  let told = `${name} (layer ${loaded.layer}, KV head ${loaded.head}, ${STATES[loaded.state]}): tokens ${range(rows)} by ${range(columns)}`;
  if (loaded.map) told += `; mean ${loaded.state === "change" ? "change" : "cosine"} ${number(loaded.map.meanOf(rows, columns), 3)}`;
  if (!loaded.found.error) {
    const fates = loaded.found.fates.subarray(...rows);
    const share = (fate) => percent(fates.reduce((sum, other) => sum + Number(other === fate), 0) / fates.length);
    told += `; of the rows' tokens ${share(MERGED)} merged, ${share(EVICTED)} dropped`;
  }
  return `${told}.`;
}

/** The looks of tokens and what they mean, of those that there are. */
export function fillLegend(legend, found) {
  legend.textContent = "";
  if (found.error) return;
  ["kept", "protected: recent", "protected: heavy", "merged into one slot", "dropped"].forEach((meaning, fate) => {
    const n = found.fates.reduce((sum, other) => sum + Number(other === fate), 0);
    if (n === 0) return;
    const span = document.createElement("span");
    span.className = fate === MERGED ? "x-t x-set-0 x-first x-last" : `x-t x-${FATES[fate]}`;
    span.textContent = meaning;
    legend.append(span, ` ${thousands(n)}  `);
  });
}

/** The command that shows the same text and head on a terminal, where a score is at hand that this page lacks. */
export function showCommand(data, { policy, step, budget, recent, heavy, bridge }, solver, { sample, layer, head }) {
  const dump = data.dumps.length === 1 ? `dumps/${data.dumps[0]}` : "DUMP";
  const what = solver ? ["--profile", solver.profile.name] : policy === BY_COSINE ? ["--policy", `kvmerger:eps=${step / STEPS},bridge=${bridge},recent=${recent},heavy=${heavy}`]
    : ["--policy", bridge && ["kvmerger", "evict"].includes(policy) ? `${policy}:bridge=true` : policy];
  const size = policy === BY_COSINE ? [] : ["--kept-fraction", budget];
  const words = ["show", dump, "--sample", `${sample.dataset}/${sample.id}`, "--layer", layer, "--head", head, ...what, ...size];
  return `kvscope ${words.map(quoted).join(" ")}`;
}

/** A profile at a budget, in a sentence. */
export function profileWords({ profile }, solved, budget) {
  const name = `${profile.name} at ${percent(budget)} of the slots`;
  if (!solved) return `${name}: its heads' curves do not reach this budget.`;
  const shares = solved.map(({ share }) => share), counts = new Map();
  for (const { setting } of solved) counts.set(setting, (counts.get(setting) || 0) + 1);
  const named = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).map(([setting, n]) => `${profile.settings[setting].spec} in ${n}`);
  const [low, high] = [Math.min(...shares), Math.max(...shares)].map((share) => (100 * share).toFixed(0));
  return `${name}: heads keep ${low} to ${high} %, with ${named.join(", ")} of ${solved.length} heads.`;
}

/** The command that writes the same sizes to a file. */
export function tuneCommand({ profile }, budget) {
  return `kvscope ${["tune", "--from", profile.name, "--budget", budget].map(quoted).join(" ")}`;
}

/** Sizes and policies of all heads, a line each. */
export function sizesTable({ profile }, solved, nHeads) {
  const lines = solved.map(({ setting, share }, i) => [Math.floor(i / nHeads), i % nHeads, share, profile.settings[setting].spec].join("\t"));
  return ["layer\tKV head\tkept\tpolicy", ...lines].join("\n");
}
