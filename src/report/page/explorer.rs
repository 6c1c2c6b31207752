//! What the explorer on the page is made of: numbers in parts, each packed by itself, so that the page unpacks what it shows.
//!
//! A part is some tensors, one behind the other. The bytes of a tensor's numbers stand in planes, all lowest bytes first, which packs
//! better; then the part is deflated (zlib) and written in base64. Which tensors a part has, with type and length, stands in the
//! explorer's JSON.

mod policies;

pub(in crate::report) use policies::NamedProfile;

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use half::bf16;
use miniz_oxide::deflate::compress_to_vec_zlib;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::files::ModelIdentity;
use crate::format::analysis::Analysis;
use crate::format::dump::State;
use crate::format::explorer::{self, ExploredSample, ExplorerFile, ExplorerTensor, blocks};
use crate::math::falling;
use crate::report::pool::Measure;
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
    /// What is left out of the page, in sentences.
    left_out: Option<String>,
    /// Whether the page asks a server for all other parts.
    pub(in crate::report) is_served: bool,
}

/// Name, type and number of numbers of every tensor of a part.
type Layout = Vec<(&'static str, &'static str, usize)>;

/// The parts that there are; `None` for those that say themselves how they are laid out.
type Layouts = BTreeMap<String, Option<Layout>>;

