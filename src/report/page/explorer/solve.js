// Another budget from the curves that a profile keeps: the searches of `kvscope tune`, with its arithmetic, so that sizes and policies
// are those of `tune --from`. What each function does, and from where, stands in `src/tune`.

/** Units of size that a whole head has. */
export const UNITS = 10000;

/** Costs of heads at sizes under settings. */
class Curves {
  /** `sizes` in units, rising; `costs` of a head, size and setting, NaN where it cannot be reached; `utility`: by size, of all heads. */
  constructor(sizes, nSettings, costs, utility) {
    Object.assign(this, { sizes, nSettings, costs, utility, nHeads: costs.length / (sizes.length * nSettings) });
  }

  of(heads) {
    const each = this.sizes.length * this.nSettings;
    const costs = new Float64Array(heads.length * each);
    heads.forEach((head, i) => costs.set(this.costs.subarray(head * each, (head + 1) * each), i * each));
    const utility = this.utility.map((shares) => shares && heads.map((head) => shares[head]));
    return new Curves(this.sizes, this.nSettings, costs, utility);
  }

  /** First measured size that is not below one. */
  above(units) {
    const at = this.sizes.findIndex((size) => size >= units);
    return at < 0 ? this.sizes.length : at;
  }

  /** Cost of a head at any size, straight between those that were measured; NaN below what the setting reaches. */
  cost(head, setting, units) {
    if (units >= UNITS) return 0;
    const at = (i) => (i < this.sizes.length ? [this.sizes[i], this.costs[(head * this.sizes.length + i) * this.nSettings + setting]] : [UNITS, 0]);
    const above = this.above(units), [high, costHigh] = at(above);
    if (high === units) return costHigh;
    if (above === 0 || Number.isNaN(costHigh)) return NaN;
    const [low, costLow] = at(above - 1);
    return costLow + ((costHigh - costLow) * (units - low)) / (high - low);
  }

  /** The setting of least cost at a size, the first of equals; null where none reaches it. */
  best(head, units) {
    let found = null, least = Infinity;
    for (let setting = 0; setting < this.nSettings; setting++) {
      const cost = this.cost(head, setting, units);
      if (!Number.isNaN(cost) && (found === null || cost < least)) [found, least] = [{ setting, units }, cost];
    }
    return found;
  }

  total(choices) {
    return choices.reduce((sum, { setting, units }, head) => sum + this.cost(head, setting, units), 0);
  }

  /** Sizes of all heads by LU-KV, not whole. */
  utilityUnits(units) {
    const at = (i) => (i < this.sizes.length ? [this.sizes[i], this.utility[i]] : [UNITS, new Array(this.nHeads).fill(1)]);
    const above = this.above(units), [high, ofHigh] = at(above);
    if (high !== units && above === 0) return null;
    const [low, ofLow] = high === units ? [0, new Array(this.nHeads).fill(0)] : at(above - 1);
    if (!ofHigh || !ofLow) return null;
    const part = (units - low) / (high - low);
    return ofHigh.map((of, head) => UNITS * (ofLow[head] + (of - ofLow[head]) * part));
  }
}

/** The lower hull of points by rising size. */
function lowerHull(points) {
  const hull = [];
  for (const point of points) {
    while (hull.length > 1) {
      const [a, b] = hull.slice(-2);
      if ((b[1] - a[1]) * (point[0] - a[0]) < (point[1] - a[1]) * (b[0] - a[0])) break;
      hull.pop();
    }
    hull.push(point);
  }
  return hull;
}

/** Sizes whose sum is a total and whose cost by the hulls is least; null where the smallest sizes are more. */
function allocate(hulls, total) {
  const sizes = hulls.map((hull) => hull[0][0]);
  let left = total - sizes.reduce((sum, size) => sum + size, 0);
  if (left < 0) return null;
  const pieces = [];
  hulls.forEach((hull, head) => {
    for (let i = 1; i < hull.length; i++) {
      const length = hull[i][0] - hull[i - 1][0];
      pieces.push([(hull[i][1] - hull[i - 1][1]) / length, head, length]);
    }
  });
  pieces.sort((a, b) => a[0] - b[0]);
  for (const [, head, length] of pieces) {
    const taken = Math.min(length, left);
    sizes[head] += taken;
    left -= taken;
  }
  return sizes;
}

