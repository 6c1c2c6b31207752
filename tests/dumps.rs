//! Dumps as they are read: those that this program writes, and those of `tests/fixtures/foreign`, which a Python script wrote
//! with transformers.

mod kit {
    pub mod capture;
    pub mod cli;
    pub mod dump;
    pub mod error;
    pub mod fixtures;
    pub mod identity;
    pub mod json;
    pub mod model;
}

use std::path::Path;
use std::sync::atomic::AtomicBool;

use kit::capture::everything;
use kit::cli::{done, ends, kvscope};
use kit::dump::{Sample, manifest, write_dump};
use kit::error::relative_error;
use kit::identity::identity;
use kit::json;
use kit::model::model;
use kvscope::capture;
use kvscope::capture::{CaptureOptions, SampleInput};
use kvscope::files::{sha256_bytes, write_json};
use kvscope::format::dump::{Dump, DumpError, Manifest, SampleWriter, State, Tensor, TensorSpec};
use kvscope::format::run::Target;
use kvscope::math::Float;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

const DATASETS: [&str; 2] = ["phrase", "random"];

fn foreign(dataset: &str) -> String {
    format!("{}/tests/fixtures/foreign/{dataset}", env!("CARGO_MANIFEST_DIR"))
}

/// One sample of three tokens: keys 0, 0.5, 1, … and masses of a group of two query heads.
fn written(dir: &Path, dtype: Float) -> Dump {
    let manifest = Manifest { layers: vec![1], dtype, ..manifest(identity(2, 4, 2, 2), &[State::K, State::Mass]) };
    let sample = Sample { dataset: "d".into(), id: "0".into(), n_tokens: 3, n_queries: 0 };
    write_dump(dir, manifest, &[sample], &|_, tensor, _| match tensor {
        Tensor::State(_, State::K) => (0..12).map(|i| i as f32 * 0.5).collect(),
        // 6 over three queries, of which token t is seen by 3 - t.
        _ => vec![4.0, 1.5, 0.5, 3.0, 2.0, 1.0],
    })
}

#[test]
fn what_is_written_is_read_back_head_by_head() {
    for dtype in Float::ALL {
        let dir = tempfile::tempdir().unwrap();
        let dump = written(dir.path(), dtype);
        let sample = dump.sample(0).unwrap();
        assert_eq!(sample.vectors(1, State::K, 1).unwrap().flat(), [3.0, 3.5, 4.0, 4.5, 5.0, 5.5]);
        assert_eq!(sample.mass(1, 0).unwrap(), [4.0, 1.5, 0.5]);
        assert_eq!(sample.token_ids().unwrap(), [0, 1, 2]);
        let missing = sample.vectors(0, State::K, 0).unwrap_err();
        assert!(missing.to_string().contains("layers.0.k"), "{missing}");
        assert!(matches!(sample.vectors(1, State::K, 2), Err(DumpError::MissingHead { head: 2, .. })));
    }
}

#[test]
fn a_changed_or_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = written(dir.path(), Float::F16).manifest().clone();
    let path = dir.path().join("0.safetensors");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    let error = Dump::open(dir.path()).unwrap().sample(0).unwrap_err().to_string();
    assert!(error.contains("0.safetensors") && error.contains("manifest says"), "{error}");
    // The right size, but a header that claims more than there is.
    let mut bad = good.clone();
    bad[0] = 0xff;
    bad[1] = 0xff;
    std::fs::write(&path, bad).unwrap();
    assert!(matches!(Dump::open(dir.path()).unwrap().sample(0), Err(DumpError::Damaged { .. })));
    std::fs::write(&path, good).unwrap();
    manifest.model.head_dim = 4;
    write_json(&dir.path().join("manifest.json"), &manifest).unwrap();
    let error = Dump::open(dir.path()).unwrap().sample(0).unwrap_err().to_string();
    assert!(error.contains("layers.1.k has shape [2, 3, 2]"), "{error}");
    manifest.samples[0].file = "../0.safetensors".into();
    write_json(&dir.path().join("manifest.json"), &manifest).unwrap();
    assert!(matches!(Dump::open(dir.path()), Err(DumpError::Inconsistent { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Dump::open(empty.path()), Err(DumpError::NotADump(_))));
    assert!(matches!(Dump::open(Path::new("/no/such/dump")), Err(DumpError::File(_))));
}

#[test]
fn the_writer_holds_its_caller_to_the_declaration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let specs = || vec![TensorSpec { name: "x".into(), element: Dtype::F32, shape: vec![2] }];
    let mut writer = SampleWriter::create(&path, specs(), &[]).unwrap();
    assert!(matches!(writer.write_f32("y", &[1.0, 2.0]), Err(DumpError::OutOfTurn { .. })));
    let mut writer = SampleWriter::create(&path, specs(), &[]).unwrap();
    assert!(matches!(writer.write_f32("x", &[1.0]), Err(DumpError::Inconsistent { .. })));
    assert!(matches!(SampleWriter::create(&path, specs(), &[]).unwrap().finish(), Err(DumpError::OutOfTurn { .. })));
    assert!(!path.exists());
}

