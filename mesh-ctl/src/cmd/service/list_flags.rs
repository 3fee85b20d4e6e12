//! The flags that fill the lists of a service's template, and those of `service update` that add to them and take from them.
//! What is added takes the place of what is there under the same name.

use anyhow::{Context, Result, bail};
use mesh_api::{
    engine::{
        ResourcesUlimits, ServiceSpec, TaskSpec, TaskSpecContainerSpec,
        TaskSpecPlacementPreferences, TaskSpecPlacementSpread,
    },
    generic_resource::{discrete, reserved},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use crate::flags::{
    capability::Capabilities,
    generic_resource,
    host::{self, Host},
    labels, mount, non_empty, ulimit,
};

/// Of `service create`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ListFlags {
    /// Label of its containers, as key=value
    #[arg(long = "container-label", value_name = "LABEL")]
    container_labels: Vec<String>,
    /// Mount: type=bind|volume|tmpfs,source=..,target=.. and, where wanted, readonly
    #[arg(long = "mount", value_name = "MOUNT")]
    mounts: Vec<String>,
    /// How tasks are spread, as spread=node.labels.zone
    #[arg(long = "placement-pref", value_name = "PREFERENCE")]
    preferences: Vec<String>,
    /// Host entry, as name:address
    #[arg(long = "host", value_name = "HOST:IP")]
    hosts: Vec<String>,
    /// Name server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Option of the resolver, as in resolv.conf
    #[arg(long = "dns-option", value_name = "OPTION")]
    dns_options: Vec<String>,
    /// Domain that names are looked for in
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Further group of the user
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Kernel parameter of the tasks' namespaces, as name=value
    #[arg(long = "sysctl", value_name = "SYSCTL")]
    sysctls: Vec<String>,
    /// Resource limit of the processes, as name=soft or name=soft:hard
    #[arg(long = "ulimit", value_name = "ULIMIT")]
    ulimits: Vec<String>,
    /// What each task is to be given of its node's, as gpu=2
    #[arg(long = "generic-resource", value_name = "KIND=NUMBER")]
    generic_resources: Vec<String>,
    /// Capability to add
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Capability to drop
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
}

impl ListFlags {
    /// Sets what was given.
    pub(super) fn apply(self, spec: &mut ServiceSpec) -> Result<()> {
        let changes = ListChanges {
            container_label_add: self.container_labels,
            mount_add: self.mounts,
            placement_pref_add: self.preferences,
            host_add: self.hosts,
            dns_add: self.dns,
            dns_option_add: self.dns_options,
            dns_search_add: self.dns_search,
            group_add: self.groups,
            sysctl_add: self.sysctls,
            ulimit_add: self.ulimits,
            generic_resource_add: self.generic_resources,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            ..ListChanges::default()
        };
        changes.apply(spec)
    }
}

/// Of `service update`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ListChanges {
    /// Set a label of its containers, as key=value
    #[arg(long, value_name = "LABEL")]
    container_label_add: Vec<String>,
    /// Remove a label of its containers
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Add a mount, or put it in the place of the one at its target
    #[arg(long, value_name = "MOUNT")]
    mount_add: Vec<String>,
    /// Remove the mount at a target
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// Add a preference of how tasks are spread
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_add: Vec<String>,
    /// Remove a preference of how tasks are spread
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_rm: Vec<String>,
    /// Add a host entry, as name:address
    #[arg(long, value_name = "HOST:IP")]
    host_add: Vec<String>,
    /// Remove a host entry, as name:address, or all of a name
    #[arg(long, value_name = "HOST:IP")]
    host_rm: Vec<String>,
    /// Add a name server
    #[arg(long, value_name = "ADDRESS")]
    dns_add: Vec<String>,
    /// Remove a name server
    #[arg(long, value_name = "ADDRESS")]
    dns_rm: Vec<String>,
    /// Add an option of the resolver
    #[arg(long, value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Remove an option of the resolver
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
    /// Add a domain that names are looked for in
    #[arg(long, value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Remove a domain that names are looked for in
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
    /// Add a further group of the user
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Remove a further group of the user
    #[arg(long, value_name = "GROUP")]
    group_rm: Vec<String>,
    /// Set a kernel parameter, as name=value
    #[arg(long, value_name = "SYSCTL")]
    sysctl_add: Vec<String>,
    /// Leave a kernel parameter as it is
    #[arg(long, value_name = "NAME")]
    sysctl_rm: Vec<String>,
    /// Set a resource limit, as name=soft or name=soft:hard
    #[arg(long, value_name = "ULIMIT")]
    ulimit_add: Vec<String>,
    /// Remove a resource limit
    #[arg(long, value_name = "NAME")]
    ulimit_rm: Vec<String>,
    /// Set what each task is to be given of its node's, as gpu=2
    #[arg(long, value_name = "KIND=NUMBER")]
    generic_resource_add: Vec<String>,
    /// Give tasks nothing of a kind
    #[arg(long, value_name = "KIND")]
    generic_resource_rm: Vec<String>,
    /// Capability to add; one that was dropped is no longer. RESET forgets those that were added
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Capability to drop; one that was added is no longer. RESET forgets those that were dropped
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
}

