//! `--host name:address`: lines of a task's /etc/hosts.

use std::net::IpAddr;

use anyhow::{Result, bail};

/// A name and its address; `name:address`, or `name=address` as newer versions of Docker take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    name: String,
    address: IpAddr,
}

impl Host {
    /// Reads one argument.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let separator = text.find([':', '=']);
        let Some((name, address)) = separator.map(|at| (&text[..at], &text[at + 1..])) else {
            bail!("invalid host entry {text:?}: write it as name:address");
        };
        // IPv6 addresses may be in brackets.
        let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        match inner.unwrap_or(address).parse() {
            Ok(address) if !name.is_empty() => Ok(Self {
                name: name.to_owned(),
                address,
            }),
            Ok(_) => bail!("invalid host entry {text:?}: it has no name"),
            Err(_) => bail!("invalid IP address in host entry {text:?}: {address:?}"),
        }
    }

    /// The `address name` of /etc/hosts.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.address, self.name)
    }

    /// A line without this name, should the name be there at this address; `None` if nothing else is in it.
    pub(crate) fn take_from(&self, line: &str) -> Option<String> {
        without(line, |name, address| {
            name == self.name && address == Some(self.address)
        })
    }
}

/// A line without a name, whatever its address; `None` if nothing else is in it.
pub(crate) fn take_name_from(name: &str, line: &str) -> Option<String> {
    without(line, |one, _| one == name)
}

fn without(line: &str, is_meant: impl Fn(&str, Option<IpAddr>) -> bool) -> Option<String> {
    let mut words = line.split_whitespace();
    let address = words.next()?;
    let parsed = address.parse().ok();
    let (taken, left): (Vec<&str>, Vec<&str>) = words.partition(|name| is_meant(name, parsed));
    match (taken.is_empty(), left.is_empty()) {
        (true, _) => Some(line.to_owned()),
        (false, true) => None,
        (false, false) => Some(format!("{address} {}", left.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_arguments() {
        for (text, line) in [
            ("db:10.0.0.1", "10.0.0.1 db"),
            ("db=10.0.0.1", "10.0.0.1 db"),
            ("db:2001:db8::1", "2001:db8::1 db"),
            ("db:[2001:db8::1]", "2001:db8::1 db"),
        ] {
            assert_eq!(Host::parse(text).expect(text).line(), line);
        }
        for text in ["db", "db:", ":10.0.0.1", "db:elsewhere", "db:10.0.0.256"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_taken_from_lines() {
        let host = Host::parse("db:10.0.0.1").expect("a host");
        assert_eq!(host.take_from("10.0.0.1 db"), None);
        assert_eq!(
            host.take_from("10.0.0.1 db main").as_deref(),
            Some("10.0.0.1 main")
        );
        assert_eq!(
            host.take_from("10.0.0.2 db").as_deref(),
            Some("10.0.0.2 db")
        );
        assert_eq!(take_name_from("db", "10.0.0.2 db"), None);
        assert_eq!(
            take_name_from("other", "10.0.0.2 db").as_deref(),
            Some("10.0.0.2 db")
        );
    }
}
