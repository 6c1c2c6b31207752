//! The HTML file: one page that needs no network, works without its script, and trusts no text it shows.

mod explorer;
mod findings;
mod grid;
mod prose;
mod script;
mod section;
mod table;
mod words;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::files::TOOL_VERSION;
use crate::format::analysis::Analysis;
use crate::report::raster::palette;
use crate::report::text::escape;
use crate::report::{Build, Drawing, Drawn, RASTER_SIDE, Report, ReportError};
use section::SECTIONS;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = concat!(include_str!("page.css"), include_str!("explorer/page.css"));
const EXPLORER: &str = include_str!("explorer/page.html");
/// Bytes that all figures together may take in the page.
const FIGURE_BYTES: usize = 5 << 20;
/// Most drawings of one figure in the page; the others are in the folder of figures.
const MAX_DRAWINGS: usize = 13;

/// What a page shows, as the template takes it; every text is escaped there.
#[derive(Serialize)]
struct Page {
    title: String,
    sections: Vec<Section>,
    /// Anchor and title of every figure.
    figures: Vec<(String, &'static str)>,
}

/// Names and values.
type Facts = Vec<(&'static str, String)>;

/// A part of a page with its heading.
#[derive(Serialize)]
struct Section {
    id: &'static str,
    title: &'static str,
    blocks: Vec<Block>,
}

/// What sections are made of.
#[derive(Serialize)]
#[serde(tag = "kind", content = "content", rename_all = "lowercase")]
enum Block {
    /// Sentences that stand out.
    Verdict(Vec<String>),
    /// Sentences, one an item.
    Findings(Vec<String>),
    /// Blocks that are shown when their title is clicked.
    Folded(String, Vec<Block>),
    /// Blocks of which one set is shown at a time, by name; all of them without the script.
    Variants {
        id: String,
        label: &'static str,
        variants: Vec<(String, Vec<Block>)>,
    },
    /// Class and text of a paragraph.
    Text(&'static str, String),
    Heading(String),
    Facts(Facts),
    Table(table::Table),
    Grid(grid::Grid),
    /// A line for a shell.
    Command(String),
    Prose(prose::Prose),
    /// Texts beside each other, and the names of the levels of divergence.
    SideBySide {
        texts: Vec<prose::Prose>,
        levels: Vec<&'static str>,
    },
    /// Lines of JSON.
    Options(Vec<String>),
    /// How many files, and the name and SHA-256 of each.
    Sources(String, Vec<(String, String)>),
    Figures(Figures),
    Explorer(explorer::Explorer),
}

impl Block {
    fn text(class: &'static str, text: impl Into<String>) -> Self {
        Self::Text(class, text.into())
    }

    fn folded(title: impl Into<String>, blocks: Vec<Block>) -> Self {
        Self::Folded(title.into(), blocks)
    }
}

/// Figures, and those that were left out with what they need.
#[derive(Default, Serialize)]
pub(super) struct Figures {
    drawn: Vec<Figure>,
    skipped: Vec<(&'static str, &'static str)>,
}

#[derive(Serialize)]
struct Figure {
    /// Its anchor: the name, and a number where there are several.
    id: String,
    name: &'static str,
    #[serde(skip)]
    build: Build,
    /// Number of the profile that it shows.
    #[serde(skip)]
    of: usize,
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

    /// The figures of a kind and number, which then stand here no more.
    fn take_all(&mut self, is_wanted: impl Fn(Build, usize) -> bool) -> Option<Self> {
        let (taken, left) = std::mem::take(&mut self.drawn).into_iter().partition(|f| is_wanted(f.build, f.of));
        self.drawn = left;
        Some(Self { drawn: taken, skipped: Vec::new() }).filter(|taken| !taken.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.drawn.is_empty() && self.skipped.is_empty()
    }
}

fn figure(Drawn { entry, of, drawings }: &Drawn, side: usize) -> Result<Figure, ReportError> {
    let shown = |drawing: &Drawing| {
        Ok(Shown {
            name: drawing.name.clone(),
            title: drawing.title.clone(),
            subtitle: drawing.subtitle.clone(),
            svg: drawing.svg_element(side)?,
            map: drawing.map.map(|map| Scale { tokens: map.tokens, low: map.range.0, high: map.range.1 }),
        })
    };
    let id = if *of == 0 { format!("figure-{}", entry.name) } else { format!("figure-{}-{}", entry.name, of + 1) };
    Ok(Figure {
        id,
        name: entry.name,
        build: entry.build,
        of: *of,
        title: entry.title,
        question: entry.question,
        reading: entry.reading,
        drawings: drawings.iter().take(MAX_DRAWINGS).map(shown).collect::<Result<_, ReportError>>()?,
        n_left_out: drawings.len().saturating_sub(MAX_DRAWINGS),
    })
}

/// The page as HTML, with as much of the explorer as its size allows.
///
/// - Errors: an explorer's file or table that cannot be read or has changed
pub(super) fn of_report(report: &Report, figures: Figures) -> Result<String, ReportError> {
    let mut page = without_explorer(report, figures)?;
    if let Some(input) = &report.analysis {
        let used = render(&page)?.len() + EXPLORER.len() + script::EXPLORER_BYTES;
        let explorer = explorer::explorer(input, &profiles(report), report.page_bytes.saturating_sub(used))?;
        page.sections.insert(1, explorer_section(explorer, &input.analysis));
    }
    render(&page)
}

/// All sections but the explorer's, which takes the room that they leave.
fn without_explorer(report: &Report, mut figures: Figures) -> Result<Page, ReportError> {
    let listed = figures.drawn.iter().map(|figure| (figure.id.clone(), figure.title)).collect();
    let mut sections = Vec::new();
    for entry in SECTIONS {
        let blocks = (entry.build)(report, &mut figures)?;
        if !blocks.is_empty() {
            sections.push(Section { id: entry.id, title: entry.title, blocks });
        }
    }
    Ok(Page { title: report.title(), sections, figures: listed })
}

/// The profiles that the explorer knows.
fn profiles(report: &Report) -> Vec<explorer::NamedProfile<'_>> {
    report.profiles.iter().map(|profile| (profile.name.as_str(), &profile.content)).collect()
}

/// The section of the explorer, or what is said in its place.
fn explorer_section(explorer: Option<explorer::Explorer>, analysis: &Analysis) -> Section {
    let nothing = || {
        analysis.not_explored_in_words().unwrap_or_else(|| {
            "This analysis holds no token's states: it was made with --explore 0, or by an earlier version. Run kvscope analyze \
             again to look at tokens here."
                .into()
        })
    };
    let block = explorer.map_or_else(|| Block::Text("note", nothing()), Block::Explorer);
    Section { id: "explorer", title: "Explorer", blocks: vec![block] }
}

/// A page whose numbers are asked for when they are looked at, and who answers.
#[derive(Debug)]
pub struct Served {
    page: String,
    parts: Option<explorer::Parts>,
}

impl Served {
    /// - Errors: as [`of_report`]
    pub(super) fn new(report: &Report, figures: Figures) -> Result<Self, ReportError> {
        let mut page = without_explorer(report, figures)?;
        let mut served = None;
        if let Some(input) = &report.analysis {
            let (explorer, parts) = explorer::served(input, &profiles(report))?.unzip();
            page.sections.insert(1, explorer_section(explorer, &input.analysis));
            served = parts;
        }
        Ok(Self { page: render(&page)?, parts: served })
    }

    /// Media type and bytes of what stands at an address below the page's: nothing for the page, `part/NAME` for a part of the
    /// explorer; `None` where nothing does.
    pub fn get(&self, address: &str) -> Option<(&'static str, Vec<u8>)> {
        if address.is_empty() {
            return Some(("text/html; charset=utf-8", self.page.clone().into_bytes()));
        }
        Some(("application/octet-stream", self.parts.as_ref()?.get(address.strip_prefix("part/")?)?))
    }
}

/// The page as HTML.
fn render(page: &Page) -> Result<String, ReportError> {
    let fault = |e: minijinja::Error| ReportError::Page(format!("{e:#}"));
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fault)?;
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_formatter(|out, _, value| match value.is_safe() {
        true => Ok(write!(out, "{value}")?),
        false => Ok(out.write_str(&escape(&value.to_string()))?),
    });
    environment.add_filter("breakable", |text: &str| Value::from_safe_string(breakable(text)));
    environment.add_template("page.html", TEMPLATE).map_err(fault)?;
    environment.add_template("explorer.html", EXPLORER).map_err(fault)?;
    // The colour map as six hexadecimal digits a colour, for reading values off maps, and the only script that may run.
    let palette: String = palette().iter().flatten().map(|c| format!("{c:02x}")).collect();
    let explorer = page.sections.iter().flat_map(|section| &section.blocks).find_map(|block| match block {
        Block::Explorer(explorer) => Some(explorer),
        _ => None,
    });
    let script = script::of_page(explorer.is_some());
    let is_served = explorer.is_some_and(|explorer| explorer.is_served);
    let script_hash = STANDARD.encode(Sha256::digest(&script));
    let context = context! {
        page => Serde(page), palette, script_hash, style => STYLE, tints => table::tints(), script, tool => TOOL_VERSION, is_served,
    };
    environment.get_template("page.html").and_then(|template| template.render(context)).map_err(fault)
}

/// A text as HTML that may be broken behind the signs that join the parts of a name.
fn breakable(text: &str) -> String {
    let mut html = String::new();
    // None of these signs stands in what escapes become.
    for c in escape(text).chars() {
        html.push(c);
        if "_,=:/".contains(c) {
            html.push_str("<wbr>");
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_break_at_their_joints_and_stay_text() {
        assert_eq!(breakable("k:a=1,<b>"), "k:<wbr>a=<wbr>1,<wbr>&lt;b&gt;");
    }
}
