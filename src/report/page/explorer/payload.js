// The parts of the page that hold numbers: unpacked when they are first needed, or asked for where a server gave the page.

const WIDTHS = { json: 1, u8: 1, u16: 2, f16: 2, bf16: 2, f32: 4 };
/** Unpacked parts that are kept. */
const MOST_PARTS = 60;

export class Payload {
  constructor(root) {
    this.elements = new Map();
    for (const element of root.querySelectorAll("script[data-part]")) this.elements.set(element.dataset.part, element);
    this.tensors = null;
    this.parts = new Map();
  }

  has(name) {
    return Object.hasOwn(this.tensors, name);
  }

  /** The document that describes the other parts. */
  async document() {
    const bytes = await inflated(this.elements.get("document").textContent);
    const document = JSON.parse(new TextDecoder().decode(bytes));
    this.tensors = document.parts;
    return document;
  }

  /** A part's tensors by name; null where the page does not hold it. */
  part(name) {
    if (!this.has(name)) return Promise.resolve(null);
    if (!this.parts.has(name)) {
      const part = this.elements.has(name) ? this.unpacked(name) : this.fetched(name);
      this.parts.set(name, part);
      // What failed is asked for again.
      part.catch(() => this.parts.delete(name));
      if (this.parts.size > MOST_PARTS) this.parts.delete(this.parts.keys().next().value);
    }
    return this.parts.get(name);
  }

  async unpacked(name) {
    return tensorsOf(name, this.tensors[name], await inflated(this.elements.get(name).textContent));
  }

  /** From the server that gave the page: the layout in a line of JSON, then the bytes. */
  async fetched(name) {
    const answer = await fetch(`part/${name}`).catch(() => null);
    if (!answer?.ok) throw new Error("kvscope report --serve does not answer any more; start it again, and open its new address.");
    const bytes = new Uint8Array(await answer.arrayBuffer()), end = bytes.indexOf(10);
    return tensorsOf(name, JSON.parse(new TextDecoder().decode(bytes.subarray(0, end))), bytes.subarray(end + 1));
  }
}

/** Tensors by name from their layout and bytes. */
function tensorsOf(name, layout, bytes) {
  const tensors = {};
  let at = 0;
  for (const [tensor, kind, length] of layout) {
    const end = at + length * WIDTHS[kind];
    tensors[tensor] = read(bytes.subarray(at, end), kind, length);
    at = end;
  }
  if (at !== bytes.length) throw new Error(`part ${name} has ${bytes.length} bytes and not ${at}`);
  return tensors;
}

async function inflated(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Numbers whose bytes stand in planes, the lowest bytes first. */
function read(planes, kind, n) {
  if (kind === "json") return JSON.parse(new TextDecoder().decode(planes));
  if (kind === "u8") return planes.slice();
  if (kind === "f32") {
    const bits = new Uint32Array(n);
    for (let i = 0; i < n; i++) {
      bits[i] = (planes[i] | (planes[n + i] << 8) | (planes[2 * n + i] << 16) | (planes[3 * n + i] << 24)) >>> 0;
    }
    return new Float32Array(bits.buffer);
  }
  const bits = new Uint16Array(n);
  for (let i = 0; i < n; i++) bits[i] = planes[i] | (planes[n + i] << 8);
  return kind === "f16" ? widened(bits) : kind === "bf16" ? fromBf16(bits) : bits;
}

let halves = null;

/** Half precision to single, by a table. */
function widened(bits) {
  if (!halves) {
    halves = new Float32Array(1 << 16);
    for (let i = 0; i < halves.length; i++) {
      const [sign, exponent, rest] = [i & 0x8000 ? -1 : 1, (i >> 10) & 31, i & 1023];
      halves[i] = exponent === 0 ? sign * rest * 2 ** -24
        : exponent === 31 ? (rest ? NaN : sign * Infinity) : sign * (1 + rest / 1024) * 2 ** (exponent - 15);
    }
  }
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = halves[bits[i]];
  return out;
}

/** Upper halves of single precision. */
export function fromBf16(bits) {
  const whole = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) whole[i] = bits[i] << 16;
  return new Float32Array(whole.buffer);
}
