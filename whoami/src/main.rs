//! The test image's only program: says over HTTP, TCP and UDP who answered and who asked.
//!
//! ```text
//! whoami [serve] [PORT]              answer HTTP and UDP on PORT (80), TCP echo on PORT+1
//! whoami fetch URL                   GET a URL and print the body; also when called as `curl`
//! whoami load rr|conn|stream ..      generate load and print figures as JSON (see `load`)
//! whoami peer tcp|connected|udp ..   say what a socket says of its peer (see `peer`)
//! whoami hold tcp|udp ..             keep a flow open, and say what cut it (see `hold`)
//! whoami exit [CODE] [SECONDS]       end with CODE (0) after SECONDS (0)
//! ```
//!
//! HTTP paths: `/` and any other say who answers and who asked; `/bytes/N` gives N bytes of a known
//! pattern, `/sleep/MS` answers late, `/sink` swallows, `/health` is 503 once SIGTERM came.

mod cpu;
mod drain;
mod fetch;
mod hold;
mod http;
mod load;
mod peer;
mod resolve;
mod serve;
mod signals;

use std::{path::Path, process::ExitCode, time::Duration};

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
        "peer" => peer::run(rest),
        "hold" => hold::run(rest),
        "exit" => match exit(rest) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        other => {
            Err(format!("unknown verb {other:?}: serve, fetch, load, peer, hold or exit").into())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whoami: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits, and gives the code to end with.
fn exit(args: &[String]) -> Result<u8, Error> {
    let code = args.first().map_or(Ok(0), |text| text.parse())?;
    let seconds = args.get(1).map_or(Ok(0.0), |text| text.parse())?;
    std::thread::sleep(Duration::try_from_secs_f64(seconds)?);
    Ok(code)
}

/// Whatever went wrong, in words.
type Error = Box<dyn std::error::Error + Send + Sync>;
