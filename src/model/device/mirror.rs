//! A store's slots on the device: padded to one length, kept between calls, so that a decode step uploads what is new.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::model::slots::HeadSlots;

/// Slots that a longer mirror is rounded up to.
const STEP_SLOTS: usize = 64;

/// What a device holds of a store, by layer. The pass keeps it; no store knows of it.
#[derive(Debug, Default)]
pub struct Mirror {
    layers: Vec<Option<LayerMirror>>,
    uploaded_slots: usize,
}

impl Mirror {
    /// Slots uploaded so far, over all layers and heads: those that were appended once, and those that were rewritten again.
    pub fn uploaded_slots(&self) -> usize {
        self.uploaded_slots
    }

    /// Frees what the device holds of a layer.
    pub fn forget(&mut self, layer: usize) {
        if let Some(mirror) = self.layers.get_mut(layer) {
            *mirror = None;
        }
    }

    /// Brings a layer up to date with its slots.
    ///
    /// What is there is kept while `rewrites` stays the same: then slots were only appended.
    pub(super) fn sync(
        &mut self,
        layer: usize,
        heads: &[HeadSlots<'_>],
        rewrites: u64,
        target: Target<'_>,
    ) -> Result<&LayerMirror, candle_core::Error> {
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, || None);
        }
        let kept = self.layers[layer].take().filter(|mirror| mirror.can_grow_to(heads, rewrites, target));
        let mut mirror = match kept {
            Some(mirror) => mirror,
            None => LayerMirror::empty(heads, rewrites, target)?,
        };
        mirror.make_room(longest(heads))?;
        self.uploaded_slots += mirror.append(heads, target)?;
        Ok(self.layers[layer].insert(mirror))
    }
}

/// Where a mirror lies and how.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) device: &'a Device,
    /// Type of keys and values.
    pub(super) dtype: DType,
    pub(super) head_dim: usize,
    /// Whether slots are told apart by position, as a sliding window needs.
    pub(super) has_positions: bool,
}

