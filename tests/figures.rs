//! Figures and the HTML file from a made-up analysis: present, correct, repeatable, and safe against hostile names.

mod kit {
    pub mod identity;
    pub mod synthetic;
}

use std::collections::HashSet;
use std::path::Path;

use base64::Engine;
use kit::synthetic::{Input, add_explorer, add_map, input, with_gaps};
use kvscope::format::dump::State;
use kvscope::hint::Hint;
use kvscope::math::Interval;
use kvscope::report::{Build, FIGURES, FigureEntry, ReportError, Written, write};

fn report(input: &Input, dir: &Path, only: Option<&[&str]>) -> Result<Written, ReportError> {
    let only: Option<Vec<String>> = only.map(|names| names.iter().map(|n| n.to_string()).collect());
    write(&input.report(), &dir.join("figures"), &dir.join("report.html"), only.as_deref(), &mut |_| {})
}

fn html(input: &Input, dir: &Path) -> String {
    report(input, dir, None).unwrap();
    std::fs::read_to_string(dir.join("report.html")).unwrap()
}

fn svg(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(format!("figures/{name}.svg"))).unwrap()
}

/// The figures on the page of an analysis.
fn of_analysis() -> impl Iterator<Item = &'static FigureEntry> {
    FIGURES.iter().filter(|figure| matches!(figure.build, Build::Analysis(_) | Build::Profile(_)))
}

/// Width, height and number of different colours of a PNG.
fn png(path: &Path) -> (u32, u32, usize) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let colors: HashSet<&[u8]> = pixels.chunks_exact(3).collect();
    (info.width, info.height, colors.len())
}

/// Width and RGB pixels by row of a PNG, with or without a palette.
fn pixels(bytes: &[u8]) -> (usize, Vec<[u8; 3]>) {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut data).unwrap();
    (info.width as usize, data.as_chunks().0.to_vec())
}

/// Numbers of points of the polylines of one colour.
fn polylines(svg: &str, color: &str) -> Vec<usize> {
    let mark = format!("stroke=\"{color}\"");
    svg.lines()
        .filter(|l| l.starts_with("<polyline") && l.contains(&mark))
        .map(|l| l.split("points=\"").nth(1).unwrap().matches(',').count())
        .collect()
}

#[test]
fn the_table_of_figures_is_in_order() {
    let mut names: Vec<&str> = FIGURES.iter().map(|f| f.name).collect();
    for figure in FIGURES {
        assert!(figure.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", figure.name);
        let file = format!("src/report/figure/{}.rs", figure.name.replace('-', "_"));
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).is_file(), "{file}");
        assert!(figure.question.ends_with('?') && figure.reading.ends_with('.'), "{}", figure.name);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FIGURES.len());
}

#[test]
fn every_figure_is_drawn_as_png_and_svg() {
    let dir = tempfile::tempdir().unwrap();
    let written = report(&input(5, 2, &["news", "code"], dir.path()), dir.path(), None).unwrap();
    assert!(written.skipped.is_empty());
    for figure in of_analysis() {
        let path = dir.path().join(format!("figures/{}.png", figure.name));
        assert!(written.files.iter().any(|f| f.path == path && !f.shows.is_empty()), "{}", figure.name);
        let (width, height, colors) = png(&path);
        assert!(width == 1920 && height > 300 && colors > 100, "{}: {width} x {height}, {colors} colours", figure.name);
        let pdf = std::fs::read(path.with_extension("pdf")).unwrap();
        assert!(pdf.starts_with(b"%PDF-1.7") && pdf.len() > 5000, "{}", figure.name);
        let csv = std::fs::read_to_string(path.with_extension("csv")).unwrap();
        let columns = csv.lines().next().unwrap().matches(',').count();
        assert!(csv.lines().count() > 2 && columns >= 3, "{}: {csv:.200}", figure.name);
        let svg = svg(dir.path(), figure.name);
        let samples = if figure.name == "similarity-map" { "2 maps" } else { "samples" };
        assert!(svg.contains(samples) && svg.contains("token"), "{}: no samples or tokens", figure.name);
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"), "{}", figure.name);
        assert!(svg.contains("SmolLM2-135M") && svg.contains("<title>"), "{}", figure.name);
        for tag in ["svg", "text", "title", "desc"] {
            let (open, close) = (svg.matches(&format!("<{tag}")).count(), svg.matches(&format!("</{tag}>")).count());
            assert_eq!(open, close, "{tag} in {}", figure.name);
        }
    }
    assert_eq!(written.files.last().unwrap().path, dir.path().join("report.html"));
    assert!(written.files.iter().all(|f| f.path.is_file()));
}

