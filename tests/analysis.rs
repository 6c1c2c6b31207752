//! Analysis of small dumps whose figures are known by hand.

mod kit {
    pub mod dump;
    pub mod identity;
    pub mod planted;
}

use std::path::{Path, PathBuf};

use kit::planted::{DIM, Planted, Vectors, plant};
use kvscope::analyze::{AnalyzeError, AnalyzeOptions, MapRequest, analyze, summary};
use kvscope::files::{read_json, sha256_file, write_json};
use kvscope::format::analysis::Analysis;
use kvscope::format::dump::{Dump, DumpError, Manifest, State};
use kvscope::format::explorer;
use kvscope::format::explorer::{ExplorerFile, ExplorerTensor};
use kvscope::hint::Hint;
use kvscope::merge::Shares;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;

const NONE_PROTECTED: Shares = Shares { recent: 0.0, heavy: 0.0 };

/// A multiple of the unit vector of that index; `None` is zero.
fn axis(index: Option<usize>, length: f32) -> [f32; DIM] {
    let mut vector = [0.0; DIM];
    if let Some(index) = index {
        vector[index] = length;
    }
    vector
}

/// The first `run` tokens alike, every later one at right angles to the one before.
fn run_of(run: usize, token: usize) -> [f32; DIM] {
    if token < run { axis(Some(0), 1.0 + token as f32) } else { axis(Some(1 + (token - run) % 3), 2.0) }
}

fn run(dumps: &[Dump], options: &AnalyzeOptions, out: &Path) -> Result<Analysis, AnalyzeError> {
    analyze(dumps, options, out, &mut |_, _| {})
}

fn close(got: Option<f64>, expected: f64) -> bool {
    got.is_some_and(|got| (got - expected).abs() < 1e-6)
}

#[test]
fn planted_runs_give_their_sets_and_a_zero_key_joins_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Tokens: a a a b H b b 0 r r, H heavy, r recent. The cosines of neighbours: 1 1 0 0 0 1 - - 1.
    let pattern = [Some(0), Some(0), Some(0), Some(1), Some(2), Some(1), Some(1), None, Some(3), Some(3)];
    let vectors = |_: State, _: usize, _: usize, token: usize| axis(pattern[token], 1.0 + token as f32);
    let sample = Planted { dataset: "d", id: "7", n_tokens: 10, heavy: Some(4), vectors: &vectors };
    let dump = plant(&dir.path().join("run"), "f", &[State::K, State::Mass], &[sample]);
    let options = AnalyzeOptions {
        shares: Shares { recent: 0.2, heavy: 0.1 },
        lags: vec![1, 2, 9, 10],
        ..AnalyzeOptions::default()
    };
    let dumps = [dump];
    let plain = run(&dumps, &options, &dir.path().join("plain")).unwrap();
    let dataset = &plain.datasets[0];
    assert_eq!((dataset.n_samples, dataset.n_tokens, dataset.sparsity.len()), (1, 10, 4));
    for (head, place) in dataset.sparsity.iter().zip([(1, 0), (1, 1), (3, 0), (3, 1)]) {
        assert_eq!((head.layer, head.kv_head), place);
        // {0 1 2} {3} {5 6} {7} of 7 unprotected tokens, at every threshold; 3 tokens are protected.
        assert!(head.set_ratio.iter().all(|ratio| *ratio == Some(4.0 / 7.0)), "{head:?}");
        assert!(head.kept_fraction.iter().all(|kept| *kept == Some(0.7)));
        assert!(head.largest_set.iter().all(|largest| *largest == 3));
    }
    let head = &dataset.similarity[0].heads[0];
    assert_eq!((head.neighbours.n, head.neighbours.mean), (7, Some(4.0 / 7.0)));
    // Lag 2 pairs without the zero: 02 13 24 35 46 68: 1 0 0 1 0 0; lag 9: tokens 0 and 9.
    assert!(close(head.locality[1], 2.0 / 6.0), "{:?}", head.locality);
    assert_eq!((head.locality[2], head.locality[3]), (Some(0.0), None));
    let histogram = &dataset.similarity[0].histogram;
    assert_eq!((histogram[20], histogram[39], histogram.iter().sum::<u64>()), (12, 16, 28));
    assert_eq!(plain.kept_fraction[0].unwrap().estimate, 0.7);
    assert_eq!(plain.kept_fraction[0].unwrap().low, None);

    let bridged = run(&dumps, &AnalyzeOptions { bridge: true, ..options }, &dir.path().join("bridged")).unwrap();
    // The chain runs on across the heavy token: {3 5 6}.
    assert_eq!(bridged.datasets[0].sparsity[0].set_ratio[9], Some(3.0 / 7.0));
    assert!(bridged.bridge);
}