fn longest(heads: &[HeadSlots<'_>]) -> usize {
    heads.iter().map(|head| head.positions.len()).max().unwrap_or(0)
}

/// An eighth to grow into, so that decoding moves each slot a few times at most.
fn capacity_for(longest: usize) -> usize {
    (longest + longest / 8 + 1).next_multiple_of(STEP_SLOTS)
}

/// One layer. Rows behind a head's last slot hold zeros or what was there before; nothing attends to them.
#[derive(Debug)]
pub(super) struct LayerMirror {
    rewrites: u64,
    /// Slots of each head.
    pub(super) lens: Vec<usize>,
    capacity: usize,
    /// `[n_kv_heads, capacity, D]`.
    pub(super) keys: Tensor,
    /// `[n_kv_heads, capacity, D]`.
    pub(super) values: Tensor,
    /// `[n_kv_heads, capacity]` in f32; `None` while no slot has a bias.
    pub(super) bias: Option<Tensor>,
    /// `[n_kv_heads, capacity]` in u32; `None` unless asked for.
    pub(super) positions: Option<Tensor>,
}

impl LayerMirror {
    fn empty(heads: &[HeadSlots<'_>], rewrites: u64, target: Target<'_>) -> Result<Self, candle_core::Error> {
        let capacity = capacity_for(longest(heads));
        let (n_heads, Target { device, dtype, head_dim, has_positions }) = (heads.len(), target);
        let scalars = |dtype| Tensor::zeros((n_heads, capacity), dtype, device);
        let vectors = || Tensor::zeros((n_heads, capacity, head_dim), dtype, device);
        let has_bias = heads.iter().any(|head| head.logit_bias.is_some());
        Ok(Self {
            rewrites,
            lens: vec![0; n_heads],
            capacity,
            keys: vectors()?,
            values: vectors()?,
            bias: if has_bias { Some(scalars(DType::F32)?) } else { None },
            positions: if has_positions { Some(scalars(DType::U32)?) } else { None },
        })
    }

    fn can_grow_to(&self, heads: &[HeadSlots<'_>], rewrites: u64, target: Target<'_>) -> bool {
        let has_bias = heads.iter().any(|head| head.logit_bias.is_some());
        let grows = |(old, head): (&usize, &HeadSlots<'_>)| *old <= head.positions.len();
        self.rewrites == rewrites
            && self.lens.len() == heads.len()
            && self.lens.iter().zip(heads).all(grows)
            && self.bias.is_some() == has_bias
            && self.keys.dtype() == target.dtype
            && self.keys.device().same_device(target.device)
    }

    /// Moves to larger tensors on the device if it must.
    fn make_room(&mut self, longest: usize) -> Result<(), candle_core::Error> {
        if longest <= self.capacity {
            return Ok(());
        }
        let capacity = capacity_for(longest);
        let more = capacity - self.capacity;
        let wider = |tensor: &Tensor| tensor.pad_with_zeros(1, 0, more)?.contiguous();
        self.keys = wider(&self.keys)?;
        self.values = wider(&self.values)?;
        self.bias = self.bias.as_ref().map(wider).transpose()?;
        self.positions = self.positions.as_ref().map(wider).transpose()?;
        self.capacity = capacity;
        Ok(())
    }

    /// Uploads the slots that are not there yet, and counts them.
    fn append(&mut self, heads: &[HeadSlots<'_>], target: Target<'_>) -> Result<usize, candle_core::Error> {
        let new: Vec<Range<usize>> =
            self.lens.iter().zip(heads).map(|(old, head)| *old..head.positions.len()).collect();
        let n_new = new.iter().map(|rows| rows.len()).sum();
        if n_new == 0 {
            return Ok(0);
        }
        let d = target.head_dim;
        let vectors = |of: fn(&HeadSlots<'_>, Range<usize>, usize) -> Vec<f32>| {
            let rows: Vec<f32> = heads.iter().zip(&new).flat_map(|(head, rows)| of(head, rows.clone(), d)).collect();
            Tensor::from_vec(rows, (n_new, d), target.device)?.to_dtype(target.dtype)
        };
        let keys = vectors(|head, rows, d| head.keys.part(d, rows).widened().into_owned())?;
        let values = vectors(|head, rows, d| head.values.part(d, rows).widened().into_owned())?;
        self.put(&self.keys, &keys, &new)?;
        self.put(&self.values, &values, &new)?;
        if let Some(all) = &self.bias {
            let of = |(head, rows): (&HeadSlots<'_>, &Range<usize>)| match head.logit_bias {
                Some(bias) => bias[rows.clone()].to_vec(),
                None => vec![0.0; rows.len()],
            };
            let bias: Vec<f32> = heads.iter().zip(&new).flat_map(of).collect();
            self.put(all, &Tensor::from_vec(bias, n_new, target.device)?, &new)?;
        }
        if let Some(all) = &self.positions {
            let of = |(head, rows): (&HeadSlots<'_>, &Range<usize>)| head.positions[rows.clone()].to_vec();
            let positions: Vec<u32> = heads.iter().zip(&new).flat_map(of).collect();
            self.put(all, &Tensor::from_vec(positions, n_new, target.device)?, &new)?;
        }
        self.lens = heads.iter().map(|head| head.positions.len()).collect();
        Ok(n_new)
    }

    /// Copies rows `[n_new, ..]`, head after head, to their places in `[n_kv_heads, capacity, ..]`.
    fn put(&self, all: &Tensor, rows: &Tensor, new: &[Range<usize>]) -> Result<(), candle_core::Error> {
        // Both views share the tensor's memory.
        let flat = all.flatten(0, 1)?;
        let mut first = 0;
        for (head, places) in new.iter().enumerate().filter(|(_, places)| !places.is_empty()) {
            let part = rows.narrow(0, first, places.len())?;
            flat.slice_set(&part, 0, head * self.capacity + places.start)?;
            first += places.len();
        }
        Ok(())
    }
}