#[test]
fn svgs_hold_the_series_and_the_labels() {
    let dir = tempfile::tempdir().unwrap();
    report(&input(5, 2, &["news", "code", "dialogue"], dir.path()), dir.path(), None).unwrap();
    let eps = svg(dir.path(), "sparsity-eps");
    // One curve over the 11 thresholds in each of the first three colours, and none in the fourth.
    for color in ["#0072B2", "#D55E00", "#009E73"] {
        assert_eq!(polylines(&eps, color).iter().filter(|n| **n == 11).count(), 1, "{color}");
    }
    assert!(polylines(&eps, "#CC79A7").is_empty());
    let locality = svg(dir.path(), "locality");
    // The curve, and both edges of its band.
    assert_eq!(polylines(&locality, "#D55E00").iter().filter(|n| **n == 16).count(), 3);
    let layers = svg(dir.path(), "sparsity-layers");
    assert_eq!(polylines(&layers, "#0072B2").iter().filter(|n| **n == 5).count(), 3);
    for label in ["news", "code", "dialogue", "Layer", "Sets per unprotected token", "threshold 0.75"] {
        assert!(layers.contains(label), "{label}");
    }
    let datasets = svg(dir.path(), "datasets");
    // Spearman's rho of the three pairs, each on both sides of the diagonal.
    for rho in ["0.89", "0.78", "0.84"] {
        assert_eq!(datasets.lines().filter(|l| l.trim() == rho).count(), 2, "{rho}");
    }
    let quality = svg(dir.path(), "profile-quality");
    for label in ["the profile, evicting (control)", "the profile", "12.6", "13.3", "held-out samples", "no data"] {
        assert!(quality.contains(label), "{label}");
    }
    let map = svg(dir.path(), "similarity-map-news-17-layer-4-head-1-k");
    assert_eq!(map.matches("<image").count(), 1);
    assert!(map.contains("301 tokens") && map.contains("news, 17") && map.contains("Token position"));
    assert_eq!(svg(dir.path(), "similarity-map").matches("<image").count(), 2);
}

/// Every pixel of a map has the colour of the one cell that it lies in: nothing is smoothed.
#[test]
fn maps_keep_the_colours_of_their_cells() {
    let dir = tempfile::tempdir().unwrap();
    report(&input(5, 2, &["news", "code"], dir.path()), dir.path(), Some(&["similarity-map"])).unwrap();
    assert!(dir.path().join("report.html").is_file(), "where there is no page, one is written");
    for name in ["similarity-map-news-17-layer-4-head-1-k", "similarity-map"] {
        let svg = svg(dir.path(), name);
        let (width, drawn) = pixels(&std::fs::read(dir.path().join(format!("figures/{name}.png"))).unwrap());
        for image in svg.split("<image ").skip(1) {
            let text =
                |attribute: &str| image.split(&format!("{attribute}=\"")).nth(1).unwrap().split('"').next().unwrap();
            // A pixel is two SVG units wide.
            let [x, y, w, h] =
                ["x", "y", "width", "height"].map(|name| text(name).parse::<usize>().unwrap() as f64 / 2.0);
            let data = text("href").strip_prefix("data:image/png;base64,").unwrap();
            let (side, cells) = pixels(&base64::engine::general_purpose::STANDARD.decode(data).unwrap());
            assert!(side > 100 && cells.len() == side * side && w > 200.0);
            // The frame covers the outermost pixels.
            for row in (y as usize + 3)..(y + h) as usize - 3 {
                for column in (x as usize + 3)..(x + w) as usize - 3 {
                    let cell =
                        |at: usize, from: f64, length: f64| ((at as f64 + 0.5 - from) / length * side as f64) as usize;
                    let expected = cells[cell(row, y, h) * side + cell(column, x, w)];
                    assert_eq!(drawn[row * width + column], expected, "{name}: pixel {column}, {row}");
                }
            }
        }
    }
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let input = with_gaps(input(30, 3, &["news", "code", "dialogue"], a.path()));
    let (first, second) = (report(&input, a.path(), None).unwrap(), report(&input, b.path(), None).unwrap());
    assert_eq!(first.files.len(), second.files.len());
    for (x, y) in first.files.iter().zip(&second.files) {
        assert!(std::fs::read(&x.path).unwrap() == std::fs::read(&y.path).unwrap(), "{}", x.path.display());
    }
}