#[test]
fn lags_of_turning_vectors_and_samples_of_uneven_length() {
    let dir = tempfile::tempdir().unwrap();
    // Values turn by 20° a token, pre-rotary keys by 50° in the first sample and 10° in the second.
    let turning = |step: f32, token: usize| {
        let angle = (step * token as f32).to_radians();
        [3.0 * angle.cos(), 3.0 * angle.sin(), 0.0, 0.0]
    };
    let first =
        |state: State, _: usize, _: usize, token: usize| turning(if state == State::V { 20.0 } else { 50.0 }, token);
    let second =
        |state: State, _: usize, _: usize, token: usize| turning(if state == State::V { 20.0 } else { 10.0 }, token);
    let samples = [
        Planted { dataset: "d", id: "0", n_tokens: 10, heavy: None, vectors: &first },
        Planted { dataset: "d", id: "1", n_tokens: 6, heavy: None, vectors: &second },
    ];
    let dump = plant(&dir.path().join("run"), "f", &[State::V, State::KPreRope], &samples);
    let options = AnalyzeOptions { lags: vec![1, 3, 8], ..AnalyzeOptions::default() };
    let analysis = run(&[dump], &options, &dir.path().join("out")).unwrap();
    let cos = |degrees: f64| degrees.to_radians().cos();
    let dataset = &analysis.datasets[0];
    assert_eq!(dataset.similarity.iter().map(|s| s.state).collect::<Vec<_>>(), [State::KPreRope, State::V]);
    for head in &dataset.similarity[1].heads {
        assert!(close(head.locality[0], cos(20.0)) && close(head.locality[1], cos(60.0)), "{head:?}");
        assert!(close(head.locality[2], cos(160.0)));
        assert!(head.neighbours.quantiles.unwrap().iter().all(|q| close(Some(*q), cos(20.0))));
    }
    for head in &dataset.similarity[0].heads {
        // 9 pairs of the first and 5 of the second; at lag 3, 7 and 3; at lag 8 the first only.
        assert!(close(head.neighbours.mean, (9.0 * cos(50.0) + 5.0 * cos(10.0)) / 14.0));
        assert!(close(head.locality[1], (7.0 * cos(150.0) + 3.0 * cos(30.0)) / 10.0));
        assert!(close(head.locality[2], cos(400.0)));
    }
    // No masses: no sets, no interval, and the summary says so.
    assert_eq!((dataset.sparsity.len(), analysis.kept_fraction[0]), (0, None));
    let summary = summary(&analysis);
    let row = &summary.datasets[0];
    assert_eq!((row.dataset, row.n_samples, row.n_tokens, row.cosine_k), ("d", 2, 16, None));
    assert_eq!(
        [row.cosine_k_pre_rope, row.cosine_v].map(|cosine| format!("{:.3}", cosine.unwrap())),
        ["0.765", "0.940"]
    );
    assert_eq!((row.set_ratio, row.kept_fraction, summary.layers.len()), (None, None, 0));
}

/// Four data sets of one sample of 8 tokens, whose heads have runs of the given lengths.
fn four_datasets(dir: &Path) -> Dump {
    let keys = |runs: [usize; 4]| {
        move |_: State, layer: usize, head: usize, token: usize| run_of(runs[(layer / 2) * 2 + head], token)
    };
    let runs = [keys([1, 2, 3, 4]), keys([4, 3, 2, 1]), keys([1, 3, 2, 4]), keys([2, 2, 2, 2])];
    let samples: Vec<Planted<'_>> = ["rising", "falling", "mixed", "equal"]
        .iter()
        .zip(&runs)
        .map(|(dataset, vectors)| Planted { dataset, id: "0", n_tokens: 8, heavy: None, vectors })
        .collect();
    plant(dir, "f", &[State::K, State::Mass], &samples)
}

