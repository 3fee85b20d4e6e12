//! `--publish`: `8080:80/tcp`, ranges of it, or `published=8080,target=80,protocol=tcp,mode=host`.

use anyhow::{Context, Result, bail};
use mesh_api::engine::{
    EndpointPortConfig, EndpointPortConfigProtocolEnum as Protocol,
    EndpointPortConfigPublishModeEnum as Mode,
};

/// The ports one argument publishes.
pub(crate) fn parse(text: &str) -> Result<Vec<EndpointPortConfig>> {
    if text.contains('=') {
        return Ok(vec![long(text)?]);
    }
    short(text).with_context(|| format!("invalid publish {text:?}"))
}

fn short(text: &str) -> Result<Vec<EndpointPortConfig>> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, read_protocol(protocol)?),
        None => (text, Protocol::TCP),
    };
    let (published, target) = match ports.split_once(':') {
        Some((_, target)) if target.contains(':') => {
            bail!("a service is published on every address: leave the address out")
        }
        Some((published, target)) => (Some(published).filter(|text| !text.is_empty()), target),
        None => (None, ports),
    };
    let (first_target, last_target) = range(target)?;
    let published = published.map(range).transpose()?;
    if let Some((first, last)) = published
        && last - first != last_target - first_target
    {
        bail!("the two ranges are of different lengths");
    }
    Ok((first_target..=last_target)
        .map(|target| {
            let published = published.map(|(first, _)| first + (target - first_target));
            config(protocol, target, published, Mode::INGRESS)
        })
        .collect())
}

fn long(text: &str) -> Result<EndpointPortConfig> {
    let (mut protocol, mut target, mut published) = (Protocol::TCP, None, None);
    let mut mode = Mode::INGRESS;
    for (key, value) in super::csv::fields(text)? {
        let value = value.with_context(|| format!("invalid field {key:?}: it has no value"))?;
        match key.as_str() {
            "protocol" => protocol = read_protocol(&value)?,
            "mode" => {
                mode = match value.as_str() {
                    "ingress" => Mode::INGRESS,
                    "host" => Mode::HOST,
                    _ => bail!("invalid publish mode {value:?}: it is ingress or host"),
                }
            }
            "target" => target = Some(port(&value)?),
            "published" => published = Some(port(&value)?),
            _ => bail!("invalid field key for a port: {key}"),
        }
    }
    let Some(target) = target else {
        bail!("missing mandatory field \"target\" in {text:?}");
    };
    Ok(config(protocol, target, published, mode))
}

fn config(
    protocol: Protocol,
    target: u16,
    published: Option<u16>,
    mode: Mode,
) -> EndpointPortConfig {
    EndpointPortConfig {
        name: None,
        protocol: Some(protocol),
        target_port: Some(target.into()),
        published_port: published.map(Into::into),
        publish_mode: Some(mode),
    }
}

fn read_protocol(text: &str) -> Result<Protocol> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        _ => bail!("invalid protocol {text:?}: it is tcp, udp or sctp"),
    })
}

fn range(text: &str) -> Result<(u16, u16)> {
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            if first > last {
                bail!("the range {text} ends before it begins");
            }
            Ok((first, last))
        }
        None => port(text).map(|port| (port, port)),
    }
}

fn port(text: &str) -> Result<u16> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => bail!("invalid port {text:?}: it is a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(u16, Option<u16>, Protocol, Mode)> {
        parse(text)
            .expect(text)
            .into_iter()
            .map(|port| {
                (
                    port.target_port.expect("target") as u16,
                    port.published_port.map(|port| port as u16),
                    port.protocol.expect("protocol"),
                    port.publish_mode.expect("mode"),
                )
            })
            .collect()
    }

    #[test]
    fn notations() {
        assert_eq!(read("80"), [(80, None, Protocol::TCP, Mode::INGRESS)]);
        assert_eq!(
            read("8080:80"),
            [(80, Some(8080), Protocol::TCP, Mode::INGRESS)]
        );
        assert_eq!(
            read("53:53/udp"),
            [(53, Some(53), Protocol::UDP, Mode::INGRESS)]
        );
        assert_eq!(read("8000-8002:80-82").len(), 3);
        assert_eq!(
            read("published=81,target=80,protocol=udp,mode=host"),
            [(80, Some(81), Protocol::UDP, Mode::HOST)]
        );
    }

    #[test]
    fn nonsense() {
        for text in [
            "",
            "x",
            "0:80",
            "80:70000",
            "80/icmp",
            "1-2:1-3",
            "published=80",
            "target=80,mode=x",
            "127.0.0.1:80:80",
            "5-1:5-1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
