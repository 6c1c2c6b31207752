// Colours: of maps from the page's own colour map, of all else from its style.

import { EVICTED, HEAVY, MERGED, RECENT } from "./fates.js";
import { NO_CELL } from "./vectors.js";

/** Colours of sets, in turn, so that neighbours differ. */
export const N_SETS = 4;

const pack = (r, g, b) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** Cells to colours: cosines from -1 to 1 or from 0 to 1, on six hexadecimal digits a colour, the last for no data. */
export function cosineColors(hex, low) {
  const color = (i) => [0, 2, 4].map((at) => parseInt(hex.substr(6 * i + at, 2), 16));
  return Uint32Array.from({ length: 256 }, (_, cell) => {
    if (cell === NO_CELL) return pack(...color(255));
    const part = (cell / 127 - 1 - low) / (1 - low);
    return pack(...color(Math.round(Math.min(Math.max(part, 0), 1) * 254)));
  });
}

/** Cells to colours of changes: blue for less alike, white for no change, red for more alike. */
export function changeColors(hex) {
  const none = [0, 2, 4].map((at) => parseInt(hex.substr(6 * 255 + at, 2), 16));
  const between = (a, b, t) => a.map((x, k) => Math.round(x + (b[k] - x) * t));
  return Uint32Array.from({ length: 256 }, (_, cell) => {
    if (cell === NO_CELL) return pack(...none);
    const change = cell / 127 - 1;
    return pack(...between([247, 247, 247], change < 0 ? [5, 80, 150] : [178, 24, 43], Math.min(Math.abs(change), 1) ** 0.6));
  });
}

/** The colours of the style as it is now. */
export function styleColors(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue(name).trim();
  const fates = { kept: of("--track-kept"), recent: of("--track-recent"), heavy: of("--track-heavy"), evicted: of("--track-evicted") };
  const sets = Array.from({ length: N_SETS }, (_, i) => of(`--set-${i}`));
  return {
    ink: of("--ink"), soft: of("--soft"), edge: of("--edge"), paper: of("--card"), accent: of("--accent"), pin: of("--pin"),
    ofToken(found, token) {
      const fate = found.fates[token];
      if (fate === MERGED) return sets[found.slots[token] % N_SETS];
      return fate === EVICTED ? fates.evicted : fate === RECENT ? fates.recent : fate === HEAVY ? fates.heavy : fates.kept;
    },
  };
}

/** A packed colour for CSS. */
export const css = (packed) => `rgb(${packed & 255} ${(packed >> 8) & 255} ${(packed >> 16) & 255})`;

/** The meaning of colours: a bar from low to high on a canvas, with words at its ends and its middle. */
export function drawScale(canvas, colors, low, ends, look) {
  const context = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  for (let x = 0; x < width; x++) {
    context.fillStyle = css(colors[Math.round((low + (x / width) * (1 - low) + 1) * 127)]);
    context.fillRect(x, 0, 1, 12);
  }
  context.fillStyle = look.soft;
  context.font = "11.5px system-ui, sans-serif";
  context.textBaseline = "bottom";
  ends.forEach((text, k) => {
    context.textAlign = ["left", "center", "right"][k];
    context.fillText(text, (k * width) / 2, height);
  });
}