#[test]
fn hostile_names_stay_text() {
    let dir = tempfile::tempdir().unwrap();
    let names =
        ["</script><script>alert(1)</script>", "\"><img src=x onerror=alert(2)>", "a'b\u{0}\u{1b}[31m\u{202e}&lt;\n"];
    let mut input = input(3, 2, &names, dir.path());
    input.analysis.model.name = "</title></svg><script>alert(3)</script>".into();
    input.analysis.maps[0].id = "]]><script>alert(4)</script>".into();
    input.analysis.provenance.options = serde_json::json!({ "</pre><script>": "<b>\u{8}" });
    let profile = input.profile.as_mut().unwrap();
    profile.verdict = "<script>alert(5)</script>".into();
    profile.settings[0] = "\" onmouseover=\"alert(6)".into();
    profile.model.name = "<svg onload=alert(7)>".into();
    profile.quality[0].rule = "<script>alert(8)</script>".into();
    let html = html(&input, dir.path());
    assert_eq!(html.matches("<script").count(), 1);
    assert_eq!(html.matches("</script").count(), 1);
    assert_eq!(html.matches("</title").count(), 1);
    assert_eq!(html.matches("</pre").count(), 3);
    for bad in ["<img", "<b>", "\" onmouseover", "<svg onload", "\u{0}", "\u{1b}", "\u{8}", "\u{202e}"] {
        assert!(!html.contains(bad), "{bad:?}");
    }
    assert!(html.contains("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"));
    // The name that looks like an entity is shown as it was written.
    assert!(html.contains("&amp;lt;"));
    for entry in std::fs::read_dir(dir.path().join("figures")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "svg") {
            let svg = std::fs::read_to_string(&path).unwrap();
            assert!(!svg.contains("<script") && !svg.contains("<img"), "{}", path.display());
            assert_eq!(svg.matches("<svg").count(), 1);
            assert!(svg.chars().all(|c| c == '\n' || !c.is_control()), "{}", path.display());
        }
    }
}

#[test]
fn the_page_needs_no_network_and_runs_only_its_own_script() {
    let dir = tempfile::tempdir().unwrap();
    let html = html(&input(5, 2, &["news", "code"], dir.path()), dir.path());
    for bad in ["http:", "https:", "src=", "url(", "@import", "<link", "<iframe"] {
        assert!(!html.contains(bad), "{bad}");
    }
    for target in html.split("href=\"").skip(1) {
        assert!(target.starts_with('#') || target.starts_with("data:image/png;base64,"), "{:.40}", target);
    }
    let script = html.split("<script>").nth(1).unwrap().split("</script>").next().unwrap();
    let digest = kvscope::files::sha256_bytes(script.as_bytes());
    let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&digest[2 * i..2 * i + 2], 16).unwrap()).collect();
    let hash = base64::engine::general_purpose::STANDARD.encode(bytes);
    assert!(html.contains(&format!("script-src 'sha256-{hash}'")));
    // Every link of the contents leads somewhere, once.
    for target in html.split("href=\"#").skip(1).map(|t| t.split('"').next().unwrap()) {
        assert_eq!(html.matches(&format!("id=\"{target}\"")).count(), 1, "{target}");
    }
    // As many rows as heads, sorted by layer, and every figure described for those who cannot see it.
    let heads = html.split("id=\"heads\"").nth(1).unwrap().split("</section>").next().unwrap();
    assert_eq!(heads.matches("<tr>").count(), 1 + 5 * 2);
    assert_eq!(html.matches("<svg").count(), html.matches("role=\"img\" aria-label=\"").count());
}

