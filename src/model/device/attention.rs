//! Attention over padded heads, in the tensor library's operations.

use candle_core::{DType, Tensor};

use crate::model::attention::Geometry;
use crate::model::device::mirror::LayerMirror;
use crate::model::slots::{AttnMass, HeadSlots};
use crate::model::store::StoreNeeds;

/// Scores held at a time: a block of queries is as large as this allows. 16 M scores are 64 MB.
const SCORES_AT_ONCE: usize = 1 << 24;
/// Most and fewest query tokens of a block.
const BLOCK_TOKENS: std::ops::RangeInclusive<usize> = 16..=512;

/// As [`crate::model::attention::attend`], over the device's copy of the heads.
///
/// Heads are padded to the longest; padding and what a query must not see get no attention.
///
/// - Shape: q `[T, n_q_heads, D]` in f32 → `[T, n_q_heads · D]` in f32 and the mass asked for
pub(super) fn attend(
    q: &Tensor,
    mirror: &LayerMirror,
    heads: &[HeadSlots<'_>],
    geometry: Geometry,
    first_position: usize,
    needs: StoreNeeds,
) -> Result<(Tensor, AttnMass), candle_core::Error> {
    let (n_tokens, n_q_heads, head_dim) = q.dims3()?;
    let (n_heads, group) = (geometry.n_kv_heads, geometry.group());
    let dtype = mirror.keys.dtype();
    let longest = mirror.lens.iter().copied().max().unwrap_or(0);
    let block_tokens =
        (SCORES_AT_ONCE / (n_q_heads * longest).max(1)).clamp(*BLOCK_TOKENS.start(), *BLOCK_TOKENS.end());
    let q = (q * (1.0 / (head_dim as f64).sqrt()))?.to_dtype(dtype)?;
    let mut masses = Masses::new(n_heads, longest, needs, q.device())?;
    let mut outputs = Vec::with_capacity(n_tokens.div_ceil(block_tokens));
    for start in (0..n_tokens).step_by(block_tokens) {
        let n = block_tokens.min(n_tokens - start);
        let block = Block::new(mirror, heads, geometry, [n_tokens, start, n], first_position + start);
        let queries = q
            .narrow(0, start, n)?
            .reshape((n, n_heads, group, head_dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((n_heads, n * group, head_dim))?;
        let keys = mirror.keys.narrow(1, block.from, block.width)?;
        let values = mirror.values.narrow(1, block.from, block.width)?;
        let scores = queries.matmul(&keys.transpose(1, 2)?)?.to_dtype(DType::F32)?;
        let scores = scores.reshape((n_heads, n, group, block.width))?;
        let scores = scores.broadcast_add(&block.mask(mirror)?.unsqueeze(2)?)?;
        // A query sees itself at least, so that no row is all -inf.
        let scores = scores.broadcast_sub(&scores.max_keepdim(3)?)?.exp()?;
        let weights = scores.broadcast_div(&scores.sum_keepdim(3)?)?;
        masses.add(&weights, &block, first_position + start)?;
        let weights = weights.reshape((n_heads, n * group, block.width))?.to_dtype(dtype)?;
        let output = weights.matmul(&values)?.to_dtype(DType::F32)?;
        let output = output.reshape((n_heads, n, group, head_dim))?.transpose(0, 1)?.contiguous()?;
        outputs.push(output.reshape((n, n_q_heads * head_dim))?);
    }
    let output = if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(&outputs, 0)? };
    Ok((output, masses.finish(&mirror.lens)?))
}

/// A block of queries and the slots that any of them may see.
struct Block {
    /// Slots `from .. from + width`.
    from: usize,
    width: usize,
    n_tokens: usize,
    /// Per head and token: slots from the first that come no later than it.
    reach: Vec<u32>,
    /// Per token, the lowest position that it sees; with a sliding window.
    lowest: Option<Vec<u32>>,
}

impl Block {
    fn new(
        mirror: &LayerMirror,
        heads: &[HeadSlots<'_>],
        geometry: Geometry,
        [chunk_tokens, start, n]: [usize; 3],
        position: usize,
    ) -> Self {
        // The chunk's own tokens are the last slots of every head.
        let before = |len: &usize| len - chunk_tokens + start;
        let reach = mirror.lens.iter().flat_map(|len| (0..n).map(move |t| (before(len) + t + 1) as u32)).collect();
        let to = mirror.lens.iter().map(|len| before(len) + n).max().unwrap_or(0);
        let from = heads.iter().map(|head| geometry.first_visible(head.positions, position)).min().unwrap_or(0);
        let lowest = geometry
            .sliding_window
            .map(|window| (0..n).map(|t| (position + t + 1).saturating_sub(window) as u32).collect());
        Self { from, width: to - from, n_tokens: n, reach, lowest }
    }

    /// What is added to the scores, `[n_kv_heads, n, width]`: a slot's bias, or -inf where a query does not see it.
    fn mask(&self, mirror: &LayerMirror) -> Result<Tensor, candle_core::Error> {
        let device = mirror.keys.device();
        let (n_heads, n, end) = (mirror.lens.len(), self.n_tokens, (self.from + self.width) as u32);
        let shape = (n_heads, n, self.width);
        let slots = Tensor::arange(self.from as u32, end, device)?.reshape((1, 1, self.width))?;
        let reach = Tensor::from_slice(&self.reach, (n_heads, n, 1), device)?;
        let mut seen = slots.broadcast_as(shape)?.lt(&reach.broadcast_as(shape)?)?;
        if let (Some(positions), Some(lowest)) = (&mirror.positions, &self.lowest) {
            let positions = positions.narrow(1, self.from, self.width)?.unsqueeze(1)?;
            let lowest = Tensor::from_slice(lowest, (1, n, 1), device)?;
            let within = positions.broadcast_as(shape)?.ge(&lowest.broadcast_as(shape)?)?;
            seen = (seen * within)?;
        }
        let hidden = Tensor::full(f32::NEG_INFINITY, shape, device)?;
        let bias = match &mirror.bias {
            Some(bias) => bias.narrow(1, self.from, self.width)?.unsqueeze(1)?.broadcast_as(shape)?.contiguous()?,
            None => Tensor::zeros(shape, DType::F32, device)?,
        };
        seen.where_cond(&bias, &hidden)
    }
}

/// Attention that slots received, summed on the device.
struct Masses {
    /// `[n_kv_heads, longest]`; `None` unless asked for.
    all: Option<Tensor>,
    window: Option<Tensor>,
    window_start: usize,
    longest: usize,
}

impl Masses {
    fn new(
        n_heads: usize,
        longest: usize,
        needs: StoreNeeds,
        device: &candle_core::Device,
    ) -> Result<Self, candle_core::Error> {
        let zeros = |wanted: bool| wanted.then(|| Tensor::zeros((n_heads, longest), DType::F32, device)).transpose();
        Ok(Self {
            all: zeros(needs.mass)?,
            window: zeros(needs.mass_from_position.is_some())?,
            window_start: needs.mass_from_position.unwrap_or(0),
            longest,
        })
    }

    /// Adds the weights `[n_kv_heads, n, group, width]` of queries that start at `position`.
    fn add(&mut self, weights: &Tensor, block: &Block, position: usize) -> Result<(), candle_core::Error> {
        let before = block.from;
        let after = self.longest - block.from - block.width;
        let padded = |rows: &Tensor| rows.sum(2)?.sum(1)?.pad_with_zeros(1, before, after);
        if let Some(all) = &self.all {
            self.all = Some((all + padded(weights)?)?);
        }
        let first = self.window_start.saturating_sub(position);
        if let Some(window) = self.window.as_ref().filter(|_| first < block.n_tokens) {
            let rows = weights.narrow(1, first, block.n_tokens - first)?;
            self.window = Some((window + padded(&rows)?)?);
        }
        Ok(())
    }

    fn finish(self, lens: &[usize]) -> Result<AttnMass, candle_core::Error> {
        let by_head = |mass: Option<Tensor>| -> Result<Vec<Vec<f32>>, candle_core::Error> {
            let Some(mass) = mass else { return Ok(Vec::new()) };
            let mut rows = mass.to_vec2::<f32>()?;
            rows.iter_mut().zip(lens).for_each(|(row, len)| row.truncate(*len));
            Ok(rows)
        };
        Ok(AttnMass { all: by_head(self.all)?, window: by_head(self.window)? })
    }
}
