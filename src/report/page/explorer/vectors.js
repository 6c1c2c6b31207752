// Vectors of one head, and what is read off them: exact cosines of pairs, and cells of a map at any level.
//
// A cell of level L is a square of 2^L x 2^L pairs of tokens. Its mean is the product of two sums of unit vectors, so every level is
// exact; its highest cosine is looked for among its pairs, or was written by `analyze` where there are too many of them.

import { MERGED } from "./fates.js";

/** Cells a side of a tile. */
export const TILE = 32;
/** A cell without a value. */
export const NO_CELL = 255;
/** The largest change of a cosine that has a colour of its own. */
export const MOST_CHANGE = 0.5;

export const cellOf = (cosine) => Math.round((Math.min(Math.max(cosine, -1), 1) + 1) * 127);

function dot(a, i, b, j, d) {
  let s = 0, t = 0, u = 0, v = 0, k = 0;
  for (; k + 3 < d; k += 4) {
    s += a[i + k] * b[j + k];
    t += a[i + k + 1] * b[j + k + 1];
    u += a[i + k + 2] * b[j + k + 2];
    v += a[i + k + 3] * b[j + k + 3];
  }
  for (; k < d; k++) s += a[i + k] * b[j + k];
  return s + t + u + v;
}

export class Vectors {
  /** Numbers `[n, d]`; only those of `only`, where that is given, have a direction. */
  constructor(data, d, only = null) {
    this.data = data;
    this.d = d;
    this.n = data.length / d;
    this.unit = new Float32Array(data.length);
    const count = new Float32Array(this.n);
    for (let t = 0; t < this.n; t++) {
      const norm = Math.sqrt(dot(data, t * d, data, t * d, d));
      if (!(norm > 0 && norm < Infinity) || (only && !only[t])) continue;
      count[t] = 1;
      for (let k = t * d; k < (t + 1) * d; k++) this.unit[k] = data[k] / norm;
    }
    this.levels = [{ sums: this.unit, count }];
  }

  has(t) {
    return this.levels[0].count[t] === 1;
  }

  /** Cosine of two vectors; NaN where one has no direction. */
  cosine(i, j) {
    if (!this.has(i) || !this.has(j)) return NaN;
    const { data, d } = this;
    let x = 0, a = 0, b = 0;
    for (let k = 0; k < d; k++) {
      const [p, q] = [data[i * d + k], data[j * d + k]];
      x += p * q;
      a += p * p;
      b += q * q;
    }
    return Math.min(Math.max(x / (Math.sqrt(a) * Math.sqrt(b)), -1), 1);
  }

  /** Sums of the unit vectors of blocks of 2^level, and how many each has. */
  level(level) {
    while (this.levels.length <= level) {
      const { sums, count } = this.levels[this.levels.length - 1], { d } = this;
      const n = Math.ceil(count.length / 2);
      const next = { sums: new Float32Array(n * d), count: new Float32Array(n) };
      for (let t = 0; t < count.length; t++) {
        next.count[t >> 1] += count[t];
        for (let k = 0; k < d; k++) next.sums[(t >> 1) * d + k] += sums[t * d + k];
      }
      this.levels.push(next);
    }
    return this.levels[level];
  }

  /** Mean cosine of the pairs of two blocks. */
  mean(level, row, column) {
    const { sums, count } = this.level(level), { d } = this;
    return row < count.length && column < count.length
      ? dot(sums, row * d, sums, column * d, d) / (count[row] * count[column]) : NaN;
  }

  /** Sum of the unit vectors of some tokens, and how many have one. */
  sum([from, to]) {
    const { d, unit } = this, sum = new Float64Array(d), { count } = this.levels[0];
    let n = 0;
    for (let t = from; t < to; t++) {
      n += count[t];
      for (let k = 0; k < d; k++) sum[k] += unit[t * d + k];
    }
    return { sum, n };
  }

  /** Mean cosine of all pairs of a row and a column. */
  meanOf(rows, columns) {
    const [a, b] = [this.sum(rows), this.sum(columns)];
    return dot(a.sum, 0, b.sum, 0, this.d) / (a.n * b.n);
  }

