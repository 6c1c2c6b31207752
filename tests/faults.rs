//! Runs that are killed at random moments, share a folder, fill a disk, or find a file changed: real processes on a tiny model.
//!
//! `KVSCOPE_KILLS=50 cargo test --release --test faults -- --nocapture` kills every command so often and prints a table.

mod kit {
    pub mod cli;
    pub mod files;
    pub mod tiny;
}

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kit::cli::{command, done, ends, kvscope};
use kit::files::contents;
use kit::tiny::{MODEL, texts, write_prompts};
use kvscope::files::LOCK_NAME;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Kills of each command unless `KVSCOPE_KILLS` says otherwise.
const KILLS: usize = 3;
/// A command that runs longer hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// A command as it is typed, with `OUT` for its folder.
struct Stage {
    name: &'static str,
    args: Vec<String>,
    /// Whether it goes on with `--resume`, and the file that shows that it has begun.
    resumes: Option<&'static str>,
}

/// A folder with prompts, a dump and an analysis, and the commands that are killed in it.
struct Bench {
    dir: tempfile::TempDir,
    stages: Vec<Stage>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_prompts(dir.path(), &texts(16));
        let stage = |name, resumes, words: &str| Stage {
            name,
            args: words.split(' ').map(|word| if word == "MODEL" { MODEL.into() } else { word.into() }).collect(),
            resumes,
        };
        let stages = vec![
            stage(
                "capture",
                Some("manifest.json"),
                "capture --model MODEL --prompts prompts.jsonl --max-tokens 100 --dtype f32 --out OUT",
            ),
            stage(
                "eval",
                Some("eval.json"),
                "eval --model MODEL --prompts prompts.jsonl --context 60 --continuation 12 --policy h2o --policy kvmerger --budget 0.5 --out OUT",
            ),
            stage("analyze", None, "analyze dump --maps 0:0,1:1 --out OUT"),
            stage("tune", None, "tune dump --budget 0.5,0.6 --out OUT"),
            stage("report", None, "report rep --figure similarity-heads --figure similarity-map --out OUT"),
        ];
        let bench = Self { dir, stages };
        done(bench.run(&bench.with_out(0, "dump")));
        done(bench.run(&bench.with_out(2, "rep")));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn with_out(&self, stage: usize, out: &str) -> Vec<String> {
        self.stages[stage].args.iter().map(|word| if word == "OUT" { out.into() } else { word.clone() }).collect()
    }

    fn start(&self, args: &[String]) -> Child {
        command(self.dir.path(), &typed(args))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, args: &[String]) -> Output {
        kvscope(self.dir.path(), &typed(args))
    }

    /// Whether a killed run of the stage left something that `--resume` goes on with.
    fn is_begun(&self, stage: &Stage, out: &str) -> bool {
        stage.resumes.is_some_and(|file| self.path(out).join(file).exists())
    }

    fn next_args(&self, stage: usize, out: &str) -> Vec<String> {
        let mut args = self.with_out(stage, out);
        if self.is_begun(&self.stages[stage], out) {
            args.push("--resume".into());
        }
        args
    }

    /// Everything that a stage writes below a folder; a report also writes its page beside the analysis.
    fn content(&self, stage: &Stage, out: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = contents(&self.path(out));
        if stage.name == "report" {
            files.insert("page".into(), std::fs::read(self.path("rep/report.html")).unwrap_or_default());
        }
        files
    }
}

fn typed(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).chain(["--threads", "1"]).collect()
}

/// Waits for a moment, then sends the signal unless the process has ended; its exit code, `None` where the signal ended it.
fn kill(mut child: Child, after: Duration, signal: &str) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < after && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    if child.try_wait().unwrap().is_none() {
        Command::new("kill").args([signal, &child.id().to_string()]).output().unwrap();
    }
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < LONGEST, "does not end on {signal}");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait().unwrap().code()
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let kills: usize =
        std::env::var_os("KVSCOPE_KILLS").map_or(KILLS, |n| n.to_string_lossy().parse().expect("a number of kills"));
    let bench = Bench::new();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    println!("| command | kills | ended by the signal | not as undisturbed |");
    for (at, stage) in bench.stages.iter().enumerate() {
        let reference = format!("whole-{}", stage.name);
        let start = Instant::now();
        done(bench.run(&bench.with_out(at, &reference)));
        let (took, want) = (start.elapsed(), bench.content(stage, &reference));
        let (mut n_kills, mut n_ended, mut n_other) = (0, 0, 0);
        while n_kills < kills {
            let out = format!("{}-{n_kills}", stage.name);
            // Every third is killed again while it goes on.
            for _ in 0..=usize::from(n_kills % 3 == 2) {
                let signal = if n_kills % 2 == 0 { "-KILL" } else { "-INT" };
                let child = bench.start(&bench.next_args(at, &out));
                let code = kill(child, took.mul_f64(random.random_range(0.02..1.0)), signal);
                assert!(matches!(code, None | Some(0 | 2)), "{} ended with {code:?}", stage.name);
                n_ended += usize::from(code != Some(0));
                n_kills += 1;
                for (name, bytes) in contents(&bench.path(&out)) {
                    let grows = ["manifest.json", "eval.json", "rows.jsonl"].contains(&&*name);
                    assert!(
                        grows || name.ends_with(".tmp") || want.get(&name) == Some(&bytes),
                        "{name} is half written"
                    );
                }
            }
            done(bench.run(&bench.next_args(at, &out)));
            n_other += usize::from(bench.content(stage, &out) != want);
        }
        println!("| {} | {n_kills} | {n_ended} | {n_other} |", stage.name);
        assert_eq!(n_other, 0, "{} is not as undisturbed", stage.name);
    }
}