#[test]
fn the_explorer_fills_the_page_up_to_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = input(5, 2, &["news", "code"], dir.path());
    let without = html(&input, dir.path());
    assert!(without.contains("Run kvscope analyze again to look at tokens here") && !without.contains("data-part"));
    add_explorer(&mut input.analysis, dir.path(), 2500, &|token| format!("<script>alert({token})</script>\u{202e}"));
    let whole = html(&input, dir.path());
    let parts = |html: &str| -> Vec<String> {
        html.split("data-part=\"").skip(1).map(|part| part.split('"').next().unwrap().to_string()).collect()
    };
    let of_series = |layer: usize| format!("0.series.{layer}");
    let expected: Vec<String> = ["document", "profile.0", "0.texts", "0.0.0.k"]
        .map(String::from)
        .into_iter()
        .chain((0..5).map(of_series))
        .collect();
    assert_eq!(parts(&whole), [expected.as_slice(), &["0.0.1.k".to_string()]].concat());
    assert!(!whole.contains("alert(7)") && whole.contains("id=\"x-map-0\""));
    assert!(!whole.contains("Left out, to keep the page small"), "{} bytes", whole.len());
    // Only the explorer's own script runs; its parts are no scripts.
    assert_eq!(whole.matches("<script>").count(), 1);
    assert_eq!(whole.matches("<script type=\"text/plain\" data-part=").count(), parts(&whole).len());
    let script = whole.split("<script>").nth(1).unwrap().split("</script>").next().unwrap();
    assert!(script.contains("class Explorer") && !script.contains("\nimport ") && !script.contains("\nexport "));
    // With less room the second map is left out, then all but the texts, each in words.
    input.page_bytes = whole.len() - 100_000;
    let smaller = html(&input, dir.path());
    assert!(smaller.len() <= input.page_bytes && parts(&smaller).len() == expected.len());
    assert!(
        smaller.contains("Left out, to keep the page small: 1 of 2 maps. kvscope report --serve shows all of them")
    );
    input.page_bytes = 0;
    let least = html(&input, dir.path());
    assert_eq!(parts(&least), ["document", "profile.0", "0.texts"]);
    assert!(
        least.contains("2 of 2 maps, 5 of 5 layers&#39; merging sets")
            || least.contains("2 of 2 maps, 5 of 5 layers' merging sets")
    );
    std::fs::write(dir.path().join("explorer.safetensors"), b"not it").unwrap();
    let error = report(&input, dir.path(), None).unwrap_err();
    assert!(error.to_string().contains("explorer.safetensors") && error.hint().is_some(), "{error}");
}

