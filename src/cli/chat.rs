//! `kvscope generate --interactive`: a talk whose compressed cache is kept from turn to turn.

use std::io::{BufRead, IsTerminal};

use crate::cli::common::Common;
use crate::cli::failure::{Result, Usage};
use crate::cli::output::{emit_json_line, say_raw};
use crate::cli::session::{Job, Session, encode_prompt};
use crate::format::generation::Generated;
use crate::model::tokenizer::Message;

/// Stands for the reply when a template is asked what follows one.
const REPLY: &str = "kvscope-reply";

/// Answers `first`, then every line of standard input, until it ends. With JSON, one line for every turn.
pub(crate) fn chat(job: &Job<'_>, first: Option<String>, common: &Common) -> Result<()> {
    let mut session = Session::new(job)?;
    let asks = std::io::stdin().is_terminal() && !common.quiet;
    let lines = std::io::stdin().lock().lines();
    let mut is_first = true;
    let mut texts = first.map(Ok).into_iter().chain(lines);
    loop {
        if asks && !(is_first && texts.size_hint().0 > 0) {
            say_raw("> ");
        }
        let Some(text) = texts.next().transpose()? else { return Ok(()) };
        if text.trim().is_empty() {
            continue;
        }
        let tokens =
            if is_first { encode_prompt(job.model, &text, job.chat_template)? } else { encode_reply(job, &text)? };
        is_first = false;
        let (_, report) = session.turn(&tokens, common)?;
        if common.json {
            emit_json_line(&serde_json::to_value(Generated { prompt: Some(text), ..report })?)?;
        }
    }
}

/// Tokens from the end of a reply to the beginning of the next one: what the chat template puts around `text`, or the text
/// on a line of its own.
fn encode_reply(job: &Job<'_>, text: &str) -> Result<Vec<u32>> {
    let tokenizer = job.model.tokenizer()?;
    if !job.chat_template {
        return Ok(tokenizer.encode_behind(&format!("\n{text}"))?);
    }
    let turns = [Message::new("user", "-"), Message::new("assistant", REPLY), Message::new("user", text)];
    let rendered = tokenizer.apply_chat(&turns, true)?;
    let Some((_, behind)) = rendered.split_once(REPLY) else {
        return Err(Usage::error("the chat template drops replies, so a talk cannot go on", "use --raw"));
    };
    Ok(tokenizer.encode_behind(behind)?)
}