#[test]
fn a_folder_has_one_writer_and_a_lock_left_behind_holds_nobody_up() {
    let bench = Bench::new();
    for (at, stage) in bench.stages.iter().enumerate() {
        let out = format!("two-{}", stage.name);
        let args = bench.with_out(at, &out);
        let lock = kvscope::files::FolderLock::take(&bench.path(&out)).unwrap();
        ends(&bench.run(&args), 2, &["another kvscope is writing"]);
        drop(lock);
        // As a crash leaves it.
        std::fs::create_dir_all(bench.path(&out)).unwrap();
        std::fs::write(bench.path(&out).join(LOCK_NAME), b"").unwrap();
        done(bench.run(&args));
        assert!(!bench.path(&out).join(LOCK_NAME).exists());
    }
    // Two at once: each row and sample is written once, whoever writes it.
    for at in [0, 1] {
        let args = bench.with_out(at, &format!("at-once-{at}"));
        let ends = [bench.start(&args), bench.start(&args)].map(|child| child.wait_with_output().unwrap());
        assert!(ends.iter().all(|end| matches!(end.status.code(), Some(0 | 2))));
        let whole = contents(&bench.path(&format!("two-{}", bench.stages[at].name)));
        assert_eq!(contents(&bench.path(&format!("at-once-{at}"))), whole);
    }
}

#[test]
fn a_file_changed_behind_our_back_is_noticed() {
    let bench = Bench::new();
    let sample = bench.path("dump/00003-odd.safetensors");
    let good = std::fs::read(&sample).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&sample, &bad).unwrap();
    for stage in [2, 3] {
        ends(&bench.run(&bench.with_out(stage, "changed")), 2, &["00003-odd.safetensors has changed"]);
        let left = contents(&bench.path("changed"));
        assert!(!left.keys().any(|name| name.ends_with(".json")), "a result was written");
    }
    let mut resume = bench.with_out(0, "dump");
    resume.push("--resume".into());
    let resumed = bench.run(&resume);
    ends(&resumed, 0, &["has changed"]);
    assert_eq!(std::fs::read(&sample).unwrap(), good);

    done(bench.run(&bench.with_out(1, "eval")));
    let rows = bench.path("eval/rows.jsonl");
    let text = std::fs::read_to_string(&rows).unwrap();
    std::fs::write(&rows, text.replacen("\"merged\":", "\"merged\":1", 1)).unwrap();
    let mut resume = bench.with_out(1, "eval");
    resume.push("--resume".into());
    ends(&bench.run(&resume), 2, &["was changed after it was written"]);
    // A row that is taken away is made again, in its place.
    std::fs::write(&rows, text.split_once('\n').unwrap().1).unwrap();
    done(bench.run(&resume));
    assert_eq!(std::fs::read_to_string(&rows).unwrap(), text);
}

#[test]
fn a_file_that_may_not_grow_leaves_no_litter() {
    let bench = Bench::new();
    for (at, stage) in bench.stages.iter().enumerate() {
        for kilobytes in [1, 4, 16] {
            let out = format!("small-{}-{kilobytes}", stage.name);
            let words = bench.with_out(at, &out).join("' '");
            // A full disk as the process sees it: no file may grow beyond the limit.
            let script =
                format!("trap '' XFSZ; ulimit -f {kilobytes}; exec '{}' '{words}'", env!("CARGO_BIN_EXE_kvscope"));
            let end = Command::new("bash").args(["-c", &script]).current_dir(bench.dir.path()).output().unwrap();
            assert!(matches!(end.status.code(), Some(0 | 2)), "{}", String::from_utf8_lossy(&end.stderr));
            let litter = contents(&bench.path(&out)).into_keys().find(|name| name.contains(".tmp"));
            assert_eq!(litter, None, "{} within {kilobytes} kB", stage.name);
        }
    }
}
