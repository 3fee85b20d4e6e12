//! Reads arguments in Docker's notations: ports, mounts, networks, sizes, durations, variables.

pub(crate) mod capability;
pub(crate) mod csv;
pub(crate) mod generic_resource;
pub(crate) mod handout;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod nodes;
pub(crate) mod port;
pub(crate) mod quantity;
pub(crate) mod ulimit;

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

/// `key=value` pairs as a map; a key without a value has an empty one.
pub(crate) fn labels(arguments: &[String]) -> HashMap<String, String> {
    arguments.iter().map(|argument| pair(argument)).collect()
}

/// One `key=value` pair.
fn pair(argument: &str) -> (String, String) {
    let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
    (key.to_owned(), value.to_owned())
}

/// Variables of files and flags in order. `NAME` alone takes our own value, if there is one.
pub(crate) fn environment(files: &[String], arguments: &[String]) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the env file {file}"))?;
        for line in text.lines() {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                push_variable(&mut variables, line)
                    .with_context(|| format!("in the env file {file}"))?;
            }
        }
    }
    for argument in arguments {
        push_variable(&mut variables, argument)?;
    }
    Ok(variables)
}

fn push_variable(variables: &mut Vec<String>, text: &str) -> Result<()> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if name.is_empty() || name.contains(char::is_whitespace) {
        bail!("invalid environment variable: {text}: write it as NAME=value");
    }
    if text.contains('=') {
        variables.push(text.to_owned());
    } else if let Ok(value) = std::env::var(name) {
        variables.push(format!("{name}={value}"));
    }
    Ok(())
}

/// A command line taken apart as a shell does.
pub(crate) fn words(line: &str) -> Result<Vec<String>> {
    shlex::split(line).with_context(|| format!("invalid command {line:?}: a quote is not closed"))
}

/// Filters as `key=value`.
pub(crate) fn filters(arguments: &[String]) -> Result<mesh_api::Filters> {
    let mut filters = mesh_api::Filters::new();
    for argument in arguments {
        filters.add_argument(argument)?;
    }
    Ok(filters)
}

/// `Some` unless empty: empty lists are left out of specs.
pub(crate) fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let read = |text: &str| environment(&[], &[text.to_owned()]);
        assert_eq!(read("A=b=c").expect("pair"), ["A=b=c"]);
        assert!(read("MESH_CTL_SURELY_NOT_SET").expect("unset").is_empty());
        assert!(read("=x").is_err());
    }

    #[test]
    fn commands_are_quoted_as_in_a_shell() {
        assert_eq!(
            words(r#"sh -c 'echo "a  b"' c\ d"#).expect("words"),
            ["sh", "-c", "echo \"a  b\"", "c d"]
        );
        assert!(words("sh -c 'echo").is_err());
    }

    #[test]
    fn label_values_are_optional() {
        let labels = labels(&["a=1=2".to_owned(), "b".to_owned()]);
        assert_eq!(labels["a"], "1=2");
        assert_eq!(labels["b"], "");
    }
}
