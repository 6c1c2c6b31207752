//! Reading of the fixtures in `tests/fixtures/prompts/`, and of files that are wrong.

use std::path::{Path, PathBuf};

use crate::files::sha256_file;
use crate::hint::Hint;
use crate::prompts::{Place, Prompt, PromptError, PromptSet, ReadOptions, Source, read};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prompts").join(name)
}

fn read_path(path: &Path) -> Result<PromptSet, PromptError> {
    read(&Source::Path(path.into()), &ReadOptions::default())
}

fn read_stdin(text: impl Into<Vec<u8>>) -> Result<PromptSet, PromptError> {
    read(&Source::Stdin(text.into()), &ReadOptions::default())
}

fn read_text(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> Result<PromptSet, PromptError> {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    read_path(&path)
}

fn names(set: &PromptSet) -> Vec<(&str, &str)> {
    set.prompts.iter().map(|prompt| (prompt.dataset.as_str(), prompt.id.as_str())).collect()
}

#[test]
fn a_folder_is_read_in_order_with_the_templates_beside_it() {
    let set = read_path(&fixture("set")).unwrap();
    let expected = [
        ("inner", "note"),
        ("toyfam_one", "toyfam_one-1"),
        ("toyfam_one", "7"),
        ("toyqa_e", "aa"),
        ("toyqa_e", "bb"),
        ("toyclass", "aa"),
    ];
    assert_eq!(names(&set), expected);
    let texts: Vec<&str> = set.prompts.iter().map(|prompt| prompt.text.as_str()).collect();
    assert_eq!(texts[0], "A note of two lines.\nThis is the second.\n");
    assert_eq!(texts[2], "Text: Second of the family.");
    assert_eq!(texts[3], "Read this.\nThe {input} bell rang at nine.\nMira rang it.\nQ: Who rang?\nA:");
    assert_eq!(texts[5], "A question about a place.\n\nWhich kind?");

    let uses: Vec<(&str, Option<&str>)> =
        set.templates.iter().map(|used| (used.dataset.as_str(), used.key.as_deref())).collect();
    assert_eq!(uses, [("toyclass", None), ("toyfam_one", Some("toyfam")), ("toyqa_e", Some("toyqa"))]);
    let inputs: Vec<&str> = set.inputs.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(inputs, ["note.txt", "toyfam_one.jsonl", "dataset2prompt.json", "toyqa_e.jsonl"]);
    assert_eq!(set.inputs[3].sha256, sha256_file(&fixture("set/toyqa_e.jsonl")).unwrap());
    assert_eq!(set.skipped, [fixture("set/inner/extra.md")]);
}

#[test]
fn the_fields_of_a_record_are_kept() {
    let set = read_path(&fixture("set/toyqa_e.jsonl")).unwrap();
    let expected = Prompt {
        dataset: "toyqa_e".into(),
        id: "bb".into(),
        text: "Read this.\n九点，小明敲了钟。\nQ: 谁敲了钟？\nA:".into(),
        earlier: Vec::new(),
        context_bytes: Some("Read this.\n九点，小明敲了钟。".len()),
        answers: vec!["小明".into()],
        all_classes: None,
        language: Some("zh".into()),
        length: Some(14),
        source_name: "toyqa_e.jsonl".into(),
    };
    assert_eq!(set.prompts[1], expected);
    assert_eq!(set.prompts[2].all_classes.as_deref(), Some(&["LOC".to_string(), "NUM".to_string()][..]));
}

#[test]
fn max_samples_counts_for_each_dataset() {
    let options = ReadOptions { max_samples: Some(1), ..ReadOptions::default() };
    let set = read(&Source::Path(fixture("set")), &options).unwrap();
    assert_eq!(names(&set), [("inner", "note"), ("toyfam_one", "toyfam_one-1"), ("toyqa_e", "aa"), ("toyclass", "aa")]);
}

#[test]
fn given_templates_replace_those_that_lie_beside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.json");
    std::fs::write(&path, r#"{"toyclass": "{input} / {context}"}"#).unwrap();
    let options = ReadOptions { templates: Some(path), ..ReadOptions::default() };
    let set = read(&Source::Path(fixture("set/toyqa_e.jsonl")), &options).unwrap();
    assert_eq!(set.prompts[2].text, "Which kind? / A question about a place.");
    assert_eq!(set.prompts[1].text, "九点，小明敲了钟。\n\n谁敲了钟？");
    assert!(set.inputs.iter().any(|input| input.name == "mine.json"));
}

#[test]
fn a_prompts_json_that_is_no_template_table_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("prompts.json"), r#"[{"text": "other use"}]"#).unwrap();
    let set = read_text(dir.path(), "a.jsonl", r#"{"input": "?", "context": "c"}"#).unwrap();
    assert_eq!(set.prompts[0].text, "c\n\n?");
    let options = ReadOptions { templates: Some(dir.path().join("prompts.json")), ..ReadOptions::default() };
    let given = read(&Source::Path(dir.path().join("a.jsonl")), &options);
    assert!(matches!(given, Err(PromptError::TemplateFile { .. })));
}

#[test]
fn standard_input_is_lines_or_text_by_its_first_character() {
    let set = read_stdin("\n  {\"input\": \"a\"}\r\n{\"input\": \"b\", \"dataset\": \"d\"}").unwrap();
    assert_eq!(names(&set), [("stdin", "stdin-2"), ("d", "stdin-3")]);
    let set = read_stdin("\u{feff}Once {upon} a time\n").unwrap();
    assert_eq!((names(&set), set.prompts[0].text.as_str()), (vec![("stdin", "1")], "Once {upon} a time\n"));
    assert_eq!(set.inputs[0].name, "-");
    let set = read_stdin("\u{feff}{\"input\": \"a\"}").unwrap();
    assert_eq!(set.prompts[0].text, "a");
}

#[test]
fn repeated_ids_are_told_apart() {
    let line = |id: &str| format!("{{\"input\": \"x\", \"dataset\": \"d\", \"_id\": \"{id}\"}}\n");
    let set = read_stdin([line("a"), line("a-2"), line("a"), line("a"), line("")].concat()).unwrap();
    let ids: Vec<&str> = set.prompts.iter().map(|prompt| prompt.id.as_str()).collect();
    assert_eq!(ids, ["a", "a-2", "a-3", "a-4", "stdin-5"]);
}

#[test]
fn wrong_lines_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = "{\"input\": \"x\"}\n";
    let error = read_text(dir.path(), "a.jsonl", format!("{good}\n{{\"input\": }}\n")).unwrap_err();
    assert!(matches!(error, PromptError::Record { at: Place::Line(3), .. }), "{error}");
    assert!(error.to_string().contains("a.jsonl, line 3"), "{error}");
    let error = read_text(dir.path(), "a.jsonl", format!("{good}{{\"input\": 5}}\n")).unwrap_err();
    assert!(matches!(error, PromptError::Record { at: Place::Line(2), .. }), "{error}");
    let error = read_text(dir.path(), "a.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}").unwrap_err();
    assert!(error.to_string().contains("(fields: answer, question)"), "{error}");
    let error = read_text(dir.path(), "a.jsonl", [good.as_bytes(), b"{\"input\": \"\xff\"}"].concat()).unwrap_err();
    assert!(matches!(error, PromptError::NotUtf8 { line: 2, byte: 12, .. }), "{error}");
    let error = read_text(dir.path(), "a.txt", b"one\ntw\xffo").unwrap_err();
    assert!(matches!(error, PromptError::NotUtf8 { line: 2, byte: 3, .. }), "{error}");
    // A model has tokens for blanks and line breaks.
    assert_eq!(read_text(dir.path(), "a.txt", " \n").unwrap().prompts[0].text, " \n");
    for (name, text) in [("a.jsonl", "\n \n"), ("a.txt", ""), ("a.jsonl", "")] {
        assert!(matches!(read_text(dir.path(), name, text), Err(PromptError::Empty(_))), "{name}");
    }
    assert!(matches!(read_stdin(""), Err(PromptError::Empty(_))));
}