#[test]
fn every_command_that_reads_dumps_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let dumps = DATASETS.map(foreign);
    let both = [dumps[0].as_str(), dumps[1].as_str()];
    done(kvscope(dir, &[&["verify"], &both[..]].concat()));
    let facts: Value = serde_json::from_str(&done(kvscope(dir, &["--json", "inspect", both[0]]))).unwrap();
    assert_eq!(facts["tool"], "dump_from_cache.py");
    assert_eq!(facts["samples"].as_array().unwrap().len(), 2);
    let table = done(kvscope(dir, &[&["analyze", "--out", "reports/both", "--maps", "1:0"], &both[..]].concat()));
    assert!(DATASETS.iter().all(|dataset| table.contains(dataset)), "{table}");
    done(kvscope(dir, &[&["tune", "--budget", "0.6", "--refit", "none", "--policy", "h2o"], &both[..]].concat()));
    done(kvscope(dir, &["report", "reports/both"]));
    done(kvscope(dir, &["verify", "reports/both"]));
}

#[test]
fn they_hold_what_our_capture_of_the_same_tokens_holds() {
    let model = model("llama-gqa");
    for dataset in DATASETS {
        let theirs = Dump::open(Path::new(&foreign(dataset))).unwrap();
        let inputs: Vec<SampleInput> = (0..theirs.manifest().samples.len())
            .map(|i| {
                let sample = theirs.sample(i).unwrap();
                let tokens = sample.token_ids().unwrap();
                let id = sample.entry().id.clone();
                SampleInput { dataset: dataset.into(), id, n_tokens_full: tokens.len(), tokens }
            })
            .collect();
        let options = CaptureOptions { window_tokens: theirs.manifest().window_tokens, ..everything(&model) };
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(dir.path());
        capture::run(&model, &inputs, &[], &options, &target, &AtomicBool::new(false), &mut |_| {}).unwrap();
        let ours = Dump::open(dir.path()).unwrap();
        for i in 0..inputs.len() {
            let (a, b) = (ours.sample(i).unwrap(), theirs.sample(i).unwrap());
            for layer in 0..2 {
                for head in 0..2 {
                    for state in [State::K, State::V] {
                        let (a, b) = (a.vectors(layer, state, head).unwrap(), b.vectors(layer, state, head).unwrap());
                        // Half precision has 11 bits.
                        assert!(
                            relative_error(b.flat(), a.flat()) < 1e-3,
                            "{dataset} {i}, layer {layer}, {state:?}, head {head}"
                        );
                    }
                    let (a_mass, b_mass) = (a.mass(layer, head).unwrap(), b.mass(layer, head).unwrap());
                    assert!(relative_error(&b_mass, &a_mass) < 1e-5);
                    let (a_mass, b_mass) = (a.mass_window(layer, head).unwrap(), b.mass_window(layer, head).unwrap());
                    assert!(relative_error(&b_mass, &a_mass) < 1e-5);
                }
                let positions = b.query_positions(layer).unwrap();
                for head in 0..4 {
                    let all = a.vectors(layer, State::Q, head).unwrap();
                    let kept: Vec<f32> = positions.iter().flat_map(|p| all.rows().row(*p).to_vec()).collect();
                    assert!(relative_error(b.vectors(layer, State::Q, head).unwrap().flat(), &kept) < 1e-3);
                }
            }
        }
    }
}

/// Element type, shape and data.
type Typed = (Dtype, Vec<usize>, Vec<u8>);

/// A copy of a foreign dump that is to be damaged.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(foreign("phrase")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        Self(dir)
    }

    fn manifest(&self, change: impl FnOnce(&mut Value)) {
        json::edit(&self.0.path().join("manifest.json"), change);
    }

    /// Replaces the first sample's file, with size and digest in the manifest, so that only the content is wrong.
    fn sample(&self, change: impl FnOnce(&[u8]) -> Vec<u8>) {
        let path = self.0.path().join("00000-phrase.safetensors");
        let bytes = change(&std::fs::read(&path).unwrap());
        std::fs::write(&path, &bytes).unwrap();
        self.manifest(|manifest| {
            manifest["samples"][0]["bytes"] = bytes.len().into();
            manifest["samples"][0]["sha256"] = sha256_bytes(&bytes).into();
        });
    }

    /// The same file with the tensors that `change` gives back, `None` for one to leave out.
    fn tensors(&self, change: impl Fn(&str, Typed) -> Option<Typed>) {
        self.sample(|bytes| {
            let tensors: Vec<_> = SafeTensors::deserialize(bytes)
                .unwrap()
                .tensors()
                .into_iter()
                .filter_map(|(name, view)| {
                    let new = change(&name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))?;
                    Some((name, new))
                })
                .collect();
            let views = tensors.iter().map(|(name, (dtype, shape, data))| {
                (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
            });
            safetensors::serialize(views, None).unwrap()
        });
    }

    /// `verify` tells what is wrong.
    #[track_caller]
    fn is_faulty(&self, words: &[&str]) {
        let out = tempfile::tempdir().unwrap();
        ends(&kvscope(out.path(), &["verify", self.0.path().to_str().unwrap()]), 1, words);
    }

    /// So does `analyze`, without a panic and without a report left behind.
    #[track_caller]
    fn is_refused(&self, words: &[&str]) {
        self.is_faulty(words);
        let out = tempfile::tempdir().unwrap();
        ends(&kvscope(out.path(), &["analyze", self.0.path().to_str().unwrap(), "--out", "report"]), 2, words);
        assert!(!out.path().join("report/analysis.json").exists());
    }
}

