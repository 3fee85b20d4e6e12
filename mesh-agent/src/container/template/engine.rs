//! The template engine, within bounds: what is written in a template can neither end the agent nor fill its memory, and what
//! an error says shows no secret.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
    thread,
};

use gtmpl::{
    Context, Func, FuncError, Template, Value,
    error::{ExecError, ParseError},
};
use mesh_api::Sensitive;

/// Levels of one template: open parentheses, and `if`, `with` and `range`. The engine calls itself for each.
const MAX_LEVELS: usize = 400;

/// Bytes of the stack that the engine runs on: enough for all levels.
const STACK: usize = 16 << 20;

/// Bytes that a template may grow to.
const MAX_FILLED: usize = 8 << 20;

/// Contents by target, as the specification says it.
pub(super) type Targets = BTreeMap<String, Arc<Sensitive>>;

/// What the functions `env`, `secret` and `config` find: those of the task alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Lookups {
    /// Name and value, as the specification has them.
    pub(super) env: Vec<(String, String)>,
    pub(super) secrets: Targets,
    pub(super) configs: Targets,
}

/// What a function of ours has to say; it holds no contents.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

fn told(text: impl Into<String>) -> FuncError {
    FuncError::Other(Told(text.into()).into())
}

thread_local! {
    /// The engine's functions have nothing but their arguments. Each run has a thread of its own.
    static LOOKUPS: RefCell<Lookups> = RefCell::default();
}

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
        LOOKUPS.set(lookups.unwrap_or_default());
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

fn parse(text: &str, has_lookups: bool) -> Result<Template, String> {
    // No string in the template is as long as this name, so the template cannot run itself.
    let mut template = Template::with_name("-".repeat(text.len()));
    template.add_funcs(&[("join", join as Func), ("index", index)]);
    if has_lookups {
        template.add_funcs(&[("env", env as Func), ("secret", secret), ("config", config)]);
    }
    template.parse(text).map_err(|error| match error {
        ParseError::WithContext(_, cause) => {
            format!("template: expansion: {cause}")
        }
        other => format!("template: expansion: {other}"),
    })?;
    if template.tree_set.len() > 1 {
        return Err("a template defines no others here".to_owned());
    }
    Ok(template)
}

fn check_bounds(text: &str) -> Result<(), String> {
    let (mut controls, mut parentheses) = (0, 0);
    for code in actions(text) {
        // The lexer would fail in the middle of it, and say so in the log.
        if let Some(odd) = code.chars().find(|c| !c.is_ascii()) {
            return Err(format!("unrecognized character in action: {odd:?}"));
        }
        let mut words = code.split(|c: char| !c.is_ascii_alphanumeric());
        controls += usize::from(words.any(|word| matches!(word, "if" | "with" | "range")));
        parentheses = parentheses.max(code.matches('(').count());
    }
    if controls + parentheses > MAX_LEVELS {
        return Err(format!("a template has at most {MAX_LEVELS} levels"));
    }
    Ok(())
}

/// What stands in each action outside of quotes, by the engine's own rules for quotes.
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
                None if matches!(c, '"' | '\'' | '`') => (quote, is_escaped) = (Some(c), false),
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

/// The engine shows values in some of its errors: a secret's may be among them.
fn failure(error: ExecError) -> String {
    match error {
        ExecError::NoFiledFor(name, _) => format!("no field {name}"),
        ExecError::InvalidRange(_) => "range wants a list".to_owned(),
        ExecError::FuncError(error) => match error {
            FuncError::Other(error) if error.is::<Told>() => error.to_string(),
            FuncError::Generic(_) | FuncError::Other(_) => {
                "a function was given what it cannot take".to_owned()
            }
            counted => counted.to_string(),
        },
        other => other.to_string(),
    }
}

/// Swarm's `join`: the separator comes first.
fn join(args: &[Value]) -> Result<Value, FuncError> {
    let [Value::String(separator), parts @ ..] = args else {
        return Err(told("join wants a separator"));
    };
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    Ok(Value::from(parts.join(separator)))
}

/// Go's `index` of labels: one that is not there is empty.
fn index(args: &[Value]) -> Result<Value, FuncError> {
    match args {
        [Value::Object(labels), Value::String(name)] => {
            let label = labels.get(name).cloned();
            Ok(label.unwrap_or_else(|| Value::from("")))
        }
        _ => Err(told("index wants labels and the name of one")),
    }
}

/// Swarm's `env`: a variable that is not there is empty.
fn env(args: &[Value]) -> Result<Value, FuncError> {
    let name = only("env", args)?;
    LOOKUPS.with_borrow(|lookups| {
        let found = lookups.env.iter().find(|(known, _)| known == name);
        Ok(Value::from(found.map_or("", |(_, value)| value.as_str())))
    })
}

fn secret(args: &[Value]) -> Result<Value, FuncError> {
    let target = only("secret", args)?;
    LOOKUPS.with_borrow(|lookups| content("secret", &lookups.secrets, target))
}

fn config(args: &[Value]) -> Result<Value, FuncError> {
    let target = only("config", args)?;
    LOOKUPS.with_borrow(|lookups| content("config", &lookups.configs, target))
}

fn only<'a>(function: &str, args: &'a [Value]) -> Result<&'a str, FuncError> {
    match args {
        [Value::String(one)] => Ok(one),
        _ => Err(told(format!("error calling {function}: it wants one name"))),
    }
}

fn content(noun: &str, targets: &Targets, target: &str) -> Result<Value, FuncError> {
    let wrong = |cause: &str| {
        told(format!(
            "error calling {noun}: {noun} target {target} {cause}"
        ))
    };
    let data = targets.get(target).ok_or_else(|| wrong("not found"))?;
    let text = str::from_utf8(data.reveal()).map_err(|_| wrong("is no text in UTF-8"))?;
    Ok(Value::from(text))
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