  /** The pair of different tokens of two blocks that is most alike: its cosine, row and column. */
  highest(level, row, column) {
    const { d, n, unit } = this, size = 1 << level;
    const found = { cosine: -Infinity, row: -1, column: -1 };
    for (let i = row * size; i < Math.min((row + 1) * size, n); i++) {
      if (!this.has(i)) continue;
      for (let j = column * size; j < Math.min((column + 1) * size, n); j++) {
        if ((i === j && level > 0) || !this.has(j)) continue;
        const cosine = dot(unit, i * d, unit, j * d, d);
        if (cosine > found.cosine) Object.assign(found, { cosine, row: i, column: j });
      }
    }
    if (found.row < 0) found.cosine = NaN;
    return found;
  }

  /** The `most` tokens that are most like a token. */
  nearest(token, most) {
    const found = [];
    for (let j = 0; j < this.n; j++) if (j !== token && this.has(j)) found.push([this.cosine(token, j), j]);
    return found.sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, most);
  }
}

/** A map of cosines, in tiles that are made when they are wanted. `highest`: cells that were written beforehand, with block and side. */
export class CosineMap {
  constructor(vectors, highest) {
    this.vectors = vectors;
    this.n = vectors.n;
    this.before = highest;
    this.tiles = new Map();
  }

  value(i, j) {
    return this.vectors.cosine(i, j);
  }

  /** Mean over all pairs of a row and a column. */
  meanOf(rows, columns) {
    return this.vectors.meanOf(rows, columns);
  }

  /** A tile that was made; undefined where it was not. */
  made(kind, level, row, column) {
    return this.tiles.get(key(kind, level, row, column));
  }

  make(kind, level, row, column) {
    const tile = new Uint8Array(TILE * TILE);
    if (kind === "highest" && level > 0) this.fillHighest(tile, level, row, column);
    else this.fillMean(tile, level, row, column);
    this.keep(kind, level, row, column, tile);
    if (row !== column) this.keep(kind, level, column, row, mirrored(tile));
    return tile;
  }

  keep(kind, level, row, column, tile) {
    if (this.tiles.size > 12000) this.tiles.clear();
    this.tiles.set(key(kind, level, row, column), tile);
  }

  fillMean(tile, level, row, column) {
    const { sums, count } = this.vectors.level(level), { d } = this.vectors;
    for (let a = 0; a < TILE; a++) {
      const i = row * TILE + a, of = count[i] || 0;
      for (let b = 0; b < TILE; b++) {
        const j = column * TILE + b, pairs = of * (count[j] || 0);
        tile[a * TILE + b] = pairs > 0 ? cellOf(dot(sums, i * d, sums, j * d, d) / pairs) : NO_CELL;
      }
    }
  }

  fillHighest(tile, level, row, column) {
    const size = 1 << level, { d, n, unit } = this.vectors, count = this.vectors.levels[0].count;
    const before = this.before;
    if (before && size >= before.block) return this.fillFrom(tile, size / before.block, row, column);
    tile.fill(NO_CELL);
    const most = new Float32Array(TILE * TILE).fill(-2);
    const [top, left] = [row * TILE * size, column * TILE * size];
    for (let i = top; i < Math.min(top + TILE * size, n); i++) {
      if (!count[i]) continue;
      const out = ((i - top) >> level) * TILE;
      for (let j = row === column ? Math.max(left, i + 1) : left; j < Math.min(left + TILE * size, n); j++) {
        const cosine = dot(unit, i * d, unit, j * d, d), at = out + ((j - left) >> level);
        if (cosine > most[at] && count[j]) most[at] = cosine;
      }
    }
    most.forEach((cosine, at) => {
      if (cosine < -1.5) return;
      tile[at] = cellOf(cosine);
      if (row === column) tile[(at % TILE) * TILE + Math.floor(at / TILE)] = tile[at];
    });
  }

