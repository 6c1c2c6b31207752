//! A model from the Hugging Face hub into the cache folder that Hugging Face's own tools share.
//!
//! The names of the repository's addresses come from the hf-hub crate, requests and transfers from `transfer`. A file is linked into its
//! snapshot after its digest was compared with the one the hub states: SHA-256 for large files, git's blob id for others.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use sha1::Digest;

use crate::checkpoint::{INDEX, Part};
use crate::files::{FileError, InputHash, create_dir, open_regular, sha256_file, write_atomic};
use crate::hub::cache::{RepoFolder, read_index};
use crate::hub::name::is_hex;
use crate::hub::selection::{Selection, select};
use crate::hub::transfer::{Client, Transfer, header};
use crate::hub::{HubError, HubName, Progress, PullOptions, Pulled};

/// Gets the model, or finds it in the cache. A full commit id that is there needs no network.
pub(crate) fn pull(name: &HubName, options: &PullOptions, progress: &mut dyn Progress) -> Result<Pulled, HubError> {
    let hub = options.settings.dirs.hub()?;
    let folder = RepoFolder::new(hub, name);
    if options.settings.offline || (is_hex(&name.revision, 40) && !options.verify) {
        if let Some(path) = folder.model(name) {
            return describe_cached(&path, options.verify);
        }
        if options.settings.offline {
            return Err(HubError::Offline { name: name.to_string(), looked_in: folder.path().to_path_buf() });
        }
    }
    let client = Client::new(options.settings.token.clone(), options.settings.retries);
    let page = format!("{}/{}", options.settings.endpoint, name.repo);
    let (commit, siblings) = listing(name, options, &client, &page)?;
    let selection = select(name, &siblings)?;
    let mut session = Session {
        name,
        snapshot: folder.snapshot(&commit),
        resolve: format!("{page}/resolve/{commit}"),
        folder,
        client,
        page,
        verify: options.verify,
        hashes: Vec::new(),
        bytes: 0,
        downloaded: 0,
    };
    let path = match selection {
        Selection::Gguf(parts) => {
            session.get_all(&parts, progress)?;
            session.snapshot.join(parts.first().map_or("", String::as_str))
        }
        Selection::Single(files) => {
            session.get_all(&files, progress)?;
            session.snapshot.clone()
        }
        Selection::Sharded(files) => {
            session.get_all(&files, progress)?;
            let no_weights = |found: String| HubError::NoWeights { repo: name.to_string(), found };
            let shards = read_index(&session.snapshot.join(INDEX)).map_err(no_weights)?;
            session.get_all(shards.iter(), progress)?;
            session.snapshot.clone()
        }
    };
    // Last, so that a name never stands for a model that is not whole.
    if !is_hex(&name.revision, 40) {
        let reference = session.folder.reference(&name.revision);
        reference.parent().map(create_dir).transpose()?;
        write_atomic(&reference, commit.as_bytes())?;
    }
    Ok(Pulled { path, bytes: session.bytes, sha256s: session.hashes, already_there: session.downloaded == 0 })
}

/// Commit of the revision, and the files that it has.
fn listing(
    name: &HubName,
    options: &PullOptions,
    client: &Client,
    page: &str,
) -> Result<(String, Vec<String>), HubError> {
    let repo = Repo::with_revision(name.repo.clone(), RepoType::Model, name.revision.clone());
    let url = format!("{}/api/{}", options.settings.endpoint, repo.api_url());
    let what = format!("repository {}, revision {}", name.repo, name.revision);
    let bad = |what: String| HubError::BadAnswer { url: url.clone(), what };
    let info: RepoInfo =
        serde_json::from_slice(&client.get(&what, &url, page)?).map_err(|error| bad(error.to_string()))?;
    if !is_hex(&info.sha, 40) {
        return Err(bad(format!("{:?} is no commit id", info.sha)));
    }
    Ok((info.sha, info.siblings.into_iter().map(|sibling| sibling.rfilename).collect()))
}

