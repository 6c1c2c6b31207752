//! The figures: one file each, and the table of them.

mod cosine_predicts;
mod datasets;
mod effective_rank;
mod gap_by_cosine;
mod head_errors;
mod head_ranks;
mod locality;
mod merge_error;
mod needle_grid;
mod neighbour_histogram;
mod persistence;
mod policies;
mod policy_budgets;
mod profile_quality;
mod profile_thresholds;
mod set_overlap;
mod set_places;
mod set_sizes;
mod sets_by_depth;
mod similarity_heads;
mod similarity_map;
mod sparsity_eps;
mod sparsity_layers;
mod speed_context;

use crate::format::bench::Bench;
use crate::format::comparison::Comparison;
use crate::format::evaluation::Evaluation;
use crate::format::profile::Profile;
use crate::report::{Drawing, ReportError, ReportInput};

/// A figure that can be drawn.
#[derive(Debug)]
pub struct FigureEntry {
    /// Name on the command line, in kebab case; its file in `figure/` has `_` for `-`.
    pub name: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// The question that it answers.
    pub question: &'static str,
    /// How it is read.
    pub reading: &'static str,
    /// What the files must hold for it.
    pub needs: &'static str,
    /// Makes its drawings, the first under the figure's own name; none when the files do not hold what it needs.
    pub build: Build,
}

/// The document that a figure shows, and how it is drawn from that.
#[derive(Clone, Copy, Debug)]
pub enum Build {
    /// An analysis.
    Analysis(fn(&ReportInput) -> Result<Vec<Drawing>, ReportError>),
    /// A profile, on the page of its analysis.
    Profile(fn(&Profile) -> Result<Vec<Drawing>, ReportError>),
    /// An evaluation.
    Evaluation(fn(&Evaluation) -> Result<Vec<Drawing>, ReportError>),
    /// A measurement of speed and memory.
    Bench(fn(&Bench) -> Result<Vec<Drawing>, ReportError>),
    /// A comparison of runs.
    Comparison(fn(&Comparison) -> Result<Vec<Drawing>, ReportError>),
}

/// All figures, in the order of the pages.
pub const FIGURES: &[FigureEntry] = &[
    similarity_heads::ENTRY,
    similarity_map::ENTRY,
    effective_rank::ENTRY,
    locality::ENTRY,
    neighbour_histogram::ENTRY,
    sparsity_layers::ENTRY,
    sparsity_eps::ENTRY,
    set_sizes::ENTRY,
    set_places::ENTRY,
    set_overlap::ENTRY,
    cosine_predicts::ENTRY,
    gap_by_cosine::ENTRY,
    merge_error::ENTRY,
    datasets::ENTRY,
    persistence::ENTRY,
    head_ranks::ENTRY,
    profile_thresholds::ENTRY,
    head_errors::ENTRY,
    profile_quality::ENTRY,
    policies::ENTRY,
    policy_budgets::ENTRY,
    needle_grid::ENTRY,
    speed_context::ENTRY,
    sets_by_depth::ENTRY,
];
