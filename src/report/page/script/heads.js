// A head of a profile is chosen in its grid, and the error of its policies at every size is drawn beside it.

const CURVE = { width: 560, height: 250, left: 64, right: 28, top: 12, bottom: 40 };
const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#767d86"];

/** The name of what an SVG is made of, as the page's figures have it. */
const SPACE = document.querySelector("svg")?.namespaceURI;

function drawn(tag, attributes, text) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Decades between two positive numbers. */
function decades(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) ticks.push(power);
  return ticks;
}

/** The curve of one head: [kept_fraction, eps, utility_fraction, errors] by rising size, a line for each setting. */
function curveOf(profile, at, letters) {
  const [, , setting, kept] = profile.heads[at];
  const points = profile.curves[at];
  const { width, height, left, right, top, bottom } = CURVE;
  if (!SPACE) return null;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "curve" });
  const errors = points.flatMap((point) => point[3]).filter((error) => error !== null && error > 0);
  if (!errors.length) return null;
  const powers = decades(Math.min(...errors), Math.max(...errors));
  const [low, high] = [powers[0], Math.max(powers[powers.length - 1], powers[0] + 1)];
  const x = (share) => left + share * (width - left - right);
  const y = (error) => top + (height - top - bottom) * (1 - (Math.log10(error) - low) / (high - low));
  for (let power = low; power <= high; power++) {
    const line = y(10 ** power);
    svg.append(drawn("line", { x1: left, x2: width - right, y1: line, y2: line, class: "grid" }));
    const few = high - low <= 6 || (power - low) % 2 === 0;
    if (few) svg.append(drawn("text", { x: left - 6, y: line + 4, "text-anchor": "end" }, String(Number((10 ** power).toPrecision(1)))));
  }
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(drawn("text", { x: x(share), y: height - bottom + 16, "text-anchor": "middle" }, `${100 * share} %`));
  }
  svg.append(drawn("text", { x: x(0.5), y: height - 6, "text-anchor": "middle" }, "Slots that the head keeps"));
  svg.append(drawn("text", { x: 12, y: top + (height - top - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${top + (height - top - bottom) / 2})` }, "Error"));
  svg.append(drawn("line", { x1: x(kept), x2: x(kept), y1: top, y2: height - bottom, class: "chosen" }));
  profile.settings.forEach((_, s) => {
    const known = points.filter((point) => point[3][s] !== null && point[3][s] > 0);
    if (!known.length) return;
    const color = LINES[s % LINES.length];
    const path = known.map((point) => `${x(point[0]).toFixed(1)},${y(point[3][s]).toFixed(1)}`).join(" ");
    svg.append(drawn("polyline", { points: path, fill: "none", stroke: color, "stroke-width": s === setting ? 3 : 1.5 }));
    const [share, , , values] = known[known.length - 1];
    svg.append(drawn("text", { x: x(share) + 5, y: y(values[s]) + 4, class: "letter" }, letters[s]));
  });
  return svg;
}

/** The errors of all settings at the size nearest to what the head keeps, in words. */
function near(profile, at, letters) {
  const kept = profile.heads[at][3];
  const points = profile.curves[at];
  if (!points.length) return "The profile holds no curve of this head.";
  const nearest = points.reduce((best, point) => (Math.abs(point[0] - kept) < Math.abs(best[0] - kept) ? point : best));
  const told = nearest[3].map((error, s) => `${letters[s]} ${error === null ? "cannot be so small" : error.toPrecision(3)}`);
  return `Error with ${(100 * nearest[0]).toFixed(1)} % kept: ${told.join(", ")}.`;
}

/** `A` to `Z`, then `A1` and so on, as in the cells. */
function letterOf(at) {
  return String.fromCharCode(65 + (at % 26)) + (at < 26 ? "" : Math.floor(at / 26));
}

function explorable(heads) {
  const profile = JSON.parse(heads.dataset.profile);
  const letters = profile.settings.map((_, at) => letterOf(at));
  const table = heads.querySelector("table");
  const columns = [...table.tHead.rows[0].cells].slice(1).map((cell) => Number(cell.lastChild.textContent));
  const rows = [...table.tBodies[0].rows];
  const panel = document.createElement("div");
  panel.className = "head";
  const said = document.createElement("p");
  said.setAttribute("aria-live", "polite");
  panel.append(said);
  heads.append(panel);
  const numbers = new Map(profile.heads.map(([layer, head], at) => [`${layer},${head}`, at]));
  let chosen = null;

  function choose(cell) {
    const row = cell.parentElement;
    const at = numbers.get(`${columns[cell.cellIndex - 1]},${row.cells[0].textContent}`);
    if (at === undefined) return;
    if (chosen) {
      chosen.tabIndex = -1;
      chosen.removeAttribute("aria-selected");
    }
    chosen = cell;
    cell.tabIndex = 0;
    cell.setAttribute("aria-selected", "true");
    said.textContent = `${cell.title}. ${near(profile, at, letters)}`;
    panel.querySelector("svg")?.remove();
    const svg = curveOf(profile, at, letters);
    if (svg) {
      svg.setAttribute("aria-label", said.textContent);
      panel.append(svg);
    }
    heads.dispatchEvent(new CustomEvent("head", { detail: at }));
  }

  table.setAttribute("role", "grid");
  for (const row of rows) for (const cell of [...row.cells].slice(1)) if (cell.title) cell.tabIndex = -1;
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td[title]");
    if (!cell) return;
    choose(cell);
    cell.focus();
  });
  table.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -1e6], End: [0, 1e6] }[event.key];
    if (!by || !chosen) return;
    event.preventDefault();
    const row = Math.min(Math.max(rows.indexOf(chosen.parentElement) + by[0], 0), rows.length - 1);
    const column = Math.min(Math.max(chosen.cellIndex + by[1], 1), columns.length);
    choose(rows[row].cells[column]);
    chosen.focus();
  });
  const first = table.querySelector("td[title]");
  if (first) choose(first);
}

document.querySelectorAll(".heads[data-profile]").forEach(explorable);
