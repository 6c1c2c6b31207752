//! Chat templates: Jinja as the `transformers` library runs it, with bounds, since templates come from strangers.
//!
//! `strftime_now` is left out on purpose: a prompt must not change with the day it is made. Templates that ask whether it
//! is defined, as Llama 3's do, then use their fixed date.

use std::collections::BTreeMap;

use minijinja::Environment;
use minijinja::Error;
use minijinja::ErrorKind;
use minijinja::Value;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;

use crate::model::tokenizer::TokenizerError;

/// Steps a template may take before the length of the messages is added; 64 bytes of memory count as a step too.
const BASE_FUEL: u64 = 2_000_000;

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

/// A chat template and the special tokens it may name.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatTemplate {
    name: String,
    source: String,
    specials: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// `specials` are variables such as `bos_token` with their text; those without one stay undefined.
    pub(super) fn new(
        name: &str,
        source: &str,
        specials: impl IntoIterator<Item = (&'static str, Option<String>)>,
    ) -> Self {
        let specials = specials.into_iter().filter_map(|(variable, text)| Some((variable, text?))).collect();
        Self { name: name.to_string(), source: source.to_string(), specials }
    }

    /// The template as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The messages as one prompt; with `add_generation_prompt` it ends where the assistant begins to speak.
    ///
    /// Errors: the template does not compile, fails, refuses the messages, or does not end.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TokenizerError> {
        self.try_render(messages, add_generation_prompt)
            .map_err(|source| TokenizerError::Template { name: self.name.clone(), source })
    }

    fn try_render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let length: usize = messages.iter().map(|message| message.role.len() + message.content.len()).sum();
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(BASE_FUEL.saturating_add(length as u64)));
        environment.add_function("raise_exception", raise_exception);
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

    fn render(source: &str, messages: &[Message]) -> Result<String, TokenizerError> {
        ChatTemplate::new("m", source, [("bos_token", Some("<s>".to_string())), ("eos_token", None)])
            .render(messages, true)
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
    fn clock_and_tools_are_absent() {
        let source = "{{ strftime_now is defined }} {{ tools is none }} {{ documents is none }}";
        assert_eq!(render(source, &[]).unwrap(), "False True True");
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
}
