//! The slots of one KV head in their storage type.

use std::fmt;
use std::fmt::{Display, Formatter};

use half::{bf16, f16};

use crate::math::{Float, HeldRows, axpy, first_not_below};
use crate::merge::{HeadPlan, Member, Refitted, Slot};
use crate::model::{HeadSlots, SlotVectors};
use crate::runtime::RuntimeError;

/// What is stored of a slot, or counted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its key.
    Key,
    /// Its value.
    Value,
    /// Its attention mass.
    Mass,
    /// What it is predicted to be worth.
    Predicted,
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "a key",
            Self::Value => "a value",
            Self::Mass => "an attention mass",
            Self::Predicted => "a predicted worth",
        })
    }
}

/// A number that cannot be stored, with its state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unstorable {
    /// It is none.
    NotFinite(State),
    /// The type of storage has none as large.
    Overflow(State, Float),
}

impl Unstorable {
    /// With its place.
    pub(crate) fn at(self, layer: usize, kv_head: usize) -> RuntimeError {
        match self {
            Self::NotFinite(state) => RuntimeError::NotFinite { state, layer, kv_head },
            Self::Overflow(state, kind) => RuntimeError::Overflow { state, layer, kv_head, kind, most: kind.most() },
        }
    }
}

/// Vectors `[n, D]` in their storage type.
#[derive(Debug)]
enum Vectors {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// A head that is full makes room for this part of its slots.
pub(super) const GROWTH_PART: usize = 256;

/// Part of a window that gathers behind it before it is dropped.
pub(super) const SPARE_PART: usize = 64;

/// Part of the slots for which a head of a layer with a window keeps room when it drops what the window has left behind: twice what
/// gathers there, so that decoding does not move slots each time.
const SPARE_ROOM_PART: usize = SPARE_PART / 2;

/// Room that a head of `n_slots` makes when it is full: a 256th, so that slack stays under half a percent of the cache.
///
/// Amortised, a new slot has 256 old ones copied, fewer than the attention of its own token reads.
fn growth(n_slots: usize) -> usize {
    (n_slots / GROWTH_PART).max(2)
}

/// Makes room for `more` numbers, `step` at least.
fn reserve<T>(values: &mut Vec<T>, more: usize, step: usize) {
    if values.capacity() - values.len() < more {
        values.reserve_exact(more.max(step));
    }
}

impl Vectors {
    fn new(kind: Float) -> Self {
        match kind {
            Float::F32 => Self::F32(Vec::new()),
            Float::F16 => Self::F16(Vec::new()),
            Float::Bf16 => Self::Bf16(Vec::new()),
        }
    }

    fn kind(&self) -> Float {
        match self {
            Self::F32(_) => Float::F32,
            Self::F16(_) => Float::F16,
            Self::Bf16(_) => Float::Bf16,
        }
    }

    fn reserve(&mut self, more: usize, step: usize) {
        match self {
            Self::F32(v) => reserve(v, more, step),
            Self::F16(v) => reserve(v, more, step),
            Self::Bf16(v) => reserve(v, more, step),
        }
    }

    fn truncate(&mut self, n: usize) {
        match self {
            Self::F32(v) => v.truncate(n),
            Self::F16(v) => v.truncate(n),
            Self::Bf16(v) => v.truncate(n),
        }
    }

    /// Stores numbers; `state` is what they are.
    fn push(&mut self, x: &[f32], state: State) -> Result<(), Unstorable> {
        if first_not_below(x, self.kind().limit()).is_some() {
            check_finite(x, state)?;
            return Err(Unstorable::Overflow(state, self.kind()));
        }
        match self {
            Self::F32(v) => v.extend_from_slice(x),
            Self::F16(v) => v.extend(x.iter().map(|x| f16::from_f32(*x))),
            Self::Bf16(v) => v.extend(x.iter().map(|x| bf16::from_f32(*x))),
        }
        Ok(())
    }

    /// Takes the first `n` numbers off.
    fn remove_first(&mut self, n: usize) {
        match self {
            Self::F32(v) => remove_first(v, n),
            Self::F16(v) => remove_first(v, n),
            Self::Bf16(v) => remove_first(v, n),
        }
    }

    fn slots(&self) -> SlotVectors<'_> {
        match self {
            Self::F32(v) => SlotVectors::F32(v),
            Self::F16(v) => SlotVectors::F16(v),
            Self::Bf16(v) => SlotVectors::Bf16(v),
        }
    }

    fn bytes(&self) -> u64 {
        let capacity = match self {
            Self::F32(v) => v.capacity(),
            Self::F16(v) => v.capacity(),
            Self::Bf16(v) => v.capacity(),
        };
        (capacity * self.kind().bytes()) as u64
    }

    /// The same type of storage, holding exactly `x`.
    fn replaced(&self, x: &[f32], state: State) -> Result<Self, Unstorable> {
        let mut new = Self::new(self.kind());
        new.reserve(x.len(), 0);
        new.push(x, state)?;
        Ok(new)
    }
}

