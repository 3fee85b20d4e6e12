//! What a spec asks for and no node would follow. It is refused here, as the manager's log may hold older specs.

use mesh_api::engine::{Mount, ServiceSpec};

use crate::{api::errors::ApiError, container};

/// Refuses a spec that asks for such things.
///
/// # Errors
/// Names the first.
pub(super) fn check(spec: &ServiceSpec) -> Result<(), ApiError> {
    let Some(template) = &spec.task_template else {
        return Ok(());
    };
    let container = template.container_spec.as_ref();
    for mount in container
        .and_then(|c| c.mounts.as_ref())
        .into_iter()
        .flatten()
    {
        volume(mount)?;
    }
    if let Some(container) = container {
        container::handed(container).map_err(|error| ApiError::bad_request(error.to_string()))?;
    }
    let limits = template.resources.as_ref().and_then(|r| r.limits.as_ref());
    match limits.and_then(|limits| limits.pids) {
        Some(pids) if pids < 0 => Err(ApiError::bad_request(format!(
            "invalid pids limit {pids}: must be 0, which is no limit, or more"
        ))),
        _ => Ok(()),
    }
}

fn volume(mount: &Mount) -> Result<(), ApiError> {
    let Some(options) = &mount.volume_options else {
        return Ok(());
    };
    let driver = options.driver_config.as_ref();
    let name = driver.and_then(|d| d.name.as_deref()).unwrap_or_default();
    let has_options = driver
        .and_then(|d| d.options.as_ref())
        .is_some_and(|given| !given.is_empty());
    let refused = if !matches!(name, "" | "local") {
        "a volume driver other than local"
    } else if has_options {
        "options of a volume driver"
    } else if options
        .subpath
        .as_deref()
        .is_some_and(|path| !path.is_empty())
    {
        "a subpath of a volume"
    } else {
        return Ok(());
    };
    let target = mount.target.as_deref().unwrap_or_default();
    Err(ApiError::bad_request(format!(
        "invalid mount at {target}: {refused} is not supported yet; use a bind mount"
    )))
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
        for (options, word) in [
            (
                json!({"DriverConfig": {"Name": "nfs"}}),
                "a volume driver other than local",
            ),
            (
                json!({"DriverConfig": {"Options": {"type": "nfs"}}}),
                "options of a volume driver",
            ),
            (json!({"Subpath": "a/b"}), "a subpath of a volume"),
        ] {
            let told = mount(options).expect("refused");
            assert!(told.contains(word) && told.contains("/d"), "{told}");
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
    fn limits() {
        let pids = |pids: i64| told(json!({"Resources": {"Limits": {"Pids": pids}}}));
        assert_eq!(pids(0), None);
        assert_eq!(pids(100), None);
        assert!(pids(-5).expect("refused").contains("-5"));
    }
}
