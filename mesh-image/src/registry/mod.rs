//! Talking to registries: options, credentials, and the client.

mod client;
mod failure;
mod pull;

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{ImageError, Result};

pub(crate) use pull::Blob;

/// How a store reaches registries.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Directory with one folder per registry (`<dir>/<host[:port]>/ca.crt`, PEM), as Docker's
    /// `/etc/docker/certs.d`. A registry that has a folder is only ever spoken to by TLS.
    pub certs_dir: Option<PathBuf>,
    /// Registries (`host[:port]`) that may be spoken to by plain HTTP. Loopback ones always may.
    pub insecure: Vec<String>,
    /// Mirrors (`host[:port]`) asked, in order, before Docker Hub itself.
    pub mirrors: Vec<String>,
}

/// Who asks a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody.
    #[default]
    Anonymous,
    /// User and password; also used to get a token where the registry wants tokens.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// A registry token, sent as it is.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username}, ***)"),
            Self::Token(_) => f.write_str("Token(***)"),
        }
    }
}

impl Credentials {
    /// Reads the Engine API's `X-Registry-Auth` header: base64 (either alphabet) of a JSON object
    /// with `username` and `password`, or `registrytoken`. Empty means anonymous.
    ///
    /// # Errors
    /// When it is neither base64 nor such an object.
    pub fn from_registry_auth(header: &str) -> Result<Self> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct AuthConfig {
            username: String,
            password: String,
            registrytoken: String,
            auth: String,
        }
        let fail = |reason: String| ImageError::InvalidCredentials { reason };
        let header = header.trim();
        if header.is_empty() {
            return Ok(Self::Anonymous);
        }
        let json = decode_base64(header).ok_or_else(|| fail("it is not base64".into()))?;
        let auth: Option<AuthConfig> =
            serde_json::from_slice(&json).map_err(|e| fail(e.to_string()))?;
        let auth = auth.unwrap_or_default();
        if !auth.registrytoken.is_empty() {
            return Ok(Self::Token(auth.registrytoken));
        }
        if !auth.username.is_empty() {
            return Ok(Self::Basic {
                username: auth.username,
                password: auth.password,
            });
        }
        let pair = decode_base64(&auth.auth).and_then(|pair| String::from_utf8(pair).ok());
        if let Some((username, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
            return Ok(Self::Basic {
                username: username.into(),
                password: password.into(),
            });
        }
        Ok(Self::Anonymous)
    }
}

/// Decodes base64 of either alphabet, padded or not.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let standard = text.replace('-', "+").replace('_', "/");
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, config)
        .decode(standard)
        .ok()
}

/// What an image is built for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// Operating system: `linux`.
    #[serde(default)]
    pub os: String,
    /// Architecture in Go's words: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// Variant such as `v7` or `v8`; none fits any.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        }
    }

    /// Parses `os[/architecture[/variant]]`; missing parts are this machine's.
    pub fn parse(text: &str) -> Self {
        let host = Self::host();
        let mut parts = text.split('/').filter(|part| !part.is_empty());
        Self {
            os: parts.next().map_or(host.os, str::to_owned),
            architecture: parts.next().map_or(host.architecture, str::to_owned),
            variant: parts.next().map(str::to_owned),
        }
    }

    /// Whether content for `other` runs on `self`.
    pub(crate) fn accepts(&self, other: &Platform) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || other.variant.is_none() || self.variant == other.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// What a pull may be told.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Who asks.
    pub credentials: Credentials,
    /// For which platform; this machine's if none.
    pub platform: Option<Platform>,
}

/// What a registry says about a reference: the answer of `/distribution/{name}/json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Digest of the manifest or of the manifest list: what a service is pinned to.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// Platforms it is available for; one unless it is a list.
    pub platforms: Vec<Platform>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_auth_header_is_read_in_all_its_forms() {
        let encode = |json: &str| base64::engine::general_purpose::URL_SAFE.encode(json);
        let basic = Credentials::Basic {
            username: "u".into(),
            password: "p?~>".into(),
        };
        let pair = base64::engine::general_purpose::STANDARD.encode("u:p?~>");
        for (json, expected) in [
            (
                r#"{"username":"u","password":"p?~>"}"#.to_owned(),
                basic.clone(),
            ),
            (format!(r#"{{"auth":"{pair}"}}"#), basic),
            (
                r#"{"registrytoken":"t"}"#.to_owned(),
                Credentials::Token("t".into()),
            ),
            ("{}".to_owned(), Credentials::Anonymous),
            ("null".to_owned(), Credentials::Anonymous),
        ] {
            assert_eq!(
                Credentials::from_registry_auth(&encode(&json)).unwrap(),
                expected
            );
        }
        assert_eq!(
            Credentials::from_registry_auth("").unwrap(),
            Credentials::Anonymous
        );
        let error = Credentials::from_registry_auth("%%").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert!(!format!("{:?}", Credentials::Token("secret".into())).contains("secret"));
    }

    #[test]
    fn platforms_parse_and_match() {
        let arm = Platform::parse("linux/arm/v7");
        assert_eq!(arm.to_string(), "linux/arm/v7");
        assert!(Platform::parse("linux/arm").accepts(&arm));
        assert!(!Platform::parse("linux/arm/v6").accepts(&arm));
        assert!(!Platform::host().accepts(&Platform::parse("windows")));
    }
}