  /** From cells that were written, `ratio` of which a cell takes a side. */
  fillFrom(tile, ratio, row, column) {
    const { cells, side } = this.before;
    for (let a = 0; a < TILE; a++) {
      for (let b = 0; b < TILE; b++) {
        let most = -1;
        const [i, j] = [(row * TILE + a) * ratio, (column * TILE + b) * ratio];
        for (let p = i; p < Math.min(i + ratio, side); p++) {
          for (let q = j; q < Math.min(j + ratio, side); q++) {
            const cell = cells[p * side + q];
            if (cell !== NO_CELL && cell > most) most = cell;
          }
        }
        tile[a * TILE + b] = most < 0 ? NO_CELL : most;
      }
    }
  }
}

/** How cosines change where sets are merged: after less before, of tokens of which something is stored. */
export class ChangeMap extends CosineMap {
  constructor(before, after) {
    super(before, null);
    this.after = after;
  }

  value(i, j) {
    return this.after.cosine(i, j) - this.vectors.cosine(i, j);
  }

  meanOf(rows, columns) {
    return this.after.meanOf(rows, columns) - this.vectors.meanOf(rows, columns);
  }

  fillMean(tile, level, row, column) {
    const { sums, count } = this.vectors.level(level), { d } = this.vectors, after = this.after.level(level).sums;
    for (let a = 0; a < TILE; a++) {
      const i = row * TILE + a, of = count[i] || 0;
      for (let b = 0; b < TILE; b++) {
        const j = column * TILE + b, pairs = of * (count[j] || 0);
        const change = (dot(after, i * d, after, j * d, d) - dot(sums, i * d, sums, j * d, d)) / pairs;
        tile[a * TILE + b] = pairs > 0 ? cellOf(change / MOST_CHANGE) : NO_CELL;
      }
    }
  }

  fillHighest(tile, level, row, column) {
    this.fillMean(tile, level, row, column);
  }
}

function key(kind, level, row, column) {
  return ((kind === "highest" ? 32 : 0) + level) * 2 ** 32 + row * 65536 + column;
}

function mirrored(tile) {
  const out = new Uint8Array(TILE * TILE);
  for (let a = 0; a < TILE; a++) for (let b = 0; b < TILE; b++) out[b * TILE + a] = tile[a * TILE + b];
  return out;
}

/** Root mean square over the queries that see both of q·(k_i - k_j)/√D, in nats; NaN where fewer than half of them do. */
export function logitGap(keys, queries, positions, i, j) {
  const d = keys.d, last = Math.max(i, j), nQueries = queries.length / d;
  const difference = new Float64Array(d);
  for (let k = 0; k < d; k++) difference[k] = keys.data[i * d + k] - keys.data[j * d + k];
  let sum = 0, n = 0;
  for (let q = 0; q < nQueries; q++) {
    if (positions[q % positions.length] < last) continue;
    let logit = 0;
    for (let k = 0; k < d; k++) logit += queries[q * d + k] * difference[k];
    sum += (logit * logit) / d;
    n++;
  }
  return n > 0 && 2 * n >= nQueries ? Math.sqrt(sum / n) : NaN;
}

/** Vectors of which every merged token has that of its slot: KVMerger's Gaussian weights about the pivot. Evicted ones have none. */
export function merged(keys, found) {
  const { d, n } = keys, data = keys.data.slice(), stays = new Uint8Array(n);
  for (const [pivot, set] of found.pivots) {
    stays[pivot] = 1;
    if (!set || found.fates[pivot] !== MERGED) continue;
    const distances = set.map((token) => {
      let sum = 0;
      for (let k = 0; k < d; k++) sum += (keys.data[token * d + k] - keys.data[pivot * d + k]) ** 2;
      return sum;
    });
    const sigma = distances.reduce((sum, x) => sum + Math.sqrt(x), 0) / (Math.SQRT2 * set.length);
    const weights = distances.map((x) => (x === 0 ? 1 : Math.exp(-x / (2 * sigma * sigma))));
    const total = weights.reduce((sum, x) => sum + x, 0);
    const key = new Float64Array(d);
    set.forEach((token, m) => {
      for (let k = 0; k < d; k++) key[k] += (weights[m] / total) * keys.data[token * d + k];
    });
    for (const token of set) {
      stays[token] = 1;
      data.set(key, token * d);
    }
  }
  return { before: new Vectors(keys.data, d, stays), after: new Vectors(data, d, stays) };
}