#[test]
fn heads_of_data_sets_agree_as_planted() {
    let dir = tempfile::tempdir().unwrap();
    let options = AnalyzeOptions { shares: NONE_PROTECTED, ..AnalyzeOptions::default() };
    let analysis = run(&[four_datasets(&dir.path().join("run"))], &options, &dir.path().join("out")).unwrap();
    let ratios = |dataset: usize| -> Vec<f64> {
        analysis.datasets[dataset].sparsity.iter().map(|head| head.set_ratio[9].unwrap()).collect()
    };
    // A run of r among 8 tokens leaves 9 - r sets.
    assert_eq!(ratios(0), [1.0, 0.875, 0.75, 0.625]);
    assert_eq!(ratios(2), [1.0, 0.75, 0.875, 0.625]);
    let found: Vec<(&str, &str, Option<f64>)> =
        analysis.agreement.iter().map(|pair| (pair.a.as_str(), pair.b.as_str(), pair.spearman)).collect();
    let expected = [
        ("rising", "falling", Some(-1.0)),
        ("rising", "mixed", Some(0.8)),
        ("rising", "equal", None),
        ("falling", "mixed", Some(-0.8)),
        ("falling", "equal", None),
        ("mixed", "equal", None),
    ];
    assert_eq!(found, expected);
    assert_eq!(analysis.kept_fraction[0].unwrap().estimate, 0.8125);
    // Set ratios by layer over data sets: (0.9375 + 0.6875 + 0.875 + 0.875) / 4, (0.6875 + 0.9375 + 0.75 + 0.875) / 4.
    assert_eq!(summary(&analysis).layers, [(3, 0.8125), (1, 0.84375)]);
}

#[test]
fn a_data_set_may_come_in_parts_and_its_interval_is_over_samples() {
    let dir = tempfile::tempdir().unwrap();
    let keys = |run| move |_: State, _: usize, _: usize, token: usize| run_of(run, token);
    let (two, five) = (keys(2), keys(5));
    let part = |name: &str, id, vectors: Vectors<'_>| {
        let sample = Planted { dataset: "d", id, n_tokens: 10, heavy: None, vectors };
        plant(&dir.path().join(name), "f", &[State::K, State::Mass], &[sample])
    };
    let dumps = [part("part-0", "0", &two), part("part-1", "1", &five)];
    let options = AnalyzeOptions { shares: NONE_PROTECTED, ..AnalyzeOptions::default() };
    let out = dir.path().join("out");
    let mut steps = Vec::new();
    let analysis = analyze(&dumps, &options, &out, &mut |done, total| steps.push((done, total))).unwrap();
    // Two samples, and one that the page shows.
    assert_eq!(steps, [(1, 3), (2, 3), (3, 3)]);
    // Kept: 9 and 6 of 10. Resampled means of two are 0.6, 0.75 or 0.9.
    let interval = analysis.kept_fraction[0].unwrap();
    assert!((interval.estimate - 0.75).abs() < 1e-12 && interval.n == 2, "{interval:?}");
    assert!(close(interval.low, 0.6) && close(interval.high, 0.9), "{interval:?}");
    assert_eq!(analysis.datasets[0].n_samples, 2);
    assert_eq!(analysis.datasets[0].sparsity[3].largest_set[0], 5);
    assert!(close(analysis.datasets[0].sparsity[3].set_ratio[0], 0.75));

    let inputs: Vec<&str> = analysis.provenance.inputs.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(inputs, ["part-0/manifest.json", "part-1/manifest.json"]);
    assert_eq!(analysis.provenance.inputs[1].sha256, sha256_file(&dir.path().join("part-1/manifest.json")).unwrap());
    let found = &analysis.provenance.options["dumps"][1];
    assert_eq!((found["planned_samples"].as_u64(), found["found_samples"].as_u64()), (Some(2), Some(1)));
    assert_eq!(read_json::<Analysis>(&out.join("analysis.json")).unwrap(), analysis);

    let same = Dump::open(&dir.path().join("part-0")).unwrap();
    let first = dumps.into_iter().next().unwrap();
    let error = run(&[first, same], &options, &out).unwrap_err();
    assert!(matches!(&error, AnalyzeError::Duplicate { id, .. } if id == "0"), "{error}");
    // The same row is the same text, whatever was captured of it.
    let again = part("again", "0", &five);
    let error = run(&[Dump::open(&dir.path().join("part-0")).unwrap(), again], &options, &out).unwrap_err();
    assert!(matches!(&error, AnalyzeError::Duplicate { id, .. } if id == "0"), "{error}");
}

