// A map of all pairs of tokens on a canvas: tiles of the level that fits the screen, axes with the tokens' texts, tracks of what
// becomes of them, and a small map of the whole.

import { NO_CELL, TILE } from "./vectors.js";
import { label, thousands } from "./words.js";

/** Milliseconds of a frame for new tiles. */
const TILE_TIME = 10;
/** Levels that a missing tile is looked for above. */
const COARSER = 6;
/** Tokens across at the closest. */
const CLOSEST = 6;
/** Width of a track. */
const TRACK = 6;

/** What all maps share: the part of the map that is seen, in tokens, and the pair that is pointed at. */
export class View {
  constructor() {
    Object.assign(this, { x: 0, y: 0, span: 1, n: 1, cursor: null, listeners: [] });
  }

  changed() {
    for (const listener of this.listeners) listener();
  }

  /** The longest sample that is shown; all of it is seen. */
  whole(n) {
    Object.assign(this, { n, x: 0, y: 0, span: n });
    this.changed();
  }

  set(x, y, span) {
    this.span = Math.min(Math.max(span, Math.min(CLOSEST, this.n)), this.n);
    const most = this.n - this.span;
    this.x = Math.min(Math.max(x, 0), most);
    this.y = Math.min(Math.max(y, 0), most);
    this.changed();
  }

  /** Closer by a factor, about a point that stays where it is. */
  zoom(factor, x = this.x + this.span / 2, y = this.y + this.span / 2) {
    const span = Math.min(Math.max(this.span / factor, Math.min(CLOSEST, this.n)), this.n);
    const ratio = span / this.span;
    this.set(x - (x - this.x) * ratio, y - (y - this.y) * ratio, span);
  }

  pan(dx, dy) {
    this.set(this.x + dx, this.y + dy, this.span);
  }

  /** The cursor on a pair, which comes into sight. */
  point(row, column) {
    const within = (t) => Math.min(Math.max(Math.round(t), 0), this.n - 1);
    this.cursor = { row: within(row), column: within(column) };
    const seen = (t, from) => (t < from ? t : t + 1 > from + this.span ? t + 1 - this.span : from);
    this.set(seen(this.cursor.column, this.x), seen(this.cursor.row, this.y), this.span);
  }

  /** A pair in the middle, so close that texts are read. */
  show(row, column, span = Math.min(this.span, 24)) {
    this.cursor = { row, column };
    this.set(column + 0.5 - span / 2, row + 0.5 - span / 2, span);
  }
}

export class MapCanvas {
  /**
   * `canvas`: the element. `view`: what it shares. `look`: { colors (256 packed RGBA), ink, soft, edge, paper, accent, fates, sets }.
   * What it shows is set as `content`: { map, kind, texts, found, mass }, or null for none.
   */
  constructor(canvas, view, look) {
    Object.assign(this, { canvas, view, look, content: null, message: "", pin: null });
    this.context = canvas.getContext("2d", { alpha: false });
    this.cells = document.createElement("canvas");
    this.small = null;
    this.isWaiting = false;
    view.listeners.push(() => this.redraw());
    new ResizeObserver(() => this.redraw()).observe(canvas);
    this.listen();
  }

