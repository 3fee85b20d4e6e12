//! The texts of a task's /etc/hosts and /etc/resolv.conf.

use std::{fmt::Write, net::IpAddr};

use mesh_api::engine::TaskSpecContainerSpecDnsConfig;

/// The node's DNS inside every task's namespace (Docker's address).
pub(super) const DNS_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// /etc/hosts: loopback, the task itself, and the specification's `address name...` lines.
pub fn hosts(hostname: &str, own: &[IpAddr], extra: &[String]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for line in extra {
        let mut words = line.split_whitespace();
        if let Some(address) = words.next() {
            let names: Vec<&str> = words.collect();
            let _ = writeln!(text, "{address}\t{}", names.join(" "));
        }
    }
    for address in own {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    text
}

/// /etc/resolv.conf: always this node's DNS; `--dns` servers are its upstreams for the task, not
/// the task's own resolvers.
pub fn resolv_conf(
    config: Option<&TaskSpecContainerSpecDnsConfig>,
    host_search: &[String],
) -> String {
    let given = |list: Option<&Vec<String>>| list.filter(|list| !list.is_empty()).cloned();
    let search = given(config.and_then(|config| config.search.as_ref()))
        .unwrap_or_else(|| host_search.to_vec());
    let mut options = given(config.and_then(|config| config.options.as_ref())).unwrap_or_default();
    // Service names have no dot and are asked as they are, before any search list.
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    let mut text = format!("nameserver {DNS_ADDRESS}\n");
    // "." is Docker's way to ask for no search list.
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let text = hosts(
            "web1",
            &["10.0.16.4".parse().expect("ip")],
            &["192.0.2.9 db database".to_owned()],
        );
        assert!(text.contains("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("192.0.2.9\tdb database\n10.0.16.4\tweb1\n"));

        assert_eq!(
            resolv_conf(None, &["lan".to_owned()]),
            "nameserver 127.0.0.11\nsearch lan\noptions ndots:0\n"
        );
        let config = TaskSpecContainerSpecDnsConfig {
            search: Some(vec![".".into()]),
            options: Some(vec!["ndots:2".into()]),
            ..Default::default()
        };
        assert_eq!(
            resolv_conf(Some(&config), &["lan".to_owned()]),
            "nameserver 127.0.0.11\noptions ndots:2\n"
        );
    }
}
