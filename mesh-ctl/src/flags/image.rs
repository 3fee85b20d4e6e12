//! Names of images: default tags, digests, credentials of registries.

use anyhow::{Result, bail};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD as STANDARD, BASE64_URL_SAFE as URL_SAFE},
};
use mesh_api::{Client, ClientError};

/// The name with `:latest` when it has neither tag nor digest.
pub(crate) fn with_tag(image: &str) -> Result<String> {
    if image.is_empty() || image.contains(char::is_whitespace) {
        bail!("invalid image name {image:?}");
    }
    let (_, tag) = split(image);
    match tag {
        Some(_) => Ok(image.to_owned()),
        None => Ok(format!("{image}:latest")),
    }
}

/// The name, and its tag or (after `@`) digest. With both, the tag stays with the name.
pub(crate) fn split(image: &str) -> (&str, Option<&str>) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, Some(digest));
    }
    match image.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

/// The image with the digest that its registry answers, if it answers one.
///
/// # Errors
/// The agent cannot be asked.
pub(crate) async fn pin(
    client: &Client,
    image: &str,
    auth: Option<&str>,
) -> Result<Option<String>, ClientError> {
    if image.contains('@') {
        return Ok(Some(image.to_owned()));
    }
    match client.distribution(image, auth).await {
        Ok(answer) => Ok((answer.descriptor.digest).map(|digest| format!("{image}@{digest}"))),
        Err(ClientError::Daemon { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What Docker says when [`pin`] gives nothing.
pub(crate) fn unpinned_warning(image: &str) -> String {
    format!(
        "image {image} could not be accessed on a registry to record\n\
         its digest. Each node will access {image} independently,\n\
         possibly leading to different nodes running different\n\
         versions of the image.\n"
    )
}

/// The value of X-Registry-Auth for an image: what `docker login` wrote for its registry.
pub(crate) fn registry_auth(image: &str) -> Option<String> {
    use std::path::PathBuf;

    let directory = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
    let text = std::fs::read_to_string(directory.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let registry = match image.split_once('/') {
        Some((host, _))
            if host != "docker.io" && (host.contains(['.', ':']) || host == "localhost") =>
        {
            host
        }
        _ => "https://index.docker.io/v1/",
    };
    let encoded = config["auths"][registry]["auth"].as_str()?;
    let (user, password) = decode_pair(encoded)?;
    let header = serde_json::json!({
        "username": user, "password": password, "serveraddress": registry
    });
    Some(URL_SAFE.encode(header.to_string()))
}

fn decode_pair(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        assert_eq!(with_tag("nginx").expect("name"), "nginx:latest");
        assert_eq!(with_tag("host:5000/a").expect("name"), "host:5000/a:latest");
        assert_eq!(with_tag("a:1").expect("tag"), "a:1");
        assert_eq!(with_tag("a@sha256:00").expect("digest"), "a@sha256:00");
        assert!(with_tag("").is_err());
    }

    #[test]
    fn credentials() {
        assert_eq!(
            decode_pair("Ym9iOnBhc3M="),
            Some(("bob".to_owned(), "pass".to_owned()))
        );
    }
}
