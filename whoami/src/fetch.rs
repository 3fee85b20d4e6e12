//! A GET and its body on standard output: what `curl URL` is used for in a shell.

use std::{
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{Error, http, resolve};

/// How long connecting and each read may take where `--max-time` says nothing.
const LIMIT: Duration = Duration::from_secs(30);

/// Fetches the one URL among the arguments. Of curl's options it knows `-s`, `-S`, `-f` and `--max-time`.
pub(crate) fn run(args: &[String]) -> Result<(), Error> {
    let mut limit = LIMIT;
    let mut url = None;
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--max-time" || word == "-m" {
            let value = words.next().ok_or("--max-time needs a number of seconds")?;
            limit = Duration::try_from_secs_f64(value.parse()?)?;
        } else if !word.starts_with('-') {
            url = Some(word);
        } else if !word
            .trim_start_matches('-')
            .chars()
            .all(|flag| "sSfk".contains(flag))
        {
            return Err(format!("option {word} is unknown: -s, -S, -f, --max-time").into());
        }
    }
    let (host, port, path) = parts(url.ok_or("no URL given")?)?;
    let address = SocketAddr::new(resolve::address(host)?, port);
    let mut stream = TcpStream::connect_timeout(&address, limit)
        .map_err(|error| format!("cannot connect to {host} ({address}): {error}"))?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: whoami\r\nConnection: close\r\n\r\n"
    )?;
    let mut input = BufReader::new(stream);
    let head = http::read_head(&mut input)?;
    let mut body = input.take(head.length.unwrap_or(u64::MAX));
    let copied = std::io::copy(&mut body, &mut std::io::stdout())?;
    if head.length.is_some_and(|length| length != copied) {
        return Err(format!("only {copied} bytes of the body came").into());
    }
    if head.status >= 400 {
        return Err(format!("{host} answered {}", head.status).into());
    }
    Ok(())
}

/// Host, port and path of an `http://` URL.
fn parts(url: &str) -> Result<(&str, u16, &str), Error> {
    if url.starts_with("https://") {
        return Err("https is not spoken here".into());
    }
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => Ok((name, port.parse()?, path)),
        _ => Ok((host, 80, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_parts() {
        assert_eq!(parts("http://web/").unwrap(), ("web", 80, "/"));
        assert_eq!(parts("web:8080/a/b").unwrap(), ("web", 8080, "/a/b"));
        assert!(parts("https://web/").is_err());
        assert!(parts("http://web:port/").is_err());
    }
}
