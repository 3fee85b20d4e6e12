//! The template engine, within bounds: what is written in a template can neither end the agent, nor keep it busy, nor fill its
//! memory, and what an error says shows no secret.

use std::{
    io::{self, Write},
    thread,
};

use gtmpl::{
    Context, FuncError, Template, Value,
    error::{ExecError, ParseError},
};

use super::functions::{self, Lookups, MAX_FILLED, Told};

/// Levels of one template: open parentheses, and `if`, `with` and `range`. The engine calls itself for each.
const MAX_LEVELS: usize = 200;

/// `range` of one template: each may be in another one, and multiply its rounds.
const MAX_RANGES: usize = 2;

/// Variables of one template: each holds a copy of its value.
const MAX_VARIABLES: usize = 32;

/// Words of one action: each may be a copy of a value.
const MAX_WORDS: usize = 64;

/// Bytes of the stack that the engine runs on: enough for all levels.
const STACK: usize = 16 << 20;

/// Text without placeholders costs nothing. Only with lookups are there functions for them.
///
/// # Errors
/// What is wrong with the template.
pub(super) fn fill(
    text: &str,
    context: impl FnOnce() -> Value + Send,
    lookups: Option<Lookups>,
) -> Result<String, String> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    on_a_stack(text, || {
        let template = parse(text, lookups.is_some())?;
        functions::begin(text, lookups.unwrap_or_default());
        let mut filled = Filled(Vec::new());
        let done = template.execute(&mut filled, &Context::from(context()));
        done.map_err(failure)?;
        String::from_utf8(filled.0).map_err(|error| error.to_string())
    })
}

/// Whether it can be read as a template of a secret or config.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(text: &str) -> Result<(), String> {
    on_a_stack(text, || parse(text, true).map(drop))
}

fn on_a_stack<T: Send>(
    text: &str,
    run: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    check_bounds(text)?;
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, run)
            .map_err(|error| format!("no thread for a template: {error}"))?;
        let failed = |_| Err("the template engine failed".to_owned());
        thread.join().unwrap_or_else(failed)
    })
}

/// It might run itself.
const DEFINES: &str = "a template defines no others here";

fn parse(text: &str, has_lookups: bool) -> Result<Template, String> {
    // No string in the template is as long as this name, so the template cannot run itself.
    let mut template = Template::with_name("-".repeat(text.len()));
    template.add_funcs(&functions::EVERYWHERE);
    if has_lookups {
        template.add_funcs(&functions::IN_PAYLOADS);
    }
    template.parse(text).map_err(|error| match error {
        ParseError::WithContext(_, cause) => {
            format!("template: expansion: {cause}")
        }
        other => format!("template: expansion: {other}"),
    })?;
    if template.tree_set.len() > 1 {
        return Err(DEFINES.to_owned());
    }
    Ok(template)
}

/// Bounds what the engine will do, by more than it can do: a word counts whether it is a keyword there or not.
fn check_bounds(text: &str) -> Result<(), String> {
    let (mut controls, mut parentheses, mut ranges, mut variables) = (0, 0, 0, 0);
    for code in actions(text) {
        // The lexer would fail in the middle of it, and say so in the log.
        if let Some(odd) = code.chars().find(|c| !c.is_ascii()) {
            return Err(format!("unrecognized character in action: {odd:?}"));
        }
        let words = || code.split(|c: char| !c.is_ascii_alphanumeric());
        if words().any(|word| matches!(word, "block" | "define")) {
            return Err(DEFINES.to_owned());
        }
        let is_control = |word: &&str| matches!(*word, "if" | "with" | "range");
        controls += words().filter(is_control).count();
        ranges += words().filter(|word| *word == "range").count();
        variables += code.matches(":=").count();
        parentheses = parentheses.max(code.matches('(').count());
        // Of what stands in quotes, the quotes are left.
        let ends = |c: char| c.is_ascii_whitespace() || matches!(c, '(' | ')' | '|' | '"' | '$');
        let count = code.split(ends).filter(|word| !word.is_empty()).count()
            + code.matches(['"', '$']).count();
        if count > MAX_WORDS {
            return Err(format!(
                "an action of a template has at most {MAX_WORDS} words"
            ));
        }
    }
    for (found, most, what) in [
        (controls + parentheses, MAX_LEVELS, "levels"),
        (ranges, MAX_RANGES, "ranges"),
        (variables, MAX_VARIABLES, "variables"),
    ] {
        if found > most {
            return Err(format!("a template has at most {most} {what}"));
        }
    }
    Ok(())
}

/// What stands in each action, by the engine's own rules for quotes; of what is quoted, one quote.
fn actions(mut text: &str) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(start) = text.find("{{") {
        text = &text[start + 2..];
        let inner = text.strip_prefix("- ").unwrap_or(text);
        if let Some(comment) = inner.strip_prefix("/*") {
            text = comment.split_once("*/").map_or("", |(_, rest)| rest);
            continue;
        }
        let (mut code, mut quote, mut is_escaped) = (String::new(), None, false);
        let mut end = text.len();
        for (at, c) in text.char_indices() {
            match quote {
                None if text[at..].starts_with("}}") => {
                    end = at + 2;
                    break;
                }
                None if matches!(c, '"' | '\'' | '`') => {
                    (quote, is_escaped) = (Some(c), false);
                    code.push('"');
                }
                None => code.push(c),
                Some('`') if c == '`' => quote = None,
                Some('`') => {}
                Some(_) if c == '\\' => is_escaped = true,
                Some(mark) if c == mark && !is_escaped => quote = None,
                Some(_) => is_escaped = false,
            }
        }
        all.push(code);
        text = &text[end..];
    }
    all
}

/// What became of the template so far.
struct Filled(Vec<u8>);

impl Write for Filled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_FILLED {
            let cause = format!("it grows to more than {MAX_FILLED} bytes");
            return Err(io::Error::other(cause));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The engine shows values, and pieces of the template, in some of its errors: a secret may be among them.
fn failure(error: ExecError) -> String {
    match error {
        ExecError::FuncError(FuncError::Other(error)) if error.is::<Told>() => error.to_string(),
        ExecError::FuncError(FuncError::Generic(_) | FuncError::Other(_)) => {
            "a function was given what it cannot take".to_owned()
        }
        ExecError::NoFiledFor(name, _) => format!("no field {name}"),
        ExecError::InvalidRange(_) => "range wants a list".to_owned(),
        ExecError::FuncError(_)
        | ExecError::IOError(_)
        | ExecError::OnlyMapsAndObjectsHaveFields
        | ExecError::TemplateNotDefined(_) => error.to_string(),
        _ => "an action cannot be evaluated".to_owned(),
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