/// A part before it is packed.
struct Part {
    name: String,
    tensors: Layout,
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

/// The explorer of an analysis, with the profiles beside it, in at most `room` bytes; `None` when the analysis has none.
///
/// - Errors: a file that cannot be read or has changed
pub(in crate::report) fn explorer(
    input: &ReportInput,
    profiles: &[NamedProfile<'_>],
    room: usize,
) -> Result<Option<Explorer>, ReportError> {
    let Some(file) = &input.analysis.explorer else { return Ok(None) };
    let file = ExplorerFile::read(&input.analysis_dir, file)?;
    let samples = &file.explorer.samples;
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut tensors = Layouts::new();
    let mut used = document(input, samples, &tensors).1.len();
    for (part, packed) in policies::parts(profiles).into_iter().map(packed) {
        used += packed.len() + FRAME_BYTES;
        tensors.insert(part.name.clone(), Some(part.tensors));
        parts.push((part.name, packed));
    }
    let order = order(profiles, samples);
    for some in order.chunks(AT_ONCE) {
        // What cannot fit is not made: numbers hardly get shorter.
        let may_fit = |which: &Which| used + bytes_of(&file, *which) / 2 <= room;
        let made: Vec<Option<(Part, String)>> = some
            .par_iter()
            .map(|which| (which.is_always_there() || may_fit(which)).then(|| packed(part(&file, *which))))
            .collect();
        for (which, (part, packed)) in some.iter().zip(made).filter_map(|(which, made)| Some((which, made?))) {
            // A part's element and its line in the document take little.
            let bytes = packed.len() + FRAME_BYTES;
            if which.is_always_there() || used + bytes <= room {
                used += bytes;
                tensors.insert(part.name.clone(), Some(part.tensors));
                parts.push((part.name, packed));
            }
        }
    }
    parts.insert(0, document(input, samples, &tensors));
    let is_here = |which: &Which| tensors.contains_key(&which.name());
    let left_out = left_out(&order, is_here).into_iter().chain(not_shown(input, &file));
    Ok(Some(Explorer { parts, left_out: joined(left_out), is_served: false }))
}

/// The explorer's parts, each made when it is asked for.
#[derive(Debug)]
pub(in crate::report) struct Parts {
    file: ExplorerFile,
    by_name: HashMap<String, Which>,
}

impl Parts {
    /// A part: a line of JSON that tells name, type and number of numbers of its tensors, and their bytes; `None` where there is none
    /// of that name.
    pub(in crate::report) fn get(&self, name: &str) -> Option<Vec<u8>> {
        let part = part(&self.file, *self.by_name.get(name)?);
        let mut bytes = json!(part.tensors).to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend(part.bytes);
        Some(bytes)
    }
}

/// The explorer of an analysis without its numbers, and the parts that have them; `None` when the analysis has none.
///
/// - Errors: a file that cannot be read or has changed
pub(in crate::report) fn served(
    input: &ReportInput,
    profiles: &[NamedProfile<'_>],
) -> Result<Option<(Explorer, Parts)>, ReportError> {
    let Some(file) = &input.analysis.explorer else { return Ok(None) };
    let file = ExplorerFile::read(&input.analysis_dir, file)?;
    let by_name: HashMap<String, Which> =
        order(profiles, &file.explorer.samples).into_iter().map(|which| (which.name(), which)).collect();
    let mut tensors: Layouts = by_name.keys().map(|name| (name.clone(), None)).collect();
    let mut parts = Vec::new();
    for (part, packed) in policies::parts(profiles).into_iter().map(packed) {
        tensors.insert(part.name.clone(), Some(part.tensors));
        parts.push((part.name, packed));
    }
    parts.insert(0, document(input, &file.explorer.samples, &tensors));
    let left_out = joined(not_shown(input, &file).into_iter());
    Ok(Some((Explorer { parts, left_out, is_served: true }, Parts { file, by_name })))
}

/// The part that describes the others.
fn document(input: &ReportInput, samples: &[ExploredSample], tensors: &Layouts) -> (String, String) {
    let mut document = Part::new("document".into());
    document.add_text("document", &words(input, samples, tensors));
    (document.name.clone(), document.packed())
}

fn joined(sentences: impl Iterator<Item = String>) -> Option<String> {
    Some(sentences.collect::<Vec<_>>().join(" ")).filter(|all| !all.is_empty())
}

/// What no page of this analysis shows, in sentences.
fn not_shown(input: &ReportInput, file: &ExplorerFile) -> Vec<String> {
    left_behind(&file.explorer).into_iter().chain(input.analysis.not_explored_in_words()).collect()
}

/// A part with what it is when it is packed.
fn packed(part: Part) -> (Part, String) {
    let packed = part.packed();
    (part, packed)
}

/// What of all parts is not on the page, in a sentence.
fn left_out(order: &[Which], is_here: impl Fn(&Which) -> bool) -> Option<String> {
    let missing = |kind: fn(&Which) -> bool, what: &str| {
        let of_kind: Vec<&Which> = order.iter().filter(|which| kind(which)).collect();
        let n = of_kind.iter().filter(|which| !is_here(which)).count();
        (n > 0).then(|| format!("{n} of {} {what}", of_kind.len()))
    };
    let maps = missing(|which| matches!(which, Which::States(..)), "maps");
    let sets = missing(|which| matches!(which, Which::Series(..)), "layers' merging sets");
    let orders = missing(|which| matches!(which, Which::Order(..)), "layers' rankings by other scores than mass");
    let what: Vec<String> = maps.into_iter().chain(sets).chain(orders).collect();
    (!what.is_empty()).then(|| {
        format!(
            "Left out, to keep the page small: {}. kvscope report --serve shows all of them, and --page-mb takes a larger page.",
            what.join(", ")
        )
    })
}

/// Which layers are not explored because their window has left tokens of a text behind, in a sentence.
fn left_behind(explorer: &explorer::Explorer) -> Option<String> {
    let (model, longest) = (&explorer.model, explorer.samples.iter().map(|sample| sample.n_tokens).max()?);
    let n = (0..model.n_layers).filter(|layer| model.within_reach(*layer, longest).start > 0).count();
    (n > 0)
        .then(|| format!("{n} of {} layers have windows shorter than a text here, and no maps of it.", model.n_layers))
}

/// What a part is of: a sample by its number, and a layer or head of it.
#[derive(Clone, Copy, Debug)]
enum Which {
    Texts(usize),
    Series(usize, usize),
    Order(usize, usize, usize),
    States(usize, [usize; 2], State),
}

impl Which {
    /// Whether the page has it whatever its size.
    fn is_always_there(self) -> bool {
        matches!(self, Self::Texts(_))
    }

    fn name(self) -> String {
        match self {
            Self::Texts(sample) => format!("{sample}.texts"),
            Self::Series(sample, layer) => format!("{sample}.series.{layer}"),
            Self::Order(sample, layer, which) => format!("{sample}.order.{which}.{layer}"),
            Self::States(sample, [layer, head], state) => format!("{sample}.{layer}.{head}.{}", state.name()),
        }
    }
}

/// All parts, those that tell most first: texts; of each sample a map and what merges in its layer; the same head's other states; what
/// merges in all other layers; by what a profile here ranks tokens; the other heads; by what else tokens are ranked.
fn order(profiles: &[NamedProfile<'_>], samples: &[ExploredSample]) -> Vec<Which> {
    let ranking = policies::ranking(profiles);
    let all = || samples.iter().enumerate();
    let mut order: Vec<Which> = all().map(|(number, _)| Which::Texts(number)).collect();
    for (number, sample) in all() {
        let head = sample.shown.first().or(sample.heads.first());
        let map = head.zip(sample.states.first()).filter(|_| !sample.shown.is_empty());
        order.extend(map.map(|(head, state)| Which::States(number, *head, *state)));
        order.extend(head.filter(|head| sample.heads.contains(head)).map(|head| Which::Series(number, head[0])));
    }
    for (number, sample) in all() {
        let states = sample.states.iter().skip(1);
        order.extend(
            sample
                .shown
                .first()
                .into_iter()
                .flat_map(|head| states.clone().map(move |state| Which::States(number, *head, *state))),
        );
    }
    let (mut used, mut unused) = (Vec::new(), Vec::new());
    for (number, sample) in all() {
        let first = sample.shown.first().or(sample.heads.first()).map(|head| head[0]);
        let mut layers: Vec<usize> =
            sample.heads.iter().map(|head| head[0]).filter(|layer| Some(*layer) != first).collect();
        layers.sort_unstable();
        layers.dedup();
        order.extend(layers.iter().map(|layer| Which::Series(number, *layer)));
        let of_heads = first.filter(|layer| sample.heads.iter().any(|head| head[0] == *layer));
        for (which, spec) in sample.orders.iter().enumerate() {
            let all = of_heads.iter().chain(&layers).map(|layer| Which::Order(number, *layer, which));
            if policies::key(spec).is_some_and(|key| ranking.contains(&key)) {
                used.extend(all)
            } else {
                unused.extend(all)
            }
        }
    }
    order.extend(used);
    let most = samples.iter().map(|sample| sample.shown.len()).max().unwrap_or(0);
    for rank in 1..most {
        for (number, sample) in all() {
            let head = sample.shown.get(rank);
            order.extend(
                head.into_iter()
                    .flat_map(|head| sample.states.iter().map(move |state| Which::States(number, *head, *state))),
            );
        }
    }
    order.extend(unused);
    order
}

/// Places of a layer's heads among those of a sample.
fn places(sample: &ExploredSample, layer: usize) -> Vec<usize> {
    (0..sample.heads.len()).filter(|place| sample.heads[*place][0] == layer).collect()
}

/// Bytes of a part before it is packed, about.
fn bytes_of(file: &ExplorerFile, which: Which) -> usize {
    let (samples, model) = (&file.explorer.samples, &file.explorer.model);
    match which {
        Which::Texts(_) => 0,
        Which::Series(number, layer) => {
            places(&samples[number], layer).len() * samples[number].n_tokens * 4 * size_of::<u16>()
        }
        Which::Order(number, layer, _) => {
            places(&samples[number], layer).len() * samples[number].n_tokens * size_of::<u16>()
        }
        Which::States(number, _, state) => {
            let sample = &samples[number];
            let n_queries = if state == State::K { sample.n_queries * model.group() } else { 0 };
            (sample.n_tokens + n_queries) * model.head_dim * sample.dtype.bytes()
        }
    }
}

fn part(file: &ExplorerFile, which: Which) -> Part {
    let samples = &file.explorer.samples;
    let mut part = Part::new(which.name());
    match which {
        Which::Texts(number) => part.add_text("texts", &json!(samples[number].token_texts)),
        Which::Series(number, layer) => {
            let n_tokens = samples[number].n_tokens;
            let links = file.numbers(ExplorerTensor::Links(number));
            let mass = file.numbers(ExplorerTensor::Mass(number));
            let [mut link_order, mut link_codes, mut mass_order, mut mass_codes] = [const { Vec::new() }; 4];
            for head in places(&samples[number], layer) {
                let of_head = &links[head * (n_tokens - 1)..][..n_tokens - 1];
                let order = tokens(falling(of_head));
                link_codes.extend(steps_down(order.iter().map(|at| threshold_code(of_head[usize::from(*at)]))));
                link_order.extend(order);
                let of_head = &mass[head * n_tokens..][..n_tokens];
                let order = tokens(falling(of_head));
                let rounded = |at: &u16| bf16::from_f32(of_head[usize::from(*at)]).to_bits();
                mass_codes.extend(steps_down(order.iter().map(rounded)));
                mass_order.extend(order);
            }
            part.add_u16("link_order", &link_order);
            part.add_u16("link_codes", &link_codes);
            part.add_u16("mass_order", &mass_order);
            part.add_u16("mass_codes", &mass_codes);
        }
        Which::Order(number, layer, which) => {
            let (sample, mut order) = (&samples[number], Vec::new());
            let of_all = file.order(ExplorerTensor::Order(number, which));
            for head in places(sample, layer) {
                order.extend(&of_all[head * sample.n_tokens..][..sample.n_tokens]);
            }
            part.add_u16("order", &order);
        }
        Which::States(number, head, state) => {
            let sample = &samples[number];
            let mut add = |name, kind, width, tensor| {
                if let Some(bytes) = file.bytes(tensor) {
                    part.add(name, kind, width, bytes);
                }
            };
            let (kind, width) = (sample.dtype.name(), sample.dtype.bytes());
            add(state.name(), kind, width, ExplorerTensor::State(number, head, state));
            if let Some((name, _)) = HIGHEST.iter().find(|(_, of)| *of == state) {
                add(name, "u8", 1, ExplorerTensor::Highest(number, head, state));
            }
            if state != State::K {
                return part;
            }
            add("q", kind, width, ExplorerTensor::State(number, head, State::Q));
            if let Some(place) = sample.heads.iter().position(|other| *other == head) {
                let row = place * sample.n_tokens * 4..(place + 1) * sample.n_tokens * 4;
                let mass = file.bytes(ExplorerTensor::Mass(number)).and_then(|bytes| bytes.get(row));
                part.add("mass", "f32", 4, mass.unwrap_or_default());
            }
            let positions = file.bytes(ExplorerTensor::Positions(number, head[0])).unwrap_or_default();
            // Below 2^15, the longest sample.
            let position = |bytes: &[u8; 8]| i64::from_le_bytes(*bytes) as u16;
            part.add_u16("q_positions", &positions.as_chunks::<8>().0.iter().map(position).collect::<Vec<_>>());
        }
    }
    part
}

/// Names of the highest cosines of blocks in a part.
const HIGHEST: [(&str, State); 3] =
    [("k.highest", State::K), ("k_pre_rope.highest", State::KPreRope), ("v.highest", State::V)];

/// Tokens of a sample in two bytes each.
fn tokens(order: Vec<u32>) -> Vec<u16> {
    order.into_iter().map(|token| token as u16).collect()
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
fn words(input: &ReportInput, samples: &[ExploredSample], tensors: &Layouts) -> Value {
    let analysis = &input.analysis;
    let policies = policies::offered(samples);
    let samples = samples.iter().enumerate().map(|(number, sample)| {
        let blocks = blocks(sample.n_tokens).map(|(block, side)| json!({ "block": block, "side": side }));
        let is_here = |which: Which| tensors.contains_key(&which.name());
        let has_sets = |head: &&[usize; 2]| is_here(Which::Series(number, head[0]));
        let has_map = |head: &&[usize; 2]| sample.states.iter().any(|state| is_here(Which::States(number, **head, *state)));
        json!({
            "dataset": sample.dataset, "id": sample.id, "n_tokens": sample.n_tokens,
            "heads": sample.heads.iter().filter(has_sets).collect::<Vec<_>>(),
            "shown": sample.shown.iter().filter(has_map).collect::<Vec<_>>(), "states": sample.states, "highest": blocks,
            "orders": sample.orders.iter().map(|spec| policies::key(spec)).collect::<Vec<_>>(), "reaches": reaches(&analysis.model, sample.n_tokens),
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
        "policies": policies, "dumps": dump_names(analysis),
        "model": { "n_layers": model.n_layers, "n_kv_heads": model.n_kv_heads, "head_dim": model.head_dim },
        "layers": layers, "heads": heads, "grids": grids,
        "reference_eps": pool::reference_eps(analysis).map(|eps| eps.to_string()),
        "shares": analysis.shares, "bridge": analysis.bridge, "steps": STEPS,
        "samples": samples.collect::<Vec<_>>(), "parts": tensors,
    })
}

/// Of each layer, how many of a sample's tokens the whole cache holds; `None` where all layers hold all of them.
fn reaches(model: &ModelIdentity, n_tokens: usize) -> Option<Vec<usize>> {
    Some(model.reaches(n_tokens)).filter(|reaches| reaches.iter().any(|reach| *reach < n_tokens))
}

/// The dumps that were analysed, as far as the analysis tells.
fn dump_names(analysis: &Analysis) -> Vec<&str> {
    let dumps = analysis.provenance.options["dumps"].as_array();
    dumps.into_iter().flatten().filter_map(|dump| dump["name"].as_str()).collect()
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
        let order = tokens(falling(&values));
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