#[test]
fn the_table_has_a_row_per_figure_and_nulls_where_nothing_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let dump = four_datasets(&dir.path().join("run"));
    // Everything protected: no set ratio.
    let options = AnalyzeOptions {
        shares: Shares { recent: 1.0, heavy: 0.0 },
        eps_grid: vec![0.5, 0.75],
        ..AnalyzeOptions::default()
    };
    let out = dir.path().join("out");
    run(&[dump], &options, &out).unwrap();
    let reader = SerializedFileReader::try_from(out.join("stats.parquet").as_path()).unwrap();
    let rows: Vec<Vec<Field>> = reader
        .into_iter()
        .map(|row| row.unwrap().get_column_iter().map(|(_, field)| field.clone()).collect())
        .collect();
    // 4 data sets x 4 heads x (2 figures of neighbours + 2 thresholds x 3 figures of sets, with and without bridging).
    assert_eq!(rows.len(), 4 * 4 * 14);
    let text = |text: &str| Field::Str(text.into());
    let head = |metric: &str, eps, value| {
        let (layer, kv_head) = (Field::Int(1), Field::Int(1));
        let (budget, rule) = (Field::Null, Field::Null);
        vec![
            text("rising"),
            text("0"),
            Field::Long(8),
            layer,
            kv_head,
            text("k"),
            text(metric),
            eps,
            budget,
            rule,
            value,
        ]
    };
    // The second head of `rising` has a run of two: one pair of 7 has cosine 1, the others 0.
    assert_eq!(rows[14], head("neighbour_cosine_mean", Field::Null, Field::Double(1.0 / 7.0)));
    assert_eq!(rows[15], head("neighbour_pairs", Field::Null, Field::Double(7.0)));
    assert_eq!(rows[16], head("set_ratio", Field::Float(0.5), Field::Null));
    assert_eq!(rows[20], head("kept_fraction", Field::Float(0.75), Field::Double(1.0)));
    assert_eq!(rows[21], head("largest_set", Field::Float(0.75), Field::Double(0.0)));
    let reader = SerializedFileReader::try_from(out.join("stats.parquet").as_path()).unwrap();
    let notes = reader.metadata().file_metadata().key_value_metadata().unwrap();
    assert!(notes.iter().any(|note| note.key == "schema" && note.value.as_deref() == Some("kvscope.stats/1")));
}

#[test]
fn maps_are_safetensors_with_their_levels() {
    let dir = tempfile::tempdir().unwrap();
    let (options, out) = (map_options(), dir.path().join("out"));
    let analysis = run(&[uneven_dump(&dir.path().join("run"))], &options, &out).unwrap();
    let files: Vec<&str> = analysis.maps.iter().map(|map| map.file.as_str()).collect();
    let expected = ["maps/0-a_b-0-layer3-head1-k.safetensors", "maps/0-a_b-1-layer3-head1-k.safetensors"];
    assert_eq!(files, expected);
    assert_eq!(analysis.maps.iter().map(|m| (m.n_tokens, m.n_levels)).collect::<Vec<_>>(), [(515, 3), (9, 1)]);
    let bytes = std::fs::read(out.join(files[0])).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let notes = header.metadata().as_ref().unwrap();
    assert_eq!((notes["dataset"].as_str(), notes["id"].as_str(), notes["state"].as_str()), ("a/b", "0", "k"));
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (level, width) in [515, 258, 129].into_iter().enumerate() {
        let tensor = tensors.tensor(&format!("level.{level}")).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::F16, &[width, width][..]));
    }
    let map = tensors.tensor("level.0").unwrap();
    let cell = |i: usize, j: usize| half::f16::from_le_bytes(map.data().as_chunks::<2>().0[i * 515 + j]).to_f32();
    let expected = kvscope::math::cosine(&wave(3, 1, 500), &wave(3, 1, 3)).unwrap();
    assert!((cell(500, 3) - expected).abs() < 5e-4, "{} for {expected}", cell(500, 3));
    assert_eq!((cell(3, 500), cell(514, 514)), (cell(500, 3), 1.0));
}