impl ListChanges {
    /// Makes the changes. A template that differs, be it by an empty list, replaces the tasks: what is not named stays as it is.
    pub(super) fn apply(&self, spec: &mut ServiceSpec) -> Result<()> {
        let task = spec.task_template.get_or_insert_default();
        let container = task.container_spec.get_or_insert_default();
        pairs(
            &mut container.labels,
            &self.container_label_add,
            &self.container_label_rm,
        );
        pairs(&mut container.sysctls, &self.sysctl_add, &self.sysctl_rm);
        strings(&mut container.groups, &self.group_add, &self.group_rm);
        self.mounts(container)?;
        self.hosts(container)?;
        self.dns(container)?;
        self.ulimits(container)?;
        self.capabilities(container);
        self.generic_resources(task)?;
        if !self.placement_pref_add.is_empty() || !self.placement_pref_rm.is_empty() {
            let placement = task.placement.get_or_insert_default();
            let mut preferences = placement.preferences.take().unwrap_or_default();
            let removed = read(&self.placement_pref_rm, preference)?;
            preferences.retain(|preference| !removed.contains(preference));
            preferences.extend(read(&self.placement_pref_add, preference)?);
            placement.preferences = non_empty(preferences);
        }
        Ok(())
    }

    fn mounts(&self, container: &mut TaskSpecContainerSpec) -> Result<()> {
        if self.mount_add.is_empty() && self.mount_rm.is_empty() {
            return Ok(());
        }
        let added = read(&self.mount_add, mount::parse)?;
        for (at, mount) in added.iter().enumerate() {
            if added[..at].iter().any(|other| other.target == mount.target) {
                bail!("duplicate mount target");
            }
        }
        let mut mounts = container.mounts.take().unwrap_or_default();
        mounts.retain(|mount| {
            let is_removed = mount
                .target
                .as_ref()
                .is_some_and(|t| self.mount_rm.contains(t));
            !is_removed && !added.iter().any(|other| other.target == mount.target)
        });
        mounts.extend(added);
        container.mounts = non_empty(mounts);
        Ok(())
    }

