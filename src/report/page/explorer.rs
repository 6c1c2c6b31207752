//! What the explorer on the page is made of: numbers in parts, each packed by itself, so that the page unpacks what it shows.
//!
//! A part is some tensors, one behind the other. The bytes of a tensor's numbers stand in planes, all lowest bytes first, which packs
//! better; then the part is deflated (zlib) and written in base64. Which tensors a part has, with type and length, stands in the
//! explorer's JSON.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use half::bf16;
use miniz_oxide::deflate::compress_to_vec_zlib;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::format::dump::State;
use crate::format::explorer::{ExploredSample, ExplorerFile, ExplorerTensor, blocks};
use crate::math::Float;
use crate::report::pool::Measure;
use crate::report::theme::count;
use crate::report::{ReportError, ReportInput, pool};

/// How hard parts are packed: more takes longer and saves next to nothing of numbers.
const LEVEL: u8 = 6;
/// Steps of a threshold's slider in a unit of cosine.
const STEPS: i32 = 1000;
/// Parts that are made at a time: always as many, so that the page does not follow the number of threads.
const AT_ONCE: usize = 8;
/// Bytes that a part takes beside its numbers.
const FRAME_BYTES: usize = 300;
/// Code of a cosine that is undefined.
const UNDEFINED: u16 = u16::MAX;

/// The explorer as the template takes it.
#[derive(Serialize)]
pub(in crate::report) struct Explorer {
    /// Name and base64 of every part, the document of the others first.
    parts: Vec<(String, String)>,
    /// What is left out of the page, in a sentence.
    left_out: Option<String>,
}

/// A part before it is packed.
struct Part {
    name: String,
    /// Name, type and number of numbers of every tensor.
    tensors: Vec<(&'static str, &'static str, usize)>,
    bytes: Vec<u8>,
}

impl Part {
    fn new(name: String) -> Self {
        Self { name, tensors: Vec::new(), bytes: Vec::new() }
    }

    /// Adds a tensor of little-endian numbers of `width` bytes.
    fn add(&mut self, name: &'static str, kind: &'static str, width: usize, bytes: &[u8]) {
        self.tensors.push((name, kind, bytes.len() / width));
        for plane in 0..width {
            self.bytes.extend(bytes.iter().skip(plane).step_by(width));
        }
    }

    fn add_u16(&mut self, name: &'static str, values: &[u16]) {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.add(name, "u16", 2, &bytes);
    }

    fn add_text(&mut self, name: &'static str, text: &Value) {
        self.add(name, "json", 1, text.to_string().as_bytes());
    }

    fn packed(&self) -> String {
        STANDARD.encode(compress_to_vec_zlib(&self.bytes, LEVEL))
    }
}

/// The explorer of an analysis in at most `room` bytes; `None` when the analysis has none.
///
/// - Errors: a file that cannot be read or has changed
pub(in crate::report) fn explorer(input: &ReportInput, room: usize) -> Result<Option<Explorer>, ReportError> {
    let Some(file) = &input.analysis.explorer else { return Ok(None) };
    let file = ExplorerFile::read(&input.analysis_dir, file)?;
    let samples = &file.explorer.samples;
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut tensors = BTreeMap::new();
    let mut document = Part::new("document".into());
    document.add_text("document", &words(input, samples, &tensors));
    let mut used = document.packed().len();
    let (mut series_left_out, mut states_left_out) = (0, 0);
    for some in order(samples).chunks(AT_ONCE) {
        // What cannot fit is not made: numbers hardly get shorter.
        let may_fit = |which: &Which| used + bytes_of(&file, *which) / 2 <= room;
        let made: Vec<Option<(Part, String)>> = some
            .par_iter()
            .map(|which| {
                (which.is_small() || may_fit(which)).then(|| {
                    let part = part(&file, *which);
                    let packed = part.packed();
                    (part, packed)
                })
            })
            .collect();
        for (which, made) in some.iter().zip(made) {
            // A part's element and its line in the document take little.
            match made.filter(|(_, packed)| which.is_small() || used + packed.len() + FRAME_BYTES <= room) {
                Some((part, packed)) => {
                    used += packed.len() + FRAME_BYTES;
                    tensors.insert(part.name.clone(), part.tensors);
                    parts.push((part.name, packed));
                }
                None => match which {
                    Which::Texts(_) => {}
                    Which::Series(_) => series_left_out += 1,
                    Which::States(..) => states_left_out += 1,
                },
            }
        }
    }
    let mut document = Part::new("document".into());
    document.add_text("document", &words(input, samples, &tensors));
    parts.insert(0, (document.name.clone(), document.packed()));
    let left_out = (series_left_out + states_left_out > 0).then(|| {
        let mut what = Vec::new();
        if states_left_out > 0 {
            what.push(format!("the maps of {}", count(states_left_out, "head")));
        }
        if series_left_out > 0 {
            what.push(format!("the merging sets of {}", count(series_left_out, "sample")));
        }
        format!(
            "Left out, to keep the page small: {}. kvscope report --page-mb takes a larger size.",
            what.join(" and ")
        )
    });
    Ok(Some(Explorer { parts, left_out }))
}

