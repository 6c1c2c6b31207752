// All heads of the model in one grid: layers down, KV heads across. A head that the page can show has a dot.

import { css } from "./look.js";
import { number } from "./words.js";

const LEFT = 26;
const TOP = 16;

export class HeadGrid {
  /** `onChoose(layer, head)` is called with what is chosen. */
  constructor(canvas, readout, onChoose) {
    Object.assign(this, { canvas, readout, onChoose, data: null, chosen: [] });
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return this.at(event.clientX - box.left, event.clientY - box.top);
    };
    canvas.addEventListener("pointermove", (event) => this.tell(place(event)));
    canvas.addEventListener("pointerleave", () => this.tell(null));
    canvas.addEventListener("click", (event) => {
      const found = place(event);
      if (found) this.onChoose(found.layer, found.head);
    });
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!by || !this.data) return;
      event.preventDefault();
      const { layers, heads } = this.data, [layer, head] = this.chosen[0];
      const within = (list, of, step) => list[Math.min(Math.max(list.indexOf(of) + step, 0), list.length - 1)];
      this.onChoose(within(layers, layer, by[0]), within(heads, head, by[1]));
      this.tell({ layer: this.chosen[0][0], head: this.chosen[0][1] });
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** `data`: layers, heads, values (by layer, then head), dots (Set of "layer.head"), colors, look, and `more(layer, head)`, what is told of a head beside. */
  set(data, chosen) {
    this.data = data;
    this.chosen = chosen;
    this.canvas.style.height = `${TOP + data.layers.length * this.height() + 2}px`;
    this.draw();
    this.tell(null);
  }

  height() {
    const room = window.innerWidth < 768 ? 220 : 420;
    return Math.min(Math.max(Math.floor(room / this.data.layers.length), 7), 22);
  }

  cell(width) {
    return [Math.min((width - LEFT - 1) / this.data.heads.length, 48), this.height()];
  }

  at(x, y) {
    if (!this.data) return null;
    const [w, h] = this.cell(this.canvas.clientWidth);
    const layer = this.data.layers[Math.floor((y - TOP) / h)], head = this.data.heads[Math.floor((x - LEFT) / w)];
    return layer === undefined || head === undefined ? null : { layer, head };
  }

  value(layer, head) {
    const { layers, heads, values } = this.data;
    return values[layers.indexOf(layer) * heads.length + heads.indexOf(head)];
  }

  tell(at) {
    if (!this.data) return;
    const [layer, head] = at ? [at.layer, at.head] : this.chosen[0];
    const value = this.value(layer, head);
    const has = this.data.dots.has(`${layer}.${head}`) ? "" : "; no map here";
    this.readout.textContent = `Layer ${layer}, head ${head}: ${value === null || value === undefined ? "no data" : number(value, 3)}${this.data.more?.(layer, head) ?? ""}${has}`;
  }

  draw() {
    const { canvas, data } = this, context = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!data || width === 0) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const [w, h] = this.cell(width), { layers, heads, look } = data;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = look.soft;
    context.textBaseline = "middle";
    context.textAlign = "center";
    const every = Math.ceil(16 / w), rows = Math.ceil(13 / h);
    heads.forEach((head, j) => { if (j % every === 0) context.fillText(head, LEFT + (j + 0.5) * w, TOP / 2); });
    context.textAlign = "right";
    layers.forEach((layer, i) => { if (i % rows === 0) context.fillText(layer, LEFT - 6, TOP + (i + 0.5) * h); });
    layers.forEach((layer, i) => heads.forEach((head, j) => {
      const value = data.values[i * heads.length + j];
      const cell = value === null || value === undefined ? 255 : Math.round((Math.min(Math.max(value, -1), 1) + 1) * 127);
      context.fillStyle = css(data.colors[cell]);
      context.fillRect(LEFT + j * w, TOP + i * h, Math.max(w - 1, 1), Math.max(h - 1, 1));
      if (data.dots.has(`${layer}.${head}`)) {
        const r = Math.min(h, w) * 0.18;
        for (const [color, size] of [["#000", r + 1], ["#fff", r]]) {
          context.fillStyle = color;
          context.beginPath();
          context.arc(LEFT + (j + 0.5) * w - 0.5, TOP + (i + 0.5) * h - 0.5, size, 0, 7);
          context.fill();
        }
      }
    }));
    for (const [layer, head] of this.chosen) {
      const [i, j] = [layers.indexOf(layer), heads.indexOf(head)];
      for (const [color, size] of [["#000", 3.5], [look.pin, 2]]) {
        context.strokeStyle = color;
        context.lineWidth = size;
        context.strokeRect(LEFT + j * w - 0.5, TOP + i * h - 0.5, w, h);
      }
    }
  }
}
