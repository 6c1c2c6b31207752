//! Tokenizers against the ids that other implementations gave. The files and the script that made them lie in
//! `tests/fixtures/tokenizers/`.

use std::path::{Path, PathBuf};

use kvscope::hint::Hint;
use kvscope::model::gguf::Gguf;
use kvscope::model::tokenizer::{AddSpecial, Message, SkipSpecial, Tokenizer, TokenizerError};
use proptest::prelude::*;

const N_TEXTS: usize = 30;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

fn model(name: &str) -> Tokenizer {
    let bytes = std::fs::read(fixture(name).join("tokenizer.model")).unwrap();
    Tokenizer::from_sentencepiece(&bytes, name).unwrap()
}

fn gguf(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(&fixture(name)).unwrap()).unwrap()
}

fn folder(name: &str) -> Tokenizer {
    Tokenizer::from_hf_folder(&fixture(name)).unwrap()
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn cases(name: &str) -> Vec<Case> {
    let text = std::fs::read(fixture("expected.json")).unwrap();
    let mut all: std::collections::BTreeMap<String, Vec<Case>> = serde_json::from_slice(&text).unwrap();
    all.remove(name).unwrap()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: SkipSpecial) -> String {
    let mut stream = tokenizer.stream(skip);
    let mut out: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    out.push_str(&stream.finish().unwrap());
    out
}

fn check(tokenizer: &Tokenizer, cases: &[Case]) {
    assert_eq!(cases.len(), N_TEXTS);
    for Case { text, ids, decoded } in cases {
        assert_eq!(&tokenizer.encode(text, AddSpecial::No).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids, SkipSpecial::Yes).unwrap(), decoded, "{text:?}");
        for skip in [SkipSpecial::Yes, SkipSpecial::No] {
            assert_eq!(streamed(tokenizer, ids, skip), tokenizer.decode(ids, skip).unwrap(), "{text:?}");
        }
    }
}

#[test]
fn sentencepiece_gives_the_ids_of_the_sentencepiece_library() {
    check(&model("spm"), &cases("spm"));
}

#[test]
fn rewriting_rules_and_unknown_characters_give_the_ids_of_the_sentencepiece_library() {
    check(&model("spm_rules"), &cases("spm_rules"));
}

#[test]
fn sentencepiece_in_gguf_gives_each_stretch_its_space() {
    check(&gguf("spm.gguf"), &cases("spm.gguf"));
}

#[test]
fn byte_level_bpe_gives_the_ids_of_the_tokenizers_library_from_either_file() {
    check(&folder("bpe"), &cases("bpe"));
    check(&gguf("bpe.gguf"), &cases("bpe"));
}

#[test]
fn texts_are_framed_as_the_files_say() {
    let frame = |tokenizer: &Tokenizer| {
        let plain = tokenizer.encode("the ring", AddSpecial::No).unwrap();
        let framed = tokenizer.encode("the ring", AddSpecial::Yes).unwrap();
        let at = framed.windows(plain.len()).position(|window| window == plain).unwrap();
        (framed[..at].to_vec(), framed[at + plain.len()..].to_vec())
    };
    assert_eq!(frame(&model("spm")), (vec![1], vec![]));
    assert_eq!(frame(&folder("spm")), (vec![1], vec![2]), "tokenizer_config.json asks for an end");
    assert_eq!(frame(&gguf("spm.gguf")), (vec![1], vec![]));
    assert_eq!(frame(&folder("bpe")), (vec![0], vec![]));
    assert_eq!(frame(&gguf("bpe.gguf")), (vec![0], vec![]));
    assert_eq!(model("spm").encode("", AddSpecial::Yes).unwrap(), [1]);
}

#[test]
fn special_tokens_are_known() {
    let tokenizer = folder("bpe");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(0), &[2, 0][..], 421));
    let tokenizer = gguf("bpe.gguf");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(0), &[2, 0][..], 421));
    let tokenizer = gguf("spm.gguf");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(1), &[2][..], 420));
    let tokenizer = folder("spm");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(1), &[2][..], 421));
    assert_eq!(tokenizer.encode("<|im_start|>the", AddSpecial::No).unwrap()[0], 420);
    assert_eq!(tokenizer.decode(&[420, 420], SkipSpecial::No).unwrap(), "<|im_start|><|im_start|>");
    assert_eq!(tokenizer.decode(&[420, 420, 9999], SkipSpecial::Yes).unwrap(), "");
    assert_eq!(tokenizer.token_id("</s>"), Some(2));
}