/// What a part is of: a sample by its number, and a head.
#[derive(Clone, Copy)]
enum Which {
    Texts(usize),
    Series(usize),
    States(usize, [usize; 2]),
}

impl Which {
    /// Whether the page has it whatever its size.
    fn is_small(self) -> bool {
        matches!(self, Self::Texts(_))
    }
}

/// Bytes of a part before it is packed, about.
fn bytes_of(file: &ExplorerFile, which: Which) -> usize {
    let (samples, dim) = (&file.explorer.samples, file.explorer.model.head_dim);
    match which {
        Which::Texts(_) => 0,
        Which::Series(number) => samples[number].heads.len() * samples[number].n_tokens * 4 * size_of::<u16>(),
        Which::States(number, _) => {
            let sample = &samples[number];
            let n_rows = sample.n_tokens * sample.states.len() + sample.n_queries * file.explorer.model.group();
            n_rows * dim * sample.dtype.bytes()
        }
    }
}

/// All parts, those that tell most first: texts, then of each sample what merges and one map, then the other heads' maps.
fn order(samples: &[ExploredSample]) -> Vec<Which> {
    let mut order: Vec<Which> = (0..samples.len()).map(Which::Texts).collect();
    let most = samples.iter().map(|sample| sample.shown.len()).max().unwrap_or(0);
    for rank in 0..most.max(1) {
        for (number, sample) in samples.iter().enumerate() {
            if rank == 0 && !sample.heads.is_empty() {
                order.push(Which::Series(number));
            }
            order.extend(sample.shown.get(rank).map(|head| Which::States(number, *head)));
        }
    }
    order
}

fn part(file: &ExplorerFile, which: Which) -> Part {
    let samples = &file.explorer.samples;
    match which {
        Which::Texts(number) => {
            let mut part = Part::new(format!("{number}.texts"));
            part.add_text("texts", &json!(samples[number].token_texts));
            part
        }
        Which::Series(number) => {
            let (n_tokens, n_heads) = (samples[number].n_tokens, samples[number].heads.len());
            let links = file.numbers(ExplorerTensor::Links(number));
            let mass = file.numbers(ExplorerTensor::Mass(number));
            let mut part = Part::new(format!("{number}.series"));
            let [mut link_order, mut link_codes, mut mass_order, mut mass_codes] = [const { Vec::new() }; 4];
            for head in 0..n_heads {
                let of_head = &links[head * (n_tokens - 1)..][..n_tokens - 1];
                let order = falling(of_head);
                link_codes.extend(steps_down(order.iter().map(|at| threshold_code(of_head[usize::from(*at)]))));
                link_order.extend(order);
                let of_head = &mass[head * n_tokens..][..n_tokens];
                let order = falling(of_head);
                mass_codes
                    .extend(steps_down(order.iter().map(|at| bf16::from_f32(of_head[usize::from(*at)]).to_bits())));
                mass_order.extend(order);
            }
            part.add_u16("link_order", &link_order);
            part.add_u16("link_codes", &link_codes);
            part.add_u16("mass_order", &mass_order);
            part.add_u16("mass_codes", &mass_codes);
            part
        }
        Which::States(number, head) => {
            let sample = &samples[number];
            let mut part = Part::new(format!("{number}.{}.{}", head[0], head[1]));
            let mut add = |name, kind, width, tensor| {
                if let Some(bytes) = file.bytes(tensor) {
                    part.add(name, kind, width, bytes);
                }
            };
            let kind = match sample.dtype {
                Float::F16 => "f16",
                Float::Bf16 => "bf16",
                Float::F32 => "f32",
            };
            for state in sample.states.iter().copied().chain([State::Q]) {
                add(state.name(), kind, sample.dtype.bytes(), ExplorerTensor::State(number, head, state));
            }
            for (name, state) in HIGHEST {
                add(name, "u8", 1, ExplorerTensor::Highest(number, head, state));
            }
            if let Some(place) = sample.heads.iter().position(|other| *other == head) {
                let row = |tensor, n: usize| {
                    file.bytes(tensor).and_then(|bytes| bytes.get(place * n * 4..(place + 1) * n * 4))
                };
                for (name, tensor, n) in [
                    ("links", ExplorerTensor::Links(number), sample.n_tokens - 1),
                    ("mass", ExplorerTensor::Mass(number), sample.n_tokens),
                ] {
                    part.add(name, "f32", 4, row(tensor, n).unwrap_or_default());
                }
            }
            let positions = file.bytes(ExplorerTensor::Positions(number, head[0])).unwrap_or_default();
            // Below 2^14, the longest sample.
            let positions: Vec<u16> =
                positions.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u16).collect();
            part.add_u16("q_positions", &positions);
            part
        }
    }
}

/// Names of the highest cosines of blocks in a part.
const HIGHEST: [(&str, State); 3] =
    [("k.highest", State::K), ("k_pre_rope.highest", State::KPreRope), ("v.highest", State::V)];