#[test]
fn the_explorer_holds_what_merges_everywhere_and_the_states_of_a_few_heads() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let dump = [uneven_dump(&dir.path().join("run"))];
    let analysis = run(&dump, &AnalyzeOptions { explore: 3, ..map_options() }, &out).unwrap();
    let read = ExplorerFile::read(&out, analysis.explorer.as_ref().unwrap()).unwrap();
    assert_eq!(explorer::fault(&out, analysis.explorer.as_ref().unwrap()), None);
    let [first, second] = read.explorer.samples.as_slice() else { panic!("two samples were asked for") };
    assert_eq!([(first.id.as_str(), first.n_tokens), (second.id.as_str(), second.n_tokens)], [("0", 515), ("1", 9)]);
    // The head of the map, and two others.
    assert_eq!((first.shown[0], first.shown.len()), ([3, 1], 3));
    assert_eq!(first.states, [State::K, State::V]);
    let place = first.heads.iter().position(|head| *head == [3, 1]).unwrap();
    assert!(first.heads.len() > 3);
    let links = &read.numbers(ExplorerTensor::Links(0))[place * 514..][..514];
    for token in [0, 200, 513] {
        let expected = kvscope::math::cosine(&wave(3, 1, token), &wave(3, 1, token + 1)).unwrap();
        assert!((links[token] - expected).abs() < 1e-6, "{token}: {} for {expected}", links[token]);
    }
    let sample = dump[0].sample(0).unwrap();
    assert_eq!(read.numbers(ExplorerTensor::Mass(0))[place * 515..][..515], sample.mass(3, 1).unwrap());
    let keys = read.bytes(ExplorerTensor::State(0, [3, 1], State::K)).unwrap();
    let width = keys.len() / (515 * DIM);
    assert_eq!((width, keys.len()), (first.dtype.bytes(), 515 * DIM * width));
    // Of the window's queries the last tokens come first, and then what they attend to.
    assert_eq!(first.orders, ["snapkv:window=32"]);
    let order = &read.order(ExplorerTensor::Order(0, 0))[place * 515..][..515];
    assert_eq!((order[0], order[31]), (483, 514));
    // Nothing is there where nothing is wanted, not even what an earlier run left.
    let analysis = run(&dump, &AnalyzeOptions { explore: 0, ..map_options() }, &out).unwrap();
    assert!(analysis.explorer.is_none() && !out.join(explorer::FILE).exists());
}

#[test]
fn what_is_too_long_to_explore_is_told_and_the_next_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let vectors = |_: State, _: usize, _: usize, token: usize| run_of(3, token % 9);
    let sample = |id, n_tokens| Planted { dataset: "d", id, n_tokens, heavy: None, vectors: &vectors as Vectors<'_> };
    let samples = [sample("long", explorer::MAX_TOKENS + 1), sample("0", 9), sample("1", 9)];
    let dump = [plant(&dir.path().join("run"), "f", &[State::K, State::Mass], &samples)];
    let analysis = run(&dump, &AnalyzeOptions::default(), &dir.path().join("out")).unwrap();
    assert_eq!(
        analysis.not_explored_in_words().unwrap(),
        "Not explored: d/long has 32769 tokens, and samples of at most 32768 are explored."
    );
    let read = ExplorerFile::read(&dir.path().join("out"), analysis.explorer.as_ref().unwrap()).unwrap();
    assert_eq!(read.explorer.samples.iter().map(|sample| sample.id.as_str()).collect::<Vec<_>>(), ["0"]);
}