/// State of one pull.
struct Session<'a> {
    name: &'a HubName,
    folder: RepoFolder,
    snapshot: PathBuf,
    /// Address of the commit's files.
    resolve: String,
    client: Client,
    page: String,
    verify: bool,
    hashes: Vec<InputHash>,
    bytes: u64,
    downloaded: usize,
}

impl Session<'_> {
    fn get_all<'a>(
        &mut self,
        files: impl IntoIterator<Item = &'a String>,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        for file in files {
            self.get(file, progress)?;
        }
        Ok(())
    }

    fn get(&mut self, file: &str, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        let link = self.snapshot.join(file);
        if !self.is_cached(&link)? {
            let url = format!("{}/{file}", self.resolve);
            let what = format!("{file} of {}", self.name);
            let headers = self.client.head(&what, &url, &self.page)?;
            let bad = |what: &str| HubError::BadAnswer { url: url.clone(), what: what.into() };
            let etag = header(&headers, "x-linked-etag").or_else(|| header(&headers, "etag"));
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"')).unwrap_or_default();
            let expected = Checksum::parse(etag).ok_or_else(|| bad("its ETag is no SHA-256 and no git blob id"))?;
            let size = header(&headers, "x-linked-size").or_else(|| header(&headers, "content-length"));
            let size = size.and_then(|size| size.parse().ok()).ok_or_else(|| bad("it states no file size"))?;
            let blob = self.folder.path().join("blobs").join(etag);
            // Another revision may have the same content.
            let shared = std::fs::metadata(&blob).is_ok_and(|found| found.len() == size);
            if !(shared && expected.matches(&blob)?) {
                let part = blob.with_extension("kvscope-part");
                let transfer = Transfer { what: &what, url: &url, page: &self.page, size, part: part.clone() };
                self.client.fetch(&transfer, progress)?;
                if let Err(error) = expected.check(&what, &part) {
                    std::fs::remove_file(&part).map_err(|e| FileError::io("remove", &part, e))?;
                    return Err(error);
                }
                std::fs::rename(&part, &blob).map_err(|e| FileError::io("rename into place", &blob, e))?;
                self.downloaded += 1;
            }
            publish(&blob, &link)?;
        }
        let (hash, bytes) = identify(&link)?;
        self.hashes.push(hash);
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(link)
    }

    /// Whether the file is there and, if asked for, undamaged. A damaged file is removed.
    fn is_cached(&self, link: &Path) -> Result<bool, HubError> {
        if !link.is_file() {
            return Ok(false);
        }
        if !self.verify {
            return Ok(true);
        }
        // Where snapshots hold copies instead of links, the digest is not in the blob's name, and the hub is asked.
        let blob = std::fs::canonicalize(link).map_err(|e| FileError::io("read", link, e))?;
        let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(expected) = Checksum::parse(&name) else { return Ok(false) };
        if expected.matches(&blob)? {
            return Ok(true);
        }
        tracing::warn!("{} is damaged and will be fetched again", link.display());
        std::fs::remove_file(&blob).map_err(|e| FileError::io("remove", &blob, e))?;
        Ok(false)
    }
}

/// What a file's ETag says about its content.
enum Checksum {
    Sha256(String),
    GitBlob(String),
}

impl Checksum {
    fn parse(etag: &str) -> Option<Self> {
        match etag.len() {
            64 if is_hex(etag, 64) => Some(Self::Sha256(etag.into())),
            40 if is_hex(etag, 40) => Some(Self::GitBlob(etag.into())),
            _ => None,
        }
    }

    fn check(&self, what: &str, path: &Path) -> Result<(), HubError> {
        let (algorithm, expected, got) = match self {
            Self::Sha256(expected) => ("sha256", expected, sha256_file(path)?),
            Self::GitBlob(expected) => ("git sha1", expected, git_blob_id(path)?),
        };
        match &got == expected {
            true => Ok(()),
            false => Err(HubError::WrongHash { what: what.into(), algorithm, expected: expected.clone(), got }),
        }
    }

