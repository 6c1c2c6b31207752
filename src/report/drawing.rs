//! One picture of a figure: drawn once, as SVG; its PNG is made from that.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::report::ReportError;
use crate::report::canvas::{Area, Canvas, SCALE, length};
use crate::report::raster::Raster;
use crate::report::text::{Type, escape, fit};
use crate::report::theme;

/// Tallest figure, in logical units: what bounds the memory of a rendering.
const MAX_HEIGHT: f64 = 2400.0;
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
}

impl Drawing {
    /// A drawing whose body, below title and subtitle, is `body_height` logical units tall.
    pub(super) fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        subtitle: impl Into<String>,
        alt: impl Into<String>,
        body_height: f64,
        draw: impl FnOnce(&mut Canvas<'_>, Area),
    ) -> Result<Self, ReportError> {
        let height = (theme::HEAD + body_height).clamp(theme::HEAD, MAX_HEIGHT).ceil();
        let (title, subtitle) = (title.into(), subtitle.into());
        let mut svg = String::new();
        let mut canvas = Canvas::new(&mut svg, (theme::WIDTH, height));
        let line = |text: &str, em, bold| fit(text, em, bold, theme::WIDTH - 2.0 * theme::MARGIN);
        let bold = Type::new(theme::TITLE, theme::INK).bold();
        canvas.text((theme::MARGIN, 31.0), &line(&title, theme::TITLE, true), bold);
        let soft = Type::new(theme::LABEL, theme::SOFT_INK);
        canvas.text((theme::MARGIN, 52.0), &line(&subtitle, theme::LABEL, false), soft);
        draw(&mut canvas, Area::new(theme::MARGIN, theme::HEAD, theme::WIDTH - theme::MARGIN, height));
        let rasters = canvas.finish()?;
        let body = svg.split_once('>').map_or("", |(_, body)| body).trim_start().to_string();
        Ok(Self { name: name.into(), title, subtitle, alt: alt.into(), map: None, height, body, rasters })
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
