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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::bench::SpeedSamples;

    fn row(policy: &str, context_tokens: usize, decode: [f64; 4], cache_bytes: u64) -> serde_json::Value {
        let samples =
            SpeedSamples { prefill: vec![1.0], compress: vec![0.5], decode: decode.to_vec(), ..Default::default() };
        serde_json::json!({
            "policy": policy, "context_tokens": context_tokens, "kept_fraction": 0.5, "cache_bytes": cache_bytes,
            "prefill_secs": 1.0, "compress_secs": 0.5, "decode_secs": decode[1], "decode_bytes_per_sec": null,
            "speedup": null, "bandwidth_bound": null, "bound_fraction": null, "extra_prompt_secs": null,
            "saved_secs_per_token": null, "break_even_new_tokens": null, "samples_secs": samples,
        })
    }

    #[test]
    fn a_run_of_two_caches_gives_time_memory_and_prompt() {
        let model = serde_json::json!({
            "name": "M", "architecture": "LlamaForCausalLM", "fingerprint": "f", "tokenizer_sha256": null,
            "chat_template_sha256": null, "n_layers": 1, "n_q_heads": 1, "n_kv_heads": 1, "head_dim": 4, "rope_theta": 1e4,
            "rope_frequencies": [], "max_positions": 9,
        });
        let rows: Vec<SpeedRow> = [
            row("full", 512, [0.011, 0.010, 0.012, 0.013], 4_000_000),
            row("full", 2048, [0.021, 0.020, 0.022, 0.023], 16_000_000),
            row("h2o", 512, [0.009, 0.008, 0.010, 0.011], 2_000_000),
        ]
        .into_iter()
        .map(|row| serde_json::from_value(row).unwrap())
        .collect();
        let bench = Bench {
            schema: "kvscope.bench/1".into(),
            model: serde_json::from_value(model).unwrap(),
            options: serde_json::Value::Null,
            weight_bytes: 100_000_000,
            memory_read_bytes_per_sec: 1e10,
            rows,
            break_even: Vec::new(),
        };
        let drawings = build(&bench).unwrap();
        let names: Vec<&str> = drawings.iter().map(|drawing| drawing.name.as_str()).collect();
        assert_eq!(names, ["speed-context", "speed-context-memory", "speed-context-prompt"]);
        let csv = drawings[0].csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "panel,curve,Tokens of the prompt,\"Decode step, ms\",low,high");
        assert!(lines[1].starts_with(",full,512,10,10.75,12.25") && lines.len() == 4, "{csv}");
        assert!(drawings[1].csv().contains(",h2o,512,2,,"), "{}", drawings[1].csv());
        assert!(drawings[2].csv().contains(",full,2048,1.5,,"), "{}", drawings[2].csv());
    }
}
