//! What the targets share: a folder in memory with good files, of which each target replaces one by the fuzzer's bytes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvscope::model::Model;
use kvscope::model::tokenizer::{AddSpecial, SkipSpecial};

/// A text with letters, blanks, numbers, bytes outside the vocabularies and what looks like a special token.
pub const TEXT: &str = "Once upon a time,\n\n there were 3 </s> \u{e9}\u{1f600}\u{0}s.";

/// The process' folder, filled once with the files of `good`, a folder of the repository or of the seeds.
pub fn folder(good: Option<&Path>) -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        for entry in good.into_iter().flat_map(|good| std::fs::read_dir(good).expect("run seeds.sh first")) {
            let path = entry.unwrap().path();
            if path.is_file() {
                restore(&path, &dir.path().join(path.file_name().unwrap()));
            }
        }
        dir
    });
    folder.path()
}

/// Puts a good file back. `std::fs::copy` would end at the fuzzer's own timer signal; reading and writing go on.
pub fn restore(good: &Path, to: &Path) {
    std::fs::write(to, std::fs::read(good).unwrap()).unwrap();
}

/// A fixture of the repository.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models").join(name)
}

/// What `seeds.sh` made beside the corpora.
pub fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("made").join(name)
}

/// Loads a model and uses its tokenizer, template and, with few tokens, itself.
pub fn use_model(path: &Path) {
    let Ok(model) = Model::load(path) else { return };
    let Ok(tokenizer) = model.tokenizer() else { return };
    let Ok(tokens) = tokenizer.encode(TEXT, AddSpecial::Yes) else { return };
    let _ = tokenizer.decode(&tokens, SkipSpecial::Yes);
}
