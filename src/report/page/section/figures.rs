//! All other figures, and what those that are left out need.

use crate::report::Report;
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::{Block, Figures};

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "figures", title: "Figures", build };

fn build(_: &Report, figures: &mut Figures) -> Made {
    let rest = std::mem::take(figures);
    Ok(if rest.is_empty() { Vec::new() } else { vec![Block::Figures(rest)] })
}
