//! What a spec asks for and no node would follow. It is refused here, as the manager's log may hold older specs.

use mesh_api::{
    deadline,
    engine::{HealthConfig, Mount, ServiceSpec},
    generic_resource::reservations,
};
use mesh_manager::{GENERIC_RESOURCES, state::ServiceMode};

use crate::{api::errors::ApiError, container, volumes};

/// Least time in a health check that is not zero, nanoseconds.
const LEAST_TIME: i64 = 1_000_000;

/// Refuses a spec that asks for such things.
///
/// # Errors
/// Names the first.
pub(super) fn check(spec: &ServiceSpec) -> Result<(), ApiError> {
    mode(spec)?;
    mesh_manager::rebalance_budget(spec.labels.as_ref()).map_err(ApiError::bad_request)?;
    let deadline = deadline::of(spec.labels.as_ref()).map_err(ApiError::bad_request)?;
    if deadline.is_some() && ServiceMode::of(spec).is_job() {
        return Err(ApiError::bad_request(format!(
            "label {} is for services that are updated; a job is executed anew instead",
            deadline::LABEL
        )));
    }
    let Some(template) = &spec.task_template else {
        return Ok(());
    };
    let container = template.container_spec.as_ref();
    if let Some(wanted) = container.and_then(|c| c.health_check.as_ref()) {
        health_check(wanted)?;
    }
    for mount in container
        .and_then(|c| c.mounts.as_ref())
        .into_iter()
        .flatten()
    {
        volume(mount)?;
        other(mount)?;
    }
    if let Some(container) = container {
        container::handed(container).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let name = spec.name.as_deref().unwrap_or_default();
        let labels = spec.labels.clone().unwrap_or_default();
        container::check_templates(container, name, &labels)
            .map_err(|error| invalid(&error.to_string()))?;
    }
    container::logging::limits(template.log_driver.as_ref())
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let resources = template.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    match limits.and_then(|limits| limits.pids) {
        Some(pids) if pids < 0 => Err(ApiError::bad_request(format!(
            "invalid pids limit {pids}: must be 0, which is no limit, or more"
        ))),
        _ => Ok(()),
    }
}

/// Refuses what the managers follow only by later rules than those in force.
///
/// # Errors
/// Says what it waits for.
pub(super) fn by_rules(spec: &ServiceSpec, in_force: u32) -> Result<(), ApiError> {
    let template = spec.task_template.as_ref();
    let reserves = template.is_some_and(|template| !reservations(template).is_empty());
    match reserves && in_force < GENERIC_RESOURCES {
        true => Err(ApiError::bad_request(
            "generic resources are not followed yet: they are once all managers have this version, and are up",
        )),
        false => Ok(()),
    }
}

/// Swarm's words for what a spec asks for.
fn invalid(what: &str) -> ApiError {
    ApiError::bad_request(format!("rpc error: code = InvalidArgument desc = {what}"))
}

/// Several modes, and what Swarm refuses of a job.
fn mode(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(mode) = &spec.mode else {
        return Ok(());
    };
    let modes = [
        mode.replicated.is_some(),
        mode.global.is_some(),
        mode.replicated_job.is_some(),
        mode.global_job.is_some(),
    ];
    if modes.into_iter().filter(|is_given| *is_given).count() > 1 {
        return Err(ApiError::bad_request("must specify only one service mode"));
    }
    if let Some(job) = &mode.replicated_job {
        let is_negative = |number: Option<i64>| number.is_some_and(|number| number < 0);
        if is_negative(job.max_concurrent) {
            return Err(invalid("Maximum concurrent jobs must not be negative"));
        }
        if is_negative(job.total_completions) {
            return Err(invalid("Total completed jobs must not be negative"));
        }
    }
    if ServiceMode::of(spec).is_job() && spec.update_config.is_some() {
        return Err(invalid("Jobs may not have an update config"));
    }
    Ok(())
}