    fn matches(&self, path: &Path) -> Result<bool, HubError> {
        match self.check("", path) {
            Ok(()) => Ok(true),
            Err(HubError::WrongHash { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Id that git gives a file's content: SHA-1 of `blob LENGTH`, a zero byte and the bytes.
fn git_blob_id(path: &Path) -> Result<String, HubError> {
    let io = |e| FileError::io("read", path, e);
    let mut file = open_regular(path)?;
    let length = file.metadata().map_err(io)?.len();
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {length}\0"));
    let mut buffer = vec![0u8; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Name, SHA-256 and size of a file. A blob named by its SHA-256 was checked when it was published.
fn identify(link: &Path) -> Result<(InputHash, u64), HubError> {
    let blob = std::fs::canonicalize(link).map_err(|e| FileError::io("read", link, e))?;
    let bytes = std::fs::metadata(&blob).map_err(|e| FileError::io("read", &blob, e))?.len();
    let stored = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let sha256 = if is_hex(&stored, 64) { stored } else { sha256_file(&blob)? };
    let name = link.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((InputHash { name, sha256 }, bytes))
}

/// What the cache holds of a model. With `verify`, digests that are known without the hub are compared.
fn describe_cached(path: &Path, verify: bool) -> Result<Pulled, HubError> {
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| FileError::io("list", path, e))?;
        files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
    } else if let Some(part) = path.file_name().and_then(|name| Part::of(name.to_str()?)) {
        files = part.all().iter().map(|name| path.with_file_name(name)).collect();
    }
    let (mut sha256s, mut bytes) = (Vec::new(), 0u64);
    for file in &files {
        let blob = std::fs::canonicalize(file).map_err(|e| FileError::io("read", file, e))?;
        let stored = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(expected) = Checksum::parse(&stored).filter(|_| verify) {
            expected.check(&file.display().to_string(), &blob)?;
        }
        let (hash, size) = identify(file)?;
        sha256s.push(hash);
        bytes = bytes.saturating_add(size);
    }
    Ok(Pulled { path: path.to_path_buf(), bytes, sha256s, already_there: true })
}

/// Makes the blob appear in the snapshot: a relative link, as the shared layout has it, or a copy where links do not work.
fn publish(blob: &Path, link: &Path) -> Result<(), HubError> {
    if let Some(folder) = link.parent() {
        create_dir(folder)?;
    }
    match std::fs::remove_file(link) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(FileError::io("replace", link, e).into()),
        _ => {}
    }
    place(blob, link).map_err(|e| FileError::io("link", link, e).into())
}

#[cfg(unix)]
fn place(blob: &Path, link: &Path) -> std::io::Result<()> {
    // Both lie under models--ORG--NAME: up from the file's folder to that root, then down to the blob.
    let root = blob.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let up =
        link.parent().and_then(|folder| folder.strip_prefix(root).ok()).map_or(2, |inner| inner.components().count());
    let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
    target.push("blobs");
    target.extend(blob.file_name());
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn place(blob: &Path, link: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, link).or_else(|_| std::fs::copy(blob, link).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_blob_ids_are_gits() {
        // `printf 'hello\n' | git hash-object --stdin`, and git's well-known id of the empty blob.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"hello\n").unwrap();
        assert_eq!(git_blob_id(&path).unwrap(), "ce013625030ba8dba906f756967f9e9ca394464a");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(git_blob_id(&path).unwrap(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_to_the_blob_from_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("blobs").join("b");
        create_dir(blob.parent().unwrap()).unwrap();
        std::fs::write(&blob, b"x").unwrap();
        for file in ["f", "sub/f"] {
            let link = dir.path().join("snapshots/c").join(file);
            publish(&blob, &link).unwrap();
            publish(&blob, &link).unwrap();
            assert_eq!(std::fs::read(&link).unwrap(), b"x");
            assert!(std::fs::read_link(&link).unwrap().is_relative());
        }
    }
}