#[test]
fn maps_of_an_earlier_analysis_go_and_what_others_wrote_stays() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let dump = [uneven_dump(&dir.path().join("run"))];
    let maps = run(&dump, &map_options(), &out).unwrap().maps;
    let [first, other] = [0, 1].map(|at| out.join(&maps[at].file));
    // A map under a name of its own, a note, and a file that took a map's place.
    let (copy, note) = (out.join("maps/mine.safetensors"), out.join("maps/note.txt"));
    std::fs::copy(&first, &copy).unwrap();
    std::fs::write(&note, "mine").unwrap();
    std::fs::write(&other, "no map").unwrap();
    let without = AnalyzeOptions { maps: Vec::new(), ..map_options() };
    assert!(run(&dump, &without, &out).unwrap().maps.is_empty());
    assert!(!first.exists() && other.exists() && copy.exists() && note.exists());
    // The folder goes with the last of them.
    let again = dir.path().join("again");
    run(&dump, &map_options(), &again).unwrap();
    run(&dump, &without, &again).unwrap();
    assert!(!again.join("maps").exists() && again.join("analysis.json").exists());
}

#[test]
fn equal_texts_under_other_names_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let vectors = |_: State, _: usize, _: usize, token: usize| run_of(3, token % 9);
    let sample =
        |dataset, id, n_tokens| Planted { dataset, id, n_tokens, heavy: None, vectors: &vectors as Vectors<'_> };
    // A dump's first sample has the ids 0, 1, …: the same text of nine in both, under another name and in another data set.
    let plant =
        |name: &str, samples: &[Planted<'_>]| plant(&dir.path().join(name), "f", &[State::K, State::Mass], samples);
    let first = plant("first", &[sample("d", "0", 9), sample("d", "1", 9)]);
    let other = plant("other", &[sample("e", "again", 9), sample("d", "longer", 12)]);
    let analysis = run(&[first, other], &AnalyzeOptions::default(), &dir.path().join("out")).unwrap();
    assert_eq!(analysis.same_texts, [["d/0".to_string(), "e/again".into()]]);
    let told = analysis.same_texts_in_words().unwrap();
    assert!(told.contains("count once") && told.ends_with("left out: e/again (as d/0)."), "{told}");
    let counted: Vec<(&str, usize, usize)> =
        analysis.datasets.iter().map(|d| (d.dataset.as_str(), d.n_samples, d.n_tokens)).collect();
    assert_eq!(counted, [("d", 3, 30)]);
}

#[test]
fn one_thread_and_two_give_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    uneven_dump(&run_dir);
    let bytes = |threads: usize| -> Vec<Vec<u8>> {
        let out = dir.path().join(format!("out-{threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let analysis = pool.install(|| run(&[Dump::open(&run_dir).unwrap()], &map_options(), &out)).unwrap();
        let mut files: Vec<PathBuf> = analysis.maps.iter().map(|map| out.join(&map.file)).collect();
        files.extend(["analysis.json", "stats.parquet", explorer::FILE].map(|file| out.join(file)));
        files.iter().map(|file| std::fs::read(file).unwrap()).collect()
    };
    assert_eq!(bytes(1), bytes(2));
}

fn map_options() -> AnalyzeOptions {
    let map = MapRequest { layer: 3, kv_head: 1, state: State::K };
    AnalyzeOptions { maps: vec![map], map_samples: 2, ..AnalyzeOptions::default() }
}

fn wave(layer: usize, head: usize, token: usize) -> [f32; DIM] {
    let x = (token * 7 + layer * 3 + head) as f32;
    [x.sin(), (0.3 * x).cos(), (0.01 * x).sin() + 0.5, 0.7]
}

fn uneven_dump(dir: &Path) -> Dump {
    let vectors = |_: State, layer: usize, head: usize, token: usize| wave(layer, head, token);
    let samples = [("0", 515), ("1", 9), ("2", 33)].map(|(id, n_tokens)| Planted {
        dataset: "a/b",
        id,
        n_tokens,
        heavy: Some(2),
        vectors: &vectors,
    });
    plant(dir, "f", &[State::K, State::V, State::Mass], &samples)
}

#[test]
fn dumps_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vectors = |_: State, _: usize, _: usize, token: usize| run_of(2, token);
    let dump = |name: &str, fingerprint: &str, states: &[State]| {
        let sample = Planted { dataset: "d", id: name, n_tokens: 5, heavy: None, vectors: &vectors };
        plant(&dir.path().join(name), fingerprint, states, &[sample])
    };
    let (options, out) = (AnalyzeOptions::default(), dir.path().join("out"));
    let error = run(&[dump("a", "f", &[State::K]), dump("b", "g", &[State::K])], &options, &out).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, AnalyzeError::DifferentModels { .. }));
    assert!(text.contains("toy (g)") && text.contains("toy (f)"), "{text}");
    assert!(error.hint().is_some());
    let error = run(&[dump("c", "f", &[State::Mass])], &options, &out).unwrap_err();
    assert!(matches!(&error, AnalyzeError::NoVectors { found, .. } if found == "mass"), "{error}");
    assert!(matches!(run(&[], &options, &out), Err(AnalyzeError::NoSamples(0))));
    for request in [
        MapRequest { layer: 2, kv_head: 0, state: State::K },
        MapRequest { layer: 1, kv_head: 2, state: State::K },
        MapRequest { layer: 1, kv_head: 0, state: State::V },
    ] {
        let options = AnalyzeOptions { maps: vec![request], ..AnalyzeOptions::default() };
        let error = run(&[Dump::open(&dir.path().join("a")).unwrap()], &options, &out).unwrap_err();
        assert!(matches!(error, AnalyzeError::NoMap { .. }), "{error}");
    }
    let mut manifest: Manifest = read_json(&dir.path().join("b/manifest.json")).unwrap();
    manifest.model.fingerprint = "f".into();
    manifest.layers = vec![1];
    write_json(&dir.path().join("b/manifest.json"), &manifest).unwrap();
    let dumps = ["a", "b"].map(|name| Dump::open(&dir.path().join(name)).unwrap());
    let error = run(&dumps, &options, &out).unwrap_err();
    assert!(matches!(&error, AnalyzeError::DifferentLayers { got, .. } if got == "[1]"), "{error}");
    assert!(!out.exists(), "nothing is written before the checks are done");
}

