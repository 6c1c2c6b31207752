//! Pixels: rasters of 256 colours, one of them set aside for "no data", and pictures from SVG.

use std::io::Write;

use colorous::VIRIDIS;
use krilla::Document;
use krilla::geom::Size;
use krilla::metadata::Metadata;
use krilla::page::PageSettings;
use krilla_svg::{SurfaceExt, SvgSettings};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::files::TOOL_VERSION as TOOL;
use crate::report::ReportError;
use crate::report::text::{drawable, fonts};

/// Pixels of a PNG per unit of its SVG, in each direction.
const PIXELS: f32 = 2.0;
/// Units of an SVG in an inch, by CSS.
const UNITS_PER_INCH: f64 = 96.0;

/// Index of cells without a value.
pub(super) const NO_DATA: u8 = 255;
/// Colour of cells without a value.
pub(super) const NO_DATA_RGB: [u8; 3] = [0xd9, 0xd9, 0xd9];

/// Viridis at 255 steps, then the colour of "no data".
pub(super) fn palette() -> [[u8; 3]; 256] {
    std::array::from_fn(|i| {
        if i == usize::from(NO_DATA) {
            return NO_DATA_RGB;
        }
        let color = VIRIDIS.eval_rational(i, usize::from(NO_DATA));
        [color.r, color.g, color.b]
    })
}

/// Cells in rows from the top.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raster {
    pub width: usize,
    pub height: usize,
    pub cells: Vec<u8>,
}

impl Raster {
    /// Halved, by the mean of those of each 2 x 2 cells that hold a value, until no side is longer than `side`.
    pub fn at_most(&self, side: usize) -> Self {
        let mut raster = self.clone();
        while raster.width.max(raster.height) > side.max(1) {
            let (width, height) = (raster.width.div_ceil(2), raster.height.div_ceil(2));
            let mut cells = Vec::with_capacity(width * height);
            for y in 0..height {
                for x in 0..width {
                    let (mut sum, mut n) = (0u32, 0u32);
                    for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let (row, column) = (2 * y + i, 2 * x + j);
                        if row < raster.height && column < raster.width {
                            let cell = raster.cells[row * raster.width + column];
                            if cell != NO_DATA {
                                sum += u32::from(cell);
                                n += 1;
                            }
                        }
                    }
                    cells.push((sum + n / 2).checked_div(n).map_or(NO_DATA, |mean| mean as u8));
                }
            }
            raster = Self { width, height, cells };
        }
        raster
    }

    /// The raster as an indexed PNG, one pixel a cell.
    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        let mut bytes = Vec::new();
        let mut encoder = indexed(&mut bytes, (self.width, self.height));
        encoder.set_filter(png::Filter::NoFilter);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.cells)?;
            writer.finish()
        });
        written.map_err(|e| ReportError::Draw(format!("PNG of {} x {}: {e}", self.width, self.height)))?;
        Ok(bytes)
    }
}

/// A heat map of values, one pixel a value, as PNG with a palette of 255 colours (viridis) and grey for what is no number.
///
/// - Shape: `values` by row, `[height, width]`
/// - Unit: `range` are the values of the first and last colour; what lies beyond has the colour of the end
/// - Errors: values that are no whole number of rows
/// - Cost: O(values); while some rows are compressed, the colours of the next ones are looked up on another thread
pub fn heatmap_png(values: &[f32], width: usize, range: (f32, f32)) -> Result<Vec<u8>, ReportError> {
    if width == 0 || values.is_empty() || !values.len().is_multiple_of(width) {
        return Err(ReportError::Draw(format!("{} values are no rows of {width}", values.len())));
    }
    let size = (width, values.len() / width);
    let (low, factor) = (range.0, f32::from(NO_DATA - 1) / (range.1 - range.0).max(f32::MIN_POSITIVE));
    let indices = |values: &[f32], cells: &mut Vec<u8>| {
        let index = |value: &f32| {
            let step = ((value - low) * factor + 0.5).clamp(0.0, f32::from(NO_DATA - 1)) as u8;
            if value.is_finite() { step } else { NO_DATA }
        };
        cells.clear();
        cells.extend(values.iter().map(index));
    };
    let fault = |e: &dyn std::fmt::Display| ReportError::Draw(format!("PNG of {} x {}: {e}", size.0, size.1));
    let mut bytes = Vec::with_capacity(values.len());
    let mut encoder = indexed(&mut bytes, size);
    encoder.set_compression(png::Compression::Fastest);
    // Neighbours differ little: what is written is mostly small differences.
    encoder.set_filter(png::Filter::Sub);
    let mut writer = encoder.write_header().map_err(|e| fault(&e))?;
    let mut stream = writer.stream_writer_with_size(1 << 20).map_err(|e| fault(&e))?;
    let (mut now, mut next) = (Vec::new(), Vec::new());
    let mut parts = values.chunks(width * ((1 << 19) / width).max(1));
    parts.by_ref().take(1).for_each(|part| indices(part, &mut now));
    while !now.is_empty() {
        next.clear();
        let part = parts.next();
        let (written, ()) =
            rayon::join(|| stream.write_all(&now), || part.into_iter().for_each(|part| indices(part, &mut next)));
        written.map_err(|e| fault(&e))?;
        std::mem::swap(&mut now, &mut next);
    }
    stream.finish().map_err(|e| fault(&e))?;
    writer.finish().map_err(|e| fault(&e))?;
    Ok(bytes)
}

