//! One record in LongBench's schema.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Fields of a record as they stand. Unknown fields are no error, since other benchmarks add theirs.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RawRecord {
    context: Option<Value>,
    input: Option<Value>,
    answers: Option<Value>,
    /// RULER's name of `answers`.
    outputs: Option<Value>,
    all_classes: Option<Value>,
    language: Option<Value>,
    length: Option<Value>,
    dataset: Option<Value>,
    #[serde(rename = "_id")]
    id: Option<Value>,
    /// All others: one may be the text.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// What other data sets call the text of a record without context and input, in the order of trying.
const TEXT_FIELDS: [&str; 3] = ["text", "prompt", "content"];
/// A chat, which comes before those.
const MESSAGES: &str = "messages";

/// Fields of a record, each of its own type.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) context: String,
    pub(crate) input: String,
    /// The whole text, where it stands in one other field.
    pub(crate) plain: Option<String>,
    /// Of a chat, whose last message is the text, the messages before that.
    pub(crate) earlier: Vec<(String, String)>,
    /// LongBench has a list; a single text, as some conversions write, is taken as a list of one.
    pub(crate) answers: Vec<String>,
    pub(crate) all_classes: Option<Vec<String>>,
    pub(crate) language: Option<String>,
    pub(crate) length: Option<u64>,
    pub(crate) dataset: Option<String>,
    /// LongBench has text; other files count.
    pub(crate) id: Option<String>,
}

impl Record {
    /// The fields of a record; the error names the field. `field` has the text, where it is named.
    pub(crate) fn new(mut raw: RawRecord, field: Option<&str>) -> Result<Self, String> {
        let (mut plain, mut earlier, mut said) = (None, Vec::new(), None);
        if field.is_none_or(|field| field == MESSAGES)
            && let Some(messages) = raw.others.remove(MESSAGES)
        {
            if raw.context.is_some() || raw.input.is_some() {
                return Err(format!("`{MESSAGES}` stands beside `context` or `input`: one of them is the prompt"));
            }
            let chat = chat(messages)?;
            (plain, earlier, said) = (Some(chat.text), chat.earlier, chat.answer);
        } else if let Some(field) = field {
            let named = match field {
                "context" => raw.context.take(),
                "input" => raw.input.take(),
                other => raw.others.remove(other),
            };
            plain = Some(text(field, named)?.ok_or_else(|| format!("there is no field `{field}`"))?);
            (raw.context, raw.input) = (None, None);
        } else if raw.context.is_none() && raw.input.is_none() {
            let found = TEXT_FIELDS.into_iter().find_map(|name| Some((name, raw.others.remove(name)?)));
            plain = found.map_or(Ok(None), |(name, value)| text(name, Some(value)))?;
        }
        let answers = texts("answers", raw.answers)?;
        let answers = answers.or(texts("outputs", raw.outputs)?).or(said.map(|said| vec![said]));
        Ok(Self {
            plain,
            earlier,
            context: text("context", raw.context)?.unwrap_or_default(),
            input: text("input", raw.input)?.unwrap_or_default(),
            answers: answers.unwrap_or_default(),
            all_classes: list("all_classes", raw.all_classes)?,
            language: text("language", raw.language)?,
            length: length(raw.length)?,
            dataset: text("dataset", raw.dataset)?.filter(|name| !name.trim().is_empty()),
            id: id(raw.id)?,
        })
    }

    /// Whether there is anything to read.
    pub(crate) fn has_text(&self) -> bool {
        let texts = [Some(&self.context), Some(&self.input), self.plain.as_ref()];
        texts.into_iter().flatten().any(|text| !text.trim().is_empty())
    }
}

/// A chat up to where the assistant is to speak.
struct Chat {
    earlier: Vec<(String, String)>,
    /// What the user says at last.
    text: String,
    /// What the assistant says behind that, where it is there.
    answer: Option<String>,
}

/// Messages with their roles, in the form of the chat interfaces: `content` is a text, or a list of parts that are texts.
fn chat(value: Value) -> Result<Chat, String> {
    let Value::Array(items) = value else { return wrong(MESSAGES, &value, "a list of messages") };
    let message = |(i, item): (usize, Value)| {
        let at = format!("{MESSAGES}[{i}]");
        let Value::Object(mut fields) = item else { return wrong(&at, &item, "an object with role and content") };
        let [role, content] = ["role", "content"].map(|name| fields.remove(name));
        if let Some(name) = ["tool_calls", "function_call"].into_iter().find(|name| fields.contains_key(*name)) {
            return Err(format!("`{at}` has `{name}`: only texts are read"));
        }
        let role = text(&format!("{at}.role"), role)?.ok_or_else(|| format!("`{at}` has no `role`"))?;
        Ok((role, said(&format!("{at}.content"), content)?))
    };
    let mut earlier = items.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
    let answer = earlier.pop_if(|(role, _)| role == "assistant").map(|(_, text)| text);
    match earlier.pop() {
        Some((role, text)) if role == "user" => Ok(Chat { earlier, text, answer }),
        Some((role, _)) => Err(format!("`{MESSAGES}` ends with {role:.20?}, where the user's message is due")),
        None => Err(format!("`{MESSAGES}` has no message of the user")),
    }
}

