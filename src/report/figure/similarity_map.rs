//! Cosine of every token with every other, for the heads that maps were asked for.

use plotters::style::RGBAColor;

use crate::format::map;
use crate::format::map::{Level, MapEntry};
use crate::report::axes::{Axis, rounded};
use crate::report::canvas::{Area, Canvas};
use crate::report::drawing::MapScale;
use crate::report::figure::Build;
use crate::report::heat::color_bar;
use crate::report::pool;
use crate::report::raster::{NO_DATA, NO_DATA_RGB, Raster, index_of};
use crate::report::text::{Type, fit, text_width};
use crate::report::theme;
use crate::report::theme::{count, state_label};
use crate::report::{Drawing, FigureEntry, RASTER_SIDE, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "similarity-map",
    title: "Cosine similarity of all token pairs",
    question: "Which tokens of a text are alike: only neighbours, or also distant ones?",
    reading: "Row and column are token positions of one sample. A bright band along the diagonal means that neighbours \
              are alike; bright blocks are stretches of text whose vectors hardly differ; stripes are single tokens \
              that resemble none or all. All maps share one scale.",
    needs: "similarity maps, which kvscope analyze writes when asked for them",
    build: Build::Analysis(build),
};

/// Most panels in the overview.
const MAX_PANELS: usize = 12;
/// About as many values of each map go into the common scale.
const SAMPLED: usize = 16_384;

struct Map {
    raster: Raster,
    /// Tokens of the sample, and tokens that the raster's sides stand for.
    n_tokens: usize,
    tokens: f64,
    head: String,
    sample: String,
}

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let entries = &input.analysis.maps;
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let read = |entry| map::read(&input.analysis_dir, entry, RASTER_SIDE);
    // Twice, for the common scale and for the cells: all levels at once could fill the memory.
    let mut sampled: Vec<f64> = Vec::new();
    for entry in entries {
        let values = read(entry)?.values;
        sampled.extend(values.iter().step_by((values.len() / SAMPLED).max(1)).map(|v| f64::from(*v)));
    }
    // From the first percentile: single outliers would dim everything else.
    let ends = pool::quantile(sampled.iter().copied(), 0.01).zip(pool::quantile(sampled.iter().copied(), 0.999));
    let range = rounded(ends, (-1.0, 1.0), 6);
    let maps: Vec<Map> =
        entries.iter().map(|entry| Ok(map(entry, read(entry)?, range))).collect::<Result<_, ReportError>>()?;
    let mut drawings = Vec::with_capacity(maps.len() + 1);
    if maps.len() > 1 {
        drawings.push(overview(&input.analysis.model.name, &maps, range)?);
    }
    for (i, (entry, map)) in entries.iter().zip(&maps).enumerate() {
        let name = if maps.len() == 1 {
            ENTRY.name.to_string()
        } else {
            let state = entry.state.name().replace('_', "-");
            format!("{}-{}-layer-{}-head-{}-{state}", ENTRY.name, i + 1, entry.layer, entry.kv_head)
        };
        drawings.push(single(name, &input.analysis.model.name, map, range)?);
    }
    Ok(drawings)
}

fn map(entry: &MapEntry, level: Level, range: (f64, f64)) -> Map {
    let cells = level.values.iter().map(|v| index_of(f64::from(*v), range)).collect();
    Map {
        raster: Raster { width: level.side, height: level.side, cells },
        n_tokens: entry.n_tokens,
        tokens: level.tokens,
        head: format!("layer {}, KV head {}, {}", entry.layer, entry.kv_head, state_label(entry.state)),
        sample: match entry.first_token {
            0 => format!("{}, sample {}", entry.dataset, entry.id),
            first => format!("{}, sample {} from token {first} on", entry.dataset, entry.id),
        },
    }
}

fn single(name: String, model: &str, map: &Map, range: (f64, f64)) -> Result<Drawing, ReportError> {
    const SIDE: f64 = 760.0;
    let title = format!("{}: {}", ENTRY.title, map.head);
    let subtitle = format!("{model} · {} · {}", map.sample, count(map.n_tokens, "token"));
    let alt = format!(
        "Map of {n} by {n} tokens of {}: cosine of every pair, colours from {:.2} to {:.2}.",
        map.sample,
        range.0,
        range.1,
        n = map.n_tokens
    );
    let scale = MapScale { tokens: map.tokens, range };
    let drawing = Drawing::new(name, title, subtitle, alt, SIDE + 62.0, |canvas, area| {
        let x = area.x0 + 62.0;
        let place = Area::new(x, area.y0 + 4.0, x + SIDE, area.y0 + 4.0 + SIDE);
        draw(canvas, place, map, 8, true);
        let bar = Area::new(place.x1 + 22.0, place.y0, place.x1 + 38.0, place.y0 + 420.0);
        color_bar(canvas, bar, range, "Cosine");
        if map.raster.cells.contains(&NO_DATA) {
            no_data(canvas, (bar.x0, bar.y1));
        }
    });
    Ok(drawing?.map(scale))
}

