//! The test image's only program: says over HTTP, TCP and UDP who answered and who asked.
//!
//! ```text
//! whoami [serve] [PORT]              answer HTTP and UDP on PORT (80), TCP echo on PORT+1
//! whoami fetch URL                   GET a URL and print the body; also when called as `curl`
//! whoami load rr|conn|stream ..  generate load and print figures as JSON (see `load`)
//! ```

mod fetch;
mod http;
mod load;
mod resolve;
mod serve;
mod signals;

use std::{path::Path, process::ExitCode};

/// Port of the servers where none is named.
const PORT: u16 = 80;

fn main() -> ExitCode {
    signals::end_on_request();
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();
    let called = Path::new(&called)
        .file_name()
        .unwrap_or_default()
        .to_owned();
    let rest: Vec<String> = args.collect();
    let (verb, rest) = if called == "curl" {
        ("fetch", &rest[..])
    } else {
        match rest.split_first() {
            Some((verb, rest)) if verb.parse::<u16>().is_err() => (verb.as_str(), rest),
            _ => ("serve", &rest[..]),
        }
    };
    let done = match verb {
        "serve" => serve::run(rest),
        "fetch" => fetch::run(rest),
        "load" => load::run(rest),
        other => Err(format!("unknown verb {other:?}: serve, fetch or load").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whoami: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever went wrong, in words.
type Error = Box<dyn std::error::Error + Send + Sync>;
