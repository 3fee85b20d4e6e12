//! Ports as `*:8080->80/tcp`.

use mesh_api::engine::{
    EndpointPortConfig, EndpointPortConfigProtocolEnum as Protocol,
    EndpointPortConfigPublishModeEnum as Mode,
};

use super::word;

/// The ports published on every node, neighbours joined into ranges.
pub(crate) fn published(ports: &[EndpointPortConfig]) -> String {
    ranges(
        ports
            .iter()
            .filter(|port| port.publish_mode != Some(Mode::HOST)),
    )
}

/// The ports of a task on its own node.
pub(crate) fn of_task(ports: &[EndpointPortConfig]) -> String {
    ranges(ports.iter())
}

/// A run of neighbouring ports.
struct Range {
    protocol: String,
    published: i64,
    target: i64,
    more: i64,
}

fn ranges<'a>(ports: impl Iterator<Item = &'a EndpointPortConfig>) -> String {
    let mut singles: Vec<(String, i64, i64)> = ports
        .filter_map(|port| {
            let protocol = word(port.protocol.or(Some(Protocol::TCP)));
            Some((protocol, port.published_port?, port.target_port?))
        })
        .collect();
    singles.sort();
    let mut ranges: Vec<Range> = Vec::new();
    for (protocol, published, target) in singles {
        match ranges.last_mut() {
            Some(last)
                if last.protocol == protocol
                    && last.published + last.more + 1 == published
                    && last.target + last.more + 1 == target =>
            {
                last.more += 1;
            }
            _ => ranges.push(Range {
                protocol,
                published,
                target,
                more: 0,
            }),
        }
    }
    let words: Vec<String> = ranges
        .iter()
        .map(|range| {
            let span = |first: i64| match range.more {
                0 => first.to_string(),
                more => format!("{first}-{}", first + more),
            };
            format!(
                "*:{}->{}/{}",
                span(range.published),
                span(range.target),
                range.protocol
            )
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined() {
        let ports: Vec<EndpointPortConfig> = serde_json::from_value(serde_json::json!([
            {"Protocol": "tcp", "TargetPort": 81, "PublishedPort": 8081, "PublishMode": "ingress"},
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
            {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "ingress"},
            {"Protocol": "tcp", "TargetPort": 9, "PublishedPort": 9, "PublishMode": "host"}
        ]))
        .expect("ports");
        assert_eq!(published(&ports), "*:8080-8081->80-81/tcp, *:53->53/udp");
        assert_eq!(published(&[]), "");
    }
}
