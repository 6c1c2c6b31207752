//! Chat templates: Jinja as the `transformers` library runs it, with bounds, since templates come from strangers.
//!
//! The engine's fuel bounds steps and most data; what it does not count (values that hold one another many times over)
//! ends at the limits of time and memory, and the source's length bounds the depth of recursion while it is read.

use std::collections::BTreeMap;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::files::sha256_bytes;
use crate::model::tokenizer::TokenizerError;
use crate::model::tokenizer::clock::strftime_now;
use crate::model::tokenizer::guard::{Limits, bounded};
use crate::model::tokenizer::namespaces::used_as_value;

/// Steps a template may take before the length of the messages is added; 64 bytes of memory count as a step too.
const BASE_FUEL: u64 = 200_000;
/// Longest source, in bytes; the longest of published models has 30,000.
const MAX_SOURCE_BYTES: usize = 64 << 10;
/// Stack for each byte of the source: an operator is a byte at least, and a level of recursion at most.
const STACK_PER_BYTE: usize = 2 << 10;
/// Stack that any template may use: enough to write or compare a value as deep as the steps can make it. What is not used
/// takes no memory.
const BASE_STACK: usize = 160 << 20;
/// Time and memory that a template may take, before those of the messages are added.
const BASE_TIME: Duration = Duration::from_secs(3);
const BASE_BYTES: u64 = 192 << 20;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message from its two parts.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a model offers to write chats with: one template, or several by name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Templates {
    One(String),
    Named(BTreeMap<String, String>),
}

/// A chat template and the special tokens it may name.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatTemplate {
    name: String,
    source: String,
    /// Where there are several templates and none is the default: their names.
    choices: Vec<String>,
    specials: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Of several templates the one called `default` is taken. `specials` are variables such as `bos_token` with their text.
    pub(super) fn new(name: &str, templates: Templates, specials: BTreeMap<String, String>) -> Self {
        let (source, choices) = match templates {
            Templates::One(source) => (source, Vec::new()),
            Templates::Named(mut named) => match named.remove("default") {
                Some(source) => (source, Vec::new()),
                None => (String::new(), named.into_keys().collect()),
            },
        };
        Self { name: name.to_string(), source, choices, specials }
    }

    /// The template as written; empty where there are several and none is the default.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// SHA-256 of the template.
    pub fn sha256(&self) -> String {
        sha256_bytes(self.source.as_bytes())
    }

    /// The messages as one prompt; with `add_generation_prompt` it ends where the assistant begins to speak.
    ///
    /// Errors: there are several templates and no default; the template is too long, does not compile, fails, refuses the
    /// messages, does not end, or writes nothing.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TokenizerError> {
        let name = || self.name.clone();
        if !self.choices.is_empty() {
            return Err(TokenizerError::SeveralTemplates { name: name(), choices: self.choices.clone() });
        }
        if self.source.len() > MAX_SOURCE_BYTES {
            let what = format!("has {} bytes; at most {MAX_SOURCE_BYTES} are read", self.source.len());
            return Err(TokenizerError::TemplateRefused { name: name(), what });
        }
        if let Some(namespace) = used_as_value(&self.source) {
            let what = format!("uses the namespace {namespace} as a value; only its fields can be used");
            return Err(TokenizerError::TemplateRefused { name: name(), what });
        }
        let length: u64 = messages.iter().map(|message| (message.role.len() + message.content.len()) as u64).sum();
        let limits = Limits {
            stack: BASE_STACK + STACK_PER_BYTE * self.source.len(),
            time: BASE_TIME + Duration::from_millis(length >> 14),
            bytes: BASE_BYTES.saturating_add(length.saturating_mul(16)),
        };
        let (template, messages) = (self.clone(), messages.to_vec());
        let is_empty = messages.is_empty();
        let rendered = bounded(limits, move || template.try_render(&messages, add_generation_prompt, length));
        let text = rendered
            .map_err(|stopped| TokenizerError::TemplateStopped { name: name(), stopped })?
            .map_err(|source| TokenizerError::Template { name: name(), source })?;
        if text.is_empty() && !is_empty {
            return Err(TokenizerError::TemplateRefused { name: name(), what: "writes nothing".into() });
        }
        Ok(text)
    }

    fn try_render(&self, messages: &[Message], add_generation_prompt: bool, length: u64) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(BASE_FUEL.saturating_add(length)));
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        for (variable, text) in &self.specials {
            context.insert(variable, Value::from(text));
        }
        let messages = messages.iter().map(|message| {
            Value::from(BTreeMap::from([
                ("role", Value::from(&message.role)),
                ("content", Value::from(&message.content)),
            ]))
        });
        context.insert("messages", Value::from(messages.collect::<Vec<_>>()));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));
        environment.template_from_str(&without_generation_marks(&self.source))?.render(Value::from(context))
    }
}