#[test]
fn tokens_have_readable_labels() {
    for tokenizer in [model("spm"), gguf("bpe.gguf"), folder("bpe")] {
        let ids = tokenizer.encode("kalo the", AddSpecial::No).unwrap();
        let labels: Vec<String> = ids.iter().map(|id| tokenizer.token_text(*id).unwrap()).collect();
        assert_eq!(labels.concat().trim_start(), "kalo the");
        assert_eq!(tokenizer.token_text(421), None);
    }
    let tokenizer = folder("bpe");
    let half = tokenizer.encode("🙂", AddSpecial::No).unwrap();
    assert_eq!(tokenizer.token_text(half[0]).unwrap(), "<0xF0>");
    assert_eq!(tokenizer.token_text(1).unwrap(), "<|im_start|>");
    let tokenizer = model("spm");
    let half = tokenizer.encode("🙂", AddSpecial::No).unwrap();
    assert_eq!(tokenizer.token_text(half[1]).unwrap(), "<0xF0>");
}

#[test]
fn streams_hold_back_half_characters() {
    for tokenizer in [folder("bpe"), model("spm")] {
        let ids = tokenizer.encode("a🙂b", AddSpecial::No).unwrap();
        let mut stream = tokenizer.stream(SkipSpecial::Yes);
        let parts: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        let shown: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        assert_eq!(shown, ["a", "🙂", "b"]);
        assert_eq!(stream.finish().unwrap(), "");
        // Cut inside the character: held back, then shown as what it is.
        let cut = &ids[..ids.len() - 2];
        let mut stream = tokenizer.stream(SkipSpecial::Yes);
        let shown: String = cut.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(shown, "a");
        assert!(stream.finish().unwrap().chars().all(|c| c == char::REPLACEMENT_CHARACTER));
    }
}

#[test]
fn endless_broken_bytes_do_not_hold_a_stream_up_for_ever() {
    let tokenizer = model("spm");
    let broken = tokenizer.token_id("<0xFF>").unwrap();
    let mut stream = tokenizer.stream(SkipSpecial::Yes);
    let shown: String = (0..600).map(|_| stream.push(broken).unwrap()).collect();
    assert!(shown.chars().count() >= 500, "{}", shown.chars().count());
}

#[test]
fn hashes_tell_tokenizers_apart_and_stay_the_same() {
    let hashes = [
        model("spm").sha256().to_string(),
        model("spm_rules").sha256().to_string(),
        folder("spm").sha256().to_string(),
        gguf("spm.gguf").sha256().to_string(),
        folder("bpe").sha256().to_string(),
        gguf("bpe.gguf").sha256().to_string(),
    ];
    for (i, hash) in hashes.iter().enumerate() {
        assert_eq!(hash.len(), 64);
        assert!(!hashes[..i].contains(hash));
    }
    assert_eq!(folder("bpe").sha256(), hashes[4]);
    assert_eq!(gguf("bpe.gguf").sha256(), hashes[5]);
}

#[test]
fn chats_become_prompts_and_prompts_become_special_tokens() {
    let messages = [Message::new("system", "Be kind."), Message::new("user", " Hi <b>! ")];
    let expected =
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi <b>!<|im_end|>\n<|im_start|>assistant\n";
    for tokenizer in [folder("bpe"), gguf("bpe.gguf")] {
        let prompt = tokenizer.apply_chat(&messages, true).unwrap();
        assert_eq!(prompt, expected);
        let ids = tokenizer.encode(&prompt, AddSpecial::No).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == 1).count(), 3);
        assert_eq!(tokenizer.decode(&ids, SkipSpecial::No).unwrap(), expected);
        assert!(tokenizer.chat_template().unwrap().source().contains("add_generation_prompt"));
    }
    let error = model("spm").apply_chat(&messages, true).unwrap_err();
    assert_eq!(error.to_string(), "spm has no chat template");
    assert!(error.hint().unwrap().contains("base model"));
}