/// What Swarm refuses of a health check, and what nobody could run.
fn health_check(wanted: &HealthConfig) -> Result<(), ApiError> {
    let refused = |what: &str| Err(invalid(&format!("ContainerSpec: {what}")));
    for (name, nanos) in [
        ("Interval", wanted.interval),
        ("Timeout", wanted.timeout),
        ("StartPeriod", wanted.start_period),
        ("StartInterval", wanted.start_interval),
    ] {
        if nanos.is_some_and(|nanos| nanos != 0 && nanos < LEAST_TIME) {
            return refused(&format!("{name} in HealthConfig cannot be less than 1ms"));
        }
    }
    match wanted.retries {
        Some(retries) if retries < 0 => {
            return refused("Retries in HealthConfig cannot be negative");
        }
        Some(retries) if u32::try_from(retries).is_err() => {
            return refused(&format!("Retries in HealthConfig cannot be {retries}"));
        }
        _ => {}
    }
    let test = wanted.test.as_deref().unwrap_or_default();
    let Some((kind, command)) = test.split_first() else {
        return Ok(());
    };
    match kind.as_str() {
        "NONE" => Ok(()),
        "CMD" | "CMD-SHELL" if command.is_empty() => refused(&format!(
            "Test in HealthConfig names no command after {kind}"
        )),
        "CMD" | "CMD-SHELL" if command.iter().any(|word| word.contains('\0')) => {
            refused("Test in HealthConfig holds a NUL")
        }
        "CMD" | "CMD-SHELL" => Ok(()),
        _ => refused(&format!(
            "Test in HealthConfig begins with {kind:?}: it is NONE, CMD or CMD-SHELL"
        )),
    }
}

/// What is asked of a bind mount or a tmpfs and nobody would follow.
fn other(mount: &Mount) -> Result<(), ApiError> {
    let (bind, tmpfs) = (mount.bind_options.as_ref(), mount.tmpfs_options.as_ref());
    let refused = if bind.and_then(|bind| bind.read_only_force_recursive) == Some(true) {
        "bind-recursive=readonly is not supported: what is mounted below the source stays writable"
    } else if tmpfs.is_some_and(|tmpfs| tmpfs.options.iter().flatten().next().is_some()) {
        "options of a tmpfs are not supported, but its size and mode"
    } else {
        return Ok(());
    };
    let target = mount.target.as_deref().unwrap_or_default();
    Err(ApiError::bad_request(format!(
        "invalid mount at {target}: {refused}"
    )))
}