/// Rewrites `{% generation %}` … `{% endgeneration %}`, which only marks what a training run learns from, as a condition
/// that always holds, so that the handling of blank space around the marks stays as it is.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let body = tag.trim_start_matches(['-', '+']);
        out.push_str(&tag[..tag.len() - body.len()]);
        rest = body;
        let word = body.trim_start();
        for (mark, plain) in [("generation", " if true"), ("endgeneration", " endif")] {
            if let Some(end) = word.strip_prefix(mark)
                && end.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
            {
                out.push_str(plain);
                rest = end;
            }
        }
    }
    out.push_str(rest);
    out
}

/// How templates refuse what they cannot write.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON as Python writes it: without the escapes that only HTML needs.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    // Characters beyond ASCII are never escaped here, which is what templates ask for with ensure_ascii=False.
    let _: Option<Value> = options.get("ensure_ascii")?;
    let json = minijinja::filters::tojson(value, indent, options)?;
    let json = json.as_str().unwrap_or_default();
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let html = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        let found = html.into_iter().find_map(|(code, c)| Some((c, escape.strip_prefix(code)?)));
        rest = match found {
            Some((c, tail)) => {
                out.push(c);
                tail
            }
            None => {
                // An escaped backslash must not be taken for the beginning of the next escape.
                let (kept, tail) = escape.split_at_checked(2).unwrap_or((escape, ""));
                out.push_str(kept);
                tail
            }
        };
    }
    out.push_str(rest);
    Ok(Value::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint;

    fn render(source: &str, messages: &[Message]) -> Result<String, TokenizerError> {
        let specials = BTreeMap::from([("bos_token".to_string(), "<s>".to_string())]);
        ChatTemplate::new("m", Templates::One(source.to_string()), specials).render(messages, true)
    }

    fn hello() -> [Message; 1] {
        [Message::new("user", " Hi <b> \\u003c 'é' ")]
    }

    #[test]
    fn blocks_leave_no_blank_lines_and_python_methods_work() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n  {% if loop.first %}\n{{ m['role'] | upper }}: \
                      {{ m.content.strip().split(' ')[0] }}|{{ eos_token }}\n  {% endif %}\n{% endfor %}\n\
                      {% if add_generation_prompt %}A:{% endif %}";
        assert_eq!(render(source, &hello()).unwrap(), "<s>\nUSER: Hi|\nA:");
    }

    #[test]
    fn json_is_python_json() {
        let source = "{{ messages[0].content | tojson(ensure_ascii=False) }}{{ {'a': [1, none]} | tojson }}";
        assert_eq!(render(source, &hello()).unwrap(), r#"" Hi <b> \\u003c 'é' "{"a": [1, null]}"#);
    }

    #[test]
    fn tools_are_absent_and_the_clock_stands_still() {
        let source = "{{ tools is none }} {{ documents is none }} {{ strftime_now('%d %b %Y') }}";
        assert_eq!(render(source, &[]).unwrap(), "True True 26 Jul 2024");
        assert!(render("{{ strftime_now('%Q') }}", &[]).unwrap_err().hint().unwrap().contains("--raw"));
    }

    #[test]
    fn of_several_templates_the_default_is_taken_or_the_choice_is_told() {
        let template = |names: &[&str]| {
            let named = names.iter().map(|name| (name.to_string(), format!("text of {name}"))).collect();
            ChatTemplate::new("m", Templates::Named(named), BTreeMap::new())
        };
        assert_eq!(template(&["tool_use", "default"]).render(&hello(), true).unwrap(), "text of default");
        let error = template(&["tool_use", "rag"]).render(&hello(), true).unwrap_err();
        assert_eq!(error.to_string(), "m has several chat templates and no default: rag, tool_use");
        assert!(error.hint().unwrap().contains("chat_template.jinja"));
    }

    #[test]
    fn templates_that_write_nothing_are_refused() {
        for nothing in ["", "{{ '' }}", "{# #}"] {
            let error = render(nothing, &hello()).unwrap_err();
            assert_eq!(error.to_string(), "the chat template of m writes nothing");
            assert!(error.hint().unwrap().contains("--raw"));
        }
    }

    #[test]
    fn loop_controls_work() {
        let source = "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}\
                      {{ i }}{% endfor %}";
        assert_eq!(render(source, &[]).unwrap(), "02");
    }

    #[test]
    fn generation_marks_are_looked_through() {
        let source = "a\n{%- generation -%}\nb{%endgeneration%}\nc {% if 'generation' %}d{% endif %}";
        assert_eq!(render(source, &[]).unwrap(), "abc d");
    }

    #[test]
    fn nothing_is_not_iterable() {
        let source = "{{ tools is iterable }} {{ messages is iterable }} {{ unheard_of is iterable }}";
        assert_eq!(render(source, &[]).unwrap(), "False True True");
    }

    #[test]
    fn refusals_and_mistakes_are_errors() {
        let refusal = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert!(
            refusal.contains("the chat template of m failed") && refusal.contains("roles must alternate"),
            "{refusal}"
        );
        assert!(render("{% for %}", &[]).is_err());
        assert!(render("{{ nothing.at.all }}", &[]).is_err());
    }

    #[test]
    fn hostile_templates_run_out_of_fuel() {
        let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(render(endless, &[]).unwrap_err().to_string().contains("fuel"));
        let doubling =
            "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        assert!(render(doubling, &[]).is_err());
        assert!(render("{{ 'x' * 100000000000 }}", &[]).is_err());
        assert!(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &[]).is_err());
    }

    #[test]
    fn deep_and_long_sources_are_read_or_refused() {
        let n = MAX_SOURCE_BYTES - 100;
        for (before, what, after) in [
            ("{{ ", "-", "1 }}"),
            ("{{ ", "not ", "1 }}"),
            ("{{ 1", "|string", " }}"),
            ("{{ messages", "[0]", " }}"),
            ("{{ 1", "~1", " }}"),
            ("{{ 1", "+1", " }}"),
            ("{{ 1", "**1", " }}"),
            ("{{ 1", " if 1", " }}"),
            ("{{ 1", "()", " }}"),
            ("{{ 1", " is string", " }}"),
            ("{{ 1", "==1", " }}"),
            ("{{ 1", " and 1", " }}"),
            ("{{ ", "(", " }}"),
            ("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
        ] {
            let source = format!("{before}{}{after}", what.repeat(n / what.len()));
            // What matters is that it ends.
            let _ = render(&source, &hello());
        }
        let error = render(&"x".repeat(MAX_SOURCE_BYTES + 1), &hello()).unwrap_err();
        assert!(error.to_string().contains("at most 65536 are read"), "{error}");
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let source = "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}\
                      {{ ns.x | length }}";
        let error = render(source, &hello()).unwrap_err();
        assert_eq!(error.to_string(), "the chat template of m was given up: it does not end within 3 s");
        assert!(error.hint().unwrap().contains("--raw"), "{error}");
    }
}