#[test]
fn the_summary_states_what_the_data_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = input(4, 2, &["news", "code"], dir.path());
    let interval = |estimate| Some(Interval { estimate, low: None, high: None, n: 1 });
    input.analysis.kept_fraction = vec![interval(0.41), interval(0.472)];
    for dataset in &mut input.analysis.datasets {
        for head in &mut dataset.sparsity {
            // Layer 2 merges most, layer 0 least, head 1 always more than head 0.
            let ratio = [0.9, 0.7, 0.3, 0.5][head.layer] - 0.02 * head.kv_head as f64;
            head.set_ratio[5] = Some(ratio);
        }
        for head in &mut dataset.similarity[0].heads {
            head.neighbours.mean = Some(0.5);
        }
        for head in &mut dataset.similarity[1].heads {
            head.neighbours.mean = Some(if head.layer == 0 { 0.4 } else { 0.8 });
        }
    }
    let html = html(&input, dir.path()).replace('\u{a0}', " ");
    // (41.0 + 47.2) / 2 = 44.1; 1 / 0.441 = 2.268.
    assert!(html.contains("At threshold 0.75 the cache of SmolLM2-135M keeps 44.1 % of its slots (news 41.0 %, code 47.2 %): 2.27 tokens per slot"));
    assert!(html.contains("Layer 2 merges most (0.29 sets per unprotected token; 1 would mean that nothing merges) and layer 0 least (0.89)"));
    assert!(html.contains(
        "the KV head that merges most is head 1 of layer 2 (0.28), the one that merges least head 0 of layer 0 (0.90)"
    ));
    // (2 · 0.4 + 6 · 0.8) / 8 = 0.7.
    assert!(html.contains("more alike before RoPE than after it: mean cosine 0.70 before, 0.50 after; before RoPE is higher in 6 of 8 heads"));
    assert!(html.contains("The data sets agree on which heads are compressible."));
    assert!(html.contains("At 50 % of the slots, log-count merging errs 19 % less than evicting the same tokens."));
    assert!(
        html.contains("2.0x") && html.contains("17.2 tokens per second") && html.contains("of tides and of the moon")
    );
    input.analysis.kept_fraction = vec![interval(0.998), interval(1.0)];
    input.profile.as_mut().unwrap().model.fingerprint = "other".into();
    let html = self::html(&input, dir.path());
    assert!(html.contains("next to nothing merges") && html.contains("tuned for another model"));
}

#[test]
fn missing_values_are_shown_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    let html = html(&with_gaps(input(30, 3, &["news", "code", "dialogue"], dir.path())), dir.path());
    for name in [
        "similarity-heads",
        "sparsity-layers",
        "sparsity-eps",
        "locality",
        "datasets",
        "neighbour-histogram",
        "profile-thresholds",
        "profile-quality",
    ] {
        assert!(svg(dir.path(), name).contains("no data"), "{name}");
    }
    assert!(html.contains("class=\"n none\""));
    // Images in base64 may hold any letters.
    let shown: String = html.split("base64,").map(|part| part.split_once('"').map_or(part, |p| p.1)).collect();
    assert!(!shown.contains("NaN") && !shown.contains(">inf") && !shown.contains(" inf"));
    // Layer 11 of news is gone: its line has two pieces, of 11 and 18 layers.
    let pieces = polylines(&svg(dir.path(), "sparsity-layers"), "#0072B2");
    assert!(pieces.contains(&11) && pieces.contains(&18) && !pieces.contains(&30), "{pieces:?}");
}

#[test]
fn an_analysis_that_holds_nothing_gives_a_page_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = input(2, 1, &["news"], dir.path());
    input.analysis.maps.clear();
    input.analysis.datasets.clear();
    input.analysis.kept_fraction.clear();
    input.analysis.persistence = None;
    input.analysis.set_overlap = None;
    input.analysis.queries = None;
    input.profile = None;
    input.generation = None;
    let written = report(&input, dir.path(), None).unwrap();
    assert_eq!((written.files.len(), written.skipped.len()), (1, of_analysis().count()));
    let html = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(
        html.contains("nothing can be said") && html.contains("needs a profile") && !html.contains("id=\"generation\"")
    );
}