fn volume(mount: &Mount) -> Result<(), ApiError> {
    let Some(options) = &mount.volume_options else {
        return Ok(());
    };
    let target = mount.target.as_deref().unwrap_or_default();
    let refused = |what: String| {
        Err(ApiError::bad_request(format!(
            "invalid mount at {target}: {what}"
        )))
    };
    let driver = options.driver_config.clone().unwrap_or_default();
    let name = driver.name.unwrap_or_default();
    if !matches!(name.as_str(), "" | "local") {
        return refused(format!(
            "volume driver {name:?}: only the local driver is there"
        ));
    }
    if options.subpath.as_deref().is_some_and(|p| !p.is_empty()) {
        return refused("a subpath of a volume is not supported; use a bind mount".to_owned());
    }
    let driver_options = driver.options.unwrap_or_default();
    if !driver_options.is_empty() && mount.source.as_deref().unwrap_or_default().is_empty() {
        return refused("a volume with driver options needs a source, which names it".to_owned());
    }
    match volumes::check_options(&driver_options.into_iter().collect()) {
        Ok(()) => Ok(()),
        Err(error) => refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(template: Value) -> Option<String> {
        let spec = serde_json::from_value(json!({ "TaskTemplate": template })).expect("a spec");
        check(&spec).err().map(|error| error.message().to_owned())
    }

    fn mount(options: Value) -> Option<String> {
        let mount =
            json!({"Type": "volume", "Source": "d", "Target": "/d", "VolumeOptions": options});
        told(json!({"ContainerSpec": {"Image": "a", "Mounts": [mount]}}))
    }

    #[test]
    fn volumes() {
        assert_eq!(mount(json!({})), None);
        assert_eq!(mount(json!({"DriverConfig": {"Name": "local"}})), None);
        let nfs = json!({"type": "nfs", "o": "addr=10.0.0.1,rw", "device": ":/x"});
        assert_eq!(mount(json!({"DriverConfig": {"Options": nfs}})), None);
        for (options, words) in [
            (
                json!({"DriverConfig": {"Name": "nfs"}}),
                "volume driver \"nfs\": only the local driver is there",
            ),
            (
                json!({"DriverConfig": {"Options": {"type": "nfs"}}}),
                "missing required option: \"device\"",
            ),
            (
                json!({"DriverConfig": {"Options": {"colour": "red"}}}),
                "invalid option: \"colour\"",
            ),
            (
                json!({"Subpath": "a/b"}),
                "a subpath of a volume is not supported; use a bind mount",
            ),
        ] {
            let told = mount(options).expect("refused");
            assert_eq!(told, format!("invalid mount at /d: {words}"));
        }
        let unnamed = json!({"Type": "volume", "Target": "/d", "VolumeOptions": {"DriverConfig": {"Options": nfs}}});
        let told = told(json!({"ContainerSpec": {"Image": "a", "Mounts": [unnamed]}}));
        assert_eq!(
            told.as_deref(),
            Some(
                "invalid mount at /d: a volume with driver options needs a source, which names it"
            )
        );
    }

    #[test]
    fn other_mounts() {
        let mount =
            |mount: Value| told(json!({"ContainerSpec": {"Image": "a", "Mounts": [mount]}}));
        let bind = |options: Value| {
            mount(json!({"Type": "bind", "Source": "/s", "Target": "/d", "BindOptions": options}))
        };
        let tmpfs = |options: Value| {
            mount(json!({"Type": "tmpfs", "Target": "/d", "TmpfsOptions": options}))
        };
        assert_eq!(
            bind(json!({"CreateMountpoint": true, "ReadOnlyNonRecursive": true})),
            None
        );
        assert_eq!(tmpfs(json!({"SizeBytes": 1, "Options": []})), None);
        for (told, words) in [
            (
                bind(json!({"ReadOnlyForceRecursive": true})),
                "bind-recursive=readonly is not",
            ),
            (
                tmpfs(json!({"Options": [["noexec"]]})),
                "options of a tmpfs are not supported",
            ),
        ] {
            let told = told.expect("refused");
            assert!(
                told.starts_with(&format!("invalid mount at /d: {words}")),
                "{told}"
            );
        }
    }

    #[test]
    fn log_drivers() {
        let driver = |name: &str| {
            told(json!({"ContainerSpec": {"Image": "a"}, "LogDriver": {"Name": name}}))
        };
        assert_eq!(driver("local"), None);
        let refused = driver("gelf").expect("refused");
        assert!(
            refused.contains("no log driver named 'gelf' is registered"),
            "{refused}"
        );
    }

    #[test]
    fn generic_resources_wait_for_all_managers() {
        let spec = |list: Value| -> ServiceSpec {
            let reserved = json!({"Reservations": {"GenericResources": list}});
            serde_json::from_value(json!({"TaskTemplate": {"Resources": reserved}})).expect("spec")
        };
        let gpu = json!([{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}]);
        for (list, rules, is_refused) in [
            (json!([]), GENERIC_RESOURCES - 1, false),
            (gpu.clone(), GENERIC_RESOURCES - 1, true),
            (gpu, GENERIC_RESOURCES, false),
        ] {
            let said = by_rules(&spec(list.clone()), rules);
            assert_eq!(said.is_err(), is_refused, "{list} {rules}");
        }
    }

    #[test]
    fn handouts() {
        let secret = |file: Value| {
            let secrets = json!([{"SecretID": "1", "SecretName": "key", "File": file}]);
            told(json!({"ContainerSpec": {"Image": "a", "Secrets": secrets}}))
        };
        assert_eq!(
            secret(json!({"Name": "key", "UID": "7", "Mode": 0o400})),
            None
        );
        let refused = secret(json!({"Name": "../key"})).expect("refused");
        assert!(
            refused.contains("\"../key\" is not the path of a file"),
            "{refused}"
        );
    }

    #[test]
    fn health_checks() {
        let check = |check: Value| told(json!({"ContainerSpec": {"HealthCheck": check}}));
        for fine in [
            json!({}),
            json!({"Test": []}),
            json!({"Test": ["NONE"]}),
            json!({"Test": ["CMD", "true"], "Interval": 1_000_000, "Retries": 0}),
            json!({"Test": ["CMD-SHELL", "exit 0"], "Timeout": 0, "StartInterval": 5_000_000}),
        ] {
            assert_eq!(check(fine.clone()), None, "{fine}");
        }
        for (bad, words) in [
            (
                json!({"Interval": 999_999}),
                "Interval in HealthConfig cannot be less than 1ms",
            ),
            (
                json!({"Timeout": -1}),
                "Timeout in HealthConfig cannot be less than 1ms",
            ),
            (
                json!({"StartPeriod": 1}),
                "StartPeriod in HealthConfig cannot be less than 1ms",
            ),
            (
                json!({"StartInterval": 1}),
                "StartInterval in HealthConfig cannot be less than 1ms",
            ),
            (
                json!({"Retries": -1}),
                "Retries in HealthConfig cannot be negative",
            ),
            (
                json!({"Retries": 1_i64 << 40}),
                "Retries in HealthConfig cannot be 1099511627776",
            ),
            (
                json!({"Test": ["CMD"]}),
                "Test in HealthConfig names no command after CMD",
            ),
            (
                json!({"Test": ["CMD", "a\u{0}"]}),
                "Test in HealthConfig holds a NUL",
            ),
            (
                json!({"Test": ["HTTP", "/"]}),
                "Test in HealthConfig begins with \"HTTP\": it is NONE, CMD or CMD-SHELL",
            ),
        ] {
            let told = check(bad).expect("refused");
            let expected =
                format!("rpc error: code = InvalidArgument desc = ContainerSpec: {words}");
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn modes() {
        let told = |spec: Value| {
            let spec = serde_json::from_value(spec).expect("a spec");
            check(&spec).err().map(|error| error.message().to_owned())
        };
        let job = json!({"MaxConcurrent": 2, "TotalCompletions": 0});
        for fine in [
            json!({}),
            json!({"Mode": {"Global": {}}, "UpdateConfig": {}}),
            json!({"Mode": {"ReplicatedJob": job}, "RollbackConfig": {}}),
            json!({"Mode": {"GlobalJob": {}}}),
        ] {
            assert_eq!(told(fine.clone()), None, "{fine}");
        }
        let desc = "rpc error: code = InvalidArgument desc = ";
        for (bad, words) in [
            (
                json!({"Mode": {"Replicated": {}, "GlobalJob": {}}}),
                "must specify only one service mode".to_owned(),
            ),
            (
                json!({"Mode": {"ReplicatedJob": {"MaxConcurrent": -1}}}),
                format!("{desc}Maximum concurrent jobs must not be negative"),
            ),
            (
                json!({"Mode": {"ReplicatedJob": {"TotalCompletions": -1}}}),
                format!("{desc}Total completed jobs must not be negative"),
            ),
            (
                json!({"Mode": {"ReplicatedJob": job}, "UpdateConfig": {}}),
                format!("{desc}Jobs may not have an update config"),
            ),
            (
                json!({"Mode": {"GlobalJob": {}}, "UpdateConfig": {}}),
                format!("{desc}Jobs may not have an update config"),
            ),
        ] {
            assert_eq!(told(bad), Some(words));
        }
    }

    #[test]
    fn templates() {
        let told = |container: Value| {
            let template = json!({ "ContainerSpec": container });
            let spec = json!({"Name": "web", "Labels": {"a": "b"}, "TaskTemplate": template});
            let spec = serde_json::from_value(spec).expect("a spec");
            check(&spec).err().map(|error| error.message().to_owned())
        };
        let mount = |source: &str, target: &str| json!({"Mounts": [{"Type": "volume", "Source": source, "Target": target}]});
        let known = "{{.Service.ID}} {{.Service.Name}} {{.Service.Labels}} {{.Service.Labels.a}} {{.Node.ID}} \
                     {{.Node.Hostname}} {{.Node.Platform.OS}} {{.Node.Platform.Architecture}} {{.Task.ID}} {{.Task.Name}} \
                     {{.Task.Slot}} {{index .Service.Labels \"c\"}} {{join \"-\" .Task.ID .Task.Slot}}";
        for fine in [
            json!({"Env": [format!("X={known}"), "{{.Nobody}}=a", "{{.Nobody}}"], "Hostname": known}),
            mount("{{.Node.ID}}", "/{{.Task.Slot}}"),
        ] {
            assert_eq!(told(fine.clone()), None, "{fine}");
        }
        for (bad, words) in [
            (
                json!({"Env": ["X={{.Nobody}}"]}),
                "expanding env failed: expanding env \"X={{.Nobody}}\": no field Nobody",
            ),
            (
                json!({"Env": ["X={{.Service.Labels.c}}"]}),
                "expanding env failed: expanding env \"X={{.Service.Labels.c}}\": no field c",
            ),
            (
                json!({"Hostname": "{{.Node.Name}}"}),
                "expanding hostname failed: no field Name",
            ),
            (
                mount("{{.Task.Node}}", "/a"),
                "expanding mounts failed: expanding mount source \"{{.Task.Node}}\": no field Node",
            ),
            (
                mount("a", "/{{.Task.Node}}"),
                "expanding mounts failed: expanding mount target \"/{{.Task.Node}}\": no field Node",
            ),
            (
                json!({"Hostname": "{{.Task.Slot"}),
                "expanding hostname failed: ",
            ),
            (
                json!({"Hostname": "{{nothing}}"}),
                "expanding hostname failed: ",
            ),
            (
                json!({"Hostname": format!("{{{{{}", "(".repeat(100_000))}),
                "expanding hostname failed: a template has at most 200 levels",
            ),
        ] {
            let told = told(bad).expect("refused");
            let expected = format!("rpc error: code = InvalidArgument desc = {words}");
            assert!(told.starts_with(&expected), "{told}");
        }
    }

    #[test]
    fn labels_that_mean_nothing() {
        let labelled = |label: &str, value: &str, mode: serde_json::Value| {
            let spec = json!({"Labels": {label: value}, "Mode": mode});
            super::check(&serde_json::from_value(spec).unwrap()).map_err(|e| e.message().to_owned())
        };
        let (global, job) = (json!({"Global": {}}), json!({"GlobalJob": {}}));
        assert!(labelled("mesh.rebalance", "2", json!({})).is_ok());
        assert!(labelled("mesh.rebalance", "many", json!({})).is_err());
        let deadline = "mesh.progress-deadline";
        assert_eq!(labelled(deadline, "90s", global), Ok(()));
        assert_eq!(labelled(deadline, "off", job.clone()), Ok(()));
        let told = labelled(deadline, "soon", json!({})).unwrap_err();
        assert!(
            told.starts_with("label mesh.progress-deadline=soon is invalid"),
            "{told}"
        );
        let told = labelled(deadline, "90s", job).unwrap_err();
        assert!(told.contains("a job is executed anew"), "{told}");
    }

    #[test]
    fn limits() {
        let pids = |pids: i64| told(json!({"Resources": {"Limits": {"Pids": pids}}}));
        assert_eq!(pids(0), None);
        assert_eq!(pids(100), None);
        assert!(pids(-5).expect("refused").contains("-5"));
    }
}
