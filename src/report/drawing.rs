//! One picture of a figure: drawn once, as SVG; its PNG is made from that.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::report::ReportError;
use crate::report::canvas::{Area, Canvas, HANGING, SCALE, length};
use crate::report::raster::Raster;
use crate::report::table::Table;
use crate::report::text::{Type, escape, fit, text_width, wrap};
use crate::report::theme;

/// Tallest figure, in logical units: what bounds the memory of a rendering.
const MAX_HEIGHT: f64 = 2400.0;
/// Height of a line of the subtitle.
const LINE: f64 = 18.0;
/// Most lines of the subtitle.
const MOST_LINES: usize = 5;
/// What stands below a figure with letters that no font has.
const CODES: &str = "PNG and PDF: U+… are the codes of letters that no font of the machine has that drew them.";
/// Cells that touch must not let the page shine through between them, and cells of rasters stay what they are.
const STYLE: &str = "<style>rect{shape-rendering:crispEdges}image{image-rendering:pixelated}</style>";

/// How every file begins.
fn opening() -> String {
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"", theme::WIDTH)
}

/// Whether a file is a figure that was drawn here.
pub(super) fn is_drawing(path: &Path) -> bool {
    let opening = opening();
    let mut start = vec![0; opening.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == opening.as_bytes()
}

/// Values under a raster, for reading them off in the HTML file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MapScale {
    /// Tokens that a side stands for.
    pub tokens: f64,
    /// Values of the first and last colour.
    pub range: (f64, f64),
}

/// One picture of a figure.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// File name without extension.
    pub name: String,
    /// What is seen, in one line.
    pub title: String,
    /// Whose data, in one line.
    pub subtitle: String,
    /// The content in words, for those who cannot see it.
    pub alt: String,
    pub(super) map: Option<MapScale>,
    height: f64,
    /// What plotters wrote behind its own opening tag.
    body: String,
    rasters: Vec<(Area, Raster)>,
    table: Table,
}

/// What a drawing is called and what it says in words.
#[derive(Clone, Debug)]
pub(super) struct Words {
    /// File name without extension.
    pub name: String,
    /// What is seen, in one line.
    pub title: String,
    /// Whose data, and how much of it: parts that are set off by " · ".
    pub subtitle: String,
    /// The content in words.
    pub alt: String,
}

impl Words {
    pub fn new(name: &str, title: &str, subtitle: String, alt: String) -> Self {
        Self { name: name.into(), title: title.into(), subtitle, alt }
    }
}

/// The parts of a subtitle in lines: a part is broken only where it is longer than a line.
fn lines(subtitle: &str, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in subtitle.split(" · ") {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} · {part}"), theme::LABEL, false) <= room => {
                *line += &format!(" · {part}");
            }
            _ => lines.extend(wrap(part, theme::LABEL, false, room, 2)),
        }
    }
    lines.truncate(MOST_LINES);
    lines
}

impl Drawing {
    /// A drawing whose body, below title and subtitle, is `body_height` logical units tall; `table` has the numbers that it shows.
    pub(super) fn new(
        Words { name, title, subtitle, alt }: Words,
        table: Table,
        body_height: f64,
        draw: impl FnOnce(&mut Canvas<'_>, Area),
    ) -> Result<Self, ReportError> {
        let room = theme::WIDTH - 2.0 * theme::MARGIN;
        let lines = lines(&subtitle, room);
        let head = theme::HEAD + LINE * (lines.len() - 1) as f64;
        let mut height = (head + body_height).clamp(head, MAX_HEIGHT).ceil();
        let mut svg = String::new();
        let mut canvas = Canvas::new(&mut svg, (theme::WIDTH, height));
        let bold = Type::new(theme::TITLE, theme::INK).bold();
        canvas.text((theme::MARGIN, 31.0), &fit(&title, theme::TITLE, true, room), bold);
        let soft = Type::new(theme::LABEL, theme::SOFT_INK);
        for (i, line) in lines.iter().enumerate() {
            canvas.text((theme::MARGIN, 52.0 + LINE * i as f64), line, soft);
        }
        draw(&mut canvas, Area::new(theme::MARGIN, head, theme::WIDTH - theme::MARGIN, height));
        if canvas.has_codes() {
            height += 24.0;
            canvas.text((theme::MARGIN, height - 10.0), CODES, Type::new(theme::TICK, theme::SOFT_INK));
        }
        let rasters = canvas.finish()?;
        let body = svg.split_once('>').map_or("", |(_, body)| body).trim_start().replace(HANGING, "");
        Ok(Self { name, title, subtitle, alt, map: None, height, body, rasters, table })
    }

    /// The numbers that the drawing shows, as CSV.
    pub fn csv(&self) -> String {
        self.table.csv()
    }

    pub(super) fn map(self, map: MapScale) -> Self {
        Self { map: Some(map), ..self }
    }

    /// The figure as an SVG document. Rasters are embedded with at most `raster_side` cells a side.
    pub fn svg(&self, raster_side: usize) -> Result<String, ReportError> {
        let head = format!(
            "{}{}\" viewBox=\"{}\" role=\"img\">\n<title>{}</title>\n<desc>{}</desc>\n{STYLE}\n",
            opening(),
            self.height,
            self.view_box(),
            escape(&self.title),
            escape(&self.alt)
        );
        Ok(head + &self.content(raster_side)?)
    }

    /// The figure as an element of an HTML file, whose style sheet holds [`STYLE`]'s rules.
    pub(super) fn svg_element(&self, raster_side: usize) -> Result<String, ReportError> {
        let (view, alt) = (self.view_box(), escape(&self.alt));
        let head = format!("<svg viewBox=\"{view}\" role=\"img\" aria-label=\"{alt}\">\n");
        Ok(head + &self.content(raster_side)?)
    }

    fn view_box(&self) -> String {
        format!("0 0 {} {}", theme::WIDTH * SCALE, self.height * SCALE)
    }

    fn content(&self, raster_side: usize) -> Result<String, ReportError> {
        let mut svg = String::from("<rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>\n");
        for (area, raster) in &self.rasters {
            svg += &format!(
                "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" \
                 href=\"data:image/png;base64,{}\"/>\n",
                length(area.x0),
                length(area.y0),
                length(area.width()),
                length(area.height()),
                STANDARD.encode(raster.at_most(raster_side).png()?)
            );
        }
        Ok(svg + &self.body)
    }
}
