// The explorer: what is chosen, what is shown of it, and the address that leads back to it.

import { MARK, addressOf, takeAddress } from "./address.js";
import { Controls, SIZES } from "./controls.js";
import { BY_COSINE, STEPS } from "./fates.js";
import { HeadGrid } from "./heads.js";
import { Loader } from "./load.js";
import { changeColors, cosineColors, drawScale, styleColors } from "./look.js";
import { MapCanvas, View } from "./map.js";
import { cellWords, facts, fateWords, fillPair, tokenName } from "./pair.js";
import { Payload } from "./payload.js";
import { PAGE, Prose } from "./prose.js";
import { fillLegend, headWords, profileWords, showCommand, sizesTable, tuneCommand, viewWords } from "./told.js";
import { MOST_CHANGE } from "./vectors.js";
import { STATES, label, number, rough, thousands, visible } from "./words.js";

const $ = (id) => document.getElementById(id);

class Explorer {
  constructor(root) {
    this.payload = new Payload(root);
    this.hex = document.querySelector("main").dataset.palette;
    this.view = new View();
    this.loads = 0;
    /** What is chosen; what the address holds. */
    this.state = null;
    this.pin = null;
    this.panes = [];
  }

  async start() {
    const data = (this.data = await this.payload.document());
    if (data.samples.length === 0) return;
    this.loader = new Loader(this.payload, data);
    await this.loader.start();
    $("x").hidden = false;
    this.state = this.initial();
    this.readAddress();
    this.controls = new Controls(data, this.loader.solvers, this.state, () => this.show(), (pane, what) => this.choose(pane, what));
    this.look = styleColors(document.body);
    this.panes = [0, 1].map((i) => this.pane(i));
    this.grid = new HeadGrid($("x-grid"), $("x-grid-readout"), (layer, head) => this.choose(0, { layer, head }));
    this.prose = new Prose($("x-prose"), $("x-strip"), (token, isChosen) => this.onToken(token, isChosen), (start) => this.startAt(start));
    this.listen();
    await this.show();
  }

  /** The most similar head of the first sample, keys, the analysis' threshold, the budget of the first profile. */
  initial() {
    const { data } = this, sample = data.samples.find((one) => one.shown.length > 0) || data.samples[0];
    const number = data.samples.indexOf(sample);
    const [layer, head] = sample.shown[0] || sample.heads[0] || [data.layers[0], data.heads[0]];
    const state = sample.states[0] || "k";
    return {
      panes: [0, 1].map(() => ({ sample: number, layer, head, state })), two: false, kind: "mean", scale: -1,
      policy: BY_COSINE, step: Math.round(Number(data.reference_eps ?? 0.75) * STEPS), budget: this.loader.solvers[0]?.profile.target ?? 0.5,
      recent: data.shares.recent, heavy: data.shares.heavy, bridge: data.bridge, start: 0,
    };
  }

  pane(i) {
    const map = new MapCanvas($(`x-map-${i}`), this.view, this.look);
    map.onPoint = (byKey, at) => this.point(i, byKey, at);
    map.onLeave = () => { $("x-tip").hidden = true; };
    map.onPin = (cursor) => this.setPin(cursor);
    return { map, loaded: null };
  }

  /** The panes that are seen. */
  shown() {
    return this.state.two ? this.panes : [this.panes[0]];
  }