#[test]
fn damaged_files_are_drawn_or_refused_but_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = input(3, 2, &["news", "code"], dir.path());
    let analysis = &mut input.analysis;
    analysis.reference_eps = 99;
    analysis.lags = vec![0, 1, 1, usize::MAX];
    analysis.eps_grid.truncate(3);
    analysis.eps_grid[1] = f32::NAN;
    analysis.kept_fraction.truncate(1);
    analysis.datasets[0].sparsity[0].layer = usize::MAX;
    analysis.datasets[0].sparsity[1].kept_fraction = vec![Some(1e300), Some(-1e300)];
    analysis.datasets[0].similarity[0].histogram = vec![u64::MAX; 3];
    analysis.datasets[1].similarity[0].heads[0].locality.clear();
    analysis.datasets[1].similarity[1].heads[0].neighbours.n = usize::MAX;
    analysis.datasets[1].n_tokens = usize::MAX;
    input.profile.as_mut().unwrap().heads[0].layer = usize::MAX;
    report(&input, dir.path(), None).unwrap();
    input.analysis.datasets[1].dataset = "news".into();
    assert!(matches!(report(&input, dir.path(), None), Err(ReportError::Damaged(_))));
    input.analysis.datasets.truncate(1);
    let head = input.analysis.datasets[0].sparsity[0].clone();
    input.analysis.datasets[0].sparsity =
        (0..300).map(|i| kvscope::format::analysis::HeadSparsity { layer: i, kv_head: i, ..head.clone() }).collect();
    assert!(report(&input, dir.path(), None).unwrap_err().to_string().contains("300 layers of 300 KV heads"));
    std::fs::remove_file(dir.path().join(&input.analysis.maps[1].file)).unwrap();
    input.analysis.datasets[0].sparsity.clear();
    assert!(report(&input, dir.path(), None).unwrap_err().to_string().contains("map-1.safetensors"));
}

#[test]
fn figures_can_be_chosen_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = input(3, 2, &["news", "code"], dir.path());
    report(&input, dir.path(), None).unwrap();
    let page = std::fs::read(dir.path().join("report.html")).unwrap();
    let written = report(&input, dir.path(), Some(&["locality", "datasets"])).unwrap();
    assert_eq!(std::fs::read(dir.path().join("report.html")).unwrap(), page, "the page has all figures");
    let names: Vec<_> = written.files.iter().map(|f| f.path.file_name().unwrap().to_str().unwrap()).collect();
    let expected = ["locality", "datasets"].map(|name| ["png", "svg", "pdf", "csv"].map(|end| format!("{name}.{end}")));
    assert_eq!(names, expected.concat());
    let error = report(&input, dir.path(), Some(&["localty"])).unwrap_err();
    assert!(error.hint().is_some());
    let error = error.to_string();
    assert!(error.contains("localty") && FIGURES.iter().all(|f| error.contains(f.name)), "{error}");
    input.profile = None;
    for (name, needs) in [("profile-quality", "needs a profile"), ("needle-grid", "needs an evaluation")] {
        let error = report(&input, dir.path(), Some(&[name])).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(needs), "{error}");
    }
}

#[test]
fn large_runs_stay_small_enough_to_carry() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..12).map(|i| format!("a-data-set-with-quite-a-long-name-number-{i}")).collect();
    let mut input = input(80, 32, &names.iter().map(String::as_str).collect::<Vec<_>>(), dir.path());
    for i in 0..6 {
        add_map(&mut input.analysis, dir.path(), 900, (i, i), State::K);
    }
    let html = html(&input, dir.path());
    assert!(html.len() < 10_000_000, "{} bytes", html.len());
    // Names are not cut until they are the same.
    let layers = svg(dir.path(), "sparsity-layers");
    assert!(names.iter().all(|name| layers.contains(name.as_str())));
}

