//! Streams: results on stdout, progress and remarks on stderr.
//!
//! The one place that prints. Text that may come from a file is escaped on its way out, so that no name can act on a
//! terminal or pass for a line of its own.

use std::io::{ErrorKind, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{DecimalBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use unicode_width::UnicodeWidthChar;

use crate::cli::common::{Color, Common};
use crate::cli::failure::{Failure, Result};
use crate::hint::Hint;
use crate::hub::Progress;

/// Longest line of a message, in characters.
const MESSAGE_CHARS: usize = 1000;

/// Colours of stderr.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    enabled: bool,
}

impl Paint {
    pub(crate) fn new(color: Color) -> Self {
        let enabled = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => AutoStream::choice(&std::io::stderr()) != ColorChoice::Never,
        };
        Self { enabled }
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.enabled { format!("{style}{text}{style:#}") } else { text.into() }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint(AnsiColor::Cyan.on_default(), text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }
}

/// Characters that move a terminal's cursor, colour it, or turn the order of what stands around them.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with every character that acts on a terminal escaped, but those of `kept`.
fn escaped(text: &str, kept: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && !kept.contains(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// One line that is safe to print, of a text that a file may have made: control characters are escaped, line breaks too,
/// and beyond `most` columns the middle gives way to an ellipsis.
pub(crate) fn printable(text: &str, most: usize) -> String {
    // What is left out anyway is not escaped first; an escaped character takes at most 10.
    let line: Vec<char> = match text.char_indices().nth(most) {
        None => escaped(text, "").chars().collect(),
        Some(_) => {
            let n = text.chars().count();
            let at = |i: usize| text.char_indices().nth(i).map_or(text.len(), |(at, _)| at);
            let (head, tail) = (&text[..at(most)], &text[at(n.saturating_sub(most).max(most))..]);
            escaped(head, "").chars().chain(escaped(tail, "").chars()).collect()
        }
    };
    if line.iter().copied().map(column).sum::<usize>() <= most {
        return line.into_iter().collect();
    }
    let fitting = |chars: &mut dyn Iterator<Item = &char>, room: usize| {
        let widths = chars.scan(0, |used, c| {
            *used += column(*c);
            (*used <= room).then_some(())
        });
        widths.count()
    };
    let tail = fitting(&mut line.iter().rev(), most / 3);
    let head = fitting(&mut line.iter(), most.saturating_sub(most / 3 + 1));
    line[..head].iter().chain(&['…']).chain(&line[line.len() - tail..]).collect()
}

/// Columns of a character on a terminal. One that is drawn over another counts as well, so that no text of them is without end.
fn column(c: char) -> usize {
    c.width().unwrap_or(1).max(1)
}

/// Columns that a text takes on a terminal.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(column).sum()
}

/// A message of one or more lines, each [`printable`].
pub(crate) fn message(text: &str) -> String {
    text.split('\n').map(|line| printable(line, MESSAGE_CHARS)).collect::<Vec<_>>().join("\n")
}

/// Nobody reads standard output any more, which is no fault of this program.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output")]
pub(crate) struct NobodyReads;

impl Hint for NobodyReads {}

/// Writes bytes to stdout and flushes, so that a pipe sees them at once.
fn write_out(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => NobodyReads.into(),
        _ => Failure::from(error).when("cannot write to standard output"),
    })
}

/// Writes a result to stdout. Control characters but line breaks and tabs are escaped: the text may hold names from files,
/// or be a model's own.
pub(crate) fn emit(text: &str) -> Result<()> {
    write_out(escaped(text, "\n\t").as_bytes())
}

/// A piece of a result with the style that it has on a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    style: Style,
    text: String,
    /// Only where nothing is coloured, to say what the style says.
    is_mark: bool,
}

impl Span {
    /// Text without a style.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::styled(Style::new(), text)
    }

    /// Text in a style.
    pub(crate) fn styled(style: Style, text: impl Into<String>) -> Self {
        Self { style, text: text.into(), is_mark: false }
    }

    /// What stands for a style where nothing is coloured.
    pub(crate) fn mark(style: Style, text: impl Into<String>) -> Self {
        Self { is_mark: true, ..Self::styled(style, text) }
    }
}

/// Writes styled text to stdout, coloured on a terminal, with marks elsewhere. Control characters are escaped as by [`emit`].
pub(crate) fn emit_spans(color: Color, spans: &[Span]) -> Result<()> {
    let coloured = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => AutoStream::choice(&std::io::stdout()) != ColorChoice::Never,
    };
    if !coloured {
        return write_out(without_colour(spans).as_bytes());
    }
    let of_span = |Span { style, text, .. }: &Span| format!("{style}{}{style:#}", escaped(text, "\n\t"));
    let shown: String = spans.iter().filter(|span| !span.is_mark).map(of_span).collect();
    write_out(shown.as_bytes())
}

/// Styled text as it is written where nothing is coloured.
pub(crate) fn without_colour(spans: &[Span]) -> String {
    spans.iter().map(|span| escaped(&span.text, "\n\t")).collect()
}

/// A part of a document as its file has it: numbers of 32 bits have no more digits than they need there.
pub(crate) fn as_saved(part: &impl Serialize) -> Result<Value> {
    Ok(serde_json::from_str(&serde_json::to_string(part)?)?)
}

/// Writes one line of a result to stdout, a [`message`].
pub(crate) fn emit_line(text: &str) -> Result<()> {
    emit(&format!("{}\n", message(text)))
}

/// Writes a JSON value to stdout, on many lines, or on one. Characters that would act on a terminal are escaped as JSON
/// has it, so that a reader gets every text as it is.
pub(crate) fn emit_json(value: &serde_json::Value) -> Result<()> {
    write_out(escaped_json(&serde_json::to_string_pretty(value)?).as_bytes())
}