/// Tokens of each slot, in two bytes where they fit: beside half-precision vectors four would weigh.
#[derive(Debug)]
enum Counts {
    Small(Vec<u16>),
    Large(Vec<u32>),
}

impl Counts {
    fn new(counts: Vec<u32>) -> Self {
        let small: Result<Vec<u16>, _> = counts.iter().map(|count| u16::try_from(*count)).collect();
        small.map_or(Self::Large(counts), |mut small| {
            small.shrink_to_fit();
            Self::Small(small)
        })
    }

    fn widened(&self) -> Vec<u32> {
        match self {
            Self::Small(counts) => counts.iter().map(|count| u32::from(*count)).collect(),
            Self::Large(counts) => counts.clone(),
        }
    }

    /// Takes the first `n` off, as far as there are so many.
    fn remove_first(&mut self, n: usize) {
        match self {
            Self::Small(counts) => remove_first(counts, n),
            Self::Large(counts) => remove_first(counts, n),
        }
    }

    fn bytes(&self) -> u64 {
        (match self {
            Self::Small(counts) => 2 * counts.capacity(),
            Self::Large(counts) => 4 * counts.capacity(),
        }) as u64
    }
}

/// One KV head's slots.
#[derive(Debug)]
pub(crate) struct Head {
    head_dim: usize,
    keys: Vectors,
    values: Vectors,
    pub(crate) positions: Vec<u32>,
    /// Tokens that each of the first slots stands for, as compression left them; every slot behind them stands for one.
    counts: Option<Counts>,
    /// `None` while all are zero.
    pub(crate) logit_bias: Option<Vec<f32>>,
    /// Attention mass so far; empty where no compression to come asks for it.
    pub(crate) mass: Vec<f32>,
    /// Attention mass over the observation window.
    pub(crate) mass_window: Vec<f32>,
    /// What each slot was predicted to be worth by every scorer of the cache, `[scorers][T]`.
    predicted: Vec<Vec<f32>>,
}

impl Head {
    pub(crate) fn new(kind: Float, head_dim: usize) -> Self {
        Self {
            head_dim,
            keys: Vectors::new(kind),
            values: Vectors::new(kind),
            positions: Vec::new(),
            counts: None,
            logit_bias: None,
            mass: Vec::new(),
            mass_window: Vec::new(),
            predicted: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(crate) fn keys(&self) -> HeldRows<'_> {
        HeldRows::new(self.keys.slots().widened(), self.head_dim)
    }

    pub(crate) fn values(&self) -> HeldRows<'_> {
        HeldRows::new(self.values.slots().widened(), self.head_dim)
    }

    pub(crate) fn bytes(&self) -> u64 {
        let words = |n: usize| 4 * n as u64;
        self.keys.bytes()
            + self.values.bytes()
            + words(self.positions.capacity())
            + self.counts.as_ref().map_or(0, Counts::bytes)
            + words(self.logit_bias.as_ref().map_or(0, Vec::capacity))
            + words(self.mass.capacity() + self.mass_window.capacity())
            + words(self.predicted.iter().map(Vec::capacity).sum())
    }

