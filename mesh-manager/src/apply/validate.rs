//! Checks of specs that need nothing but the spec. The texts are Swarm's.

use crate::{
    ErrorKind, ManagerError, command::GENERIC_RESOURCES, generic, scheduler::Constraint,
    traffic::Traffic,
};
use mesh_api::{engine, handout};
use std::collections::BTreeMap;

/// Longest name of a service: a DNS label.
const MAX_SERVICE_NAME: usize = 63;
/// Longest name of a network.
const MAX_NETWORK_NAME: usize = 64;
/// Least CPU that can be asked for: 1/1000 of a processor.
const MIN_NANO_CPUS: i64 = 1_000_000;
/// Least memory that can be asked for.
const MIN_MEMORY: i64 = 4 << 20;

fn is_component(name: &str, extra: &[char]) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
        && name.chars().all(|c| alphanumeric(c) || extra.contains(&c))
}

fn service_name(name: &str) -> Result<(), ManagerError> {
    if name.is_empty() {
        return Err(ManagerError::invalid("meta: name must be provided"));
    }
    if !is_component(name, &['-', '_']) {
        return Err(ManagerError::invalid(
            "name must be valid as a DNS name component",
        ));
    }
    if name.len() > MAX_SERVICE_NAME {
        return Err(ManagerError::invalid("name must be 63 characters or fewer"));
    }
    Ok(())
}

pub(super) fn network_name(name: &str) -> Result<(), ManagerError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !starts_well || !name.chars().all(valid) || name.len() > MAX_NETWORK_NAME {
        return Err(ManagerError::invalid(format!(
            "invalid network name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at most {MAX_NETWORK_NAME}"
        )));
    }
    Ok(())
}

/// Checks a service's spec by these [rules](crate::command::RULES).
pub(super) fn service(spec: &engine::ServiceSpec, rules: u32) -> Result<(), ManagerError> {
    service_name(spec.name.as_deref().unwrap_or_default())?;
    Traffic::of(spec.labels.as_ref()).map_err(ManagerError::invalid)?;
    let Some(template) = &spec.task_template else {
        return Err(ManagerError::invalid("TaskSpec: missing runtime"));
    };
    task(template, rules)?;
    mode(spec.mode.as_ref(), rules)?;
    let update = spec
        .update_config
        .as_ref()
        .map(|u| (u.parallelism, u.delay, u.monitor, u.max_failure_ratio));
    let rollback = spec
        .rollback_config
        .as_ref()
        .map(|u| (u.parallelism, u.delay, u.monitor, u.max_failure_ratio));
    for (parallelism, delay, monitor, ratio) in update.into_iter().chain(rollback) {
        if parallelism.is_some_and(|p| p < 0) {
            return Err(ManagerError::invalid(
                "TaskSpec: update-parallelism cannot be negative",
            ));
        }
        if delay.is_some_and(|d| d < 0) {
            return Err(ManagerError::invalid(
                "TaskSpec: update-delay cannot be negative",
            ));
        }
        if monitor.is_some_and(|m| m < 0) {
            return Err(ManagerError::invalid(
                "TaskSpec: update-monitor cannot be negative",
            ));
        }
        if ratio.is_some_and(|r| !(0.0..=1.0).contains(&r)) {
            return Err(ManagerError::invalid(
                "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
            ));
        }
    }
    Ok(())
}

fn mode(mode: Option<&engine::ServiceSpecMode>, rules: u32) -> Result<(), ManagerError> {
    let Some(mode) = mode else { return Ok(()) };
    if rules < 2 && (mode.replicated_job.is_some() || mode.global_job.is_some()) {
        return Err(ManagerError::new(
            ErrorKind::Unimplemented,
            "jobs are not supported yet; use mode replicated or global",
        ));
    }
    if mode.replicated.is_some() && mode.global.is_some() {
        return Err(ManagerError::invalid(
            "service mode is ambiguous: replicated and global",
        ));
    }
    let replicas = mode.replicated.as_ref().and_then(|r| r.replicas);
    if replicas.is_some_and(|r| r < 0) {
        return Err(ManagerError::invalid(
            "Number of replicas must be non-negative",
        ));
    }
    Ok(())
}

