//! The functions of templates. Each says how long its result may be before it makes it, for results are made of results.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Arc,
};

use gtmpl::{Func, FuncError, Value, funcs};
use mesh_api::Sensitive;

/// Bytes that a template may grow to, and its functions make in all.
pub(super) const MAX_FILLED: usize = 8 << 20;

/// Bytes that a function makes at once.
const MAX_VALUE: usize = 1 << 20;

/// Largest width or precision in `printf`, in digits.
const MAX_DIGITS: usize = 3;

/// Functions of all templates: Swarm's, and those of Go's whose results may be longer than what they are given.
pub(super) const EVERYWHERE: [(&str, Func); 6] = [
    ("join", join),
    ("index", index),
    ("print", print),
    ("println", println),
    ("printf", printf),
    ("urlquery", urlquery),
];

/// Swarm's functions of secrets and configs.
pub(super) const IN_PAYLOADS: [(&str, Func); 3] =
    [("env", env), ("secret", secret), ("config", config)];

/// Contents by target, as the specification says it.
pub(super) type Targets = BTreeMap<String, Arc<Sensitive>>;

/// What the functions `env`, `secret` and `config` find: those of the task alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Lookups {
    /// Name and value, as the task has them.
    pub(super) env: Vec<(String, String)>,
    pub(super) secrets: Targets,
    pub(super) configs: Targets,
}

/// What a function of ours has to say; it holds no contents.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Told(String);

fn told(text: impl Into<String>) -> FuncError {
    FuncError::Other(Told(text.into()).into())
}

thread_local! {
    // The engine's functions have nothing but their arguments. Each run has a thread of its own.
    static LOOKUPS: RefCell<Lookups> = RefCell::default();
    static TEMPLATE: RefCell<String> = RefCell::default();
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// Before a template is filled in on this thread.
pub(super) fn begin(template: &str, lookups: Lookups) {
    LOOKUPS.set(lookups);
    TEMPLATE.set(template.to_owned());
    MADE.set(0);
}

/// Takes bytes for a value that is about to be made.
fn take(bytes: usize) -> Result<(), FuncError> {
    let made = MADE.get().saturating_add(bytes);
    if bytes > MAX_VALUE {
        return Err(told(format!("a value has more than {MAX_VALUE} bytes")));
    }
    if made > MAX_FILLED {
        return Err(told(format!(
            "its values have more than {MAX_FILLED} bytes"
        )));
    }
    MADE.set(made);
    Ok(())
}

/// Bytes that a value has at most when it is written.
fn size(value: &Value) -> usize {
    const OTHER: usize = 64;
    match value {
        Value::String(text) => text.len() + 1,
        Value::Array(all) => all.iter().map(size).sum::<usize>() + OTHER,
        Value::Object(fields) | Value::Map(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| name.len() + size(value) + OTHER);
            fields.sum::<usize>() + OTHER
        }
        _ => OTHER,
    }
}

fn sizes(args: &[Value]) -> usize {
    args.iter().map(size).sum()
}

/// Swarm's `join`: the separator comes first.
fn join(args: &[Value]) -> Result<Value, FuncError> {
    let [Value::String(separator), parts @ ..] = args else {
        return Err(told("join wants a separator"));
    };
    take(sizes(parts) + separator.len() * parts.len())?;
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    Ok(Value::from(parts.join(separator)))
}

/// Go's `index` of labels: one that is not there is empty.
fn index(args: &[Value]) -> Result<Value, FuncError> {
    match args {
        [Value::Object(labels), Value::String(name)] => match labels.get(name) {
            Some(label) => take(size(label)).map(|()| label.clone()),
            None => Ok(Value::from("")),
        },
        _ => Err(told("index wants labels and the name of one")),
    }
}

fn print(args: &[Value]) -> Result<Value, FuncError> {
    take(sizes(args))?;
    funcs::print(args)
}

fn println(args: &[Value]) -> Result<Value, FuncError> {
    take(sizes(args))?;
    funcs::println(args)
}

fn printf(args: &[Value]) -> Result<Value, FuncError> {
    if let [Value::String(format), rest @ ..] = args {
        let is_long = |digits: &str| digits.len() > MAX_DIGITS;
        let is_large = |verb: &str| {
            let verb = verb.split(char::is_alphabetic).next().unwrap_or_default();
            verb.contains('*') || verb.split(|c: char| !c.is_ascii_digit()).any(is_long)
        };
        if format.split('%').skip(1).any(is_large) {
            return Err(told(format!(
                "printf takes numbers of {MAX_DIGITS} digits at most, and no *"
            )));
        }
        // Any verb may name any argument.
        let largest = rest.iter().map(size).max().unwrap_or(0) + 2 * 10_usize.pow(3);
        take(format.len() + format.matches('%').count().saturating_mul(largest))?;
    }
    funcs::printf(args)
}

fn urlquery(args: &[Value]) -> Result<Value, FuncError> {
    take(sizes(args).saturating_mul(3))?;
    funcs::urlquery(args)
}

/// Swarm's `env`: a variable that is not there is empty.
fn env(args: &[Value]) -> Result<Value, FuncError> {
    let name = only("env", args)?;
    LOOKUPS.with_borrow(|lookups| {
        let found = lookups.env.iter().find(|(known, _)| known == name);
        let value = found.map_or("", |(_, value)| value.as_str());
        take(value.len()).map(|()| Value::from(value))
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
        // What does not stand there may be a secret.
        let is_known = TEMPLATE.with_borrow(|template| {
            let quoted = ['"', '`'].map(|quote| format!("{quote}{target}{quote}"));
            quoted.iter().any(|quoted| template.contains(quoted))
        });
        let shown = if is_known {
            format!(" {target}")
        } else {
            String::new()
        };
        told(format!(
            "error calling {noun}: {noun} target{shown} {cause}"
        ))
    };
    let data = targets.get(target).ok_or_else(|| wrong("not found"))?;
    let text = str::from_utf8(data.reveal()).map_err(|_| wrong("is no text in UTF-8"))?;
    take(text.len())?;
    Ok(Value::from(text))
}
