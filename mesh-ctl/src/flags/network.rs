//! `--network name` or `--network name=net,alias=a,driver-opt=k=v`.

use anyhow::{Result, bail};
use mesh_api::engine::NetworkAttachmentConfig;

/// Reads one argument.
pub(crate) fn parse(text: &str) -> Result<NetworkAttachmentConfig> {
    if !text.contains('=') {
        return Ok(NetworkAttachmentConfig {
            target: Some(text.to_owned()),
            ..Default::default()
        });
    }
    let mut attachment = NetworkAttachmentConfig::default();
    for (key, value) in super::csv::fields(text)? {
        match (key.as_str(), value) {
            ("name", Some(value)) => attachment.target = Some(value),
            ("alias", Some(value)) => attachment.aliases.get_or_insert_default().push(value),
            ("driver-opt", Some(value)) => {
                let options = attachment.driver_opts.get_or_insert_default();
                options.extend([super::pair(&value)]);
            }
            (key, _) => bail!("invalid field key {key} in --network {text:?}"),
        }
    }
    if attachment.target.is_none() {
        bail!("network name/id is not specified in --network {text:?}");
    }
    Ok(attachment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        assert_eq!(
            parse("front").expect("short").target.as_deref(),
            Some("front")
        );
        let long = parse("name=front,alias=a,alias=b").expect("long");
        assert_eq!(long.aliases.expect("aliases"), ["a", "b"]);
        assert!(parse("alias=a").is_err());
    }
}
