//! Cosine of every token with every other, for the heads that maps were asked for.

use plotters::style::RGBAColor;

use crate::files::{plain_name, sha256_bytes};
use crate::format::map;
use crate::format::map::{Level, MapEntry};
use crate::report::axes::Axis;
use crate::report::canvas::{Area, Canvas};
use crate::report::drawing::{MapScale, Words};
use crate::report::figure::Build;
use crate::report::heat::color_bar;
use crate::report::raster::{NO_DATA, NO_DATA_RGB, Raster};
use crate::report::scale::Scale;
use crate::report::table::{Table, cell};
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
              that resemble none or all. All maps, of all reports, share one scale.",
    needs: "similarity maps, which kvscope analyze writes when asked for them",
    build: Build::Analysis(build),
};

/// Most panels in the overview.
const MAX_PANELS: usize = 12;
/// Cells a side of a panel in the overview, more than its pixels in a PNG.
const OVERVIEW_SIDE: usize = 512;
/// Most cells a side in the table; the map's file has all.
const TABLE_SIDE: usize = 128;

#[derive(Clone)]
struct Map {
    raster: Raster,
    /// Tokens of the sample, and tokens that the raster's sides stand for.
    n_tokens: usize,
    tokens: f64,
    /// Lowest cosine.
    lowest: f64,
    head: String,
    sample: String,
}

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let (entries, model) = (&input.analysis.maps, &input.analysis.model.name);
    let read = |entry: &MapEntry| Ok(map(entry, map::read(&input.analysis_dir, entry, RASTER_SIDE)?));
    let maps: Vec<Map> = entries.iter().map(read).collect::<Result<_, ReportError>>()?;
    let mut drawings = Vec::with_capacity(maps.len() + 1);
    if maps.len() > 1 {
        let pages = maps.len().div_ceil(MAX_PANELS);
        for (page, maps) in maps.chunks(MAX_PANELS).enumerate() {
            drawings.push(overview(model, maps, (page, pages))?);
        }
    }
    for (entry, map) in entries.iter().zip(&maps) {
        let table = table(&map::read(&input.analysis_dir, entry, TABLE_SIDE)?, entry);
        let name = if maps.len() == 1 { ENTRY.name.to_string() } else { name(entry) };
        drawings.push(single(name, model, map, table)?);
    }
    Ok(drawings)
}

/// A file name that tells data set, sample, head and state; long ids are cut, and what is not plain is replaced.
fn name(entry: &MapEntry) -> String {
    let short = |text: &str| plain_name(text).chars().take(24).collect::<String>();
    let (dataset, id, state) = (short(&entry.dataset), short(&entry.id), entry.state.name().replace('_', "-"));
    let digest: String = sha256_bytes(format!("{}\n{}", entry.dataset, entry.id).as_bytes()).chars().take(4).collect();
    // Where the name does not tell all, the digest keeps two apart.
    let whole = dataset == entry.dataset && id == entry.id;
    let apart = if whole { String::new() } else { format!("-{digest}") };
    format!("{}-{dataset}-{id}{apart}-layer-{}-head-{}-{state}", ENTRY.name, entry.layer, entry.kv_head)
}

/// A line for each cell on and below the diagonal.
fn table(level: &Level, entry: &MapEntry) -> Table {
    let mut table = Table::new(["first row token", "first column token", "tokens a side", "mean cosine"]);
    let tokens = level.tokens / level.side.max(1) as f64;
    let first = |at: usize| (entry.first_token as f64 + at as f64 * tokens).to_string();
    for row in 0..level.side {
        for column in 0..=row {
            let value = f64::from(level.values[row * level.side + column]);
            table.push([first(row), first(column), tokens.to_string(), cell(Some(value))]);
        }
    }
    table
}

fn map(entry: &MapEntry, level: Level) -> Map {
    let cells = level.values.iter().map(|v| Scale::COSINE.index(f64::from(*v))).collect();
    let lowest = level.values.iter().copied().filter(|v| v.is_finite()).fold(1.0, f32::min);
    Map {
        raster: Raster { width: level.side, height: level.side, cells },
        n_tokens: entry.n_tokens,
        lowest: f64::from(lowest),
        tokens: level.tokens,
        head: format!("layer {}, KV head {}, {}", entry.layer, entry.kv_head, state_label(entry.state)),
        sample: match entry.first_token {
            0 => format!("{}, {}", entry.dataset, entry.id),
            first => format!("{}, {}, from token {first} on", entry.dataset, entry.id),
        },
    }
}