#[test]
fn damaged_manifests_are_told() {
    let copy_with = |change: fn(&mut Value)| {
        let copy = Copy::new();
        copy.manifest(change);
        copy
    };
    let unreadable = |change, words: &[&str]| copy_with(change).is_refused(words);
    let faulty = |change, words: &[&str]| copy_with(change).is_faulty(words);
    unreadable(|m| m["schema"] = "kvscope.dump/2".into(), &["version 2 of kvscope.dump", "up to version 1"]);
    unreadable(|m| m["schema"] = "other/1".into(), &["manifest.json", "other"]);
    unreadable(|m| drop(m.as_object_mut().unwrap().remove("model")), &["manifest.json", "`model`"]);
    unreadable(|m| m["states"][0] = "keys".into(), &["manifest.json", "`keys`"]);
    unreadable(|m| m["dtype"] = "f64".into(), &["manifest.json", "`f64`"]);
    faulty(|m| m["layers"][1] = 2.into(), &["layer 2 of a model of 2 layers"]);
    faulty(|m| m["model"]["n_q_heads"] = 3.into(), &["3 query heads, 2 KV heads"]);
    faulty(|m| m["model"]["head_dim"] = 16.into(), &["layers.0.k has shape [2, 60, 8]"]);
    faulty(|m| m["model"]["n_kv_heads"] = 4.into(), &["layers.0.k has shape"]);
    faulty(|m| m["kv_heads"] = Value::from(vec![0]), &["layers.0.k has shape"]);
    faulty(|m| m["kv_heads"] = Value::from(vec![1, 0]), &["kv_heads [1, 0] do not rise"]);
    faulty(|m| m["states"] = Value::from(vec!["k", "v", "k_pre_rope"]), &["no tensor layers.0.k_pre_rope"]);
    faulty(|m| m["samples"][0]["file"] = "../x.safetensors".into(), &["not a plain, unique name"]);
    faulty(|m| m["samples"][0]["n_tokens"] = 61.into(), &["token_ids has shape [60]"]);
    faulty(|m| m["samples"][0]["sha256"] = "0".repeat(64).into(), &["SHA-256"]);
    faulty(|m| m["samples"][0]["bytes"] = 1.into(), &["where the manifest says 1"]);
    faulty(|m| m["planned_samples"] = 1.into(), &["2 samples where 1 were planned"]);
    let copy = Copy::new();
    std::fs::write(copy.0.path().join("manifest.json"), "{").unwrap();
    copy.is_refused(&["manifest.json"]);
}

#[test]
fn damaged_samples_are_told() {
    let refused = |change: &dyn Fn(&str, Typed) -> Option<Typed>, words: &[&str]| {
        let copy = Copy::new();
        copy.tensors(change);
        copy.is_faulty(words);
    };
    let only = |wanted: &'static str, change: fn(&mut Typed)| {
        move |name: &str, mut tensor: Typed| {
            if name == wanted {
                change(&mut tensor);
            }
            Some(tensor)
        }
    };
    // What is not changed passes, or the rest would prove nothing.
    let copy = Copy::new();
    copy.tensors(|_, tensor| Some(tensor));
    done(kvscope(copy.0.path(), &["verify", "."]));

    refused(&|name, tensor| (name != "layers.1.v").then_some(tensor), &["no tensor layers.1.v"]);
    refused(&only("layers.0.k", |tensor| tensor.1.swap(0, 1)), &["layers.0.k has shape [60, 2, 8]"]);
    refused(&only("layers.1.k", |tensor| tensor.0 = Dtype::BF16), &["layers.1.k is BF16 where F16 is due"]);
    refused(&only("layers.1.v", |tensor| tensor.2[1] = 0x7c), &["layers.1.v has", "row 0 of head 0"]);
    refused(&only("token_ids", |tensor| tensor.2[7] = 0x80), &["token id -"]);
    refused(&only("layers.0.q_positions", |tensor| tensor.2[1] = 9), &["query position"]);
    refused(&only("layers.0.attn_mass", |tensor| tensor.2[..4].fill(0)), &["layers.0.attn_mass of head 0 sums to"]);

    let copy = Copy::new();
    copy.sample(|bytes| bytes[..bytes.len() - 8].to_vec());
    copy.is_faulty(&["00000-phrase.safetensors is damaged"]);
    let copy = Copy::new();
    copy.sample(|bytes| [&[0xff; 8], &bytes[8..]].concat());
    copy.is_faulty(&["00000-phrase.safetensors is damaged"]);
    let copy = Copy::new();
    std::fs::remove_file(copy.0.path().join("00001-phrase.safetensors")).unwrap();
    copy.is_faulty(&["00001-phrase.safetensors"]);
}
