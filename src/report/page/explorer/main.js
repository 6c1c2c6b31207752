// The explorer: what is chosen, what is shown of it, and the address that leads back to it.

import { MARK, addressOf, takeAddress } from "./address.js";
import { EVICTED, FATES, MERGED, POLICIES, STEPS, Series, fatesOf } from "./fates.js";
import { HeadGrid } from "./heads.js";
import { changeColors, cosineColors, css, styleColors } from "./look.js";
import { MapCanvas, View } from "./map.js";
import { cellWords, facts, fateWords, fillContext, tokenName } from "./pair.js";
import { Payload } from "./payload.js";
import { PAGE, Prose } from "./prose.js";
import { ChangeMap, CosineMap, MOST_CHANGE, Vectors, merged } from "./vectors.js";
import { STATES, counted, label, number, percent, rough, thousands, visible } from "./words.js";

/** Tokens that are most like a pinned one. */
const NEAREST = 8;

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
    this.heads = new Map();
  }

  async start() {
    const data = (this.data = await this.payload.document());
    if (data.samples.length === 0) return;
    $("x").hidden = false;
    this.state = this.initial();
    this.readAddress();
    this.fillLists();
    this.look = styleColors(document.body);
    this.panes = [0, 1].map((i) => this.pane(i));
    this.grid = new HeadGrid($("x-grid"), $("x-grid-readout"), (layer, head) => this.choose(0, { layer, head }));
    this.prose = new Prose($("x-prose"), $("x-strip"), (token, isChosen) => this.onToken(token, isChosen), (start) => this.startAt(start));
    this.listen();
    await this.show();
  }

  /** The most similar head of the first sample, keys, the analysis' threshold. */
  initial() {
    const { data } = this, sample = data.samples.find((one) => one.shown.length > 0) || data.samples[0];
    const number = data.samples.indexOf(sample);
    const [layer, head] = sample.shown[0] || sample.heads[0] || [data.layers[0], data.heads[0]];
    const state = sample.states[0] || "k";
    return {
      panes: [0, 1].map(() => ({ sample: number, layer, head, state })), two: false, kind: "mean", scale: -1,
      policy: "kvmerger-eps", step: Math.round(Number(data.reference_eps ?? 0.75) * STEPS), budget: 0.5,
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

  // What is chosen.

  fillLists() {
    const { data, state } = this;
    const options = (select, list) => {
      select.textContent = "";
      for (const [value, text] of list) select.add(new Option(text, value));
    };
    const samples = (select) => {
      select.textContent = "";
      for (const name of new Set(data.samples.map((sample) => sample.dataset))) {
        const group = document.createElement("optgroup");
        group.label = visible(name);
        data.samples.forEach((sample, i) => {
          if (sample.dataset !== name) return;
          group.append(new Option(`${visible(name)} / ${label(sample.id, 16)} (${counted(sample.n_tokens, "token")})`, i));
        });
        select.append(group);
      }
    };
    for (const end of ["", "-2"]) {
      samples($(`x-sample${end}`));
      options($(`x-layer${end}`), data.layers.map((layer) => [layer, layer]));
      options($(`x-head${end}`), data.heads.map((head) => [head, head]));
      options($(`x-state${end}`), Object.entries(STATES));
    }
    options($("x-policy"), Object.entries(POLICIES).map(([name, policy]) => [name, policy.title]));
    const grids = { k: "cosine of neighbours, keys", k_pre_rope: "cosine of neighbours, keys before RoPE", v: "cosine of neighbours, values", kept: `share kept at ${data.reference_eps ?? "the threshold"}` };
    options($("x-grid-of"), data.grids.map(([name]) => [name, grids[name] || name]));
    this.state = state;
  }

  /** The controls as the state has them. */
  fillControls() {
    const { state } = this;
    ["", "-2"].forEach((end, i) => {
      for (const what of ["sample", "layer", "head", "state"]) $(`x-${what}${end}`).value = state.panes[i][what];
    });
    $("x-kind").value = state.kind;
    $("x-scale").value = state.scale;
    $("x-two").checked = state.two;
    $("x-second").hidden = !state.two;
    $("x-policy").value = state.policy;
    $("x-eps").value = $("x-eps-number").value = state.step / STEPS;
    $("x-budget").value = $("x-budget-number").value = state.budget;
    $("x-recent").value = state.recent;
    $("x-heavy").value = state.heavy;
    $("x-bridge").checked = state.bridge;
    const { by } = POLICIES[state.policy];
    for (const element of document.querySelectorAll(".x-eps")) element.hidden = by !== "eps";
    for (const element of document.querySelectorAll(".x-budget")) element.hidden = by === "eps";
    for (const element of document.querySelectorAll(".x-sets")) element.hidden = ["h2o", "streaming"].includes(state.policy);
  }

  listen() {
    const on = (id, event, act) => $(id).addEventListener(event, act);
    ["", "-2"].forEach((end, i) => {
      for (const what of ["sample", "layer", "head"]) {
        on(`x-${what}${end}`, "change", (event) => this.choose(i, { [what]: Number(event.target.value) }));
      }
      on(`x-state${end}`, "change", (event) => this.choose(i, { state: event.target.value }));
    });
    const set = (id, event, name, read) => on(id, event, (e) => {
      const value = read(e.target);
      if (Number.isNaN(value)) return;
      this.state[name] = value;
      this.show();
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
    on("x-grid-of", "change", () => this.showGrid());
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
    this.fillControls();
    const shown = this.state.two ? [0, 1] : [0];
    const loaded = await Promise.all(shown.map((i) => this.load(this.state.panes[i])));
    if (load !== this.loads) return;
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
    this.showGrid();
    this.showView();
    this.showProse();
    if (this.pin && Math.max(this.pin.row, this.pin.column) >= n) this.pin = null;
    this.showPin();
    this.writeAddress();
  }

  /** What a pane is of: its sample's texts, its head's series, states, fates and map. */
  async load({ sample: number, layer, head, state }) {
    const sample = this.data.samples[number];
    const key = `${number}.${layer}.${head}`;
    const names = [`${number}.texts`, `${number}.series.${layer}`, ...sample.states.map((of) => `${key}.${of}`)];
    const [texts, series, ...parts] = await Promise.all(names.map((name) => this.payload.part(name)));
    const states = Object.assign({}, ...parts);
    if (!this.heads.has(key)) {
      if (this.heads.size > 12) this.heads.delete(this.heads.keys().next().value);
      const place = sample.heads.filter(([l]) => l === layer).findIndex(([, h]) => h === head);
      this.heads.set(key, {
        series: series && place >= 0 ? new Series(series, place, sample.n_tokens) : null, vectors: {}, maps: {},
      });
    }
    const kept = this.heads.get(key), d = this.data.model.head_dim;
    const vectors = (name) => {
      if (states[name]) kept.vectors[name] ||= new Vectors(states[name], d);
      return kept.vectors[name] || null;
    };
    const found = this.fates(kept, sample, layer, head, vectors("k"));
    const map = this.map(kept, sample, state, states, vectors, found);
    return { sample, layer, head, state, texts: texts?.texts, series: kept.series, states, vectors, found, map };
  }

  fates(kept, sample, layer, head, keys) {
    if (!kept.series) return { error: this.noSeries(sample) };
    const { policy, step, budget, recent, heavy, bridge } = this.state;
    const key = JSON.stringify([policy, step, budget, recent, heavy, bridge]);
    if (kept.key !== key) {
      const number = layer * this.data.model.n_kv_heads + head;
      kept.found = fatesOf(kept.series, { policy, step, budget, recent, heavy, bridge }, number, this.data.model, keys && ((i, j) => keys.cosine(i, j)));
      kept.key = key;
      delete kept.maps.change;
    }
    return kept.found;
  }

  noSeries(sample) {
    return sample.heads.length > 0 ? "This page does not hold the merging sets of this head."
      : "Nothing is known of merging sets here: keys or attention mass were not captured, or they are left out of this page.";
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

  showPane(i, loaded) {
    const { state } = this, { map } = this.panes[i];
    this.panes[i].loaded = loaded;
    const name = `${visible(loaded.sample.dataset)} / ${label(loaded.sample.id, 16)}`;
    map.canvas.setAttribute("aria-label", `All pairs of tokens of ${name}: layer ${loaded.layer}, KV head ${loaded.head}, ${STATES[loaded.state]}`);
    const colors = loaded.state === "change" ? changeColors(this.hex) : cosineColors(this.hex, state.scale);
    const content = loaded.map && {
      map: loaded.map, kind: state.kind, colors, texts: loaded.texts, found: loaded.found, nTokens: loaded.sample.n_tokens,
    };
    this.showScale(i, colors, loaded.state === "change");
    map.pin = this.pin;
    map.setContent(content, this.missing(loaded));
  }

  missing({ sample, state, layer, head }) {
    const here = sample.shown.map(([l, h]) => `${l}:${h}`);
    if (sample.shown.some(([l, h]) => l === layer && h === head)) {
      return `The ${STATES[state]} of this head are not on this page.`;
    }
    const which = here.length > 0 ? `This text has maps of the heads ${here.join(", ")} (layer:head).` : "This text has no map on this page.";
    return `No map of layer ${layer}, KV head ${head}. ${which} Its merging sets are shown below. kvscope analyze --maps ${layer}:${head} adds it.`;
  }

  showGrid() {
    const { data, state } = this, of = $("x-grid-of").value;
    const [, values] = data.grids.find(([name]) => name === of) || [null, []];
    const dots = new Set(data.samples[state.panes[0].sample].shown.map(([layer, head]) => `${layer}.${head}`));
    const chosen = (state.two ? state.panes : [state.panes[0]]).map(({ layer, head }) => [layer, head]);
    this.grid.set({ layers: data.layers, heads: data.heads, values, dots, colors: cosineColors(this.hex, state.scale), look: this.look }, chosen);
  }

  /** The meaning of a map's colours. */
  showScale(i, colors, isChange) {
    const canvas = $(`x-scale-bar-${i}`), context = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const low = isChange ? -1 : this.state.scale;
    for (let x = 0; x < width; x++) {
      context.fillStyle = css(colors[Math.round((low + (x / width) * (1 - low) + 1) * 127)]);
      context.fillRect(x, 0, 1, 12);
    }
    context.fillStyle = this.look.soft;
    context.font = "11.5px system-ui, sans-serif";
    context.textBaseline = "bottom";
    const ends = isChange ? [`−${MOST_CHANGE} less alike`, "0", `more alike ${MOST_CHANGE}`] : [number(low, 0), `cosine ${number((low + 1) / 2, 1)}`, "1"];
    ends.forEach((text, k) => {
      context.textAlign = ["left", "center", "right"][k];
      context.fillText(text, (k * width) / 2, height);
    });
  }

  /** Numbers of the part that is seen. */
  showView() {
    const { view } = this;
    const words = (this.state.two ? this.panes : [this.panes[0]]).map(({ loaded }, i) => {
      const n = loaded.sample.n_tokens;
      const [rows, columns] = [view.y, view.x].map((from) => [Math.floor(from), Math.min(Math.ceil(from + view.span), n)]);
      if (rows[0] >= rows[1] || columns[0] >= columns[1]) return "";
      const range = ([from, to]) => `${thousands(from)} to ${thousands(to - 1)}`;
      const head = `layer ${loaded.layer}, KV head ${loaded.head}, ${STATES[loaded.state]}`;
      let told = `${this.state.two ? `Map ${i + 1}` : "In view"} (${head}): tokens ${range(rows)} by ${range(columns)}`;
      if (loaded.map) told += `; mean ${loaded.state === "change" ? "change" : "cosine"} ${number(loaded.map.meanOf(rows, columns), 3)}`;
      if (!loaded.found.error) {
        const fates = loaded.found.fates.subarray(...rows);
        const share = (fate) => percent(fates.reduce((sum, other) => sum + Number(other === fate), 0) / fates.length);
        told += `; of the rows' tokens ${share(MERGED)} merged, ${share(EVICTED)} dropped`;
      }
      return `${told}.`;
    });
    $("x-view").textContent = words.join(" ");
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
    const { texts, found, sample } = this.panes[0].loaded;
    this.prose.start = Math.min(this.state.start, Math.max(sample.n_tokens - PAGE, 0));
    this.prose.set(texts, found, this.look);
    this.showWhere();
    $("x-words").textContent = found.error || this.inWords(this.panes[0].loaded);
    if (!texts) $("x-words").textContent += " The dump of this sample does not hold the text of its tokens: capture it again.";
    this.showLegend(found);
  }

  /** The head in one line, as `kvscope show` has it. */
  inWords({ found, vectors, series, layer, head }) {
    const { counters, nSets, largest, inSets, lowest } = found;
    let words = `Layer ${layer}, KV head ${head}: ${thousands(counters.seen)} tokens in ${thousands(counters.kept)} slots (${percent(counters.kept / counters.seen)})`;
    if (nSets > 0) words += `; ${counted(nSets, "set")} of 2 to ${largest} tokens ${nSets === 1 ? "holds" : "hold"} ${thousands(inSets)}`;
    if (lowest !== null) {
      // Of a head without a map its thousandths are known: those that it reaches.
      const keys = vectors("k");
      words += `, lowest cosine joined ${number(this.state.bridge || !keys ? (series.linkCode[lowest] - 1 - STEPS) / STEPS : keys.cosine(lowest, lowest + 1), 3)}`;
    }
    if (counters.evicted > 0) words += `; ${thousands(counters.evicted)} dropped`;
    return `${words}.`;
  }

  showLegend(found) {
    const legend = $("x-legend");
    legend.textContent = "";
    if (found.error) return;
    const meanings = ["kept", "protected: recent", "protected: heavy", "merged into one slot", "dropped"];
    meanings.forEach((meaning, fate) => {
      const n = found.fates.reduce((sum, other) => sum + Number(other === fate), 0);
      if (n === 0) return;
      const span = document.createElement("span");
      span.className = fate === MERGED ? "x-t x-set-0 x-first x-last" : `x-t x-${FATES[fate]}`;
      span.textContent = meaning;
      legend.append(span, ` ${thousands(n)}  `);
    });
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
    const { pin } = this, { loaded } = this.panes[0];
    this.panes.forEach((pane) => {
      pane.map.pin = pin;
      pane.map.redraw();
    });
    const isIn = pin && Math.max(pin.row, pin.column) < loaded.sample.n_tokens;
    $("x-pair").hidden = !isIn;
    if (!isIn) return;
    const list = $("x-pair-facts");
    list.textContent = "";
    const shown = this.state.two ? this.panes : [this.panes[0]];
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
      $(`x-${which}-title`).textContent = `${which === "row" ? "Row" : "Column"}: token ${token}`;
      fillContext($(`x-${which}-text`), loaded.texts, token);
    }
    const of = loaded.vectors(loaded.state === "change" ? "k" : loaded.state);
    $("x-nearest").textContent = "";
    $("x-nearest-title").textContent = of ? `Most like token ${pin.row} in this head, by ${STATES[loaded.state === "change" ? "k" : loaded.state]}` : "";
    for (const [cosine, token] of of ? of.nearest(pin.row, NEAREST) : []) {
      const [item, button] = ["li", "button"].map((tag) => document.createElement(tag));
      button.type = "button";
      button.textContent = `${number(cosine, 3)}  ${tokenName(loaded, token)}`;
      button.addEventListener("click", () => {
        this.view.show(pin.row, token);
        this.setPin({ row: pin.row, column: token });
      });
      item.append(button);
      $("x-nearest").append(item);
    }
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
    const { at, pin } = takeAddress(location.hash, this.data, this.state);
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

const root = document.getElementById("explorer");
if (root) {
  const explorer = new Explorer(document);
  // After the first paint.
  requestAnimationFrame(() => setTimeout(() => explorer.start().catch((error) => {
    $("x-failed").textContent = `The explorer cannot be shown: ${error.message}`;
    $("x-failed").hidden = false;
    throw error;
  })));
}
