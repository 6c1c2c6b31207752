//! Which samples of which dumps are read, in which order; everything that can be refused is refused here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::analyze::maps::MAX_MAP_TOKENS;
use crate::analyze::{AnalyzeError, AnalyzeOptions};
use crate::files::{InputHash, sha256_bytes, sha256_file};
use crate::format::dump::{Dump, Manifest, SampleEntry, State};
use crate::format::run::Run;

/// Most heads over all layers of a model; each has counters of about 300 KB. The largest published models have under 6,000.
const MAX_HEADS: usize = 1 << 14;

/// One data set's samples.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DatasetPlan {
    pub(crate) dataset: String,
    /// Key and value states that every sample has.
    pub(crate) states: Vec<State>,
    /// Whether every sample has keys and masses.
    pub(crate) has_sets: bool,
    /// Whether every sample has keys, values, masses and queries.
    pub(crate) has_queries: bool,
    /// Dump and index within it.
    pub(crate) samples: Vec<(usize, usize)>,
}

/// The whole run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunPlan {
    pub(crate) layers: Vec<usize>,
    /// KV heads of every layer, rising.
    pub(crate) kv_heads: Vec<usize>,
    pub(crate) datasets: Vec<DatasetPlan>,
    /// Samples whose tokens are those of an earlier one, which are left out: the earlier one and the sample, as data set and row id.
    pub(crate) same_texts: Vec<[String; 2]>,
    /// Per dump, for provenance: name, states, samples planned and found.
    pub(crate) dumps: Vec<Value>,
    pub(crate) inputs: Vec<InputHash>,
}

impl RunPlan {
    pub(crate) fn new(dumps: &[Dump], options: &AnalyzeOptions) -> Result<Self, AnalyzeError> {
        let Some(first) = dumps.iter().find(|dump| !dump.manifest().samples.is_empty()) else {
            return Err(AnalyzeError::NoSamples(dumps.len()));
        };
        let model = &first.manifest().model;
        let layers = sorted_layers(first);
        if model.n_layers.saturating_mul(model.n_kv_heads) > MAX_HEADS {
            return Err(AnalyzeError::TooManyHeads {
                path: first.dir().into(),
                n_layers: model.n_layers,
                n_kv_heads: model.n_kv_heads,
                limit: MAX_HEADS,
            });
        }
        let kv_heads = held(first);
        let (datasets, same_texts, dump_facts, inputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut plan = Self { layers, kv_heads, datasets, same_texts, dumps: dump_facts, inputs };
        let mut seen = Seen::default();
        for (index, dump) in dumps.iter().enumerate() {
            plan.check_dump(first, dump)?;
            plan.add_dump(index, dumps, &mut seen)?;
        }
        plan.check_maps(dumps, options)?;
        Ok(plan)
    }

    fn check_dump(&self, first: &Dump, dump: &Dump) -> Result<(), AnalyzeError> {
        let (expected, got) = (&first.manifest().model, &dump.manifest().model);
        let shape = |d: &Dump| {
            let m = &d.manifest().model;
            (m.n_layers, m.n_q_heads, m.n_kv_heads, m.head_dim)
        };
        if expected.fingerprint != got.fingerprint || shape(first) != shape(dump) {
            return Err(AnalyzeError::DifferentModels {
                first: first.dir().into(),
                expected: format!("{} ({})", expected.name, expected.fingerprint),
                path: dump.dir().into(),
                got: format!("{} ({})", got.name, got.fingerprint),
            });
        }
        let layers = sorted_layers(dump);
        let different = |what, expected: &[usize], got: &[usize]| AnalyzeError::DifferentLayers {
            what,
            first: first.dir().into(),
            expected: format!("{expected:?}"),
            path: dump.dir().into(),
            got: format!("{got:?}"),
        };
        if layers != self.layers {
            return Err(different("layers", &self.layers, &layers));
        }
        if held(dump) != self.kv_heads {
            return Err(different("KV heads", &self.kv_heads, &held(dump)));
        }
        let states = &dump.manifest().states;
        if layers.is_empty() || !states.iter().any(|state| State::VECTORS.contains(state)) {
            let found = if layers.is_empty() { "no layers".into() } else { names(states) };
            return Err(AnalyzeError::NoVectors { path: dump.dir().into(), found });
        }
        Ok(())
    }

    fn add_dump<'a>(&mut self, index: usize, dumps: &'a [Dump], seen: &mut Seen<'a>) -> Result<(), AnalyzeError> {
        let dump = &dumps[index];
        let manifest = dump.manifest();
        for (sample, entry) in manifest.samples.iter().enumerate() {
            // A dump may have two rows of one name; the same row of two dumps is one text, however it was captured.
            let earlier = seen.rows.get(&(entry.dataset.as_str(), entry.id.as_str()));
            if let Some((first, _)) = earlier.filter(|(first, file)| *first != index || **file == entry.sha256) {
                return Err(AnalyzeError::Duplicate {
                    dataset: entry.dataset.clone(),
                    id: entry.id.clone(),
                    first: dumps[*first].dir().into(),
                    path: dump.dir().into(),
                });
            }
            seen.rows.insert((&entry.dataset, &entry.id), (index, &entry.sha256));
            let name = format!("{}/{}", entry.dataset, entry.id);
            if let Some(first) = seen.text_of(dump.sample(sample)?.token_ids()?, &name) {
                self.same_texts.push([first, name]);
                continue;
            }
            let has = |state: State| manifest.states.contains(&state);
            let has_sets = has(State::K) && has(State::Mass);
            let has_queries = has_sets && has(State::V) && has(State::Q);
            match self.datasets.iter_mut().find(|d| d.dataset == entry.dataset) {
                Some(dataset) => {
                    dataset.states.retain(|state| has(*state));
                    dataset.has_sets &= has_sets;
                    dataset.has_queries &= has_queries;
                    dataset.samples.push((index, sample));
                }
                None => self.datasets.push(DatasetPlan {
                    dataset: entry.dataset.clone(),
                    states: State::VECTORS.into_iter().filter(|state| has(*state)).collect(),
                    has_sets,
                    has_queries,
                    samples: vec![(index, sample)],
                }),
            }
        }
        let name = run_name(dump.dir());
        self.dumps.push(serde_json::json!({
            "name": name,
            "states": manifest.states,
            "planned_samples": manifest.planned_samples,
            "found_samples": manifest.samples.len(),
        }));
        let sha256 = sha256_file(&dump.dir().join(Manifest::FILE))?;
        self.inputs.push(InputHash { name: format!("{name}/manifest.json"), sha256 });
        Ok(())
    }