#[test]
fn overlong_lines_are_refused_without_reading_them_whole() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["long.jsonl", "long.txt"] {
        let path = dir.path().join(name);
        // A hole, not data: the file takes no space on the disk.
        std::fs::File::create(&path).unwrap().set_len(crate::prompts::MAX_LINE_BYTES + 1).unwrap();
        let error = read_path(&path).unwrap_err();
        assert!(matches!(error, PromptError::TooLong { line: 1, .. }), "{error}");
    }
}

#[test]
fn paths_without_prompts_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = read_path(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(error, PromptError::File(_)) && error.to_string().contains("absent"), "{error}");
    std::fs::write(dir.path().join("a.md"), "x").unwrap();
    std::fs::write(dir.path().join(".hidden.txt"), "x").unwrap();
    assert!(matches!(read_path(dir.path()), Err(PromptError::EmptyFolder { skipped: 2, .. })));
}

#[test]
fn a_json_file_is_a_record_or_a_list_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let list =
        "\u{feff}[\r\n {\"context\": \"a\", \"_id\": \"x\"},\r\n {\"input\": \"b\", \"dataset\": \"d\"}\r\n]\r\n";
    for set in [read_text(dir.path(), "a.json", list).unwrap(), read_stdin(list).unwrap()] {
        assert_eq!(set.prompts.iter().map(|p| p.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(set.prompts[0].id, "x");
    }
    let set = read_text(dir.path(), "a.json", "{\n  \"context\": \"a\"\n}\n").unwrap();
    assert_eq!(names(&set), [("a", "a-1")]);
    let set = read_text(dir.path(), "a.json", "{\"input\": \"a\"}\n{\"input\": \"b\"}\n").unwrap();
    assert_eq!(set.prompts.len(), 2, "lines under another ending");
    let refused = |text: &str| read_text(dir.path(), "a.json", text).unwrap_err().to_string();
    assert!(refused("[{\"input\": \"a\"}, {\"input\": \"\"}]").contains("a.json, record 2: neither"), "no text");
    assert!(refused("[{\"input\": \"a\"}, {\"text\": \"\"}]").contains("(fields: text)"));
    assert!(refused("[{\"input\": \"a\"},\n {\"input\": 7}]").contains("record 2: `input` is a number"));
    assert!(refused("[{\"input\": \"a\"},\n {\"input\": }]").contains("line 2"));
    assert!(refused("[]").contains("is empty") && refused(" ").contains("is empty"));
    assert!(
        refused("\"a text\"").contains("line 1")
            && refused("7").contains("line 1")
            && refused("hello").contains("line 1")
    );
    assert!(refused(&"[".repeat(100_000)).contains("line 1"));
    // A text of its own may begin with a bracket.
    assert_eq!(read_stdin("[INST] hi").unwrap().prompts[0].text, "[INST] hi");
}

#[test]
fn every_file_is_read_in_the_same_encoding() {
    let dir = tempfile::tempdir().unwrap();
    let wide: Vec<u8> = "{\"input\": \"x\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for name in ["a.jsonl", "a.json", "a.txt", "a.md"] {
        let error = read_text(dir.path(), name, &wide).unwrap_err();
        assert!(matches!(error, PromptError::Utf16(_)), "{name}: {error}");
        assert!(error.hint().unwrap().contains("utf-16"));
    }
    let path = dir.path().join("p.txt");
    std::fs::write(&path, "\u{feff}Once").unwrap();
    assert_eq!(crate::prompts::read_text(&Source::Path(path)).unwrap(), "Once");
    assert_eq!(crate::prompts::read_text(&Source::Stdin("\u{feff}Once".into())).unwrap(), "Once");
    let templates = dir.path().join("t.json");
    std::fs::write(&templates, "\u{feff}{\"d\": \"<{input}>\"}").unwrap();
    std::fs::write(dir.path().join("d.jsonl"), "\u{feff}{\"input\": \"x\"}\r\n").unwrap();
    let options = ReadOptions { templates: Some(templates), ..ReadOptions::default() };
    assert_eq!(read(&Source::Path(dir.path().join("d.jsonl")), &options).unwrap().prompts[0].text, "<x>");
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.txt");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.jsonl")).unwrap();
    for path in [pipe, dir.path().join("zero.jsonl")] {
        let error = read_path(&path).unwrap_err();
        assert!(matches!(error, PromptError::File(crate::files::FileError::NotRegular { .. })), "{error}");
        assert!(error.hint().unwrap().contains("standard input"));
        assert!(crate::prompts::read_text(&Source::Path(path)).is_err());
    }
    std::fs::write(dir.path().join("a.txt"), "abc").unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("prompts.json")).unwrap();
    assert_eq!(read_path(dir.path()).unwrap().prompts.len(), 1);
}

#[test]
fn a_file_with_another_ending_is_judged_by_its_first_character() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(names(&read_text(dir.path(), "a.md", "# Title").unwrap()), [("a", "a")]);
    assert_eq!(names(&read_text(dir.path(), "b.json", "{\"context\": \"c\"}").unwrap()), [("b", "b-1")]);
}
