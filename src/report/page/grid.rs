//! A cell for every KV head: layers beside each other, the KV heads of a layer one below the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::report::page::table::Tint;
use crate::report::pool::Head;
use crate::report::theme::number;

/// Most heads that are drawn so; more have no room, and make a page large.
const MOST_HEADS: usize = 2048;
/// Colours of the scale below it.
const SCALE_STEPS: usize = 13;

/// The grid as the template takes it.
#[derive(Serialize)]
pub(super) struct Grid {
    pub id: String,
    pub caption: String,
    pub layers: Vec<usize>,
    pub rows: Vec<Row>,
    /// Colours from the lowest to the highest value, with both in words.
    pub scale: (String, Vec<Tint>, String),
    /// Letters in the cells, with what they stand for.
    pub letters: Vec<(String, String)>,
    /// What the page's script draws when a head is chosen, as JSON; see [`super::section`] for whose it is.
    pub data: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Row {
    pub kv_head: usize,
    pub cells: Vec<Option<HeadCell>>,
}

#[derive(Clone, Serialize)]
pub(super) struct HeadCell {
    pub text: String,
    pub hint: String,
    pub tint: Option<Tint>,
}

/// A head's colour, what is written in its cell, and what is said of it.
pub(super) struct HeadValue {
    pub head: Head,
    pub tint: Option<Tint>,
    pub text: String,
    pub hint: String,
}

/// What the colours mean.
pub(super) struct Scale<'a> {
    pub range: (f64, f64),
    pub tint: &'a dyn Fn(f64) -> Option<Tint>,
    pub decimals: usize,
    pub unit: &'a str,
}

impl Grid {
    /// `None` of no heads, or too many.
    pub fn new(
        id: impl Into<String>,
        caption: impl Into<String>,
        values: Vec<HeadValue>,
        scale: Scale<'_>,
    ) -> Option<Self> {
        let layers: BTreeSet<usize> = values.iter().map(|value| value.head.0).collect();
        let heads: BTreeSet<usize> = values.iter().map(|value| value.head.1).collect();
        let n = layers.len() * heads.len();
        if n == 0 || n > MOST_HEADS {
            return None;
        }
        let cell = |value: &HeadValue| HeadCell {
            text: value.text.clone(),
            hint: value.hint.clone(),
            tint: value.tint.clone(),
        };
        let cells: BTreeMap<Head, HeadCell> = values.iter().map(|value| (value.head, cell(value))).collect();
        let row = |kv_head: &usize| Row {
            kv_head: *kv_head,
            cells: layers.iter().map(|layer| cells.get(&(*layer, *kv_head)).cloned()).collect(),
        };
        let rows = heads.iter().map(row).collect();
        let Scale { range, tint, decimals, unit } = scale;
        let at = |step: usize| range.0 + (range.1 - range.0) * step as f64 / (SCALE_STEPS - 1) as f64;
        let colours = (0..SCALE_STEPS).filter_map(|step| tint(at(step))).collect();
        let label = |value: f64| format!("{}{unit}", number(value, decimals));
        Some(Self {
            id: id.into(),
            caption: caption.into(),
            layers: layers.into_iter().collect(),
            rows,
            scale: (label(range.0), colours, label(range.1)),
            letters: Vec::new(),
            data: None,
        })
    }
}