    /// Takes in tokens at consecutive positions; `rows` gives each one's key and value.
    pub(crate) fn append<'a>(
        &mut self,
        first_position: usize,
        rows: impl ExactSizeIterator<Item = (&'a [f32], &'a [f32])>,
    ) -> Result<(), Unstorable> {
        let (n, step) = (rows.len(), growth(self.len()));
        self.keys.reserve(n * self.head_dim, step * self.head_dim);
        self.values.reserve(n * self.head_dim, step * self.head_dim);
        reserve(&mut self.positions, n, step);
        self.positions.extend((first_position..first_position + n).map(|p| p as u32));
        for (key, value) in rows {
            self.keys.push(key, State::Key)?;
            self.values.push(value, State::Value)?;
        }
        if let Some(bias) = &mut self.logit_bias {
            reserve(bias, n, step);
            bias.resize(bias.len() + n, 0.0);
        }
        Ok(())
    }

    /// Takes the last `n` tokens off, which came behind the last compression.
    pub(crate) fn pop(&mut self, n: usize) {
        let left = self.len() - n;
        self.keys.truncate(left * self.head_dim);
        self.values.truncate(left * self.head_dim);
        self.positions.truncate(left);
        if let Some(bias) = &mut self.logit_bias {
            bias.truncate(left);
        }
    }

    /// Slots before a position.
    pub(crate) fn n_before(&self, position: usize) -> usize {
        self.positions.partition_point(|p| (*p as usize) < position)
    }

    /// Takes the first `n` slots off, with all that belongs to them.
    pub(crate) fn remove_first(&mut self, n: usize) {
        self.keys.remove_first(n * self.head_dim);
        self.values.remove_first(n * self.head_dim);
        remove_first(&mut self.positions, n);
        self.counts.iter_mut().for_each(|counts| counts.remove_first(n));
        // What is recorded while a prompt passes ends with it, and tells of its slots only.
        let recorded = [&mut self.mass, &mut self.mass_window].into_iter().chain(&mut self.predicted);
        recorded.chain(self.logit_bias.as_mut()).for_each(|values| remove_first(values, n));
    }

    pub(crate) fn set_refitted(&mut self, Refitted { values, logit_bias }: Refitted) -> Result<(), Unstorable> {
        self.values = self.values.replaced(&values, State::Value)?;
        self.logit_bias = logit_bias.or_else(|| self.logit_bias.take());
        Ok(())
    }

    pub(crate) fn add_mass(&mut self, mass: &[f32]) -> Result<(), Unstorable> {
        accumulate(&mut self.mass, mass)
    }

    pub(crate) fn add_mass_window(&mut self, mass: &[f32]) -> Result<(), Unstorable> {
        accumulate(&mut self.mass_window, mass)
    }

    /// Takes in what a scorer, by its place, predicts of the last tokens that were appended.
    pub(crate) fn add_predicted(
        &mut self,
        scorer: usize,
        predicted: impl ExactSizeIterator<Item = f32>,
    ) -> Result<(), Unstorable> {
        let step = growth(self.len());
        if self.predicted.len() <= scorer {
            self.predicted.resize(scorer + 1, Vec::new());
        }
        let all = &mut self.predicted[scorer];
        reserve(all, predicted.len(), step);
        let start = all.len();
        all.extend(predicted);
        check_finite(&all[start..], State::Predicted)
    }

    /// What a scorer predicted of every slot; empty where it was not asked.
    pub(crate) fn predicted(&self, scorer: usize) -> &[f32] {
        self.predicted.get(scorer).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn slots(&self) -> HeadSlots<'_> {
        HeadSlots {
            keys: self.keys.slots(),
            values: self.values.slots(),
            logit_bias: self.logit_bias.as_deref(),
            positions: &self.positions,
        }
    }

    /// Tokens that each slot stands for; `None` when all stand for one.
    pub(crate) fn counts(&self) -> Option<Vec<u32>> {
        let mut counts = self.counts.as_ref()?.widened();
        counts.resize(self.len(), 1);
        Some(counts)
    }

    /// The head that a plan makes of this one. Counts and masses of what is folded add up; what is dropped takes its own along. Of
    /// what was predicted, that of one scorer stays.
    pub(crate) fn folded(&self, plan: &HeadPlan, keep_mass: bool, scorer: Option<usize>) -> Result<Self, Unstorable> {
        let counts = self.counts();
        let members = |slot: &Slot| plan.members_of(slot).iter().filter(|member| member.weighs());
        let count_of = |member: &Member| counts.as_ref().map_or(1, |counts| counts[member.source as usize]);
        let counts: Vec<u32> = plan.slots.iter().map(|slot| members(slot).map(count_of).sum()).collect();
        let bias_of = |source: u32| self.logit_bias.as_ref().map_or(0.0, |bias| bias[source as usize]);
        let bias: Vec<f32> = plan.slots.iter().map(|slot| bias_of(slot.pivot) + slot.logit_bias).collect();
        let mass = if keep_mass && !self.mass.is_empty() {
            plan.slots.iter().map(|slot| members(slot).map(|m| self.mass[m.source as usize]).sum()).collect()
        } else {
            Vec::new()
        };
        let predicted = scorer.map(|scorer| {
            let all = self.predicted(scorer);
            plan.slots.iter().map(|slot| all[slot.pivot as usize]).collect()
        });
        Ok(Self {
            head_dim: self.head_dim,
            keys: self.keys.replaced(&plan.fold_keys(self.keys().rows()), State::Key)?,
            values: self.values.replaced(&plan.fold_values(self.values().rows()), State::Value)?,
            positions: plan.slots.iter().map(|slot| self.positions[slot.pivot as usize]).collect(),
            counts: counts.iter().any(|c| *c != 1).then(|| Counts::new(counts)),
            logit_bias: bias.iter().any(|b| *b != 0.0).then_some(bias),
            mass,
            mass_window: Vec::new(),
            predicted: predicted.into_iter().collect(),
        })
    }
}

/// Takes the first `n` off, as far as there are so many, and gives back most of the room where much is left over.
fn remove_first<T>(values: &mut Vec<T>, n: usize) {
    values.drain(..n.min(values.len()));
    let spare = values.len() / SPARE_ROOM_PART;
    if values.capacity() - values.len() > spare {
        values.shrink_to(values.len() + spare / 2);
    }
}

fn check_finite(x: &[f32], state: State) -> Result<(), Unstorable> {
    if first_not_below(x, f32::INFINITY).is_none() { Ok(()) } else { Err(Unstorable::NotFinite(state)) }
}

fn accumulate(sum: &mut Vec<f32>, new: &[f32]) -> Result<(), Unstorable> {
    check_finite(new, State::Mass)?;
    let more = new.len().saturating_sub(sum.len());
    reserve(sum, more, growth(sum.len()));
    sum.resize(new.len(), 0.0);
    axpy(1.0, new, sum);
    Ok(())
}