fn task(template: &engine::TaskSpec, rules: u32) -> Result<(), ManagerError> {
    let Some(container) = &template.container_spec else {
        return Err(ManagerError::invalid("TaskSpec: missing runtime"));
    };
    image(container.image.as_deref().unwrap_or_default())?;
    handouts(container)?;
    texts(container)?;
    if let Some(privileges) = &container.privileges {
        self::privileges(privileges)?;
    }
    let check = container
        .health_check
        .as_ref()
        .and_then(|h| h.test.as_ref());
    let is_check = |test: &Vec<String>| test.first().is_some_and(|word| word != "NONE");
    if rules < 1 && check.is_some_and(is_check) {
        return Err(ManagerError::new(
            ErrorKind::Unimplemented,
            "health checks are not supported yet; leave them out",
        ));
    }
    mounts(container.mounts.as_deref().unwrap_or_default())?;
    if container.stop_grace_period.is_some_and(|g| g < 0) {
        return Err(ManagerError::invalid(
            "ContainerSpec: stop-grace-period cannot be negative",
        ));
    }
    if let Some(resources) = &template.resources {
        let limits = resources.limits.as_ref();
        let reservations = resources.reservations.as_ref();
        resource(
            limits.and_then(|l| l.nano_cpus),
            limits.and_then(|l| l.memory_bytes),
        )?;
        resource(
            reservations.and_then(|r| r.nano_cpus),
            reservations.and_then(|r| r.memory_bytes),
        )?;
    }
    if rules >= GENERIC_RESOURCES
        && let Some(fault) = generic::fault(template)
    {
        return Err(ManagerError::invalid(fault));
    }
    if let Some(restart) = &template.restart_policy {
        if restart.delay.is_some_and(|d| d < 0) {
            return Err(ManagerError::invalid(
                "TaskSpec: restart-delay cannot be negative",
            ));
        }
        if restart.window.is_some_and(|w| w < 0) {
            return Err(ManagerError::invalid(
                "TaskSpec: restart-window cannot be negative",
            ));
        }
        if restart.max_attempts.is_some_and(|a| a < 0) {
            return Err(ManagerError::invalid(
                "TaskSpec: restart-max-attempts cannot be negative",
            ));
        }
    }
    let constraints = template
        .placement
        .as_ref()
        .and_then(|p| p.constraints.as_deref());
    for constraint in constraints.unwrap_or_default() {
        Constraint::parse(constraint).map_err(|e| ManagerError::invalid(e.to_string()))?;
    }
    Ok(())
}

/// Claims to secrets and configs; whether those are there is checked with the state.
fn handouts(container: &engine::TaskSpecContainerSpec) -> Result<(), ManagerError> {
    let mut targets = BTreeMap::new();
    for claim in handout::references(container) {
        let noun = claim.kind.noun();
        let name = claim.name;
        if claim.id.is_empty() || name.is_empty() {
            return Err(ManagerError::invalid(format!("malformed {noun} reference")));
        }
        let Some(file) = claim.file else {
            return Err(ManagerError::invalid(format!(
                "malformed {noun} reference, no target provided"
            )));
        };
        if file.name.is_empty() {
            return Err(ManagerError::invalid(format!(
                "malformed file {noun} reference, invalid target file name provided"
            )));
        }
        if let Some(other) = targets.insert((claim.kind, file.name), name) {
            return Err(ManagerError::invalid(format!(
                "{noun} references '{other}' and '{name}' have a conflicting target: '{}'",
                file.name
            )));
        }
    }
    Ok(())
}

/// Confinement that no node could bring about. What switches AppArmor or SELinux off is as it is anyway.
fn privileges(wanted: &engine::TaskSpecContainerSpecPrivileges) -> Result<(), ManagerError> {
    use engine::TaskSpecContainerSpecPrivilegesSeccompModeEnum as Seccomp;
    let seccomp = wanted.seccomp.as_ref().and_then(|seccomp| seccomp.mode);
    let labels = wanted.se_linux_context.iter();
    let mut labels = labels.flat_map(|l| [&l.user, &l.role, &l.typ, &l.level]);
    let unsupported = if seccomp == Some(Seccomp::CUSTOM) {
        "custom seccomp profiles are not supported; use mode default or unconfined"
    } else if labels.any(|label| label.as_ref().is_some_and(|text| !text.is_empty())) {
        "SELinux labels are not supported; leave them out"
    } else if wanted.credential_spec.is_some() {
        "credential specs are for Windows; leave them out"
    } else {
        return Ok(());
    };
    Err(ManagerError::new(ErrorKind::Unimplemented, unsupported))
}