#[test]
fn templates_come_from_the_configuration_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("bpe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = dir.path().join("tokenizer_config.json");
    let render = || Tokenizer::from_hf_folder(dir.path()).unwrap().apply_chat(&[], false).unwrap();
    let head = r#""bos_token": {"content": "<|endoftext|>"}"#;
    std::fs::write(&config, format!(r#"{{{head}, "chat_template": "one {{{{ bos_token }}}}"}}"#)).unwrap();
    assert_eq!(render(), "one <|endoftext|>");
    let list = r#"[{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]"#;
    std::fs::write(&config, format!(r#"{{{head}, "chat_template": {list}}}"#)).unwrap();
    assert_eq!(render(), "two");
    std::fs::write(dir.path().join("chat_template.jinja"), "three").unwrap();
    assert_eq!(render(), "three");
}

#[test]
fn settings_without_a_tokenizer_configuration_give_the_ids() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("bpe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"bos_token_id": 1, "eos_token_id": 2}"#).unwrap();
    let tokenizer = Tokenizer::from_hf_folder(dir.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), &[2][..]));
}

fn replaced(name: &str, from: &str, to: &str) -> Result<Tokenizer, TokenizerError> {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(fixture(name)).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    Tokenizer::from_gguf(&Gguf::from_bytes(Path::new("m.gguf"), bytes).unwrap())
}

#[test]
fn unknown_kinds_are_named() {
    let message = |from, to| replaced("bpe.gguf", from, to).unwrap_err().to_string();
    let rules = message("smollm", "smolln");
    assert_eq!(
        rules,
        "the tokenizer of m.gguf cuts words by the rules \"smolln\" (tokenizer.ggml.pre), which kvscope does not read"
    );
    assert!(message("gpt2", "bert").contains("is of the kind \"bert\""));
    assert_eq!(
        message("tokenizer.ggml.merges", "tokenizer.ggml.merget"),
        "m.gguf has no tokenizer.ggml.merges in its metadata"
    );
    assert_eq!(
        message("tokenizer.ggml.tokens", "tokenizer.ggml.tokent"),
        "m.gguf has no tokenizer.ggml.tokens in its metadata"
    );
    let scores = replaced("spm.gguf", "tokenizer.ggml.scores", "tokenizer.ggml.scorez").unwrap_err().to_string();
    assert_eq!(scores, "m.gguf has no tokenizer.ggml.scores in its metadata");
}

#[test]
fn tokens_named_as_ends_are_special_whatever_their_type() {
    let tokenizer = replaced("bpe.gguf", "tokenizer.ggml.token_type", "tokenizer.ggml.token_typo").unwrap();
    assert_eq!(tokenizer.encode("<|endoftext|><|im_end|>", AddSpecial::No).unwrap(), [0, 2]);
    assert!(tokenizer.encode("<|im_start|>", AddSpecial::No).unwrap().len() > 1);
}

#[test]
fn merges_that_give_no_token_are_refused_in_either_file() {
    let message = replaced("bpe.gguf", "i ng", "i nq").unwrap_err().to_string();
    assert!(message.contains("\"nq\" is not a token"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    let json = std::fs::read_to_string(fixture("bpe/tokenizer.json")).unwrap();
    let broken = json.replacen(r#"["i","ng"]"#, &format!(r#"["i","{}"]"#, "q".repeat(99)), 1);
    assert_ne!(json, broken);
    std::fs::write(dir.path().join("tokenizer.json"), broken).unwrap();
    let message = Tokenizer::from_hf_folder(dir.path()).unwrap_err().to_string();
    assert!(message.contains("does not give a token"), "{message}");
}

#[test]
fn folders_without_or_with_broken_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_hf_folder(dir.path()).unwrap_err();
    assert!(error.to_string().contains("holds neither tokenizer.json nor tokenizer.model"));
    std::fs::write(dir.path().join("tokenizer.model"), b"\xff\xff").unwrap();
    let error = Tokenizer::from_hf_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.model is not a valid tokenizer"), "{error}");
    std::fs::write(dir.path().join("tokenizer.json"), b"{\"model\": 1}").unwrap();
    assert!(matches!(Tokenizer::from_hf_folder(dir.path()), Err(TokenizerError::Library { .. })));
    std::fs::write(dir.path().join("tokenizer.json"), b"{").unwrap();
    assert!(matches!(Tokenizer::from_hf_folder(dir.path()), Err(TokenizerError::File(_))));
}

#[test]
fn added_tokens_far_behind_the_vocabulary_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("spm/tokenizer.model"), dir.path().join("tokenizer.model")).unwrap();
    std::fs::write(dir.path().join("added_tokens.json"), r#"{"<x>": 4000000000}"#).unwrap();
    let error = Tokenizer::from_hf_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("\"<x>\" lies far behind"), "{error}");
    std::fs::write(dir.path().join("added_tokens.json"), r#"{"<x>": 423, "<y>": 3}"#).unwrap();
    let error = Tokenizer::from_hf_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("token \"<y>\" is to have the id 3, but piece 3 is \"<sep>\""), "{error}");
    std::fs::write(dir.path().join("added_tokens.json"), r#"{"<x>": 423, "<sep>": 3}"#).unwrap();
    let tokenizer = Tokenizer::from_hf_folder(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 424);
    assert_eq!(tokenizer.encode("<x><x>", AddSpecial::No).unwrap(), [423, 423]);
}

proptest! {
    #[test]
    fn byte_level_bpe_loses_nothing(text in "\\PC{0,40}|[ \\n\\ta-c🙂é]{0,40}") {
        let tokenizer = gguf("bpe.gguf");
        let ids = tokenizer.encode(&text, AddSpecial::No).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, SkipSpecial::No).unwrap(), text.clone());
        prop_assert_eq!(streamed(&tokenizer, &ids, SkipSpecial::No), text);
    }

    #[test]
    fn sentencepiece_loses_nothing(text in "\\PC{0,40}|[ \\n\\ta-c🙂é]{0,40}") {
        let tokenizer = model("spm");
        let ids = tokenizer.encode(&text, AddSpecial::No).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, SkipSpecial::No).unwrap(), text.replace('▁', " "));
    }

    #[test]
    fn streams_agree_with_decoding_whatever_the_model_says(ids in prop::collection::vec(0u32..430, 0..60)) {
        for tokenizer in [model("spm"), model("spm_rules"), gguf("bpe.gguf")] {
            for skip in [SkipSpecial::Yes, SkipSpecial::No] {
                prop_assert_eq!(streamed(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap());
            }
        }
    }

    #[test]
    fn damaged_models_never_panic(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8), model in 0usize..3) {
        let name = ["spm/tokenizer.model", "spm_rules/tokenizer.model", "spm.gguf"][model];
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        for (at, byte) in changes {
            let n = bytes.len();
            bytes[at % n] = byte;
        }
        let tokenizer = match model {
            2 => Gguf::from_bytes(Path::new("m"), bytes).ok().and_then(|gguf| Tokenizer::from_gguf(&gguf).ok()),
            _ => Tokenizer::from_sentencepiece(&bytes, "m").ok(),
        };
        if let Some(tokenizer) = tokenizer {
            let ids = tokenizer.encode("  the ring ﬁ ½<s> 漢字 🙂", AddSpecial::Yes).unwrap();
            tokenizer.decode(&ids, SkipSpecial::No).unwrap();
        }
    }
}

