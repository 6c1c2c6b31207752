//! A figure described once and rendered as PNG and as SVG.

use std::fmt::Write as _;

use base64::Engine;
use plotters::backend::BitMapBackend;
use plotters::backend::SVGBackend;

use crate::report::ReportError;
use crate::report::canvas::Area;
use crate::report::canvas::Canvas;
use crate::report::canvas::Type;
use crate::report::canvas::clean;
use crate::report::canvas::fit;
use crate::report::raster::encode;
use crate::report::theme;

/// Pixels drawn per logical unit, before averaging.
const PIXEL_SCALE: usize = 4;
/// Pixels averaged to one, in each direction.
const OVERSAMPLING: usize = 2;
/// SVG units per logical unit, as plotters takes whole coordinates only.
const SVG_SCALE: usize = 4;
/// Tallest figure, in logical units: what bounds the memory of a rendering.
const MAX_HEIGHT: f64 = 2400.0;

type Draw = Box<dyn Fn(&mut Canvas<'_>, Area) -> Result<(), ReportError> + Send + Sync>;

/// Values under a raster, for reading them off in the HTML file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MapScale {
    /// Tokens that a side stands for.
    pub tokens: f64,
    /// Values of the first and last colour.
    pub range: (f64, f64),
}

/// One picture of a figure.
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
    draw: Draw,
}

impl std::fmt::Debug for Drawing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drawing").field("name", &self.name).field("title", &self.title).finish_non_exhaustive()
    }
}

impl Drawing {
    /// A drawing whose body, below title and subtitle, is `body_height` logical units tall.
    pub(super) fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        subtitle: impl Into<String>,
        body_height: f64,
        draw: impl Fn(&mut Canvas<'_>, Area) -> Result<(), ReportError> + Send + Sync + 'static,
    ) -> Self {
        let height = (theme::HEAD + body_height).clamp(theme::HEAD, MAX_HEIGHT).ceil();
        let title = title.into();
        Self {
            name: name.into(),
            alt: title.clone(),
            title,
            subtitle: subtitle.into(),
            map: None,
            height,
            draw: Box::new(draw),
        }
    }

    pub(super) fn alt(self, alt: impl Into<String>) -> Self {
        Self { alt: alt.into(), ..self }
    }

    pub(super) fn map(self, map: MapScale) -> Self {
        Self { map: Some(map), ..self }
    }

    /// Width and height of the PNG in pixels.
    pub fn png_size(&self) -> (usize, usize) {
        let scale = PIXEL_SCALE / OVERSAMPLING;
        (theme::WIDTH as usize * scale, self.height as usize * scale)
    }

    fn paint(&self, canvas: &mut Canvas<'_>) -> Result<(), ReportError> {
        let room = theme::WIDTH - 2.0 * theme::MARGIN;
        let title = fit(&self.title, theme::TITLE, true, room);
        let subtitle = fit(&self.subtitle, theme::LABEL, false, room);
        canvas.text((theme::MARGIN, 31.0), &title, Type::new(theme::TITLE, theme::INK).bold())?;
        canvas.text((theme::MARGIN, 52.0), &subtitle, Type::new(theme::LABEL, theme::SOFT_INK))?;
        (self.draw)(canvas, Area::new(theme::MARGIN, theme::HEAD, theme::WIDTH - theme::MARGIN, self.height))
    }

    /// The figure as PNG, drawn large and averaged down so that every edge is smooth.
    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        let (width, height) = (theme::WIDTH as usize * PIXEL_SCALE, self.height as usize * PIXEL_SCALE);
        let mut large = vec![255u8; 3 * width * height];
        {
            let mut backend = BitMapBackend::with_buffer(&mut large, (width as u32, height as u32));
            let mut canvas = Canvas::pixels(&mut backend, PIXEL_SCALE as f64);
            self.paint(&mut canvas)?;
            canvas.finish()?;
        }
        let (width, height) = self.png_size();
        let mut rgb = Vec::with_capacity(3 * width * height);
        let stride = 3 * width * OVERSAMPLING;
        let area = (OVERSAMPLING * OVERSAMPLING) as u32;
        for y in 0..height {
            for x in 0..width {
                for channel in 0..3 {
                    let mut sum = area / 2;
                    for i in 0..OVERSAMPLING {
                        for j in 0..OVERSAMPLING {
                            let at = (y * OVERSAMPLING + i) * stride + 3 * (x * OVERSAMPLING + j) + channel;
                            sum += u32::from(large[at]);
                        }
                    }
                    rgb.push((sum / area) as u8);
                }
            }
        }
        encode(width, height, &rgb, None)
    }

    /// The figure as an SVG document. Rasters are embedded with at most `raster_side` cells a side.
    pub fn svg(&self, raster_side: usize) -> Result<String, ReportError> {
        self.vector(raster_side, |width, height| {
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\" \
                 role=\"img\">\n<title>{}</title>\n<desc>{}</desc>\n",
                theme::WIDTH,
                self.height,
                escape(&self.title),
                escape(&self.alt)
            )
        })
    }

    /// The figure as an element of an HTML file.
    pub(super) fn svg_element(&self, raster_side: usize) -> Result<String, ReportError> {
        self.vector(raster_side, |width, height| {
            format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n", escape(&self.alt))
        })
    }

    fn vector(&self, raster_side: usize, head: impl Fn(usize, usize) -> String) -> Result<String, ReportError> {
        let (width, height) = (theme::WIDTH as usize * SVG_SCALE, self.height as usize * SVG_SCALE);
        let mut drawn = String::new();
        let placed = {
            let mut backend = SVGBackend::with_string(&mut drawn, (width as u32, height as u32));
            let mut canvas = Canvas::vector(&mut backend, SVG_SCALE as f64);
            self.paint(&mut canvas)?;
            canvas.finish()?
        };
        let mut svg = head(width, height);
        // Everything after plotters' own opening tag, whose size is in enlarged units.
        let body = drawn.split_once('>').map_or("", |(_, body)| body).trim_start();
        let put = |svg: &mut String, text: std::fmt::Arguments<'_>| {
            svg.write_fmt(text).map_err(|e| ReportError::Draw(e.to_string()))
        };
        put(&mut svg, format_args!("<rect width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n"))?;
        for one in &placed {
            let scale = SVG_SCALE as f64;
            let png = one.raster.at_most(raster_side).png()?;
            let data = base64::engine::general_purpose::STANDARD.encode(png);
            put(
                &mut svg,
                format_args!(
                    "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" \
                     style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{data}\"/>\n",
                    (one.area.x0 * scale).round(),
                    (one.area.y0 * scale).round(),
                    (one.area.width() * scale).round(),
                    (one.area.height() * scale).round(),
                ),
            )?;
        }
        // Cells that touch must not let the page shine through between them. Text cannot hold a `<`, so only tags match.
        svg.push_str(&body.replace("<rect ", "<rect shape-rendering=\"crispEdges\" "));
        Ok(svg)
    }
}

/// Text for HTML and XML, as content or between double quotes; control characters are replaced.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
