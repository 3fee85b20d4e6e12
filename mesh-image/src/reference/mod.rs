//! Image references as users write them (`nginx`, `localhost:5000/a/b:1@sha256:...`) and their
//! normal form (`docker.io/library/nginx:latest`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, Result};

/// The registry meant when a reference names none.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag meant when a reference has neither tag nor digest.
pub(crate) const DEFAULT_TAG: &str = "latest";
/// Where the repositories of the default registry live that have no slash in their name.
const OFFICIAL_PREFIX: &str = "library/";
/// The default registry's other name.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Longest repository name, registry included (Docker's bound).
const MAX_NAME: usize = 255;
/// Longest tag (the distribution specification's bound).
const MAX_TAG: usize = 128;

/// A parsed, normalised reference. `Display` prints the familiar form, as Docker does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what a user wrote. Without tag and digest the tag is `latest`.
    ///
    /// # Errors
    /// When it is none, with Docker's words.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |reason| ImageError::InvalidReference {
            reference: text.chars().take(300).collect(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    digest
                        .parse::<Digest>()
                        .map_err(|_| fail("the digest is not valid"))?,
                ),
            ),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it belongs to host:port.
        let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(at) => (
                &rest[..after_slash + at],
                Some(&rest[after_slash + at + 1..]),
            ),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(fail("the repository name is empty"));
        }
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(fail(
                "a tag is 1 to 128 of [a-zA-Z0-9_.-], not starting with . or -",
            ));
        }
        if tag.is_none() && digest.is_none() && is_hex_id(name) {
            return Err(fail("64 hexadecimal digits are an image id, not a name"));
        }
        let (registry, path) = split_registry(name);
        if !valid_host(&registry) {
            return Err(fail("the registry is not host[:port]"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("repository name must be lowercase"));
        }
        if !path.split('/').all(valid_component) {
            return Err(fail(
                "a repository name is parts of [a-z0-9], separated by . _ __ - or /",
            ));
        }
        if registry.len() + 1 + path.len() > MAX_NAME {
            return Err(fail("the repository name is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self {
            registry,
            path,
            tag,
            digest,
        })
    }

    /// `host[:port]`, `docker.io` where none was given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path within the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if any.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if any. Where both are given, the digest decides.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Familiar repository name without tag: `nginx`, `localhost:5000/a/b`.
    pub fn repository(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.path);
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// Everything written out: `docker.io/library/nginx:latest`.
    pub fn canonical(&self) -> String {
        format!("{}/{}{}", self.registry, self.path, self.suffix())
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// When the tag holds what no tag may.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !valid_tag(tag) {
            return Err(ImageError::InvalidReference {
                reference: tag.chars().take(300).collect(),
                reason: "a tag is 1 to 128 of [a-zA-Z0-9_.-], not starting with . or -",
            });
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The tagged form without a digest, if there is a tag.
    pub fn tagged(&self) -> Option<Self> {
        self.tag.as_ref().map(|_| Self {
            digest: None,
            ..self.clone()
        })
    }

    fn suffix(&self) -> String {
        let tag = self
            .tag
            .as_ref()
            .map(|tag| format!(":{tag}"))
            .unwrap_or_default();
        let digest = self
            .digest
            .as_ref()
            .map(|digest| format!("@{digest}"))
            .unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository(), self.suffix())
    }
}

impl TryFrom<String> for Reference {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.canonical()
    }
}

/// Whether `host[:port]` is this machine, so that plain HTTP is as good as TLS: localhost, 127.0.0.0/8 or ::1.
pub(crate) fn is_loopback(registry: &str) -> bool {
    if let Ok(address) = registry.parse::<std::net::SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = registry.trim_end_matches(|c: char| c.is_ascii_digit());
    let host = host.strip_suffix(':').unwrap_or(registry);
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Docker's rule: the first part is a registry if it has a dot or a colon, is `localhost`, or has
/// an upper-case letter.
fn split_registry(name: &str) -> (String, String) {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == LEGACY_REGISTRY {
        DEFAULT_REGISTRY
    } else {
        registry
    };
    if registry == DEFAULT_REGISTRY && !path.contains('/') {
        return (registry.to_owned(), format!("{OFFICIAL_PREFIX}{path}"));
    }
    (registry.to_owned(), path.to_owned())
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag
            .bytes()
            .enumerate()
            .all(|(at, b)| word(b) || (at > 0 && (b == b'.' || b == b'-')))
}

/// `[a-z0-9]+` separated by one dot, one or two underscores, or any number of dashes.
fn valid_component(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alnum(first)
        && alnum(last)
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|sep| matches!(sep, "" | "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

fn valid_host(registry: &str) -> bool {
    let (host, port) = match registry
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((v6, rest)) => {
            if v6.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (
                None,
                rest.strip_prefix(':')
                    .or(if rest.is_empty() { None } else { Some("") }),
            )
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0)
        })
}

fn is_hex_id(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests;
