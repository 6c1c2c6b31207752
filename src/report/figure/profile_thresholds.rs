//! What a profile chose for every head.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::heat::Grid;
use crate::report::heat::color_bar;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::pool;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "profile-thresholds",
    title: "What the profile keeps of every head",
    question: "Where does the profile spend its slots, and where does it merge?",
    reading: "Left: the slots that each head keeps, of the tokens seen. Right: the cosine above which neighbours are joined on \
              the calibration samples, in heads whose policy joins any; a low threshold merges more.",
    needs: "a profile (kvscope tune)",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let Some(profile) = input.profile.as_ref().filter(|p| !p.heads.is_empty()) else { return Ok(Vec::new()) };
    let layers: Vec<usize> = profile.heads.iter().map(|h| h.layer).collect::<BTreeSet<_>>().into_iter().collect();
    let heads: Vec<usize> = profile.heads.iter().map(|h| h.kv_head).collect::<BTreeSet<_>>().into_iter().collect();
    let values = |value: fn(&crate::format::profile::HeadProfile) -> Option<f64>| -> Vec<Option<f64>> {
        let all: BTreeMap<pool::Head, Option<f64>> =
            profile.heads.iter().map(|h| ((h.layer, h.kv_head), pool::known(value(h)))).collect();
        pool::grid(&all, &layers, &heads)
    };
    let panel = |title: &str, values: Vec<Option<f64>>, limits: (f64, f64), decimals: usize| Grid {
        title: title.into(),
        layers: layers.clone(),
        heads: heads.clone(),
        range: rounded(extent(values.iter().flatten().copied()), limits, 5),
        values,
        decimals,
        columns: "KV head",
        rows: "Layer",
    };
    let eps = panel("Threshold", values(|h| h.eps.map(f64::from)), (-1.0, 1.0), 2);
    let kept = panel("Slots kept, % of tokens", values(|h| Some(100.0 * h.kept_fraction)), (0.0, 100.0), 0);
    let height = Grid::height(layers.len());
    let gaps = eps.has_gaps() || kept.has_gaps();
    let body = 24.0 + height + 56.0 + if gaps { 30.0 } else { 0.0 };
    let subtitle = format!(
        "{} · search {} · asked for {:.0} % {}, kept {:.1} % of the slots on calibration samples",
        profile.model.name,
        profile.search,
        100.0 * profile.target_kept_fraction,
        profile.budget_of(),
        100.0 * profile.calibration_kept_fraction.estimate
    );
    let alt = format!(
        "Heat maps of {} by {}: thresholds from {:.2} to {:.2}, slots kept from {:.0} to {:.0} %. The numbers are in the table of heads.",
        theme::count(layers.len(), "layer"),
        theme::count(heads.len(), "KV head"),
        eps.range.0,
        eps.range.1,
        kept.range.0,
        kept.range.1
    );
    let drawing = Drawing::new(ENTRY.name, ENTRY.title, subtitle, body, move |canvas, area| {
        let (left, bar, gap) = (area.x0 + 46.0, 94.0, 26.0);
        let width = (area.x1 - left - 2.0 * bar - gap) / 2.0;
        let (top, bottom) = (area.y0 + 24.0, area.y0 + 24.0 + height);
        for (i, (grid, title)) in [(&kept, "Slots kept, %"), (&eps, "Threshold")].into_iter().enumerate() {
            let x = left + i as f64 * (width + bar + gap);
            grid.draw(canvas, Area::new(x, top, x + width, bottom), i == 0)?;
            let x = x + width + 18.0;
            color_bar(canvas, Area::new(x, top, x + 16.0, bottom.min(top + 420.0)), grid.range, title)?;
        }
        if gaps {
            Legend::new(vec![(Key::NoData, "joins none, or no data".into())], 200.0)
                .draw(canvas, (left, bottom + 58.0))?;
        }
        Ok(())
    });
    Ok(vec![drawing.alt(alt)])
}
