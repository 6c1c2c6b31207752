//! The HTML file: one page that needs no network, works without its script, and trusts no text it shows.

mod explorer;
mod script;
mod sections;
mod summary;
mod tables;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::files::TOOL_VERSION;
use crate::report::raster::palette;
use crate::report::text::escape;
use crate::report::{Drawing, Drawn, RASTER_SIDE, ReportError, ReportInput};

pub(super) use sections::of_evaluation;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = concat!(include_str!("page.css"), include_str!("explorer/page.css"));
const EXPLORER: &str = include_str!("explorer/page.html");
/// Bytes that all figures together may take in the page.
const FIGURE_BYTES: usize = 5 << 20;
/// Most drawings of one figure in the page; the others are in the folder of figures.
const MAX_DRAWINGS: usize = 13;

/// What a page shows, as the template takes it; every text is escaped there.
#[derive(Serialize)]
pub(super) struct Page {
    pub title: String,
    pub facts: Facts,
    pub sections: Vec<Section>,
}

/// Names and values.
pub(super) type Facts = Vec<(&'static str, String)>;

/// A part of a page with its heading.
#[derive(Serialize)]
pub(super) struct Section {
    pub id: &'static str,
    pub title: &'static str,
    pub blocks: Vec<Block>,
}

/// What sections are made of.
#[derive(Serialize)]
#[serde(tag = "kind", content = "content", rename_all = "lowercase")]
pub(super) enum Block {
    /// Sentences that stand out.
    Verdict(Vec<String>),
    /// Sentences, one an item.
    Findings(Vec<String>),
    /// Blocks that are shown when their title is clicked.
    Folded(&'static str, Vec<Block>),
    /// Class and text of a paragraph.
    Text(&'static str, String),
    Heading(&'static str),
    Facts(Facts),
    Table(tables::Table),
    /// Lines of JSON.
    Options(Vec<String>),
    /// How many files, and the name and SHA-256 of each.
    Sources(String, Vec<(String, String)>),
    Figures(Figures),
    Explorer(explorer::Explorer),
}

/// Figures, and those that were left out with what they need.
#[derive(Serialize)]
pub(super) struct Figures {
    drawn: Vec<Figure>,
    skipped: Vec<(&'static str, &'static str)>,
}

#[derive(Serialize)]
struct Figure {
    name: &'static str,
    title: &'static str,
    question: &'static str,
    reading: &'static str,
    drawings: Vec<Shown>,
    n_left_out: usize,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    title: String,
    subtitle: String,
    svg: String,
    map: Option<Scale>,
}

#[derive(Serialize)]
struct Scale {
    tokens: f64,
    low: f64,
    high: f64,
}

impl Figures {
    /// Maps get coarser until all figures together are small enough to be carried around.
    pub fn new(drawn: &[Drawn], skipped: &[(&'static str, &'static str)]) -> Result<Self, ReportError> {
        let mut side = RASTER_SIDE;
        loop {
            let figures = drawn.iter().map(|drawn| figure(drawn, side)).collect::<Result<Vec<_>, _>>()?;
            let bytes: usize = figures.iter().flat_map(|figure| &figure.drawings).map(|shown| shown.svg.len()).sum();
            if bytes <= FIGURE_BYTES || side <= 128 {
                return Ok(Self { drawn: figures, skipped: skipped.to_vec() });
            }
            side /= 2;
        }
    }

    /// A figure by itself, which then stands here no more.
    fn take(&mut self, name: &str) -> Option<Self> {
        let at = self.drawn.iter().position(|figure| figure.name == name)?;
        Some(Self { drawn: vec![self.drawn.remove(at)], skipped: Vec::new() })
    }
}

fn figure((entry, drawings): &Drawn, side: usize) -> Result<Figure, ReportError> {
    let shown = |drawing: &Drawing| {
        Ok(Shown {
            name: drawing.name.clone(),
            title: drawing.title.clone(),
            subtitle: drawing.subtitle.clone(),
            svg: drawing.svg_element(side)?,
            map: drawing.map.map(|map| Scale { tokens: map.tokens, low: map.range.0, high: map.range.1 }),
        })
    };
    Ok(Figure {
        name: entry.name,
        title: entry.title,
        question: entry.question,
        reading: entry.reading,
        drawings: drawings.iter().take(MAX_DRAWINGS).map(shown).collect::<Result<_, ReportError>>()?,
        n_left_out: drawings.len().saturating_sub(MAX_DRAWINGS),
    })
}

/// The page of an analysis as HTML, with as much of the explorer as its size allows.
///
/// - Errors: an explorer's file that cannot be read or has changed
pub(super) fn of_analysis(input: &ReportInput, figures: Figures) -> Result<String, ReportError> {
    let mut page = sections::of_analysis(input, figures);
    let used = render(&page)?.len() + EXPLORER.len() + script::EXPLORER_BYTES;
    let blocks = match explorer::explorer(input, input.page_bytes.saturating_sub(used))? {
        Some(explorer) => vec![Block::Explorer(explorer)],
        None => {
            let note = "This analysis holds no token's states: it was made with --explore 0, or by an earlier version. \
                        Run kvscope analyze again to look at tokens here.";
            vec![Block::Text("note", note.into())]
        }
    };
    page.sections.insert(1, Section { id: "explorer", title: "Explorer", blocks });
    render(&page)
}

/// The page as HTML.
pub(super) fn render(page: &Page) -> Result<String, ReportError> {
    let fault = |e: minijinja::Error| ReportError::Page(format!("{e:#}"));
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fault)?;
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_formatter(|out, _, value| match value.is_safe() {
        true => Ok(write!(out, "{value}")?),
        false => Ok(out.write_str(&escape(&value.to_string()))?),
    });
    environment.add_template("page.html", TEMPLATE).map_err(fault)?;
    // The colour map as six hexadecimal digits a colour, for reading values off maps, and the only script that may run.
    let palette: String = palette().iter().flatten().map(|c| format!("{c:02x}")).collect();
    let is_explorer = |block: &Block| matches!(block, Block::Explorer(_));
    let script = script::of_page(page.sections.iter().flat_map(|section| &section.blocks).any(is_explorer));
    let script_hash = STANDARD.encode(Sha256::digest(&script));
    let context = context! {
        page => Serde(page), palette, script_hash, style => STYLE, script, tool => TOOL_VERSION, explorer => EXPLORER,
    };
    environment.get_template("page.html").and_then(|template| template.render(context)).map_err(fault)
}