fn overview(model: &str, maps: &[Map], range: (f64, f64)) -> Result<Drawing, ReportError> {
    let shown = maps.len().min(MAX_PANELS);
    let columns = if shown <= 4 { 2 } else { 3 };
    let rows = shown.div_ceil(columns);
    let (gap, left, right) = (64.0, 52.0, 96.0);
    let room = theme::WIDTH - 2.0 * theme::MARGIN - left - right;
    let side = (room - gap * (columns - 1) as f64) / columns as f64;
    let (head, foot) = (40.0, 58.0);
    let more = if shown < maps.len() { format!(" · the first {shown} of {} maps", maps.len()) } else { String::new() };
    let alt = format!(
        "{shown} maps of the cosine of every pair of tokens, colours from {:.2} to {:.2}: {}.",
        range.0,
        range.1,
        maps[..shown].iter().map(|m| format!("{} ({})", m.head, m.sample)).collect::<Vec<_>>().join("; ")
    );
    let maps = &maps[..shown];
    let body = rows as f64 * (head + side + foot);
    Drawing::new(ENTRY.name, ENTRY.title, format!("{model}{more}"), alt, body, |canvas, area| {
        for (i, map) in maps.iter().enumerate() {
            let x = area.x0 + left + (i % columns) as f64 * (side + gap);
            let y = area.y0 + (i / columns) as f64 * (head + side + foot) + head;
            let width = side + gap - 14.0;
            let title = Type::new(theme::TICK, theme::INK).bold();
            canvas.text((x, y - 25.0), &fit(&theme::capitalised(&map.head), theme::TICK, true, width), title);
            let sample = fit(&map.sample, theme::TICK, false, width);
            canvas.text((x, y - 9.0), &sample, Type::new(theme::TICK, theme::SOFT_INK));
            draw(canvas, Area::new(x, y, x + side, y + side), map, 4, i % columns == 0);
        }
        let x = area.x1 - right + 22.0;
        let y = area.y0 + head;
        color_bar(canvas, Area::new(x, y, x + 16.0, y + side.min(420.0)), range, "Cosine");
        if maps.iter().any(|m| m.raster.cells.contains(&NO_DATA)) {
            no_data(canvas, (x, y + side.min(420.0)));
        }
    })
}

/// The key of grey cells, below the colour bar.
fn no_data(canvas: &mut Canvas<'_>, (x, y): (f64, f64)) {
    let [r, g, b] = NO_DATA_RGB;
    let swatch = Area::new(x, y + 22.0, x + 16.0, y + 38.0);
    canvas.rect(swatch, RGBAColor(r, g, b, 1.0));
    canvas.frame(swatch, theme::EDGE, 1.0);
    canvas.text((x + 23.0, y + 34.5), "no data", Type::new(theme::TICK, theme::SOFT_INK));
}

/// The raster, with token positions along both sides.
fn draw(canvas: &mut Canvas<'_>, area: Area, map: &Map, n_ticks: usize, titled: bool) {
    canvas.image(area, map.raster.clone());
    canvas.frame(area, theme::EDGE, 1.0);
    let axis = Axis::linear((0.0, map.tokens), n_ticks, "");
    let tick = Type::new(theme::TICK, theme::SOFT_INK);
    let mut widest: f64 = 0.0;
    for (value, label) in axis.ticks.iter().filter(|t| t.0.fract() == 0.0) {
        let part = axis.part(*value);
        let (x, y) = (area.x0 + part * area.width(), area.y0 + part * area.height());
        canvas.line((x, area.y1), (x, area.y1 + 4.0), theme::EDGE, 1.0);
        canvas.text((x, area.y1 + 18.0), label, tick.center());
        canvas.line((area.x0 - 4.0, y), (area.x0, y), theme::EDGE, 1.0);
        canvas.text((area.x0 - 8.0, y + 0.36 * theme::TICK), label, tick.right());
        widest = widest.max(text_width(label, theme::TICK, false));
    }
    let title = Type::new(theme::LABEL, theme::INK).center();
    canvas.text((area.middle().0, area.y1 + 39.0), "Token position", title);
    if titled {
        let at = (area.x0 - widest - 17.0, area.middle().1);
        canvas.text(at, "Token position", title.upward());
    }
}