/// The text of a message.
fn said(at: &str, content: Option<Value>) -> Result<String, String> {
    match content {
        None => Err(format!("there is no `{at}`")),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let part = |part: Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_string()),
                _ => Err(format!("`{at}` has a part that is no text")),
            };
            parts.into_iter().map(part).collect()
        }
        Some(other) => wrong(at, &other, "a string or a list of texts"),
    }
}

fn wrong<T>(field: &str, found: &Value, expected: &str) -> Result<T, String> {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Err(format!("`{field}` is {found}, not {expected}"))
}

fn text(field: &str, value: Option<Value>) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => wrong(field, &other, "a string"),
    }
}

fn list(field: &str, value: Option<Value>) -> Result<Option<Vec<String>>, String> {
    let items = match value {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return wrong(field, &other, "a list of strings"),
    };
    let item = |item| match item {
        Value::String(text) => Ok(text),
        other => wrong(&format!("{field}[]"), &other, "a string"),
    };
    items.into_iter().map(item).collect::<Result<_, _>>().map(Some)
}

fn texts(field: &str, value: Option<Value>) -> Result<Option<Vec<String>>, String> {
    match value {
        Some(Value::String(text)) => Ok(Some(vec![text])),
        Some(other) if !other.is_array() => wrong(field, &other, "a list of strings or a string"),
        other => list(field, other),
    }
}

/// A whole number, which some programs write with a point: 12.0.
fn whole(value: &Value) -> Option<i64> {
    let real = || value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() <= 2f64.powi(53)).map(|x| x as i64);
    value.as_i64().or_else(real)
}

fn length(value: Option<Value>) -> Result<Option<u64>, String> {
    let Some(value) = value else { return Ok(None) };
    match whole(&value).and_then(|n| u64::try_from(n).ok()) {
        None if value.is_number() => Err(format!("`length` is {value}, not a whole number of at least 0")),
        None => wrong("length", &value, "a whole number of at least 0"),
        length => Ok(length),
    }
}

fn id(value: Option<Value>) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id).filter(|id| !id.trim().is_empty())),
        Some(value) => match whole(&value) {
            None if value.is_number() => Err(format!("`_id` is {value}, not a string or a whole number")),
            None => wrong("_id", &value, "a string or a whole number"),
            id => Ok(id.map(|id| id.to_string())),
        },
    }
}