#[test]
fn manifests_that_claim_too_much_are_refused_before_anything_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let dump = four_datasets(dir.path());
    let path = dir.path().join("manifest.json");
    let (options, out) = (AnalyzeOptions::default(), dir.path().join("out"));
    let open = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = dump.manifest().clone();
        change(&mut manifest);
        write_json(&path, &manifest).unwrap();
        Dump::open(dir.path())
    };
    let refused = |change: &dyn Fn(&mut Manifest)| open(change).unwrap_err().to_string();
    let error = refused(&|m| (m.model.n_kv_heads, m.model.n_q_heads) = (1 << 50, 1 << 50));
    assert!(error.contains("no model has 1125899906842624 query heads"), "{error}");
    let error = refused(&|m| m.samples[1].n_tokens = 0);
    assert!(error.contains("sample 1 has 0 tokens"), "{error}");
    let dump = open(&|m| m.model.n_layers = 1 << 50).unwrap();
    let error = run(&[dump], &options, &out).unwrap_err();
    assert!(matches!(error, AnalyzeError::TooManyHeads { .. }), "{error}");
}

#[test]
fn a_truncated_sample_is_named_and_leaves_no_results() {
    let dir = tempfile::tempdir().unwrap();
    let dump = four_datasets(&dir.path().join("run"));
    let path = dir.path().join("run/2.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let out = dir.path().join("out");
    let error = run(&[dump], &AnalyzeOptions::default(), &out).unwrap_err();
    assert!(matches!(error, AnalyzeError::Dump(DumpError::Inconsistent { .. })), "{error}");
    assert!(error.to_string().contains("2.safetensors"), "{error}");
    assert!(!out.exists(), "a folder was left for nothing");
}