/// Places of values from the largest to the smallest, the lower place first of equals; those that are no number at the end.
fn falling(values: &[f32]) -> Vec<u16> {
    let mut order: Vec<u16> = (0..values.len() as u16).collect();
    let value = |at: &u16| values[usize::from(*at)];
    order.sort_by(|a, b| {
        let (x, y) = (value(a), value(b));
        x.is_nan().cmp(&y.is_nan()).then(y.total_cmp(&x)).then(a.cmp(b))
    });
    order
}

/// How many of the slider's thresholds -1, -0.999, … 1 a cosine is above, so that the page merges exactly what the analysis does.
fn threshold_code(cosine: f32) -> u16 {
    if cosine.is_nan() {
        return UNDEFINED;
    }
    let threshold = |step: i32| (f64::from(step) / f64::from(STEPS)) as f32;
    let (mut low, mut high) = (0, 2 * STEPS + 1);
    while low < high {
        let middle = (low + high) / 2;
        if cosine > threshold(middle - STEPS) { low = middle + 1 } else { high = middle }
    }
    low as u16
}

/// Every number less than the one before it by how much; the first as it is.
fn steps_down(values: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut before = 0u16;
    let step = |value: u16| {
        let step = before.wrapping_sub(value);
        before = value;
        step
    };
    values.map(step).collect()
}

/// What the page knows without unpacking a sample.
fn words(
    input: &ReportInput,
    samples: &[ExploredSample],
    tensors: &BTreeMap<String, Vec<(&'static str, &'static str, usize)>>,
) -> Value {
    let analysis = &input.analysis;
    let samples = samples.iter().enumerate().map(|(number, sample)| {
        let blocks = blocks(sample.n_tokens).map(|(block, side)| json!({ "block": block, "side": side }));
        let heads = if tensors.contains_key(&format!("{number}.series")) { sample.heads.as_slice() } else { &[] };
        let is_here = |head: &&[usize; 2]| tensors.contains_key(&format!("{number}.{}.{}", head[0], head[1]));
        json!({
            "dataset": sample.dataset, "id": sample.id, "n_tokens": sample.n_tokens, "heads": heads,
            "shown": sample.shown.iter().filter(is_here).collect::<Vec<_>>(), "states": sample.states,
            "n_queries": sample.n_queries, "has_texts": sample.token_texts.is_some(), "highest": blocks,
        })
    });
    let (layers, heads) = pool::layers_and_heads(analysis);
    let per_head = |values| pool::grid(&values, &layers, &heads);
    let mut grids: Vec<(String, Vec<Option<f64>>)> = pool::states(analysis)
        .into_iter()
        .map(|state| (state.name().to_string(), per_head(pool::neighbour_means(analysis, state))))
        .collect();
    let at = analysis.reference_eps;
    grids.push(("kept".into(), per_head(pool::pooled_at_eps(analysis, Measure::Kept, at))));
    let model = &analysis.model;
    json!({
        "model": { "n_layers": model.n_layers, "n_kv_heads": model.n_kv_heads, "group": model.group(), "head_dim": model.head_dim },
        "layers": layers, "heads": heads, "grids": grids,
        "reference_eps": pool::reference_eps(analysis).map(|eps| eps.to_string()),
        "shares": analysis.shares, "bridge": analysis.bridge, "steps": STEPS,
        "samples": samples.collect::<Vec<_>>(), "parts": tensors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_count_the_thresholds_below_a_cosine() {
        assert_eq!(threshold_code(-1.0), 0);
        assert_eq!(threshold_code(1.0), 2000);
        assert_eq!(threshold_code(f32::NAN), UNDEFINED);
        // Above 0.750 as f32 and not above itself.
        let eps = 0.75f32;
        assert_eq!(threshold_code(eps), 1750);
        assert_eq!(threshold_code(eps.next_up()), 1751);
        for (step, text) in [(1300, "0.3"), (1123, "0.123"), (400, "-0.6")] {
            let eps: f32 = text.parse().unwrap();
            assert_eq!((threshold_code(eps), threshold_code(eps.next_up())), (step, step + 1), "{text}");
        }
    }

    #[test]
    fn orders_fall_and_steps_add_up() {
        let values = [0.5, f32::NAN, 0.75, 0.5, -1.0];
        let order = falling(&values);
        assert_eq!(order, [2, 0, 3, 4, 1]);
        let codes: Vec<u16> = order.iter().map(|at| threshold_code(values[usize::from(*at)])).collect();
        let mut sum = 0u16;
        let back: Vec<u16> = steps_down(codes.iter().copied())
            .into_iter()
            .map(|step| {
                sum = sum.wrapping_sub(step);
                sum
            })
            .collect();
        assert_eq!(back, codes);
    }

    #[test]
    fn bytes_stand_in_planes() {
        let mut part = Part::new("p".into());
        part.add_u16("x", &[0x0102, 0x0304]);
        assert_eq!((part.bytes.as_slice(), part.tensors[0]), (&[2, 4, 1, 3][..], ("x", "u16", 2)));
    }
}