/// As [`emit_json`], on one line.
pub(crate) fn emit_json_line(value: &serde_json::Value) -> Result<()> {
    write_out(escaped_json(&value.to_string()).as_bytes())
}

fn escaped_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // The line breaks of the layout; those of a text are escaped already.
        if acts(c) && c != '\n' { safe.push_str(&format!("\\u{:04x}", c as u32)) } else { safe.push(c) }
    }
    safe.push('\n');
    safe
}

/// Writes to stderr as it stands. That nobody reads it is no fault.
pub(crate) fn say_raw(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Writes a message to stderr behind a label that may be coloured.
pub(crate) fn say(label: &str, text: &str) {
    let space = if label.is_empty() || text.is_empty() { "" } else { " " };
    say_raw(&format!("{label}{space}{}\n", message(text)));
}

/// A remark on stderr, unless --quiet.
pub(crate) fn note(common: &Common, text: &str) {
    if !common.quiet {
        say("", text);
    }
}

/// What to do about a run that ends with 1.
pub(crate) fn hint(common: &Common, text: &str) {
    say(&Paint::new(common.color).cyan("hint:"), text);
}

/// As [`note`], with a bold head.
pub(crate) fn headed(common: &Common, head: &str, text: &str) {
    if !common.quiet {
        say(&Paint::new(common.color).bold(head), text);
    }
}

/// Lines of the log: level and message, coloured as everything else on stderr.
pub(crate) struct LogLines(pub(crate) Color);

impl<S, N> FormatEvent<S, N> for LogLines
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let level = event.metadata().level();
        let label = format!("{}:", level.to_string().to_lowercase().replace("warn", "warning"));
        let paint = Paint::new(self.0);
        let label = if *level == Level::ERROR { paint.red(&label) } else { paint.cyan(&label) };
        writeln!(out, "{label} {}", printable(&text, MESSAGE_CHARS))
    }
}

/// Where the log goes: stderr, whether anybody reads it or not.
pub(crate) struct LogStream;

impl Write for LogStream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        say_raw(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A bar on stderr, drawn on a terminal only.
pub(crate) fn bar(common: &Common, total: u64, unit: &str) -> ProgressBar {
    let target = if common.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let counts = if unit == "bytes" { "{bytes}/{total_bytes}" } else { "{pos}/{len}" };
    let template = format!("{{msg:24!}} {{wide_bar}} {counts} {{eta:>4}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// Runs a stage behind a bar with its name; the stage tells what is done, and of how much.
pub(crate) fn with_bar<T, E>(
    common: &Common,
    name: &'static str,
    unit: &str,
    stage: impl FnOnce(&mut dyn FnMut(usize, usize)) -> Result<T, E>,
) -> Result<T, E> {
    let bar = bar(common, 0, unit);
    bar.set_message(name);
    let result = stage(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    result
}

/// As [`with_bar`], of a stage that tells step by step how much of a known total is done.
pub(crate) fn counted<T, E>(
    common: &Common,
    name: &'static str,
    unit: &str,
    total: usize,
    stage: impl FnOnce(&mut dyn FnMut(usize)) -> Result<T, E>,
) -> Result<T, E> {
    with_bar(common, name, unit, |progress| {
        let mut done = 0;
        progress(done, total);
        stage(&mut |more| {
            done += more;
            progress(done, total);
        })
    })
}

/// Shows a transfer as a bar.
pub(crate) struct TransferBar<'a> {
    common: &'a Common,
    bar: Option<ProgressBar>,
}

impl<'a> TransferBar<'a> {
    pub(crate) fn new(common: &'a Common) -> Self {
        Self { common, bar: None }
    }
}

impl Progress for TransferBar<'_> {
    fn start(&mut self, what: &str, bytes: Option<u64>) {
        let bar = bar(self.common, bytes.unwrap_or(0), "bytes");
        bar.set_message(printable(what, 60));
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// `12.30 MB`, in powers of 1000 as disks are sold.
pub(crate) fn size(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_acts_on_the_terminal() {
        assert_eq!(printable("a\x1b[2J\u{9b}b\n\t\u{202e}é", 99), r"a\u{1b}[2J\u{9b}b\n\t\u{202e}é");
        assert_eq!(message("a\rb\nc"), "a\\rb\nc");
        let json = serde_json::json!({ "a": "\x07\u{9b}\u{7f}\u{202e}\n" });
        let text = escaped_json(&serde_json::to_string_pretty(&json).unwrap());
        assert!(text.chars().all(|c| !acts(c) || c == '\n') && text.lines().count() == 3, "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), json);
    }

    #[test]
    fn long_texts_lose_their_middle() {
        assert_eq!(printable("0123456789", 10), "0123456789");
        assert_eq!(printable("0123456789a", 10), "012345…89a");
        assert_eq!(printable(&"é".repeat(100_000), 9).chars().count(), 9);
        // Two columns each, and a mark over a letter counts.
        assert_eq!(printable("漢字漢字漢字", 9), "漢字…字");
        assert_eq!(printable(&"e\u{301}".repeat(100_000), 9).chars().count(), 9);
        // An escape counts with its letters.
        assert_eq!(printable("\x1b\x1b\x1b", 10), r"\u{1b}…1b}");
        let cut = printable(&format!("cannot read {}: no such file", "\x1b".repeat(5000)), 1000);
        assert!(
            cut.chars().count() == 1000 && cut.starts_with("cannot read") && cut.ends_with("no such file"),
            "{cut}"
        );
        assert_eq!((printable("abc", 1), printable("", 0)), ("…".into(), String::new()));
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_500), "1.50 kB");
        assert_eq!(size(98_362_432), "98.36 MB");
        assert_eq!(size(13_000_000_000), "13.00 GB");
    }
}