/// What the files beside a picture say: its numbers, its size in print, its title.
#[test]
fn a_figure_brings_its_numbers_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let input = input(5, 2, &["news", "code"], dir.path());
    report(&input, dir.path(), Some(&["similarity-heads", "sparsity-eps", "similarity-map"])).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("figures").join(name)).unwrap();
    let csv = read("similarity-heads.csv");
    let mut lines = csv.lines();
    assert_eq!(lines.next().unwrap(), "panel,measure,Layer,KV head,value");
    assert_eq!(lines.clone().count(), 3 * 5 * 2);
    // Equal numbers of pairs in one data set more than in the other: the mean weighs them.
    let means: Vec<(f64, f64)> = input
        .analysis
        .datasets
        .iter()
        .map(|d| &d.similarity[0].heads[0].neighbours)
        .map(|n| (n.mean.unwrap(), n.n as f64))
        .collect();
    let expected = means.iter().map(|(m, n)| m * n).sum::<f64>() / means.iter().map(|m| m.1).sum::<f64>();
    let first: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(first[..4], ["Keys after RoPE", "Mean cosine", "0", "0"]);
    assert!((first[4].parse::<f64>().unwrap() - expected).abs() < 1e-9, "{first:?} {expected}");
    assert!(read("sparsity-eps.csv").starts_with(
        "panel,curve,Threshold: neighbours above this cosine are merged,\"Slots kept, % of tokens\",low,high\n,news,0.5"
    ) || read("sparsity-eps.csv").contains(",news,"));
    // 301 tokens in 76 cells of 4, on and below the diagonal.
    let map = read("similarity-map-news-17-layer-4-head-1-k.csv");
    let side = (map.lines().count() - 1) as f64;
    assert!(((2.0 * side + 0.25).sqrt() - 0.5).fract().abs() < 1e-9, "{side} cells are no triangle");
    let png = std::fs::File::open(dir.path().join("figures/similarity-heads.png")).unwrap();
    let reader = png::Decoder::new(std::io::BufReader::new(png)).read_info().unwrap();
    let info = reader.info();
    assert_eq!(info.pixel_dims.unwrap().xppu, 7559, "192 dots an inch");
    let title = info.utf8_text.iter().find(|text| text.keyword == "Title").unwrap();
    assert!(title.get_text().unwrap().starts_with("Similarity of neighbouring tokens"));
}

/// The first colour of a scale is the same whatever the values are.
#[test]
fn scales_do_not_move_with_the_values() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = input(3, 2, &["news", "code"], dir.path());
    let bar = |input: &Input| -> Vec<String> {
        report(input, dir.path(), Some(&["similarity-heads"])).unwrap();
        let svg = svg(dir.path(), "similarity-heads");
        svg.lines().map(|line| line.trim().to_string()).filter(|line| line.ends_with("0.0") || line == "1.0").collect()
    };
    assert_eq!(bar(&input), ["0.0", "1.0"]);
    for dataset in &mut input.analysis.datasets {
        for head in dataset.similarity.iter_mut().flat_map(|state| &mut state.heads) {
            head.neighbours.mean = head.neighbours.mean.map(|mean| 0.3 * mean - 0.05);
        }
    }
    assert_eq!(bar(&input), ["≤ 0.0", "1.0"]);
}

/// Scripts that the program's own font lacks are drawn with the system's fonts, or told by their codes.
#[test]
fn names_in_other_scripts_are_drawn_or_told_by_codes() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["中文数据集", "データセット", "עברית", "العربية"];
    report(&input(3, 2, &names, dir.path()), dir.path(), Some(&["sparsity-layers", "datasets"])).unwrap();
    let svg = svg(dir.path(), "sparsity-layers");
    for name in names {
        // In one run of text, so that its letters join and stand in their direction.
        assert_eq!(svg.lines().filter(|line| line.trim() == name).count(), 1, "{name}");
    }
    let (_, _, colors) = png(&dir.path().join("figures/sparsity-layers.png"));
    assert!(colors > 100);
}

/// Renders made-up runs of all kinds below `target/tmp/look/`.
#[test]
#[ignore = "needs eyes"]
fn look_at_the_figures() {
    let long: Vec<String> = (0..12)
        .map(|i| format!("corpus-{i:02}{}", ["", "-with-a-very-long-name-about-legal-proceedings-2024"][i % 2]))
        .collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    for case in ["small", "usual", "large", "gaps"] {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("look").join(case);
        std::fs::create_dir_all(&dir).unwrap();
        let mut input = match case {
            "small" => input(1, 1, &["news"], &dir),
            "large" => input(80, 32, &long, &dir),
            "gaps" => with_gaps(input(30, 3, &["news", "code", "dialogue"], &dir)),
            _ => input(30, 3, &["news", "code", "dialogue", "wikipedia"], &dir),
        };
        if case == "usual" || case == "large" {
            add_map(&mut input.analysis, &dir, 1500, (14, 1), State::V);
        }
        report(&input, &dir, None).unwrap();
    }
}
