//! The sections of the page: one file each, and the table of them.
//!
//! A section has no blocks where the report does not hold what it shows, and is then left out.

mod comparison;
mod datasets;
mod evaluation;
mod figures;
mod generation;
mod heads;
mod persistence;
mod profile;
mod provenance;
mod speed;
mod summary;

use crate::report::page::{Block, Figures};
use crate::report::{Report, ReportError};

/// Blocks of a section.
pub(super) type Made = Result<Vec<Block>, ReportError>;

/// A section that a page can have.
pub(super) struct SectionEntry {
    /// Its anchor.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Makes its blocks; takes the figures that it shows from those that were drawn.
    pub build: fn(&Report, &mut Figures) -> Made,
}

/// All sections, in the order of the page. The explorer stands behind the first.
pub(super) const SECTIONS: &[SectionEntry] = &[
    summary::ENTRY,
    persistence::ENTRY,
    profile::ENTRY,
    evaluation::ENTRY,
    generation::ENTRY,
    speed::ENTRY,
    comparison::ENTRY,
    figures::ENTRY,
    datasets::ENTRY,
    heads::ENTRY,
    provenance::ENTRY,
];
