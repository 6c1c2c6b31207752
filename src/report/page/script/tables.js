// Tables are sorted by a click on a column's title; long ones are filtered.

/** Rows from which on a table can be filtered. */
const LONG = 12;

function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function keyOf(row, column) {
  const cell = row.cells[column];
  if (cell.hasAttribute("data-v")) return Number(cell.getAttribute("data-v"));
  return cell.classList.contains("none") ? null : cell.textContent;
}

/** Rows by a column's numbers or words, those without last. */
function sorted(rows, column, falling) {
  return rows
    .map((row, i) => ({ row, key: keyOf(row, column), i }))
    .sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.i - b.i;
      const numbers = typeof a.key === "number" && typeof b.key === "number";
      const order = numbers ? a.key - b.key : String(a.key).localeCompare(String(b.key));
      return (falling ? -order : order) || a.i - b.i;
    })
    .map((item) => item.row);
}

/** What a filter asks of a row: every word of it, `column>number` and the like among them. */
function asked(text, titles) {
  const plain = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");
  const compares = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
  const term = (word) => {
    const [, left, sign, right] = word.match(/^(.+?)(<=|>=|=|<|>)(.+)$/) || [];
    const column = left === undefined ? -1 : titles.findIndex((title) => plain(title).startsWith(plain(left)));
    if (column < 0) return (row) => row.textContent.toLowerCase().includes(word.toLowerCase());
    const number = Number(right.replace(",", "."));
    return (row) => {
      const key = keyOf(row, column);
      if (typeof key === "number" && Number.isFinite(number)) return compares[sign](key, number);
      return sign === "=" && key !== null && String(key).toLowerCase() === right.toLowerCase();
    };
  };
  const terms = text.split(/\s+/).filter((word) => word).map(term);
  return (row) => terms.every((holds) => holds(row));
}

function filterable(table, titles) {
  const rows = [...table.tBodies[0].rows];
  const count = make("output", { className: "readout" });
  const input = make("input", { type: "search", placeholder: "layer=3 or a word" });
  const label = make("label", { textContent: "Filter " });
  label.append(input);
  const tools = make("div", { className: "tools filter" });
  tools.append(label, count);
  table.closest(".scroll").before(tools);
  input.addEventListener("input", () => {
    const holds = asked(input.value, titles);
    for (const row of rows) row.hidden = !holds(row);
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = input.value.trim() ? `${shown} of ${rows.length} rows` : "";
  });
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const titles = heads.map((head) => head.textContent);
  heads.forEach((head, column) => {
    const first = table.tBodies[0].rows[0];
    if (first && first.cells[column].classList.contains("n")) head.classList.add("n");
    const button = make("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      table.tBodies[0].append(...sorted([...table.tBodies[0].rows], column, falling));
    });
  });
  if (table.tBodies[0].rows.length > LONG) filterable(table, titles);
}

document.querySelectorAll("table.sortable").forEach(sortable);
