//! Speed and memory against the length of the context.

use crate::format::bench::{Bench, SpeedRow};
use crate::math::quantiles;
use crate::report::axes::Axis;
use crate::report::curves::{Curve, Curves, ends};
use crate::report::figure::Build;
use crate::report::theme;
use crate::report::theme::count;
use crate::report::{Drawing, FigureEntry, ReportError};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "speed-context",
    title: "Time of a decode step against the context",
    question: "From which length of the context on does a smaller cache decode faster, and how much memory does it save?",
    reading: "Medians over decode steps; bands hold the middle half of them. The second drawing has the bytes of the cache \
              when the prompt had passed, the third the time that the prompt takes with compression.",
    needs: "a run of kvscope bench that was saved (--out)",
    build: Build::Bench(build),
};

fn build(bench: &Bench) -> Result<Vec<Drawing>, ReportError> {
    let steps = |row: &SpeedRow| {
        let times = row.samples_secs.decode.iter().map(|secs| 1e3 * secs).filter(|t| t.is_finite());
        quantiles(times, [0.25, 0.75]).map(|[low, high]| (low, high))
    };
    let drawings = [
        drawing(bench, "", ENTRY.title, "Decode step, ms", &|row| row.decode_secs.map(|secs| 1e3 * secs), &steps),
        drawing(
            bench,
            "-memory",
            "Bytes of the cache against the context",
            "Cache, MB",
            &|row| Some(row.cache_bytes as f64 / 1e6),
            &|_| None,
        ),
        drawing(
            bench,
            "-prompt",
            "Time of the prompt against the context",
            "Prompt and compression, s",
            &|row| Some(row.prefill_secs? + row.compress_secs.unwrap_or_default()),
            &|_| None,
        ),
    ];
    drawings.into_iter().flatten().collect()
}

fn drawing(
    bench: &Bench,
    suffix: &str,
    title: &str,
    measure: &str,
    value: &dyn Fn(&SpeedRow) -> Option<f64>,
    spread: &dyn Fn(&SpeedRow) -> Option<(f64, f64)>,
) -> Option<Result<Drawing, ReportError>> {
    let mut policies: Vec<&str> = Vec::new();
    for row in &bench.rows {
        if !policies.contains(&row.policy.as_str()) {
            policies.push(&row.policy);
        }
    }
    let curve = |(i, policy): (usize, &&str)| {
        let rows = || bench.rows.iter().filter(|row| row.policy == **policy);
        let points = rows().map(|row| (row.context_tokens as f64, value(row).filter(|v| v.is_finite()))).collect();
        let band = rows().map(|row| (row.context_tokens as f64, spread(row))).collect();
        Curve { band, ..Curve::new(policy, theme::look(i), points) }
    };
    let curves: Vec<Curve> = policies.iter().enumerate().map(curve).collect();
    let (_, highest) = ends(&curves)?;
    let has_bands = curves.iter().flat_map(|curve| &curve.band).any(|point| point.1.is_some());
    let mut contexts: Vec<f64> = bench.rows.iter().map(|row| row.context_tokens as f64).filter(|c| *c > 0.0).collect();
    contexts.sort_by(f64::total_cmp);
    contexts.dedup();
    let figure = Curves {
        panels: vec![(String::new(), curves)],
        x: Axis::logarithmic(&contexts, "Tokens of the prompt (log scale)"),
        y: Axis::from_zero(highest, f64::MAX, measure),
        band_name: if has_bands { "middle half of the steps".into() } else { String::new() },
        ..Curves::default()
    };
    let n_steps: usize = bench.rows.iter().map(|row| row.samples_secs.decode.len()).sum();
    let subtitle = format!(
        "{} · {} · {} · {:.1} GB of weights read at {:.1} GB/s",
        bench.model.name,
        count(contexts.len(), "context"),
        count(n_steps, "decode step"),
        bench.weight_bytes as f64 / 1e9,
        bench.memory_read_bytes_per_sec / 1e9
    );
    Some(figure.drawing(&format!("{}{suffix}", ENTRY.name), title, subtitle))
}