fn single(name: String, model: &str, map: &Map, table: Table) -> Result<Drawing, ReportError> {
    const SIDE: f64 = 760.0;
    let title = format!("{}: {}", ENTRY.title, map.head);
    let subtitle = format!("{model} · {} · {}", map.sample, count(map.n_tokens, "token"));
    let alt = format!(
        "Map of {n} by {n} tokens of {}: cosine of every pair, colours from {} to {}, lowest {:.2}.",
        map.sample,
        Scale::COSINE.low,
        Scale::COSINE.high,
        map.lowest,
        n = map.n_tokens
    );
    let scale = MapScale { tokens: map.tokens, range: (Scale::COSINE.low, Scale::COSINE.high) };
    let words = Words { name, title, subtitle, alt };
    let drawing = Drawing::new(words, table, SIDE + 62.0, |canvas, area| {
        let x = area.x0 + 62.0;
        let place = Area::new(x, area.y0 + 4.0, x + SIDE, area.y0 + 4.0 + SIDE);
        draw(canvas, place, map, 8, true);
        let bar = Area::new(place.x1 + 22.0, place.y0, place.x1 + 38.0, place.y1);
        color_bar(canvas, bar, &Scale::COSINE.axis([map.lowest].into_iter(), "Cosine"));
        if map.raster.cells.contains(&NO_DATA) {
            no_data(canvas, (bar.x0, bar.y1));
        }
    });
    Ok(drawing?.map(scale))
}

fn overview(model: &str, maps: &[Map], (page, pages): (usize, usize)) -> Result<Drawing, ReportError> {
    let columns = if maps.len() <= 4 { 2 } else { 3 };
    let rows = maps.len().div_ceil(columns);
    let (gap, left, right) = (64.0, 52.0, 96.0);
    let room = theme::WIDTH - 2.0 * theme::MARGIN - left - right;
    let side = (room - gap * (columns - 1) as f64) / columns as f64;
    let (head, foot) = (40.0, 58.0);
    let tokens = maps.iter().map(|map| map.n_tokens).sum();
    let sheet = if pages > 1 { format!(" · sheet {} of {pages}", page + 1) } else { String::new() };
    let subtitle = format!("{model} · {} of {}{sheet}", count(maps.len(), "map"), count(tokens, "token"));
    let alt = format!(
        "{} maps of the cosine of every pair of tokens, colours from {} to {}: {}.",
        maps.len(),
        Scale::COSINE.low,
        Scale::COSINE.high,
        maps.iter().map(|m| format!("{} ({})", m.head, m.sample)).collect::<Vec<_>>().join("; ")
    );
    let mut table = Table::new(["map", "sample", "tokens", "lowest cosine"]);
    for map in maps {
        table.push([map.head.clone(), map.sample.clone(), map.n_tokens.to_string(), cell(Some(map.lowest))]);
    }
    let body = rows as f64 * (head + side + foot);
    let name = if page == 0 { ENTRY.name.to_string() } else { format!("{}-sheet-{}", ENTRY.name, page + 1) };
    let words = Words { name, title: ENTRY.title.into(), subtitle, alt };
    Drawing::new(words, table, body, |canvas, area| {
        for (i, map) in maps.iter().enumerate() {
            let x = area.x0 + left + (i % columns) as f64 * (side + gap);
            let y = area.y0 + (i / columns) as f64 * (head + side + foot) + head;
            let title = Type::new(theme::TICK, theme::INK).bold();
            canvas.text(
                (x, y - 25.0),
                &fit(&theme::capitalised(&map.head), theme::TICK, true, side + gap - 12.0),
                title,
            );
            let sample = format!("{} of {}", count(map.n_tokens, "token"), map.sample);
            let sample = fit(&sample, theme::TICK, false, side + gap - 12.0);
            canvas.text((x, y - 9.0), &sample, Type::new(theme::TICK, theme::SOFT_INK));
            let small = Map { raster: map.raster.at_most(OVERVIEW_SIDE), ..map.clone() };
            draw(canvas, Area::new(x, y, x + side, y + side), &small, 4, i % columns == 0);
        }
        // One bar beside every row: the scale is the same.
        for row in 0..rows {
            let (x, y) = (area.x1 - right + 22.0, area.y0 + row as f64 * (head + side + foot) + head);
            let of_row = &maps[row * columns..(row * columns + columns).min(maps.len())];
            let axis = Scale::COSINE.axis(of_row.iter().map(|map| map.lowest), "Cosine");
            color_bar(canvas, Area::new(x, y, x + 16.0, y + side), &axis);
            if of_row.iter().any(|m| m.raster.cells.contains(&NO_DATA)) {
                no_data(canvas, (x, y + side - 10.0));
            }
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