function hullSizes(curves, target) {
  const hulls = [];
  for (let head = 0; head < curves.nHeads; head++) {
    const points = [];
    for (const size of curves.sizes) {
      const best = size >= target.least ? curves.best(head, size) : null;
      if (best) points.push([size, curves.cost(head, best.setting, size)]);
    }
    points.push([UNITS, 0]);
    hulls.push(lowerHull(points));
  }
  return allocate(hulls, target.units * curves.nHeads);
}

/** Each head's best setting at its size; null where one has none. */
function settled(curves, sizes) {
  const choices = sizes && sizes.map((units, head) => curves.best(head, units));
  return choices && choices.every((choice) => choice) ? choices : null;
}

/** Whole numbers nearest to parts whose sum is a total. */
function whole(parts, total) {
  const wholes = parts.map((part) => Math.trunc(part + 1e-6));
  const rest = (i) => parts[i] - wholes[i];
  const byRest = parts.map((_, i) => i).sort((a, b) => rest(b) - rest(a));
  const left = Math.max(total - wholes.reduce((sum, x) => sum + x, 0), 0);
  for (const i of byRest.slice(0, left)) wholes[i] += 1;
  return wholes;
}

const SEARCHES = {
  equal(curves, target) {
    let found = null, least = Infinity;
    for (let setting = 0; setting < curves.nSettings; setting++) {
      const choices = Array.from({ length: curves.nHeads }, () => ({ setting, units: target.units }));
      const total = curves.total(choices);
      if (!Number.isNaN(total) && (found === null || total < least)) [found, least] = [choices, total];
    }
    return found;
  },
  settings: (curves, target) => settled(curves, new Array(curves.nHeads).fill(target.units)),
  half(curves, target) {
    let roundsUp = false;
    const sizes = hullSizes(curves, target)?.map((units) => {
      const sum = units + target.units, isOdd = sum % 2 === 1;
      if (isOdd) roundsUp = !roundsUp;
      return Math.floor(sum / 2) + Number(isOdd && roundsUp);
    });
    return settled(curves, sizes || null);
  },
  hull: (curves, target) => settled(curves, hullSizes(curves, target)),
  lukv(curves, target) {
    const units = curves.utilityUnits(target.units);
    const choices = units && whole(units, target.units * curves.nHeads).map((size) => ({ setting: 0, units: size }));
    return choices && !Number.isNaN(curves.total(choices)) ? choices : null;
  },
};

/** A search's solution at the target, or at the largest size below it that keeps to it. */
function within(search, curves, target) {
  const most = target.units * curves.nHeads;
  const smaller = { ...target };
  while (smaller.units > 0) {
    const choices = search(curves, smaller);
    if (!choices) return null;
    const sum = choices.reduce((all, { units }) => all + units, 0);
    if (sum <= most) return choices;
    smaller.units -= Math.min(Math.max(Math.floor((sum - most) / curves.nHeads), 1), smaller.units);
  }
  return null;
}

/** A profile as the page holds it: `profile`, and `costs` of all heads, sizes and settings. */
export class Solver {
  constructor({ profile, costs }) {
    this.profile = profile;
    const sizes = profile.sizes.map((share) => Math.round(share * UNITS));
    this.curves = costs ? new Curves(sizes, profile.settings.length, Float64Array.from(costs), profile.utility.map((shares) => (shares.includes(null) ? null : shares))) : null;
    this.solved = new Map();
  }

  /**
   * Setting and size in units of every head at a budget: at the profile's own budget its own, at another one those of `tune --from`;
   * null where the curves do not reach it.
   */
  at(budget) {
    if (!this.solved.has(budget)) {
      if (this.solved.size > 200) this.solved.clear();
      this.solved.set(budget, this.solve(budget));
    }
    return this.solved.get(budget);
  }

  solve(budget) {
    const { profile, curves } = this, search = Object.hasOwn(SEARCHES, profile.search) ? SEARCHES[profile.search] : null;
    if (budget === profile.target) return profile.heads.map(([setting, share]) => ({ setting, share }));
    if (!curves || !search) return null;
    const units = Math.round(budget * UNITS);
    const target = { units, least: Math.max(Math.trunc(units * profile.min_share), 1) };
    const choices = new Array(curves.nHeads).fill(null);
    for (const heads of profile.kinds) {
      const own = within(search, curves.of(heads), target);
      if (!own) return null;
      heads.forEach((head, i) => { choices[head] = { setting: own[i].setting, share: own[i].units / UNITS }; });
    }
    return choices;
  }
}