/// Settings beside one tokenizer.json, with what transformers makes of them.
#[derive(serde::Deserialize)]
struct Folders {
    tokenizer: serde_json::Value,
    folders: Vec<Folder>,
}

#[derive(serde::Deserialize)]
struct Folder {
    files: std::collections::BTreeMap<String, serde_json::Value>,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    plain: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
}

fn write(dir: &Path, file: &str, content: &serde_json::Value) {
    std::fs::write(dir.join(file), content.to_string()).unwrap();
}

#[test]
fn added_and_special_tokens_are_those_of_transformers_whatever_file_names_them() {
    let all: Folders = serde_json::from_slice(&std::fs::read(fixture("folders.json")).unwrap()).unwrap();
    assert_eq!(all.folders.len(), 30);
    for (i, folder) in all.folders.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut tokenizer = all.tokenizer.clone();
        for (file, content) in &folder.files {
            match file.as_str() {
                "own" => tokenizer.as_object_mut().unwrap().extend(content.as_object().unwrap().clone()),
                file => write(dir.path(), file, content),
            }
        }
        write(dir.path(), "tokenizer.json", &tokenizer);
        let tokenizer = Tokenizer::from_hf_folder(dir.path()).unwrap_or_else(|e| panic!("folder {i}: {e}"));
        for ((text, ids), plain) in folder.texts.iter().zip(&folder.ids).zip(&folder.plain) {
            assert_eq!(&tokenizer.encode(text, AddSpecial::No).unwrap(), ids, "folder {i}: {text:?}");
            assert_eq!(&tokenizer.decode(ids, SkipSpecial::Yes).unwrap(), plain, "folder {i}: {text:?}");
        }
        assert_eq!((tokenizer.bos(), tokenizer.eos().first().copied()), (folder.bos, folder.eos), "folder {i}");
    }
}