    fn hosts(&self, container: &mut TaskSpecContainerSpec) -> Result<()> {
        if self.host_add.is_empty() && self.host_rm.is_empty() {
            return Ok(());
        }
        let mut lines = container.hosts.take().unwrap_or_default();
        for text in &self.host_rm {
            let host = text.contains([':', '=']).then(|| Host::parse(text));
            let host = host.transpose()?;
            let take = |line: &String| match &host {
                Some(host) => host.take_from(line),
                None => host::take_name_from(text, line),
            };
            lines = lines.iter().filter_map(take).collect();
        }
        for host in read(&self.host_add, Host::parse)? {
            let line = host.line();
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        container.hosts = non_empty(lines);
        Ok(())
    }

    fn dns(&self, container: &mut TaskSpecContainerSpec) -> Result<()> {
        for text in &self.dns_add {
            text.parse::<IpAddr>()
                .ok()
                .with_context(|| format!("{text} is not an ip address"))?;
        }
        let changes = [
            (&self.dns_add, &self.dns_rm),
            (&self.dns_search_add, &self.dns_search_rm),
            (&self.dns_option_add, &self.dns_option_rm),
        ];
        if changes
            .iter()
            .all(|(added, removed)| added.is_empty() && removed.is_empty())
        {
            return Ok(());
        }
        let mut config = container.dns_config.take().unwrap_or_default();
        let lists = [
            &mut config.nameservers,
            &mut config.search,
            &mut config.options,
        ];
        for (list, (added, removed)) in lists.into_iter().zip(changes) {
            strings(list, added, removed);
        }
        container.dns_config = Some(config).filter(|config| *config != Default::default());
        Ok(())
    }

    fn ulimits(&self, container: &mut TaskSpecContainerSpec) -> Result<()> {
        if self.ulimit_add.is_empty() && self.ulimit_rm.is_empty() {
            return Ok(());
        }
        let mut limits = container.ulimits.take().unwrap_or_default();
        let take = |limits: &mut Vec<ResourcesUlimits>, name: Option<&str>| {
            limits.retain(|limit| limit.name.as_deref() != name);
        };
        for name in &self.ulimit_rm {
            take(&mut limits, Some(name));
        }
        for limit in read(&self.ulimit_add, ulimit::parse)? {
            take(&mut limits, limit.name.as_deref());
            limits.push(limit);
        }
        container.ulimits = non_empty(limits);
        Ok(())
    }

    fn generic_resources(&self, task: &mut TaskSpec) -> Result<()> {
        if self.generic_resource_add.is_empty() && self.generic_resource_rm.is_empty() {
            return Ok(());
        }
        let mut wanted: BTreeMap<String, u64> = reserved(task)
            .into_iter()
            .map(|(kind, number)| (kind.to_owned(), number))
            .collect();
        wanted.extend(generic_resource::parse(&self.generic_resource_add)?);
        for kind in &self.generic_resource_rm {
            if wanted.remove(kind).is_none() {
                bail!("could not find generic-resource `{kind}` to remove it");
            }
        }
        let list = wanted.iter().map(|(kind, number)| discrete(kind, *number));
        let resources = task.resources.get_or_insert_default();
        let reservations = resources.reservations.get_or_insert_default();
        reservations.generic_resources = non_empty(list.collect());
        Ok(())
    }

    fn capabilities(&self, container: &mut TaskSpecContainerSpec) {
        if self.cap_add.is_empty() && self.cap_drop.is_empty() {
            return;
        }
        let of = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let before = Capabilities::of(
            &of(&container.capability_add),
            &of(&container.capability_drop),
        );
        let after = before.change(&self.cap_add, &self.cap_drop);
        container.capability_add = non_empty(after.added.into_iter().collect());
        container.capability_drop = non_empty(after.dropped.into_iter().collect());
    }
}

fn read<T>(texts: &[String], parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    texts.iter().map(|text| parse(text)).collect()
}

/// Takes from a list and adds to its end what is not in it.
fn strings(list: &mut Option<Vec<String>>, added: &[String], removed: &[String]) {
    if added.is_empty() && removed.is_empty() {
        return;
    }
    let mut strings = list.take().unwrap_or_default();
    strings.retain(|one| !removed.contains(one));
    for one in added {
        if !strings.contains(one) {
            strings.push(one.clone());
        }
    }
    *list = non_empty(strings);
}

/// Takes names from a map and sets `name=value`.
fn pairs(map: &mut Option<HashMap<String, String>>, added: &[String], removed: &[String]) {
    if added.is_empty() && removed.is_empty() {
        return;
    }
    let mut pairs = map.take().unwrap_or_default();
    pairs.retain(|name, _| !removed.contains(name));
    pairs.extend(labels(added));
    *map = Some(pairs).filter(|pairs| !pairs.is_empty());
}

fn preference(text: &str) -> Result<TaskSpecPlacementPreferences> {
    match text.split_once('=') {
        Some(("spread", descriptor)) => Ok(TaskSpecPlacementPreferences {
            spread: Some(TaskSpecPlacementSpread {
                spread_descriptor: Some(descriptor.to_owned()),
            }),
        }),
        _ => bail!("invalid placement preference {text:?}: write it as spread=node.labels.zone"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cmd::arguments;

    /// A template's container and placement after these flags.
    fn after(before: Value, line: &[&str]) -> Result<Value> {
        let mut spec: ServiceSpec =
            serde_json::from_value(json!({"TaskTemplate": before})).expect("a spec");
        arguments::<ListChanges>(line)?.apply(&mut spec)?;
        Ok(serde_json::to_value(spec.task_template)?)
    }

    #[test]
    fn what_is_not_named_stays() {
        let template = json!({"ContainerSpec": {
            "Labels": {"a": "1"}, "Sysctls": {"net.ipv4.ip_forward": "1"}, "Hosts": ["10.0.0.1 db"],
            "Groups": ["audio"], "CapabilityAdd": ["CAP_SYS_TIME"],
            "Mounts": [{"Type": "volume", "Source": "v", "Target": "/v"}],
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "DNSConfig": {"Nameservers": ["10.0.0.2"]},
        }});
        assert_eq!(after(template.clone(), &[]).expect("nothing"), template);
    }

    #[test]
    fn lists_are_added_to_and_taken_from() {
        let cases: &[(&str, Value, &[&str], Value)] = &[
            (
                "Labels",
                json!({"a": "1", "b": "2"}),
                &["--container-label-rm", "a", "--container-label-add", "b=3"],
                json!({"b": "3"}),
            ),
            (
                "Labels",
                json!({"a": "1"}),
                &["--container-label-rm", "a"],
                json!(null),
            ),
            (
                "Sysctls",
                json!(null),
                &["--sysctl-add", "net.core.somaxconn=9"],
                json!({"net.core.somaxconn": "9"}),
            ),
            (
                "Groups",
                json!(["audio", "x"]),
                &[
                    "--group-rm",
                    "x",
                    "--group-add",
                    "audio",
                    "--group-add",
                    "y",
                ],
                json!(["audio", "y"]),
            ),
            (
                "Hosts",
                json!(["10.0.0.1 db", "10.0.0.2 db"]),
                &["--host-rm", "db:10.0.0.1"],
                json!(["10.0.0.2 db"]),
            ),
            (
                "Hosts",
                json!(["10.0.0.1 db", "10.0.0.2 db"]),
                &["--host-rm", "db", "--host-add", "web:::1"],
                json!(["::1 web"]),
            ),
            (
                "Mounts",
                json!([{"Type": "volume", "Source": "a", "Target": "/a"}, {"Type": "volume", "Source": "b", "Target": "/b"}]),
                &[
                    "--mount-rm",
                    "/b",
                    "--mount-add",
                    "type=bind,source=/x,target=/a",
                ],
                json!([{"Type": "bind", "Source": "/x", "Target": "/a"}]),
            ),
            (
                "Ulimits",
                json!([{"Name": "core", "Soft": 0, "Hard": 0}]),
                &["--ulimit-add", "core=1:2", "--ulimit-add", "nproc=3"],
                json!([{"Name": "core", "Soft": 1, "Hard": 2}, {"Name": "nproc", "Soft": 3, "Hard": 3}]),
            ),
            (
                "Ulimits",
                json!([{"Name": "core", "Soft": 0, "Hard": 0}]),
                &["--ulimit-rm", "core"],
                json!(null),
            ),
            (
                "DNSConfig",
                json!({"Nameservers": ["10.0.0.2"], "Search": ["a"]}),
                &[
                    "--dns-rm",
                    "10.0.0.2",
                    "--dns-search-add",
                    "b",
                    "--dns-option-add",
                    "ndots:2",
                ],
                json!({"Search": ["a", "b"], "Options": ["ndots:2"]}),
            ),
            (
                "DNSConfig",
                json!({"Nameservers": ["10.0.0.2"]}),
                &["--dns-rm", "10.0.0.2"],
                json!(null),
            ),
            (
                "CapabilityDrop",
                json!(["CAP_CHOWN"]),
                &["--cap-add", "chown"],
                json!(null),
            ),
        ];
        for (field, before, line, expected) in cases {
            let template = after(json!({"ContainerSpec": {*field: before}}), line).expect(field);
            assert_eq!(template["ContainerSpec"][*field], *expected, "{line:?}");
        }
    }

    #[test]
    fn generic_resources_are_set_and_removed() {
        let gpu = |number: i64| json!({"DiscreteResourceSpec": {"Kind": "gpu", "Value": number}});
        let ssd = json!({"DiscreteResourceSpec": {"Kind": "ssd", "Value": 1}});
        let cases: &[(Value, &[&str], Value)] = &[
            (
                json!(null),
                &["--generic-resource-add", "gpu=2"],
                json!([gpu(2)]),
            ),
            (
                json!([gpu(2), ssd]),
                &["--generic-resource-add", "gpu=3"],
                json!([gpu(3), ssd]),
            ),
            (
                json!([gpu(2), ssd]),
                &["--generic-resource-rm", "gpu"],
                json!([ssd]),
            ),
            (
                json!([gpu(2)]),
                &["--generic-resource-rm", "gpu"],
                json!(null),
            ),
        ];
        for (before, line, expected) in cases {
            let reserved = json!({"MemoryBytes": 5, "GenericResources": before});
            let template = json!({"Resources": {"Reservations": reserved}});
            let template = after(template, line).expect("resources");
            let reserved = &template["Resources"]["Reservations"];
            assert_eq!(reserved["GenericResources"], *expected, "{line:?}");
            assert_eq!(reserved["MemoryBytes"], 5);
        }
        let absent = after(json!({}), &["--generic-resource-rm", "gpu"]);
        let error = absent.expect_err("nothing to remove").to_string();
        assert_eq!(error, "could not find generic-resource `gpu` to remove it");
        // Of a service that has no resources yet.
        let line = ["--generic-resource", "gpu=2", "--generic-resource", "ssd=1"];
        let mut spec = ServiceSpec::default();
        let flags = arguments::<ListFlags>(&line).expect("flags");
        flags.apply(&mut spec).expect("resources");
        let spec = serde_json::to_value(spec).expect("JSON");
        let reserved = &spec["TaskTemplate"]["Resources"]["Reservations"];
        assert_eq!(reserved["GenericResources"], json!([gpu(2), ssd]));
    }

    #[test]
    fn preferences_are_added_and_removed() {
        let by = |label: &str| json!({"Spread": {"SpreadDescriptor": label}});
        let template =
            json!({"ContainerSpec": {}, "Placement": {"Preferences": [by("node.labels.a")]}});
        let line = [
            "--placement-pref-rm",
            "spread=node.labels.a",
            "--placement-pref-add",
            "spread=node.labels.b",
        ];
        let template = after(template, &line).expect("preferences");
        assert_eq!(
            template["Placement"]["Preferences"],
            json!([by("node.labels.b")])
        );
    }

    #[test]
    fn bad_input_is_refused() {
        for line in [
            ["--mount-add", "type=bind,target=/x"],
            ["--host-add", "db"],
            ["--host-rm", "db:elsewhere"],
            ["--dns-add", "elsewhere"],
            ["--ulimit-add", "files=1"],
            ["--generic-resource-add", "gpu=a"],
            ["--placement-pref-add", "zone"],
        ] {
            assert!(after(json!({}), &line).is_err(), "{line:?}");
        }
        let twice = ["--mount-add", "target=/a", "--mount-add", "target=/a"];
        let error = after(json!({}), &twice).expect_err("twice").to_string();
        assert_eq!(error, "duplicate mount target");
    }
}
