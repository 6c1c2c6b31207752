//! Pixels: rasters of 256 colours, one of them set aside for "no data", and pictures from SVG.

use colorous::VIRIDIS;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::report::ReportError;
use crate::report::text::fonts;

/// Pixels of a PNG per unit of its SVG, in each direction.
const PIXELS: f32 = 2.0;

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

/// Index of a value on a scale; [`NO_DATA`] when it is not a number.
pub(super) fn index_of(value: f64, (low, high): (f64, f64)) -> u8 {
    if !value.is_finite() {
        return NO_DATA;
    }
    let part = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    (part * f64::from(NO_DATA - 1)).round() as u8
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
        encode(self.width, self.height, &self.cells, Some(palette().concat()))
    }
}

/// A PNG of RGB pixels, or of indices into a palette.
fn encode(width: usize, height: usize, data: &[u8], palette: Option<Vec<u8>>) -> Result<Vec<u8>, ReportError> {
    let fault = |e: png::EncodingError| ReportError::Draw(format!("PNG of {width} x {height}: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    match palette {
        Some(palette) => {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(palette);
            encoder.set_filter(png::Filter::NoFilter);
        }
        None => {
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_filter(png::Filter::Up);
        }
    }
    let mut writer = encoder.write_header().map_err(fault)?;
    writer.write_image_data(data).map_err(fault)?;
    writer.finish().map_err(fault)?;
    Ok(bytes)
}

/// An opaque SVG document as PNG, with [`PIXELS`] in one of its units.
pub(super) fn png(svg: &str) -> Result<Vec<u8>, ReportError> {
    let fault = |what: String| ReportError::Draw(format!("the SVG as PNG: {what}"));
    let mut options = Options { fontdb: fonts(), ..Options::default() };
    // Pictures stand in the file; nothing else is opened.
    options.image_href_resolver.resolve_string = Box::new(|_, _| None);
    let tree = Tree::from_str(svg, &options).map_err(|e| fault(e.to_string()))?;
    let size = tree.size().to_int_size().scale_by(PIXELS);
    let Some(mut pixels) = size.and_then(|size| Pixmap::new(size.width(), size.height())) else {
        return Err(fault(format!("no room for {:?}", tree.size())));
    };
    resvg::render(&tree, Transform::from_scale(PIXELS, PIXELS), &mut pixels.as_mut());
    let rgb: Vec<u8> = pixels.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    encode(pixels.width() as usize, pixels.height() as usize, &rgb, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_map_to_indices_and_what_is_no_number_to_no_data() {
        assert_eq!(index_of(0.25, (0.0, 1.0)), 64);
        assert_eq!(index_of(-9.0, (0.0, 1.0)), 0);
        assert_eq!(index_of(9.0, (0.0, 1.0)), 254);
        assert_eq!(index_of(f64::NAN, (0.0, 1.0)), NO_DATA);
        assert_eq!(index_of(1.0, (1.0, 1.0)), 127);
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