/// An encoder of indices into the palette.
fn indexed(bytes: &mut Vec<u8>, (width, height): (usize, usize)) -> png::Encoder<'static, &mut Vec<u8>> {
    let mut encoder = png::Encoder::new(bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(palette().concat());
    encoder
}

/// A PNG of the pixels of a picture, with texts about it.
fn encode((width, height): (usize, usize), rgb: &[u8], words: &[(&str, &str)]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_filter(png::Filter::Up);
    let per_metre = (f64::from(PIXELS) * UNITS_PER_INCH / 0.0254).round() as u32;
    let unit = png::Unit::Meter;
    encoder.set_pixel_dims(Some(png::PixelDimensions { xppu: per_metre, yppu: per_metre, unit }));
    for (keyword, text) in words {
        encoder.add_itxt_chunk(keyword.to_string(), text.to_string())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}

/// An opaque SVG document, as it is drawn: read, with the fonts that it needs and no other file.
fn tree(svg: &str) -> Result<Tree, ReportError> {
    let mut options = Options { fontdb: fonts(svg), ..Options::default() };
    // Pictures stand in the file; nothing else is opened.
    options.image_href_resolver.resolve_string = Box::new(|_, _| None);
    Tree::from_str(&drawable(svg), &options).map_err(|e| ReportError::Draw(format!("the SVG cannot be read: {e}")))
}

/// An opaque SVG document as PNG, with [`PIXELS`] in one of its units, and as PDF of the same size, whose text is text.
pub(super) fn png_and_pdf(svg: &str, title: &str, words: &str) -> Result<(Vec<u8>, Vec<u8>), ReportError> {
    let tree = tree(svg)?;
    let size = tree.size().to_int_size().scale_by(PIXELS);
    let Some(mut pixels) = size.and_then(|size| Pixmap::new(size.width(), size.height())) else {
        return Err(ReportError::Draw(format!("no room for a picture of {:?}", tree.size())));
    };
    resvg::render(&tree, Transform::from_scale(PIXELS, PIXELS), &mut pixels.as_mut());
    let rgb: Vec<u8> = pixels.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    let words = [("Title", title), ("Description", words), ("Software", TOOL)];
    let png = encode((pixels.width() as usize, pixels.height() as usize), &rgb, &words)
        .map_err(|e| ReportError::Draw(format!("the SVG as PNG: {e}")))?;
    // A font that cannot be embedded, such as one of coloured pictures, is drawn: its letters are then no text.
    let pdf = [true, false]
        .into_iter()
        .find_map(|embed_text| pdf(&tree, title, embed_text))
        .ok_or_else(|| ReportError::Draw("the SVG cannot be written as PDF".into()))?;
    Ok((png, pdf))
}

/// One page of the drawing's size, in points; `None` where that cannot be written.
fn pdf(tree: &Tree, title: &str, embed_text: bool) -> Option<Vec<u8>> {
    let points = |units: f32| units * 72.0 / UNITS_PER_INCH as f32;
    let size = Size::from_wh(points(tree.size().width()), points(tree.size().height()))?;
    let mut document = Document::new();
    document.set_metadata(Metadata::new().title(title.into()).creator(TOOL.into()));
    let mut page = document.start_page_with(PageSettings::new(size));
    let mut surface = page.surface();
    surface.draw_svg(tree, size, SvgSettings { embed_text, ..SvgSettings::default() })?;
    surface.finish();
    page.finish();
    document.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heat_map_has_one_pixel_a_value() {
        let bytes = heatmap_png(&[0.0, 1.0, f32::NAN, 9.0, -9.0, 0.5], 3, (0.0, 1.0)).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut cells = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut cells).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        assert_eq!(cells, [0, 254, NO_DATA, 254, 0, 127]);
        assert!(heatmap_png(&[0.0; 4], 3, (0.0, 1.0)).is_err() && heatmap_png(&[], 3, (0.0, 1.0)).is_err());
    }

    #[test]
    fn halving_an_odd_raster_ignores_cells_without_a_value() {
        let raster = Raster { width: 3, height: 1, cells: vec![10, NO_DATA, NO_DATA] };
        assert_eq!(raster.at_most(2), Raster { width: 2, height: 1, cells: vec![10, NO_DATA] });
        let square = Raster { width: 2, height: 2, cells: vec![1, 2, 3, 5] };
        assert_eq!(square.at_most(1).cells, [3]);
        assert_eq!(square.at_most(2), square);
    }
}