  listen() {
    const on = (id, event, act) => $(id).addEventListener(event, act);
    on("x-grid-of", "change", () => this.showGrid());
    on("x-sizes", "toggle", () => this.showSizes());
    const { view } = this;
    const center = () => (view.cursor ? [view.cursor.column + 0.5, view.cursor.row + 0.5] : []);
    on("x-in", "click", () => view.zoom(2, ...center()));
    on("x-out", "click", () => view.zoom(0.5, ...center()));
    on("x-whole", "click", () => view.set(0, 0, view.n));
    on("x-token", "click", () => {
      const middle = (from) => Math.floor(from + view.span / 2);
      const { row, column } = view.cursor || { row: middle(view.y), column: middle(view.x) };
      view.show(row, column);
    });
    on("x-copy", "click", () => this.copyLink());
    on("x-unpin", "click", () => this.setPin(null));
    on("x-before", "click", () => this.startAt(this.prose.start - PAGE));
    on("x-after", "click", () => this.startAt(this.prose.start + PAGE));
    on("x-start", "input", (event) => this.startAt(Number(event.target.value)));
    view.listeners.push(() => {
      this.writeAddress();
      clearTimeout(this.counting);
      this.counting = setTimeout(() => this.showView(), 120);
    });
    window.addEventListener("hashchange", () => { if (this.readAddress()) this.show(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.look = styleColors(document.body);
      this.panes.forEach((pane) => { pane.map.look = this.look; });
      this.show();
    });
  }

  choose(pane, what) {
    Object.assign(this.state.panes[pane], what);
    if (what.sample !== undefined && pane === 0) this.state.start = 0;
    this.show();
  }

  // What is shown.

  /** Everything anew. */
  async show() {
    const load = ++this.loads;
    this.controls.fill();
    const shown = this.state.two ? [0, 1] : [0];
    let loaded;
    try {
      loaded = await Promise.all(shown.map((i) => this.loader.load(this.state.panes[i], this.state)));
    } catch (error) {
      tellFailure(error);
      return;
    }
    if (load !== this.loads) return;
    $("x-failed").hidden = true;
    const n = Math.max(...loaded.map((one) => one.sample.n_tokens));
    if (n !== this.view.n) {
      const wanted = this.wanted;
      this.view.whole(n);
      if (wanted) this.view.set(...wanted);
    } else if (this.wanted) {
      this.view.set(...this.wanted);
    }
    this.wanted = null;
    shown.forEach((i) => this.showPane(i, loaded[i]));
    this.showProfile();
    this.showGrid();
    this.showView();
    this.showProse();
    if (this.pin && Math.max(this.pin.row, this.pin.column) >= n) this.pin = null;
    this.showPin();
    this.writeAddress();
  }

  showPane(i, loaded) {
    const { state } = this, { map } = this.panes[i], isChange = loaded.state === "change";
    this.panes[i].loaded = loaded;
    const name = `${visible(loaded.sample.dataset)} / ${label(loaded.sample.id, 16)}`;
    map.canvas.setAttribute("aria-label", `All pairs of tokens of ${name}: layer ${loaded.layer}, KV head ${loaded.head}, ${STATES[loaded.state]}`);
    const colors = isChange ? changeColors(this.hex) : cosineColors(this.hex, state.scale), low = isChange ? -1 : state.scale;
    const content = loaded.map && {
      map: loaded.map, kind: state.kind, colors, texts: loaded.texts, found: loaded.found, nTokens: loaded.sample.n_tokens,
    };
    const ends = isChange ? [`−${MOST_CHANGE} less alike`, "0", `more alike ${MOST_CHANGE}`] : [number(low, 0), `cosine ${number((low + 1) / 2, 1)}`, "1"];
    drawScale($(`x-scale-bar-${i}`), colors, low, ends, this.look);
    map.pin = this.pin;
    map.setContent(content, this.loader.missing(loaded));
  }

  showGrid() {
    const { data, state } = this, of = $("x-grid-of").value;
    const solver = this.loader.solver(state.policy), solved = this.solved();
    const choice = (layer, head) => solved?.[layer * data.model.n_kv_heads + head];
    const values = of === SIZES ? data.layers.flatMap((layer) => data.heads.map((head) => choice(layer, head)?.share ?? null)) : data.grids.find(([name]) => name === of)?.[1] || [];
    const dots = new Set(data.samples[state.panes[0].sample].shown.map(([layer, head]) => `${layer}.${head}`));
    const chosen = (state.two ? state.panes : [state.panes[0]]).map(({ layer, head }) => [layer, head]);
    const colors = cosineColors(this.hex, of === SIZES ? 0 : state.scale);
    const more = of === SIZES && solved ? (layer, head) => `, ${solver.profile.settings[choice(layer, head).setting].spec}` : null;
    this.grid.set({ layers: data.layers, heads: data.heads, values, dots, colors, look: this.look, more }, chosen);
  }

  /** Numbers of the part that is seen. */
  showView() {
    const words = this.shown().map(({ loaded }, i) => viewWords(this.view, loaded, this.state.two ? `Map ${i + 1}` : "In view"));
    $("x-view").textContent = words.join(" ");
  }

  // The profile.

  /** Setting and size of every head; null where no profile is chosen, or it does not reach the budget. */
  solved() {
    return this.loader.solver(this.state.policy)?.at(this.state.budget) ?? null;
  }

  showProfile() {
    const solver = this.loader.solver(this.state.policy);
    if (!solver) return;
    const { budget } = this.state;
    $("x-profile-words").textContent = profileWords(solver, this.solved(), budget);
    $("x-profile-command").textContent = tuneCommand(solver, budget);
    $("x-profile-own").hidden = solver.profile.in_slots;
    this.showSizes();
  }

  showSizes() {
    const solver = this.loader.solver(this.state.policy), solved = this.solved();
    $("x-sizes-table").textContent = $("x-sizes").open && solved ? sizesTable(solver, solved, this.data.model.n_kv_heads) : "";
  }

  // The text.

  startAt(start) {
    this.state.start = this.prose.from(Math.round(start));
    this.showWhere();
    this.writeAddress();
  }

  showWhere() {
    const n = this.panes[0].loaded.sample.n_tokens, { start } = this.prose;
    $("x-start").max = Math.max(n - PAGE, 0);
    $("x-start").value = start;
    $("x-before").disabled = start === 0;
    $("x-after").disabled = start >= n - PAGE;
    $("x-where").textContent = `tokens ${thousands(start)} to ${thousands(Math.min(start + PAGE, n) - 1)} of ${thousands(n)}`;
  }

  showProse() {
    const { loaded } = this.panes[0], { texts, found, sample } = loaded;
    this.prose.start = Math.min(this.state.start, Math.max(sample.n_tokens - PAGE, 0));
    this.prose.set(texts, found, this.look);
    this.showWhere();
    $("x-words").textContent = found.error || headWords(loaded);
    if (!texts) $("x-words").textContent += " The dump of this sample does not hold the text of its tokens: capture it again.";
    $("x-elsewhere").hidden = !found.elsewhere;
    $("x-command").textContent = found.elsewhere ? showCommand(this.data, this.state, this.loader.solver(this.state.policy), loaded) : "";
    fillLegend($("x-legend"), found);
  }

  onToken(token, isChosen) {
    const { found, texts, series } = this.panes[0].loaded;
    if (token === null) {
      $("x-of-token").textContent = "";
      return;
    }
    $("x-of-token").textContent = `Token ${token} “${visible(texts[token])}”: ${fateWords(found, token)}, attention mass ${rough(series.mass[token])}.`;
    if (isChosen) {
      this.view.show(token, token);
      this.setPin({ row: token, column: token });
    }
  }

  // The pair that is pointed at.

  point(i, byKey, at) {
    const { cursor } = this.view, pane = this.panes[i], { loaded } = pane, tip = $("x-tip");
    if (!loaded || !cursor || Math.max(cursor.row, cursor.column) >= loaded.sample.n_tokens) {
      tip.hidden = true;
      return;
    }
    const head = `${tokenName(loaded, cursor.row)} and ${tokenName(loaded, cursor.column)}`;
    const known = facts(loaded, cursor), cell = cellWords(loaded, pane.map.level(pane.map.area().side), cursor);
    tip.textContent = "";
    const title = document.createElement("strong");
    title.textContent = head;
    tip.append(title);
    for (const line of [...known.map(([name, value]) => `${name}: ${value}`), cell]) {
      if (!line) continue;
      const element = document.createElement("span");
      element.textContent = line;
      tip.append(element);
    }
    this.prose.mark(i === 0 || loaded.sample === this.panes[0].loaded.sample ? [cursor.row, cursor.column] : []);
    tip.hidden = false;
    const canvas = pane.map.canvas, box = canvas.getBoundingClientRect(), area = pane.map.area(), { view } = this;
    const [x, y] = at || [(cursor.column + 0.5 - view.x), (cursor.row + 0.5 - view.y)].map((t, k) => [area.left, area.top][k] + (t * area.side) / view.span);
    const root = $("x").getBoundingClientRect();
    const left = box.left - root.left + x + 18, top = box.top - root.top + y + 18;
    tip.style.left = `${Math.max(Math.min(left, root.width - tip.offsetWidth - 4), 0)}px`;
    tip.style.top = `${box.top + y + 18 + tip.offsetHeight > window.innerHeight ? top - tip.offsetHeight - 34 : top}px`;
    if (byKey) $("x-live").textContent = `${head}. ${known.slice(0, 2).map(([name, value]) => `${name}: ${value}`).join(". ")}`;
  }

  setPin(cursor) {
    this.pin = cursor && { ...cursor };
    this.showPin();
    if (cursor && cursor.row < this.panes[0].loaded.sample.n_tokens) {
      const { start } = this.prose;
      if (cursor.row < start || cursor.row >= start + PAGE) this.startAt(cursor.row - PAGE / 4);
      this.prose.mark([cursor.row, cursor.column]);
      this.prose.reveal(cursor.row);
    }
    this.writeAddress();
  }

  showPin() {
    const { pin } = this;
    this.panes.forEach((pane) => {
      pane.map.pin = pin;
      pane.map.redraw();
    });
    const isIn = pin && Math.max(pin.row, pin.column) < this.panes[0].loaded.sample.n_tokens;
    $("x-pair").hidden = !isIn;
    if (!isIn) return;
    fillPair(pin, this.shown(), (token) => {
      this.view.show(pin.row, token);
      this.setPin({ row: pin.row, column: token });
    });
  }

  // The address.

  /** At most a few times a second; a page that nobody touched keeps its address. */
  writeAddress() {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => {
      const address = addressOf(this.state, this.view, this.pin);
      if (address === this.written) return;
      const isUntouched = this.written === undefined && !location.hash.startsWith(MARK);
      this.written = address;
      if (!isUntouched) history.replaceState(null, "", address);
    }, 250);
  }

  /** Takes over what the address holds; whether it holds a view. */
  readAddress() {
    if (!location.hash.startsWith(MARK) || location.hash === this.written) return false;
    const { at, pin } = takeAddress(location.hash, this.data, this.state, Controls.rules(this.data, this.loader.solvers));
    this.wanted = at;
    this.pin = pin;
    return true;
  }

  async copyLink() {
    this.written = addressOf(this.state, this.view, this.pin);
    const link = location.href.split("#")[0] + this.written;
    history.replaceState(null, "", this.written);
    try {
      await navigator.clipboard.writeText(link);
      $("x-live").textContent = "The link is in the clipboard.";
    } catch {
      $("x-live").textContent = "The link is in the address bar.";
    }
  }
}

function tellFailure(error) {
  $("x-failed").textContent = `The explorer cannot be shown: ${error.message}`;
  $("x-failed").hidden = false;
}

const root = document.getElementById("explorer");
if (root) {
  const explorer = new Explorer(document);
  // After the first paint.
  requestAnimationFrame(() => setTimeout(() => explorer.start().catch((error) => {
    tellFailure(error);
    throw error;
  })));
}