    fn check_maps(&self, dumps: &[Dump], options: &AnalyzeOptions) -> Result<(), AnalyzeError> {
        for request in &options.maps {
            let fault = |what| {
                let (layer, kv_head, state) = (request.layer, request.kv_head, request.state);
                Err(AnalyzeError::NoMap { layer, kv_head, state, what })
            };
            if !self.layers.contains(&request.layer) {
                return fault(format!("layers {:?} were captured", self.layers));
            }
            if !self.kv_heads.contains(&request.kv_head) {
                return fault(format!("KV heads {:?} were captured", self.kv_heads));
            }
            for dataset in &self.datasets {
                if !dataset.states.contains(&request.state) {
                    return fault(format!("of {}, {} were captured", dataset.dataset, names(&dataset.states)));
                }
                for sample in dataset.samples.iter().take(options.map_samples) {
                    let entry = entry(dumps, *sample);
                    if entry.n_tokens > MAX_MAP_TOKENS {
                        let n = entry.n_tokens;
                        return fault(format!("sample {} has {n} tokens, a map at most {MAX_MAP_TOKENS}", entry.id));
                    }
                }
            }
        }
        Ok(())
    }

    /// Every layer and KV head.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        self.layers.iter().flat_map(|layer| self.kv_heads.iter().map(move |head| (*layer, *head)))
    }

    pub(crate) fn n_samples(&self) -> usize {
        self.datasets.iter().map(|dataset| dataset.samples.len()).sum()
    }
}

/// What was met so far.
#[derive(Default)]
struct Seen<'a> {
    /// Dump and digest of every row, by data set and id.
    rows: HashMap<(&'a str, &'a str), (usize, &'a String)>,
    /// Name of the first sample of every text, by the digest of its tokens.
    texts: HashMap<String, String>,
}

impl Seen<'_> {
    /// The earlier sample of the same tokens, if there is one. One number again and again is no text, but what a program writes that
    /// knows no ids.
    fn text_of(&mut self, ids: Vec<u32>, name: &str) -> Option<String> {
        if ids.len() > 1 && ids.iter().all(|id| *id == ids[0]) {
            return None;
        }
        let bytes: Vec<u8> = ids.into_iter().flat_map(u32::to_le_bytes).collect();
        match self.texts.entry(sha256_bytes(&bytes)) {
            Entry::Occupied(first) => Some(first.get().clone()),
            Entry::Vacant(place) => {
                place.insert(name.into());
                None
            }
        }
    }
}

/// The manifest's line about a planned sample.
pub(crate) fn entry(dumps: &[Dump], (dump, sample): (usize, usize)) -> &SampleEntry {
    &dumps[dump].manifest().samples[sample]
}

fn sorted_layers(dump: &Dump) -> Vec<usize> {
    let mut layers = dump.manifest().layers.clone();
    layers.sort_unstable();
    layers.dedup();
    layers
}

fn held(dump: &Dump) -> Vec<usize> {
    dump.manifest().held_kv_heads().collect()
}

fn names(states: &[State]) -> String {
    states.iter().map(|state| state.name()).collect::<Vec<_>>().join(", ")
}

/// Name of a dump's folder, also when it was given as `.` or `..`.
fn run_name(dir: &Path) -> String {
    let absolute: PathBuf = if dir.file_name().is_some() { dir.into() } else { dir.canonicalize().unwrap_or_default() };
    absolute.file_name().map_or_else(|| "dump".into(), |name| name.to_string_lossy().into_owned())
}