/// The folder `bpe` with a change to its tokenizer.json.
fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Result<Tokenizer, TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    let mut content = serde_json::from_slice(&std::fs::read(fixture("bpe/tokenizer.json")).unwrap()).unwrap();
    change(&mut content);
    write(dir.path(), "tokenizer.json", &content);
    Tokenizer::from_hf_folder(dir.path())
}

#[test]
fn dropout_of_a_training_run_is_taken_off() {
    let text = "the ring and the stone in the reeds, again and again and again";
    let plain = folder("bpe").encode(text, AddSpecial::No).unwrap();
    let tokenizer = changed(|json| json["model"]["dropout"] = 0.5.into()).unwrap();
    for _ in 0..20 {
        assert_eq!(tokenizer.encode(text, AddSpecial::No).unwrap(), plain);
    }
    let error = changed(|json| json["model"]["dropout"] = 7.into()).unwrap_err().to_string();
    assert!(error.contains("its dropout is 7, not a share"), "{error}");
}

#[test]
fn what_the_library_takes_for_granted_is_checked() {
    let message = |change: fn(&mut serde_json::Value)| changed(change).unwrap_err().to_string();
    let empty = message(|json| {
        json["normalizer"] = serde_json::json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
    });
    assert!(empty.contains("it replaces an empty pattern"), "{empty}");
    let growing = message(|json| {
        let step = serde_json::json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "x".repeat(30)});
        json["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": [step, step]});
    });
    assert!(growing.contains("makes a text up to 900 times longer"), "{growing}");
    let panicking = message(|json| json["post_processor"]["special_tokens"] = serde_json::json!({}));
    assert!(panicking.contains("cannot"), "{panicking}");
    let moved = message(|json| json["added_tokens"][1]["id"] = 4_000_000_000u64.into());
    assert!(moved.contains("is to have the id 4000000000, but gets 1"), "{moved}");
}

#[test]
fn a_vocabulary_that_is_larger_than_the_model_is_refused() {
    let tokenizer = changed(|json| json["model"]["vocab"]["~"] = 4_000_000_000u64.into()).unwrap();
    let error = tokenizer.check_rows(420).unwrap_err();
    assert!(error.to_string().contains("token \"~\""), "{error}");
    assert!(error.hint().unwrap().contains("different models"));
    // An added token may stand behind the rows: other programs load such folders too.
    let tokenizer = folder("bpe");
    assert_eq!(tokenizer.token_id("<sep>"), Some(420));
    tokenizer.check_rows(420).unwrap();
    assert!(tokenizer.check_rows(419).is_err());
    assert!(folder("spm").check_rows(419).is_err() && folder("spm").check_rows(420).is_ok());
    assert!(gguf("spm.gguf").check_rows(419).is_err());
}

#[test]
fn ids_that_are_none_are_errors_and_minus_one_is_no_token() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("bpe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let eos = |value: serde_json::Value| {
        write(dir.path(), "generation_config.json", &serde_json::json!({ "eos_token_id": value }));
        Tokenizer::from_hf_folder(dir.path()).map(|tokenizer| tokenizer.eos().to_vec())
    };
    assert_eq!(eos(serde_json::json!([2, -1])).unwrap(), [2]);
    for wrong in [serde_json::json!("2"), serde_json::json!([0, 1.5])] {
        let error = eos(wrong).unwrap_err().to_string();
        assert!(error.contains("generation_config.json") && error.contains("eos_token_id is"), "{error}");
    }
}