/// What is wrong with a text that is no JSON, in words.
pub(crate) fn explain(json: &serde_json::Error, text: &str) -> String {
    let said = json.to_string();
    // Programs that count letters in UTF-16 cut a letter beyond its first plane in two.
    if said.contains("surrogate") || said.contains("hex escape") {
        return format!("a lone surrogate, an escape \\uD800 to \\uDFFF that is half a character ({said})");
    }
    // Python writes these.
    let line = text.split('\n').nth(json.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(json.column().saturating_sub(1)..).unwrap_or_default();
    match ["NaN", "Infinity"].into_iter().find(|word| found.starts_with(word)) {
        Some(word) => format!("{word} is no JSON value, null is ({said})"),
        None => said,
    }
}

/// Names of the fields of a JSON object, or of item `i` of a list of them.
pub(crate) fn field_names(text: &str, i: usize) -> Vec<String> {
    let fields = match serde_json::from_str(text) {
        Ok(Value::Array(mut items)) if i < items.len() => items.swap_remove(i),
        Ok(other) => other,
        Err(_) => Value::Null,
    };
    fields.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Record, String> {
        Record::new(serde_json::from_str(line).map_err(|e| explain(&e, line))?, None)
    }

    #[test]
    fn answers_and_ids_are_taken_in_both_forms() {
        let record = parse(r#"{"context": "c", "answers": ["a", "b"], "_id": "x", "more": [1]}"#).unwrap();
        assert_eq!((record.answers, record.id), (vec!["a".into(), "b".into()], Some("x".into())));
        let record = parse(r#"{"input": "i", "answers": "a", "_id": 7, "all_classes": null}"#).unwrap();
        assert_eq!((record.answers, record.id, record.all_classes), (vec!["a".into()], Some("7".into()), None));
        let record = parse(r#"{"input": "i", "outputs": ["a"], "length": 12.0, "_id": 3.0}"#).unwrap();
        assert_eq!((record.answers, record.length, record.id), (vec!["a".into()], Some(12), Some("3".into())));
        let record = parse(r#"{"input": "i", "outputs": ["a"], "answers": ["b"], "_id": "", "dataset": " "}"#).unwrap();
        assert_eq!((record.answers, record.id, record.dataset), (vec!["b".into()], None, None));
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let cases = [
            (r#"{"answers": [1]}"#, "`answers[]` is a number, not a string"),
            (r#"{"answers": 1}"#, "`answers` is a number"),
            (r#"{"outputs": {}}"#, "`outputs` is an object"),
            (r#"{"input": 7}"#, "`input` is a number, not a string"),
            (r#"{"context": ["a"]}"#, "`context` is a list"),
            (r#"{"all_classes": "x"}"#, "`all_classes` is a string, not a list"),
            (r#"{"length": -1}"#, "`length` is -1"),
            (r#"{"length": 12.5}"#, "`length` is 12.5"),
            (r#"{"length": 1e30}"#, "`length` is 1e+30"),
            (r#"{"length": "12"}"#, "`length` is a string"),
            (r#"{"_id": 1.5}"#, "`_id` is 1.5"),
            (r#"{"_id": []}"#, "`_id` is a list"),
            (r#"{"dataset": true}"#, "`dataset` is a truth value"),
            (r#"{"input": "a", "input": "b"}"#, "duplicate field `input`"),
            (r#"{"input": "\ud83d and"}"#, "lone surrogate"),
            (r#"{"input": "\ud83d"}"#, "lone surrogate"),
            (r#"{"input": "\udc00"}"#, "lone surrogate"),
            (r#"{"input": "a", "length": NaN}"#, "NaN is no JSON value"),
            (r#"{"input": "a", "length": -Infinity}"#, "Infinity is no JSON value"),
        ];
        for (line, words) in cases {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn a_chat_ends_with_what_the_user_says() {
        let of = |messages: &str| {
            Record::new(serde_json::from_str(&format!(r#"{{"messages": {messages}}}"#)).unwrap(), None)
        };
        let whole = of(
            r#"[{"role": "system", "content": "Be short."}, {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "One."}, {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
                {"role": "assistant", "content": "Two."}]"#,
        )
        .unwrap();
        assert_eq!((whole.plain.as_deref(), whole.answers.as_slice()), (Some("Two?"), &["Two.".to_string()][..]));
        let earlier: Vec<(&str, &str)> = whole.earlier.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(earlier, [("system", "Be short."), ("user", "One?"), ("assistant", "One.")]);
        for (messages, words) in [
            ("3", "`messages` is a number"),
            ("[]", "no message of the user"),
            (r#"["a"]"#, "`messages[0]` is a string"),
            (r#"[{"content": "a"}]"#, "`messages[0]` has no `role`"),
            (r#"[{"role": "user"}]"#, "no `messages[0].content`"),
            (r#"[{"role": "system", "content": "a"}]"#, "ends with \"system\""),
            (r#"[{"role": "user", "content": [{"type": "image_url"}]}]"#, "a part that is no text"),
            (r#"[{"role": "assistant", "content": "", "tool_calls": []}]"#, "tool_calls"),
        ] {
            let found = of(messages).unwrap_err();
            assert!(found.contains(words), "{messages}: {found}");
        }
        let both = serde_json::from_str(r#"{"messages": [], "input": "a"}"#).unwrap();
        assert!(Record::new(both, None).unwrap_err().contains("one of them"));
    }

    #[test]
    fn the_text_may_stand_in_another_field() {
        let of = |line: &str, field| Record::new(serde_json::from_str(line).unwrap(), field);
        let plain = |line: &str, field| of(line, field).unwrap().plain;
        assert_eq!(plain(r#"{"prompt": "p", "text": "t"}"#, None), Some("t".into()));
        assert_eq!(plain(r#"{"prompt": "p", "text": "t"}"#, Some("prompt")), Some("p".into()));
        // What has a context or an input is a record of LongBench's.
        assert_eq!(plain(r#"{"text": "t", "input": "i"}"#, None), None);
        let named = of(r#"{"body": "b", "context": "c", "input": "i"}"#, Some("body")).unwrap();
        assert_eq!((named.plain, named.context, named.input), (Some("b".into()), String::new(), String::new()));
        assert_eq!(plain(r#"{"context": "c", "input": "i"}"#, Some("context")), Some("c".into()));
        assert_eq!(of(r#"{"text": "t"}"#, Some("body")).unwrap_err(), "there is no field `body`");
        assert!(of(r#"{"body": 7}"#, Some("body")).unwrap_err().contains("`body` is a number"));
        assert!(of(r#"{"text": ["t"]}"#, None).unwrap_err().contains("`text` is a list"));
        assert!(!of(r#"{"text": " "}"#, None).unwrap().has_text());
    }

    #[test]
    fn white_space_is_no_text() {
        assert!(!parse(r#"{"context": " \n", "input": ""}"#).unwrap().has_text());
        assert!(parse(r#"{"context": "", "input": "?"}"#).unwrap().has_text());
    }
}
