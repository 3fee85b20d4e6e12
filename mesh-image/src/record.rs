//! What the store tells about an image, and the part of its configuration that a runtime needs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Image id: the digest of its configuration.
    pub id: Digest,
    /// Names it has here, familiar form: `nginx:latest`.
    pub repo_tags: Vec<String>,
    /// Names it has by digest in registries: `nginx@sha256:...`.
    pub repo_digests: Vec<String>,
    /// Unpacked size of all its layers in bytes; layers shared with other images count in each.
    pub size: u64,
    /// When it was built, RFC 3339, as written in the image; may be absent.
    pub created: Option<String>,
    /// CPU architecture in Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// Operating system: `linux`.
    pub os: String,
    /// Architecture variant such as `v7`.
    pub variant: Option<String>,
    /// Author as written in the image.
    pub author: Option<String>,
    /// Diff ids of the layers, base first.
    pub diff_ids: Vec<Digest>,
    /// Defaults for containers made from it.
    pub config: ImageConfig,
}

impl ImageRecord {
    /// A name for messages: the first tag, else the first digest form, else the short id.
    pub(crate) fn display_name(&self) -> String {
        self.repo_tags
            .first()
            .or(self.repo_digests.first())
            .cloned()
            .unwrap_or_else(|| self.id.short().to_owned())
    }
}

/// Defaults for containers made from an image: the `config` object of the image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `KEY=value` pairs.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Program and leading arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments (or program and arguments, without entrypoint) used when none are given.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Directory to start in; empty means `/`.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// `80/tcp`-like ports the image says it listens on.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    pub exposed_ports: BTreeSet<String>,
    /// Paths that want a volume.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    pub volumes: BTreeSet<String>,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop: `SIGTERM` or a number; none means SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How to find out whether a container does well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What commands in the form of one text are given to; empty means `/bin/sh -c`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// An image's HEALTHCHECK. Times are nanoseconds; zero means that the image says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`, `CMD` and its arguments, or `CMD-SHELL` and a text for the shell.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between two runs.
    pub interval: i64,
    /// For one run.
    pub timeout: i64,
    /// After the start, while failures do not count.
    pub start_period: i64,
    /// Between two runs during that time.
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy.
    pub retries: i64,
}

/// Images write `null` where they mean "nothing".
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's sets: `{"80/tcp": {}}`.
fn keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn as_keys<S: serde::Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Nothing {}
    serializer.collect_map(set.iter().map(|key| (key, Nothing {})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_config_with_nulls_is_read() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"Hostname":"","User":"www","Env":["A=b"],"Entrypoint":null,"Cmd":["sh"],
                "ExposedPorts":{"80/tcp":{},"53/udp":{}},"Volumes":null,"WorkingDir":"/srv",
                "Labels":null,"StopSignal":"SIGQUIT","OnBuild":null,"Shell":["/bin/ash","-c"],
                "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000}}"#,
        )
        .unwrap();
        assert_eq!(config.user, "www");
        assert!(config.entrypoint.is_empty() && config.volumes.is_empty());
        assert_eq!(
            config.exposed_ports.iter().collect::<Vec<_>>(),
            ["53/udp", "80/tcp"]
        );
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.shell, ["/bin/ash", "-c"]);
        let check = config.healthcheck.clone().unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "true"]);
        assert_eq!((check.interval, check.timeout), (5_000_000_000, 0));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ImageConfig>(&json).unwrap(), config);
    }
}