/// Texts that no kernel takes: they end at the first NUL.
fn texts(container: &engine::TaskSpecContainerSpec) -> Result<(), ManagerError> {
    let list = |texts: &Option<Vec<String>>| texts.clone().unwrap_or_default();
    let one = |text: &Option<String>| text.iter().cloned().collect();
    let all: [(&str, Vec<String>); 6] = [
        ("env", list(&container.env)),
        ("command", list(&container.command)),
        ("args", list(&container.args)),
        ("hostname", one(&container.hostname)),
        ("dir", one(&container.dir)),
        ("user", one(&container.user)),
    ];
    let bad = all
        .iter()
        .flat_map(|(what, texts)| texts.iter().map(move |text| (what, text)))
        .find(|(_, text)| text.contains('\0'));
    match bad {
        Some((what, text)) => Err(ManagerError::invalid(format!(
            "ContainerSpec: {what} {text:?} holds a NUL"
        ))),
        None => Ok(()),
    }
}

/// Mounts that no node could make.
fn mounts(mounts: &[engine::Mount]) -> Result<(), ManagerError> {
    use engine::MountTypeEnum as Type;
    let mut targets = std::collections::BTreeSet::new();
    for mount in mounts {
        let source = mount.source.as_deref().unwrap_or_default();
        let target = mount.target.as_deref().unwrap_or_default();
        let wrong = match mount.typ.unwrap_or(Type::VOLUME) {
            _ if source.contains('\0') || target.contains('\0') => {
                format!("invalid mount: {source:?} at {target:?}: a path cannot hold a NUL")
            }
            _ if !target.starts_with('/') => {
                format!("invalid mount target, must be an absolute path: {target}")
            }
            _ if !targets.insert(target) => {
                format!("ContainerSpec: duplicate mount point: {target}")
            }
            Type::BIND if !source.starts_with('/') => {
                format!("invalid bind mount source, must be an absolute path: {source}")
            }
            Type::VOLUME if source.starts_with('/') => {
                format!("invalid volume mount source, must not be an absolute path: {source}")
            }
            Type::TMPFS if !source.is_empty() => {
                "invalid tmpfs source, source must be empty".to_owned()
            }
            _ => continue,
        };
        return Err(ManagerError::invalid(wrong));
    }
    Ok(())
}

fn resource(nano_cpus: Option<i64>, memory: Option<i64>) -> Result<(), ManagerError> {
    if let Some(cpus) = nano_cpus.filter(|c| *c != 0 && *c < MIN_NANO_CPUS) {
        return Err(ManagerError::invalid(format!(
            "invalid cpu value {}: Must be at least {}",
            cpus as f64 / 1e9,
            MIN_NANO_CPUS as f64 / 1e9
        )));
    }
    if let Some(memory) = memory.filter(|m| *m != 0 && *m < MIN_MEMORY) {
        return Err(ManagerError::invalid(format!(
            "invalid memory value {memory}: Must be at least 4MiB"
        )));
    }
    Ok(())
}

/// An image reference is `[host[:port]/]path[:tag][@digest]`; only its characters are checked,
/// resolving it is the nodes' business.
fn image(reference: &str) -> Result<(), ManagerError> {
    if reference.is_empty() {
        return Err(ManagerError::invalid(
            "ContainerSpec: image reference must be provided",
        ));
    }
    let name = reference.split('@').next().unwrap_or_default();
    let path = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => name,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    let path_start = path.find('/').map_or(0, |i| i + 1);
    let is_valid = reference.chars().all(allowed)
        && path.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !path.ends_with(['/', '.', '-', '_', ':'])
        && !path[path_start..].contains(|c: char| c.is_ascii_uppercase());
    if is_valid {
        Ok(())
    } else {
        Err(ManagerError::invalid(format!(
            "ContainerSpec: \"{reference}\" is not a valid repository/tag"
        )))
    }
}