  setContent(content, message) {
    this.content = content;
    this.message = message;
    this.small = null;
    this.redraw();
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.draw();
    });
  }

  /** Where the plot lies, in CSS pixels. */
  area() {
    const width = this.canvas.clientWidth;
    const gutter = Math.min(Math.max(Math.round(width * 0.13), 44), 92);
    return { left: gutter, top: gutter, side: Math.max(width - gutter - 1, 1) };
  }

  /** The level whose cells are at least a pixel wide. */
  level(side) {
    return Math.max(0, Math.ceil(Math.log2(this.view.span / side)));
  }

  draw() {
    const { canvas, context, look, view } = this, ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    if (width === 0) return;
    const pixels = Math.round(width * ratio);
    if (canvas.width !== pixels || canvas.height !== pixels) canvas.width = canvas.height = pixels;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = look.paper;
    context.fillRect(0, 0, width, width);
    const area = this.area();
    context.strokeStyle = look.edge;
    context.lineWidth = 1;
    if (!this.content) {
      context.strokeRect(area.left - 0.5, area.top - 0.5, area.side, area.side);
      context.fillStyle = look.soft;
      context.font = "14px system-ui, sans-serif";
      context.textAlign = "center";
      wrap(context, this.message, area.left + area.side / 2, area.top + area.side / 2, area.side - 40);
      return;
    }
    const isWhole = this.content.map ? this.drawCells(area) : true;
    const perToken = area.side / view.span;
    if (this.content.map && perToken >= 14) this.drawGrid(area, perToken);
    this.drawTracks(area, perToken);
    this.drawAxes(area, perToken);
    context.strokeRect(area.left - 0.5, area.top - 0.5, area.side, area.side);
    this.drawMarks(area, perToken);
    if (this.content.map && view.span < view.n) this.drawSmall(area);
    if (!isWhole) this.redraw();
  }

  /** Whether all tiles that are seen were there or could be made in time. */
  drawCells(area) {
    const { view, content, context } = this, level = this.level(area.side), size = 2 ** level;
    const side = Math.ceil(content.map.n / size);
    const from = (t) => Math.min(Math.max(Math.floor(t / size), 0), side);
    const [left, top] = [from(view.x), from(view.y)];
    const [right, bottom] = [view.x, view.y].map((t) => Math.min(Math.ceil((t + view.span) / size), side));
    const [width, height] = [right - left, bottom - top];
    if (width <= 0 || height <= 0) return true;
    const grid = new Uint8Array(width * height).fill(NO_CELL);
    const until = performance.now() + TILE_TIME;
    let isWhole = true;
    for (let row = Math.floor(top / TILE); row * TILE < bottom; row++) {
      for (let column = Math.floor(left / TILE); column * TILE < right; column++) {
        let tile = content.map.made(content.kind, level, row, column);
        if (!tile && performance.now() < until) tile = content.map.make(content.kind, level, row, column);
        isWhole = isWhole && tile !== undefined;
        const place = { row, column, left, top, right, bottom, width };
        if (tile) copy(tile, grid, place);
        else this.copyCoarser(grid, level, place);
      }
    }
    const pixels = new ImageData(width, height);
    const packed = new Uint32Array(pixels.data.buffer), colors = content.colors;
    for (let i = 0; i < grid.length; i++) packed[i] = colors[grid[i]];
    this.cells.width = width;
    this.cells.height = height;
    this.cells.getContext("2d").putImageData(pixels, 0, 0);
    const scale = area.side / view.span;
    context.save();
    context.beginPath();
    context.rect(area.left, area.top, area.side, area.side);
    context.clip();
    context.imageSmoothingEnabled = false;
    const [x, y] = [area.left + (left * size - view.x) * scale, area.top + (top * size - view.y) * scale];
    context.drawImage(this.cells, x, y, width * size * scale, height * size * scale);
    context.restore();
    return isWhole;
  }

  /** Cells of a missing tile from a coarser level that is there. */
  copyCoarser(grid, level, place) {
    const { content } = this;
    for (let up = 1; up <= COARSER; up++) {
      const tile = content.map.made(content.kind, level + up, place.row >> up, place.column >> up);
      if (!tile) continue;
      for (let i = Math.max(place.row * TILE, place.top); i < Math.min((place.row + 1) * TILE, place.bottom); i++) {
        for (let j = Math.max(place.column * TILE, place.left); j < Math.min((place.column + 1) * TILE, place.right); j++) {
          grid[(i - place.top) * place.width + j - place.left] = tile[((i >> up) % TILE) * TILE + ((j >> up) % TILE)];
        }
      }
      return;
    }
  }

  drawGrid(area, perToken) {
    const { context, view } = this;
    context.save();
    context.globalAlpha = 0.25;
    context.strokeStyle = this.look.paper;
    context.beginPath();
    for (let t = Math.ceil(view.x); t < view.x + view.span; t++) {
      const x = Math.round(area.left + (t - view.x) * perToken) + 0.5;
      context.moveTo(x, area.top);
      context.lineTo(x, area.top + area.side);
    }
    for (let t = Math.ceil(view.y); t < view.y + view.span; t++) {
      const y = Math.round(area.top + (t - view.y) * perToken) + 0.5;
      context.moveTo(area.left, y);
      context.lineTo(area.left + area.side, y);
    }
    context.stroke();
    context.restore();
  }

  /** What becomes of the tokens, along both axes. */
  drawTracks(area, perToken) {
    const { found } = this.content, { context, view, look } = this;
    if (!found || found.error) return;
    const n = found.fates.length, step = Math.max(1, 1 / perToken);
    const along = (from, paint) => {
      let run = null;
      for (let t = Math.floor(from); t < Math.min(from + view.span, n); t += step) {
        const token = Math.floor(t), color = look.ofToken(found, token);
        const at = Math.max((token - from) * perToken, 0), end = Math.min((Math.floor(t + step) - from) * perToken, area.side);
        if (run && run.color === color) run.end = end;
        else {
          if (run) paint(run);
          run = { color, at, end };
        }
      }
      if (run) paint(run);
    };
    along(view.x, ({ color, at, end }) => {
      context.fillStyle = color;
      context.fillRect(area.left + at, area.top - TRACK - 2, end - at, TRACK);
    });
    along(view.y, ({ color, at, end }) => {
      context.fillStyle = color;
      context.fillRect(area.left - TRACK - 2, area.top + at, TRACK, end - at);
    });
  }

  drawAxes(area, perToken) {
    const { context, view, look, content } = this;
    const room = area.left - TRACK - 8;
    context.fillStyle = look.soft;
    context.strokeStyle = look.edge;
    const hasTexts = content.texts && perToken >= 10.5;
    context.font = `${hasTexts ? Math.min(perToken * 0.85, 12.5) : 11.5}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    if (hasTexts) {
      const most = Math.floor(room / 6.2);
      const from = (t) => Math.max(Math.floor(t), 0);
      const last = (t) => Math.min(Math.ceil(t + view.span), content.texts.length);
      context.textAlign = "right";
      for (let t = from(view.y); t < last(view.y); t++) {
        const y = area.top + (t + 0.5 - view.y) * perToken;
        if (y < area.top || y > area.top + area.side) continue;
        context.fillStyle = view.cursor?.row === t ? look.accent : look.ink;
        context.fillText(isolated(label(content.texts[t], most)), area.left - TRACK - 6, y, room);
      }
      context.textAlign = "left";
      for (let t = from(view.x); t < last(view.x); t++) {
        const x = area.left + (t + 0.5 - view.x) * perToken;
        if (x < area.left || x > area.left + area.side) continue;
        context.save();
        context.translate(x, area.top - TRACK - 6);
        context.rotate(-Math.PI / 2);
        context.fillStyle = view.cursor?.column === t ? look.accent : look.ink;
        context.fillText(isolated(label(content.texts[t], most)), 0, 0, room);
        context.restore();
      }
      return;
    }
    const step = niceStep((view.span * 64) / area.side);
    context.beginPath();
    context.textAlign = "right";
    for (let t = Math.ceil(view.y / step) * step; t < view.y + view.span; t += step) {
      const y = area.top + (t - view.y) * perToken;
      context.fillText(thousands(t), area.left - TRACK - 10, Math.min(Math.max(y, area.top + 6), area.top + area.side - 6));
      context.moveTo(area.left - TRACK - 7, y);
      context.lineTo(area.left - TRACK - 3, y);
    }
    context.textAlign = "center";
    for (let t = Math.ceil(view.x / step) * step; t < view.x + view.span; t += step) {
      const x = area.left + (t - view.x) * perToken;
      context.fillText(thousands(t), Math.min(Math.max(x, area.left + 8), area.left + area.side - 14), area.top - TRACK - 16);
      context.moveTo(x, area.top - TRACK - 7);
      context.lineTo(x, area.top - TRACK - 3);
    }
    context.stroke();
  }

  drawMarks(area, perToken) {
    const { context, view, look } = this;
    const box = ({ row, column }, color) => {
      const size = Math.max(perToken, 7);
      const x = area.left + (column + 0.5 - view.x) * perToken - size / 2;
      const y = area.top + (row + 0.5 - view.y) * perToken - size / 2;
      if (x + size < area.left || y + size < area.top || x > area.left + area.side || y > area.top + area.side) return;
      for (const [style, width] of [["#000", 4], [color, 2]]) {
        context.strokeStyle = style;
        context.lineWidth = width;
        context.strokeRect(x, y, size, size);
      }
      context.lineWidth = 1;
    };
    if (view.cursor) box(view.cursor, "#fff");
    if (this.pin) box(this.pin, look.pin);
    context.strokeStyle = look.edge;
  }

  /** The whole map where the axes leave a corner, with what is seen of it. */
  drawSmall(area) {
    const { context, view, content, look } = this, box = this.smallArea(area), { side } = box;
    const level = Math.max(0, Math.ceil(Math.log2(view.n / side))), size = 2 ** level, n = Math.ceil(content.map.n / size);
    const key = `${content.kind}`;
    if (!this.small || this.small.key !== key || this.small.level !== level) {
      const grid = new Uint8Array(n * n).fill(NO_CELL);
      const kind = "mean";
      for (let row = 0; row * TILE < n; row++) {
        for (let column = 0; column * TILE < n; column++) {
          const tile = content.map.made(kind, level, row, column) || content.map.make(kind, level, row, column);
          copy(tile, grid, { row, column, left: 0, top: 0, right: n, bottom: n, width: n });
        }
      }
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = n;
      const pixels = new ImageData(n, n), packed = new Uint32Array(pixels.data.buffer);
      for (let i = 0; i < grid.length; i++) packed[i] = content.colors[grid[i]];
      canvas.getContext("2d").putImageData(pixels, 0, 0);
      this.small = { key, level, canvas };
    }
    const scale = side / view.n;
    context.imageSmoothingEnabled = true;
    context.drawImage(this.small.canvas, box.x, box.y, n * size * scale, n * size * scale);
    context.strokeStyle = look.edge;
    context.strokeRect(box.x - 0.5, box.y - 0.5, side + 1, side + 1);
    context.strokeStyle = look.pin;
    context.lineWidth = 2;
    const seen = Math.max(view.span * scale, 3);
    context.strokeRect(box.x + view.x * scale, box.y + view.y * scale, seen, seen);
    context.lineWidth = 1;
  }

  smallArea(area) {
    return { x: 2, y: 2, side: area.left - TRACK - 10 };
  }

  /** The pair of tokens at a place of the canvas; null outside of the plot. */
  at(x, y) {
    const area = this.area(), { view } = this;
    const [u, v] = [(x - area.left) / area.side, (y - area.top) / area.side];
    if (u < 0 || v < 0 || u >= 1 || v >= 1) return null;
    return { column: view.x + u * view.span, row: view.y + v * view.span };
  }

  listen() {
    const { canvas, view } = this;
    const fingers = new Map();
    let moved = 0, isSmall = false;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const perToken = () => this.area().side / view.span;
    const inSmall = (x, y) => {
      const box = this.smallArea(this.area());
      const [u, v] = [(x - box.x) / box.side, (y - box.y) / box.side];
      return view.span < view.n && u >= 0 && v >= 0 && u <= 1 && v <= 1 ? [u, v] : null;
    };
    const goTo = ([u, v]) => view.set(u * view.n - view.span / 2, v * view.n - view.span / 2, view.span);
    canvas.addEventListener("wheel", (event) => {
      const at = this.at(...place(event));
      // What cannot be farther lets the page scroll.
      if (!at || (event.deltaY > 0 && view.span >= view.n)) return;
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      view.zoom(2 ** (-Math.max(Math.min(event.deltaY * lines, 200), -200) / 180), at.column, at.row);
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => {
      const at = this.at(...place(event));
      if (at) view.zoom(event.shiftKey ? 0.5 : 2, at.column, at.row);
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
      moved = 0;
      const small = inSmall(...place(event));
      isSmall = small !== null;
      if (small) goTo(small);
    });
    canvas.addEventListener("pointermove", (event) => {
      const to = place(event), from = fingers.get(event.pointerId);
      if (!from) return this.hover(to);
      if (isSmall) {
        const there = inSmall(...to);
        return there && goTo(there);
      }
      fingers.set(event.pointerId, to);
      if (fingers.size === 2) return this.pinch([...fingers.values()], [from, to]);
      moved += Math.abs(to[0] - from[0]) + Math.abs(to[1] - from[1]);
      if (moved > 3) view.pan((from[0] - to[0]) / perToken(), (from[1] - to[1]) / perToken());
      return undefined;
    });
    const up = (event) => {
      fingers.delete(event.pointerId);
      if (event.type === "pointerup" && moved <= 3 && !isSmall) this.hover(place(event)) && this.onPin?.(view.cursor);
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    for (const event of ["pointerleave", "blur"]) canvas.addEventListener(event, () => this.onLeave?.());
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !this.content) return;
      const cell = 2 ** this.level(this.area().side), far = cell * (event.shiftKey ? 10 : 1), quarter = view.span / 4;
      const cursor = view.cursor || { row: Math.floor(view.y + view.span / 2), column: Math.floor(view.x + view.span / 2) };
      const keys = {
        ArrowUp: () => view.point(cursor.row - far, cursor.column), ArrowDown: () => view.point(cursor.row + far, cursor.column),
        ArrowLeft: () => view.point(cursor.row, cursor.column - far), ArrowRight: () => view.point(cursor.row, cursor.column + far),
        "+": () => view.zoom(2, cursor.column + 0.5, cursor.row + 0.5), "=": () => view.zoom(2, cursor.column + 0.5, cursor.row + 0.5),
        "-": () => view.zoom(0.5, cursor.column + 0.5, cursor.row + 0.5),
        0: () => view.set(0, 0, view.n), Home: () => view.set(0, 0, view.n), 1: () => view.show(cursor.row, cursor.column),
        w: () => view.pan(0, -quarter), s: () => view.pan(0, quarter), a: () => view.pan(-quarter, 0), d: () => view.pan(quarter, 0),
        Enter: () => view.cursor && this.onPin?.(view.cursor), " ": () => view.cursor && this.onPin?.(view.cursor),
        Escape: () => this.onPin?.(null),
      };
      const act = keys[event.key] || keys[event.key.toLowerCase()];
      if (!act) return;
      event.preventDefault();
      act();
      if (event.key.startsWith("Arrow")) this.onPoint?.(true);
    });
  }

  /** The cursor at a place of the canvas; whether there is a pair. */
  hover([x, y]) {
    const at = this.at(x, y), n = this.content?.nTokens ?? 0;
    if (!at || at.row >= n || at.column >= n) {
      this.onLeave?.();
      return false;
    }
    this.view.cursor = { row: Math.floor(at.row), column: Math.floor(at.column) };
    this.onPoint?.(false, [x, y]);
    this.view.changed();
    return true;
  }

  /** Two fingers: closer or farther about their middle. One of them went from a place to another. */
  pinch(places, [from, to]) {
    const other = places.find((place) => place !== to);
    const length = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const middle = this.at((places[0][0] + places[1][0]) / 2, (places[0][1] + places[1][1]) / 2);
    if (middle && length(from, other) > 0) this.view.zoom(length(to, other) / length(from, other), middle.column, middle.row);
  }
}

/** The cells of a tile that are seen. */
function copy(tile, grid, { row, column, left, top, right, bottom, width }) {
  const [from, to] = [Math.max(column * TILE, left), Math.min((column + 1) * TILE, right)];
  for (let i = Math.max(row * TILE, top); i < Math.min((row + 1) * TILE, bottom); i++) {
    const start = (i - row * TILE) * TILE - column * TILE;
    grid.set(tile.subarray(start + from, start + to), (i - top) * width + from - left);
  }
}

/** 1, 2 or 5 times a power of ten, not below a number. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  return [1, 2, 5, 10].map((k) => k * power).find((step) => step >= least) || 1;
}

/** A text whose direction stays its own. */
export const isolated = (text) => `\u2068${text}\u2069`;

function wrap(context, text, x, y, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines[lines.length - 1] + word + " ";
    if (context.measureText(line).width > width && lines[lines.length - 1]) lines.push(word + " ");
    else lines[lines.length - 1] = line;
  }
  lines.forEach((line, i) => context.fillText(line, x, y + (i - (lines.length - 1) / 2) * 20));
}
