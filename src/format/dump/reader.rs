//! Opens a dump: a manifest that does not contradict itself, and sample files one by one.

use std::path::Path;
use std::path::PathBuf;

use crate::files::read_own_json;
use crate::format::dump::DumpError;
use crate::format::dump::Manifest;
use crate::format::dump::Sample;
use crate::format::dump::contradictions::manifest_faults;
use crate::format::run::Run;

/// An opened dump.
#[derive(Debug)]
pub struct Dump {
    dir: PathBuf,
    manifest: Manifest,
}

impl Dump {
    /// Reads the manifest and checks that it does not contradict itself; sample files are opened later.
    pub fn open(dir: &Path) -> Result<Self, DumpError> {
        let path = dir.join(Manifest::FILE);
        if dir.is_dir() && path.symlink_metadata().is_err() {
            return Err(DumpError::NotADump { path: dir.into() });
        }
        let manifest: Manifest = read_own_json(&path)?;
        match manifest_faults(&manifest).into_iter().next() {
            Some(what) => Err(DumpError::inconsistent(&path, what)),
            None => Ok(Self { dir: dir.into(), manifest }),
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The dump's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the file of sample `index` and checks it against the manifest, all but its digest ([`Sample::verified`]).
    pub fn sample(&self, index: usize) -> Result<Sample<'_>, DumpError> {
        let entry = self.manifest.samples.get(index).ok_or_else(|| {
            DumpError::inconsistent(&self.dir, format!("sample {index} of {}", self.manifest.samples.len()))
        })?;
        Sample::open(&self.manifest, entry, self.dir.join(&entry.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Document;
    use crate::files::ModelIdentity;
    use crate::files::Provenance;
    use crate::files::write_json;
    use crate::format::dump::ElementType;
    use crate::format::dump::SampleEntry;
    use crate::format::dump::SampleWriter;
    use crate::format::dump::State;
    use crate::format::dump::TensorSpec;

    fn write_dump(dir: &Path, dtype: ElementType) -> Manifest {
        let mut manifest = Manifest {
            schema: Manifest::schema_id(),
            provenance: Provenance::new("capture", 0, serde_json::json!({}), vec![]),
            model: ModelIdentity {
                name: "toy".into(),
                architecture: "LlamaForCausalLM".into(),
                fingerprint: "f".into(),
                tokenizer_sha256: None,
                n_layers: 2,
                n_q_heads: 4,
                n_kv_heads: 2,
                head_dim: 2,
                rope_theta: 1e4,
                max_positions: 16,
            },
            states: vec![State::K, State::Mass],
            layers: vec![1],
            kv_heads: None,
            dtype,
            window_tokens: 32,
            token_classes: None,
            shard: None,
            planned_samples: 1,
            samples: Vec::new(),
        };
        let specs = manifest.tensor_specs(3, 0);
        let mut writer = SampleWriter::create(&dir.join("a.safetensors"), specs, &[("format", "pt".into())]).unwrap();
        writer.write_i64("token_ids", [7i64, 8, 9].into_iter()).unwrap();
        let keys: Vec<f32> = (0..12).map(|i| i as f32 * 0.5).collect();
        writer.write_f32("layers.1.k", &keys).unwrap();
        // A group of two query heads: 6 over three queries, of which token t is seen by 3 - t.
        let mass = [4.0, 1.5, 0.5, 3.0, 2.0, 1.0];
        writer.write_f32("layers.1.attn_mass", &mass).unwrap();
        writer.write_f32("layers.1.attn_mass_window", &mass).unwrap();
        let (sha256, bytes) = writer.finish().unwrap();
        manifest.samples.push(SampleEntry {
            index: 0,
            dataset: "d".into(),
            id: "0".into(),
            n_tokens: 3,
            n_prompt_tokens: 3,
            n_tokens_full: 5,
            file: "a.safetensors".into(),
            bytes,
            sha256,
        });
        write_json(&dir.join("manifest.json"), &manifest).unwrap();
        manifest
    }

    #[test]
    fn what_is_written_is_read_back_head_by_head() {
        for dtype in [ElementType::F16, ElementType::Bf16, ElementType::F32] {
            let dir = tempfile::tempdir().unwrap();
            let manifest = write_dump(dir.path(), dtype);
            let dump = Dump::open(dir.path()).unwrap();
            assert_eq!(dump.manifest(), &manifest);
            let sample = dump.sample(0).unwrap();
            assert_eq!(sample.vectors(1, State::K, 1).unwrap(), [3.0, 3.5, 4.0, 4.5, 5.0, 5.5]);
            assert_eq!(sample.mass(1, 0).unwrap(), [4.0, 1.5, 0.5]);
            assert_eq!(sample.token_ids().unwrap(), [7, 8, 9]);
            let missing = sample.vectors(0, State::K, 0).unwrap_err();
            assert!(missing.to_string().contains("layers.0.k"), "{missing}");
            assert!(matches!(sample.vectors(1, State::K, 2), Err(DumpError::MissingHead { head: 2, .. })));
        }
    }

    #[test]
    fn a_changed_or_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = write_dump(dir.path(), ElementType::F16);
        let path = dir.path().join("a.safetensors");
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        let error = Dump::open(dir.path()).unwrap().sample(0).unwrap_err().to_string();
        assert!(error.contains("a.safetensors") && error.contains("manifest says"), "{error}");
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
        manifest.samples[0].file = "../a.safetensors".into();
        write_json(&dir.path().join("manifest.json"), &manifest).unwrap();
        assert!(matches!(Dump::open(dir.path()), Err(DumpError::Inconsistent { .. })));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(Dump::open(empty.path()), Err(DumpError::NotADump { .. })));
        assert!(matches!(Dump::open(Path::new("/no/such/dump")), Err(DumpError::File(_))));
    }

    #[test]
    fn the_writer_holds_its_caller_to_the_declaration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let specs = || vec![TensorSpec { name: "x".into(), element: ElementType::F32, shape: vec![2] }];
        let mut writer = SampleWriter::create(&path, specs(), &[]).unwrap();
        assert!(matches!(writer.write_f32("y", &[1.0, 2.0]), Err(DumpError::OutOfTurn { .. })));
        let mut writer = SampleWriter::create(&path, specs(), &[]).unwrap();
        assert!(matches!(writer.write_f32("x", &[1.0]), Err(DumpError::Inconsistent { .. })));
        assert!(matches!(
            SampleWriter::create(&path, specs(), &[]).unwrap().finish(),
            Err(DumpError::OutOfTurn { .. })
        ));
        assert!(!path.exists());
    }
}
