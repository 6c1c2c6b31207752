//! Refuses templates that use a namespace as a value.
//!
//! A namespace is the one thing in a template that can change, so it alone can come to hold itself; printing or comparing
//! such a value has no end and takes the whole stack, which nothing can catch. Templates set and read a namespace's fields
//! and have no other use for it.

use std::collections::HashSet;

/// A name, a sign, or a text in quotes, within a tag.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Sign(char),
    Text,
}

/// The first namespace that is used as more than the holder of its fields, by its name.
pub(super) fn used_as_value(source: &str) -> Option<&str> {
    let tags = tags(source);
    let defined = |tag: &[Token<'_>], at: usize| {
        use Token::{Name, Sign};
        at >= 3
            && tag[at - 3] == Name("set")
            && tag[at - 1] == Sign('=')
            && tag.get(at + 1) == Some(&Sign('('))
            && matches!(tag[at - 2], Name(_))
    };
    let mut names = HashSet::from(["namespace"]);
    for tag in &tags {
        let made = (0..tag.len()).filter(|at| tag[*at] == Token::Name("namespace") && defined(tag, *at));
        names.extend(made.filter_map(|at| match tag[at - 2] {
            Token::Name(name) => Some(name),
            _ => None,
        }));
    }
    for tag in &tags {
        for (at, token) in tag.iter().enumerate() {
            let Token::Name(name) = token else { continue };
            let before = at.checked_sub(1).map(|before| tag[before]);
            let after = [tag.get(at + 1), tag.get(at + 2)].map(|token| token.copied());
            let is_field = before == Some(Token::Sign('.'));
            let is_given = after[0] == Some(Token::Sign('=')) && after[1] != Some(Token::Sign('='));
            let is_holder = matches!(after[0], Some(Token::Sign('.' | '[') | Token::Name("is")));
            let is_made = *name == "namespace" && defined(tag, at);
            if names.contains(name) && !(is_field || is_given || is_made || (is_holder && *name != "namespace")) {
                return Some(name);
            }
        }
    }
    None
}

/// The tokens of every tag. A tag ends at its sign outside texts and brackets.
fn tags(source: &str) -> Vec<Vec<Token<'_>>> {
    let mut tags = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (kind, body) = (rest[at + 1..].chars().next(), &rest[at + 1..]);
        rest = match kind {
            Some('#') => body.split_once("#}").map_or("", |(_, behind)| behind),
            Some('%') => tag(&body[1..], "%}", &mut tags),
            Some('{') => tag(&body[1..], "}}", &mut tags),
            _ => body,
        };
    }
    tags
}

/// Reads one tag; what stands behind it.
fn tag<'a>(body: &'a str, end: &str, tags: &mut Vec<Vec<Token<'a>>>) -> &'a str {
    let (mut tokens, mut depth, mut rest) = (Vec::new(), 0usize, body);
    while let Some(c) = rest.chars().next() {
        if depth == 0 && rest.starts_with(end) {
            rest = &rest[end.len()..];
            break;
        }
        let mut length = c.len_utf8();
        match c {
            '"' | '\'' => {
                let mut escaped = false;
                let closing = rest[1..].char_indices().find(|(_, inner)| {
                    let closes = *inner == c && !escaped;
                    escaped = *inner == '\\' && !escaped;
                    closes
                });
                length = closing.map_or(rest.len(), |(at, _)| at + 2);
                tokens.push(Token::Text);
            }
            c if c.is_alphabetic() || c == '_' => {
                length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                tokens.push(Token::Name(&rest[..length]));
            }
            '(' | '[' | '{' => {
                depth += 1;
                tokens.push(Token::Sign(c));
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                tokens.push(Token::Sign(c));
            }
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Sign(c)),
        }
        rest = &rest[length..];
    }
    tags.push(tokens);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_no_values() {
        for fine in [
            "{% set ns = namespace(a=1, b=[]) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}",
            "{%- set ns = namespace(found=false) -%}{% if ns is defined and not ns['found'] %}x{% endif %}",
            "a namespace of ns {{ 'ns' ~ \"it\\\"s ns\" ~ m.ns ~ f(ns=1) }}{% set ns = namespace() %}{# ns #}{{ {'a': {}}['a'] }} ns",
            "no tag { ns } {",
        ] {
            assert_eq!(used_as_value(fine), None, "{fine}");
        }
    }

    #[test]
    fn what_could_hold_itself_is_named() {
        let made = "{% set ns = namespace(y=1) %}";
        for use_of in [
            "{% set ns.y = ns %}",
            "{{ ns }}",
            "{% set ns.y = [1, {'a': ns}] %}",
            "{% set b = ns %}",
            "{{ ns|tojson }}",
            "{{ ns == 1 }}",
            "{{ {'a': {}} ~ ns }}",
            "{{ f(ns) }}",
        ] {
            assert_eq!(used_as_value(&format!("{made}{use_of}")), Some("ns"), "{use_of}");
        }
        for alias in
            ["{% set f = namespace %}", "{{ namespace() }}", "{% set a = [namespace()] %}", "{{ f(namespace) }}"]
        {
            assert_eq!(used_as_value(alias), Some("namespace"), "{alias}");
        }
        let other = "{% set a = namespace() %}{% set b = namespace(x=a) %}";
        assert_eq!(used_as_value(other), Some("a"));
    }
}
