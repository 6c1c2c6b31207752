// How texts and numbers are shown. Texts come from strangers: what acts on a screen is named and not sent.

/** What maps are of. */
export const STATES = { k: "keys", k_pre_rope: "keys before RoPE", v: "values", change: "change of keys by merging" };

/** A text with control characters, and characters that turn the direction of writing, as visible signs. */
export function visible(text) {
  let out = "";
  for (const c of text) {
    const code = c.codePointAt(0);
    if (code === 10) out += "↵";
    else if (code === 9) out += "⇥";
    else if (code < 32) out += String.fromCharCode(0x2400 + code);
    else if (code === 127) out += "␡";
    else if ((code >= 0x80 && code < 0xa0) || isHidden(code)) out += `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
    else out += c;
  }
  return out;
}

/** Whether a character turns the direction of writing, or has no width. */
function isHidden(code) {
  return code === 0x61c || code === 0x200b || code === 0x200e || code === 0x200f || code === 0xfeff || code === 0x2028
    || code === 0x2029 || (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069)
    || (code >= 0xd800 && code < 0xe000) || (code & 0xfffe) === 0xfffe;
}

/** A token in a few signs: blanks as dots, nothing as an empty set, a long one cut. */
export function label(text, most) {
  const signs = [...visible(text).replace(/ /g, "·")];
  if (signs.length === 0) return "∅";
  return signs.length > most ? signs.slice(0, most - 1).join("") + "…" : signs.join("");
}

/** A number with so many decimals; a dash where there is none. */
export function number(value, decimals) {
  return Number.isFinite(value) ? value.toFixed(decimals).replace("-", "−") : "–";
}

/** A number with two or three digits that count. */
export function rough(value) {
  if (!Number.isFinite(value)) return "–";
  return value >= 100 ? value.toFixed(0) : value >= 0.01 || value === 0 ? value.toPrecision(2) : value.toExponential(1);
}

export function thousands(n) {
  return String(n).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** `1 set`, `2 sets`. */
export function counted(n, what) {
  return `${thousands(n)} ${what}${n === 1 ? "" : "s"}`;
}

export const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–");

/** A word of a command line as a shell takes it, with what acts on a screen made visible. */
export function quoted(word) {
  const text = visible(String(word));
  return /^[\w./:=,@%+-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`;
}
