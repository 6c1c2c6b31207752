// The prompt's text, each token in the look of what becomes of it; a page of tokens at a time, so that long texts stay quick.

import { FATES, MERGED } from "./fates.js";
import { N_SETS } from "./look.js";
import { visible } from "./words.js";

/** Tokens of a page. */
export const PAGE = 500;

export class Prose {
  /** `strip`: canvas of the whole text; `onToken(token, isChosen)` is called for what is pointed at, and chosen. */
  constructor(element, strip, onToken, onStart) {
    Object.assign(this, { element, strip, texts: null, found: null, start: 0, marks: [] });
    const token = (event) => {
      const of = event.target.closest?.("[data-t]");
      return of ? Number(of.dataset.t) : null;
    };
    element.addEventListener("pointermove", (event) => onToken(token(event), false));
    element.addEventListener("pointerleave", () => onToken(null, false));
    element.addEventListener("click", (event) => { if (token(event) !== null) onToken(token(event), true); });
    strip.addEventListener("click", (event) => {
      const box = strip.getBoundingClientRect();
      if (this.found) onStart(Math.floor(((event.clientX - box.left) / box.width) * this.found.fates.length) - PAGE / 2);
    });
    new ResizeObserver(() => this.drawStrip()).observe(strip);
  }

  set(texts, found, look) {
    Object.assign(this, { texts, found, look });
    this.draw();
  }

  /** The page that begins at a token. */
  from(start) {
    const n = this.found?.fates?.length ?? 0;
    this.start = Math.min(Math.max(start, 0), Math.max(n - PAGE, 0));
    this.draw();
    return this.start;
  }

  /** Tokens with a frame around them. */
  mark(tokens) {
    for (const token of this.marks) this.span(token)?.classList.remove("x-mark");
    this.marks = tokens;
    for (const token of tokens) this.span(token)?.classList.add("x-mark");
  }

  /** A token comes into sight, without moving the page. */
  reveal(token) {
    const span = this.span(token), { element } = this;
    if (!span) return;
    const at = span.offsetTop - element.offsetTop;
    if (at < element.scrollTop || at > element.scrollTop + element.clientHeight - 30) element.scrollTop = at - element.clientHeight / 3;
  }

  span(token) {
    return this.element.children[token - this.start];
  }

  draw() {
    const { element, texts, found } = this;
    element.textContent = "";
    this.drawStrip();
    if (!found || found.error || !texts) return;
    const part = document.createDocumentFragment();
    for (let t = this.start; t < Math.min(this.start + PAGE, texts.length); t++) {
      const span = document.createElement("span");
      span.dataset.t = t;
      const fate = found.fates[t], isSet = fate === MERGED;
      span.className = isSet ? `x-t x-set-${found.slots[t] % N_SETS}` : `x-t x-${FATES[fate]}`;
      if (isSet && found.slots[t - 1] !== found.slots[t]) span.classList.add("x-first");
      if (isSet && found.slots[t + 1] !== found.slots[t]) span.classList.add("x-last");
      // A line break is shown and kept.
      texts[t].split("\n").forEach((line, i) => {
        if (i > 0) span.append("↵", document.createElement("br"));
        span.append(visible(line));
      });
      part.append(span);
    }
    element.append(part);
    this.mark(this.marks);
  }

  drawStrip() {
    const { strip, found, look } = this, context = strip.getContext("2d"), ratio = window.devicePixelRatio || 1;
    const [width, height] = [strip.clientWidth, strip.clientHeight];
    if (width === 0) return;
    strip.width = Math.round(width * ratio);
    strip.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!found || found.error || !look) return;
    const n = found.fates.length;
    for (let x = 0; x < width; x++) {
      context.fillStyle = look.ofToken(found, Math.min(Math.floor(((x + 0.5) / width) * n), n - 1));
      context.fillRect(x, 5, 1, height - 10);
    }
    context.strokeStyle = look.pin;
    context.lineWidth = 2;
    context.strokeRect((this.start / n) * width + 1, 1, Math.max((Math.min(PAGE, n) / n) * width - 2, 4), height - 2);
  }
}