#[test]
fn templates_may_be_a_table_or_files_and_need_a_default() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("bpe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let render = || Tokenizer::from_hf_folder(dir.path()).unwrap().apply_chat(&[Message::new("user", "hi")], false);
    let set = |template| write(dir.path(), "tokenizer_config.json", &serde_json::json!({ "chat_template": template }));
    set(serde_json::json!({"tool_use": "one", "default": "two"}));
    assert_eq!(render().unwrap(), "two");
    set(serde_json::json!([{"name": "tool_use", "template": "one"}, {"name": "rag", "template": "two"}]));
    assert!(render().unwrap_err().to_string().contains("several chat templates and no default: rag, tool_use"));
    set(serde_json::json!(7));
    assert!(Tokenizer::from_hf_folder(dir.path()).is_err());
    let more = dir.path().join("additional_chat_templates");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(more.join("rag.jinja"), "three").unwrap();
    assert!(render().unwrap_err().to_string().contains("no default: rag"));
    std::fs::write(dir.path().join("chat_template.jinja"), "four").unwrap();
    assert_eq!(render().unwrap(), "four");
}

#[test]
fn what_follows_a_reply_gets_no_blank_of_its_own() {
    for name in ["spm", "spm_rules"] {
        let tokenizer = model(name);
        let whole = tokenizer.encode("the ring\nkalo", AddSpecial::No).unwrap();
        let begun = tokenizer.encode("the ring", AddSpecial::No).unwrap();
        assert_eq!([begun, tokenizer.encode_behind("\nkalo").unwrap()].concat(), whole, "{name}");
    }
    let tokenizer = gguf("spm.gguf");
    let whole = tokenizer.encode("the ring </s><s> kalo", AddSpecial::No).unwrap();
    let begun = tokenizer.encode("the ring", AddSpecial::No).unwrap();
    assert_eq!([begun, tokenizer.encode_behind(" </s><s> kalo").unwrap()].concat(), whole);
    // A library's tokenizer that puts a blank before every text.
    let prepend = serde_json::json!({"type": "Prepend", "prepend": "\u{120}"});
    let tokenizer = changed(|json| json["normalizer"] = prepend).unwrap();
    let plain = folder("bpe").encode("\nkalo", AddSpecial::No).unwrap();
    assert_ne!(tokenizer.encode("\nkalo", AddSpecial::No).unwrap(), plain);
    assert_eq!(tokenizer.encode_behind("\nkalo").unwrap(), plain);
}

#[test]
fn bytes_without_types_are_known_by_their_spelling() {
    let tokenizer = replaced("spm.gguf", "tokenizer.ggml.token_type", "tokenizer.ggml.token_typo").unwrap();
    let typed = gguf("spm.gguf");
    for text in ["kalo\nthe ring", "\n\n", "漢🙂", "  the"] {
        let ids = tokenizer.encode(text, AddSpecial::No).unwrap();
        assert_eq!(ids, typed.encode(text, AddSpecial::No).unwrap(), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, SkipSpecial::Yes).unwrap(), text);
    }
}

#[test]
fn names_that_end_a_turn_do_so_whatever_their_type() {
    // A user-defined token and a control token are renamed.
    let tokenizer = replaced("bpe.gguf", "<sep>", "<EOT>").unwrap();
    assert_eq!(tokenizer.eos(), [2, 0, 420]);
    assert_eq!(tokenizer.encode("a<EOT>", AddSpecial::No).unwrap()[1..], [420]);
    assert_eq!(tokenizer.decode(&[420], SkipSpecial::Yes).unwrap(), "");
    let tokenizer = replaced("bpe.gguf", "<|im_start|>", "<|file_sep|>").unwrap();
    assert_eq!(tokenizer.eos(), [2, 0, 1]);
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_not_read() {
    for file in
        ["tokenizer_config.json", "added_tokens.json", "chat_template.jinja", "tokenizer.json", "tokenizer.model"]
    {
        let dir = tempfile::tempdir().unwrap();
        if file != "tokenizer.model" && file != "tokenizer.json" {
            std::fs::copy(fixture("bpe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        }
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(file)).unwrap();
        let error = Tokenizer::from_hf_folder(dir.path()).unwrap_err().to_string();
        assert!(error.contains("a pipe or a device, not a file"), "{file}: {error}");
    }
}
