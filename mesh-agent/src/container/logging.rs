//! `--log-driver` and `--log-opt`: what is kept of a container's output. The texts are Docker's where it has one.

use std::collections::HashMap;

use mesh_api::engine::TaskSpecLogDriver;
use mesh_runtime::LogLimits;

/// The drivers there are. Both files are of the same format, which is nobody's to read but the agent's.
pub const DRIVERS: [&str; 3] = ["json-file", "local", "none"];

/// Bytes that `local` keeps in a file unless told otherwise, and files.
const LOCAL: (u64, u32) = (20_000_000, 5);

/// Why a log driver is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Another one than those that there are.
    #[error("logger: no log driver named '{0}' is registered: there are json-file, local and none")]
    Driver(String),
    /// An option that the driver does not have, or that nothing here follows.
    #[error("unknown log opt '{name}' for {driver} log driver")]
    Option {
        /// The driver.
        driver: &'static str,
        /// The option.
        name: String,
    },
    /// A value that an option does not take.
    #[error("invalid value for log opt '{name}': {value:?}: {why}")]
    Value {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it takes.
        why: &'static str,
    },
}

/// What is kept of the output of a task with this driver; without one, what the agent keeps by itself.
///
/// # Errors
/// A driver or an option that is not there, or a value that makes no sense.
pub fn limits(wanted: Option<&TaskSpecLogDriver>) -> Result<LogLimits, LogError> {
    let name = wanted.and_then(|driver| driver.name.as_deref());
    let name = name.unwrap_or_default();
    let none = HashMap::new();
    let options = wanted.and_then(|driver| driver.options.as_ref());
    let options = options.unwrap_or(&none);
    let driver = match name {
        // The daemon's own.
        "" => DRIVERS[0],
        name => *DRIVERS
            .iter()
            .find(|known| **known == name)
            .ok_or_else(|| LogError::Driver(name.to_owned()))?,
    };
    let known: &[&str] = match driver {
        "none" => &[],
        _ => &["compress", "max-file", "max-size"],
    };
    let mut names: Vec<_> = options.keys().collect();
    names.sort_unstable();
    if let Some(name) = names
        .into_iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        let name = name.clone();
        return Err(LogError::Option { driver, name });
    }
    // Rotated files are few and small: nobody would notice.
    if let Some(value) = options.get("compress").filter(|value| *value != "false") {
        return Err(LogError::Value {
            name: "compress",
            value: value.clone(),
            why: "logs are not compressed",
        });
    }
    let size = options.get("max-size").map(|text| size(text)).transpose()?;
    let files = options
        .get("max-file")
        .map(|text| files(text))
        .transpose()?;
    let own = LogLimits::default();
    Ok(match driver {
        "none" => LogLimits {
            is_off: true,
            ..own
        },
        "local" => LogLimits {
            max_size: size.unwrap_or(LOCAL.0),
            max_files: files.unwrap_or(LOCAL.1),
            is_off: false,
        },
        _ => LogLimits {
            max_size: size.unwrap_or(own.max_size),
            // Docker's default, where a size is given.
            max_files: files.unwrap_or(if size.is_some() { 1 } else { own.max_files }),
            is_off: false,
        },
    })
}

/// A size such as `10m`: units are decimal, as in Docker's log options.
fn size(text: &str) -> Result<u64, LogError> {
    let wrong = |why| LogError::Value {
        name: "max-size",
        value: text.to_owned(),
        why,
    };
    // Docker's word for no limit.
    if text == "-1" {
        return Ok(u64::MAX);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let factor = match lower[digits.len()..].trim() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1e3,
        "m" | "mb" | "mib" => 1e6,
        "g" | "gb" | "gib" => 1e9,
        "t" | "tb" | "tib" => 1e12,
        _ => return Err(wrong("expected a size, as 10m")),
    };
    let is_number = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = digits
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(|| wrong("expected a size, as 10m"))?;
    let bytes = number * factor;
    if bytes < 1.0 {
        return Err(wrong("max-size must be a positive number"));
    }
    // Beyond 2^63 it is the same: no limit.
    Ok(bytes as u64)
}

fn files(text: &str) -> Result<u32, LogError> {
    let wrong = |why| LogError::Value {
        name: "max-file",
        value: text.to_owned(),
        why,
    };
    match text.parse() {
        Ok(0) => Err(wrong("max-file cannot be less than 1")),
        Ok(number) if number > 1000 => Err(wrong("max-file cannot be more than 1000")),
        Ok(number) => Ok(number),
        Err(_) => Err(wrong("expected a number of files")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, options: &[(&str, &str)]) -> Result<(u64, u32, bool), String> {
        let owned = options.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let driver = TaskSpecLogDriver {
            name: Some(name.to_owned()),
            options: Some(owned.collect()),
        };
        let limits = limits(Some(&driver)).map_err(|error| error.to_string())?;
        Ok((limits.max_size, limits.max_files, limits.is_off))
    }

    #[test]
    fn what_is_kept() {
        assert_eq!(limits(None), Ok(LogLimits::default()));
        let own = LogLimits::default();
        let own = (own.max_size, own.max_files, false);
        for (name, options, expected) in [
            ("", &[][..], own),
            ("json-file", &[], own),
            ("json-file", &[("max-size", "10m")], (10_000_000, 1, false)),
            (
                "json-file",
                &[("max-size", "1.5k"), ("max-file", "3")],
                (1500, 3, false),
            ),
            ("json-file", &[("max-file", "2")], (own.0, 2, false)),
            ("json-file", &[("max-size", "-1")], (u64::MAX, 1, false)),
            ("local", &[], (20_000_000, 5, false)),
            (
                "local",
                &[("max-size", "1 GB"), ("compress", "false")],
                (1_000_000_000, 5, false),
            ),
            ("none", &[], (own.0, own.1, true)),
        ] {
            assert_eq!(of(name, options), Ok(expected), "{name} {options:?}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (name, options, words) in [
            (
                "gelf",
                &[][..],
                "logger: no log driver named 'gelf' is registered: there are json-file, local and none",
            ),
            (
                "json-file",
                &[("tag", "x")],
                "unknown log opt 'tag' for json-file log driver",
            ),
            (
                "none",
                &[("max-size", "1m")],
                "unknown log opt 'max-size' for none log driver",
            ),
            (
                "local",
                &[("compress", "true")],
                "invalid value for log opt 'compress': \"true\": logs are not compressed",
            ),
            (
                "local",
                &[("max-size", "much")],
                "invalid value for log opt 'max-size': \"much\": expected a size, as 10m",
            ),
            (
                "local",
                &[("max-size", "0")],
                "invalid value for log opt 'max-size': \"0\": max-size must be a positive number",
            ),
            (
                "local",
                &[("max-size", "inf")],
                "invalid value for log opt 'max-size': \"inf\": expected a size, as 10m",
            ),
            (
                "local",
                &[("max-file", "0")],
                "invalid value for log opt 'max-file': \"0\": max-file cannot be less than 1",
            ),
            (
                "local",
                &[("max-file", "x")],
                "invalid value for log opt 'max-file': \"x\": expected a number of files",
            ),
        ] {
            assert_eq!(of(name, options), Err(words.to_owned()));
        }
    }
}
