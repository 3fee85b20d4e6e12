//! From a task's specification and its image's defaults to the container the runtime makes. Pure.

mod files;
mod handouts;
pub mod logging;
mod mounts;
mod template;

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use mesh_api::{
    engine::{
        TaskSpec, TaskSpecContainerSpec, TaskSpecContainerSpecPrivilegesSeccompModeEnum as Seccomp,
        TaskSpecResources,
    },
    generic_resource, proto,
};
use mesh_image::ImageConfig;
use mesh_runtime::{ContainerSpec, ExtraFile, LogLimits, Resources, Ulimit};
use nix::sys::signal::Signal;

use crate::{health, links::plan::container_id, volumes};
use template::Values;

pub use files::{hosts, resolv_conf};
pub use handouts::{Handed, handed};
pub use template::{Names, check_payload, check_templates, contents};

/// Time between the stop signal and the kill where the specification names none (Docker's default).
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Why a specification cannot become a container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// A plugin or attachment task.
    #[error("the task has no container specification")]
    NoContainer,
    /// Neither the specification nor the image says what to run.
    #[error("no command specified")]
    NoCommand,
    /// A placeholder in env, hostname or a mount cannot be filled in.
    #[error("expanding {place} failed: {cause}")]
    Template {
        /// env, mounts or hostname.
        place: &'static str,
        /// Where in there, and what the template engine says.
        cause: String,
    },
    /// A mount that makes no sense.
    #[error("invalid mount config for type {kind:?}: {cause}")]
    Mount {
        /// bind, volume, tmpfs ...
        kind: String,
        /// What is wrong.
        cause: String,
    },
    /// A volume's name that is none, in the words that refuse to make one.
    #[error("{0}")]
    VolumeName(String),
    /// A secret or config that cannot be shown as asked.
    #[error("invalid {noun} {name:?}: {cause}")]
    Handout {
        /// secret or config.
        noun: &'static str,
        /// Which one.
        name: String,
        /// What is wrong.
        cause: String,
    },
    /// A secret or config that is a template and cannot be filled in.
    #[error("failed to expand templated {noun} {id}: {cause}")]
    Payload {
        /// secret or config.
        noun: &'static str,
        /// Which one.
        id: String,
        /// What is wrong; none of its contents.
        cause: String,
    },
    /// An unknown signal name or number.
    #[error("invalid signal: {0}")]
    Signal(String),
}

/// Where things of the task are on this node.
#[derive(Debug, Clone)]
pub struct Places {
    /// The mounted root file system.
    pub rootfs: PathBuf,
    /// The task's network namespace; none for the host's.
    pub netns: Option<PathBuf>,
    /// Files to show at /etc/resolv.conf, /etc/hosts and /etc/hostname.
    pub resolv_conf: PathBuf,
    /// See above.
    pub hosts: PathBuf,
    /// See above.
    pub hostname: PathBuf,
    /// Directory of the node's local volumes.
    pub volumes: PathBuf,
}

/// A container to make, and the volumes that have to be ready first.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What the runtime makes.
    pub container: ContainerSpec,
    /// Volumes that have to be ready first, by name.
    pub volumes: BTreeMap<String, volumes::Wanted>,
    /// Directories of the node that a bind mount asks to be made where they are missing.
    pub folders: Vec<PathBuf>,
    /// Secrets and configs, to be mounted after all that the container has already.
    pub handed: Vec<Handed>,
}

/// The container of a task.
///
/// # Errors
/// The specification cannot be brought about; the text is shown as the task's error.
pub fn plan(
    task: &proto::Task,
    spec: &TaskSpec,
    image: &ImageConfig,
    node: &Names,
    places: &Places,
) -> Result<Plan, SpecError> {
    let wanted = spec.container_spec.as_ref().ok_or(SpecError::NoContainer)?;
    let values = Values { task, node };
    let args = command(wanted, image);
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let stop_signal = match wanted.stop_signal.as_ref().or(image.stop_signal.as_ref()) {
        Some(text) if !text.is_empty() => Some(signal(text)?),
        _ => None,
    };
    let privileges = wanted.privileges.clone().unwrap_or_default();
    let mounts::Planned {
        mounts,
        volumes,
        folders,
    } = mounts::mounts(wanted, image, places, values)?;
    let container = ContainerSpec {
        id: task.id.clone(),
        rootfs: places.rootfs.clone(),
        netns: places.netns.clone(),
        args,
        env: environment(wanted, image, values)?,
        cwd: first_of(wanted.dir.as_deref(), &image.working_dir),
        user: first_of(wanted.user.as_deref(), &image.user),
        groups: wanted.groups.clone().unwrap_or_default(),
        hostname: hostname(wanted, task, node)?,
        mounts,
        extra_files: [
            (&places.resolv_conf, "/etc/resolv.conf"),
            (&places.hosts, "/etc/hosts"),
            (&places.hostname, "/etc/hostname"),
        ]
        .map(|(source, target)| ExtraFile {
            source: source.clone(),
            target: target.into(),
            read_only: false,
        })
        .into(),
        tty: wanted.tty.unwrap_or_default(),
        read_only_rootfs: wanted.read_only.unwrap_or_default(),
        cap_add: wanted.capability_add.clone().unwrap_or_default(),
        cap_drop: wanted.capability_drop.clone().unwrap_or_default(),
        resources: resources(spec.resources.as_ref(), wanted),
        ulimits: ulimits(wanted),
        sysctls: wanted
            .sysctls
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        init: wanted.init.unwrap_or_default(),
        no_new_privileges: privileges.no_new_privileges.unwrap_or_default(),
        seccomp_unconfined: privileges
            .seccomp
            .is_some_and(|seccomp| seccomp.mode == Some(Seccomp::UNCONFINED)),
        stop_signal,
        labels: labels(task, wanted, image, node),
        health: health::check::of(wanted.health_check.as_ref(), image),
        log: logging::limits(spec.log_driver.as_ref()).unwrap_or_else(|error| {
            // Of a service from before drivers were looked at.
            tracing::warn!(task = task.name, %error, "its log is kept as any other");
            LogLimits::default()
        }),
    };
    Ok(Plan {
        container,
        volumes,
        folders,
        handed: handed(wanted)?,
    })
}

/// The task's host name: what the specification says, else the start of its container's id, which
/// is what `docker ps` shows.
///
/// # Errors
/// A placeholder that cannot be filled in.
pub fn hostname(
    wanted: &TaskSpecContainerSpec,
    task: &proto::Task,
    node: &Names,
) -> Result<String, SpecError> {
    match wanted.hostname.as_deref() {
        Some(text) if !text.is_empty() => Values { task, node }.hostname(text),
        _ => Ok(container_id(&task.id).chars().take(12).collect()),
    }
}

/// `Command` replaces the image's entrypoint and with it the image's command; `Args` replace the
/// image's command.
pub fn command(wanted: &TaskSpecContainerSpec, image: &ImageConfig) -> Vec<String> {
    let entrypoint = wanted.command.clone().unwrap_or_default();
    let args = wanted.args.clone().unwrap_or_default();
    if !entrypoint.is_empty() {
        return [entrypoint, args].concat();
    }
    let args = if args.is_empty() {
        image.cmd.clone()
    } else {
        args
    };
    [image.entrypoint.clone(), args].concat()
}

/// The image's variables with the specification's over them, where `NAME` alone removes one, and over both those that say what
/// the task was given of the node's generic resources.
fn environment(
    wanted: &TaskSpecContainerSpec,
    image: &ImageConfig,
    values: Values<'_>,
) -> Result<Vec<String>, SpecError> {
    let mut all = image.env.clone();
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in wanted.env.iter().flatten() {
        let entry = values.variable(entry)?;
        let name = name_of(&entry);
        all.retain(|old| name_of(old) != name);
        if entry.contains('=') {
            all.push(entry);
        }
    }
    let given = generic_resource::from_proto(values.task.generic_resources.clone());
    for (name, value) in generic_resource::variables(&given) {
        all.retain(|old| name_of(old) != name);
        all.push(format!("{name}={value}"));
    }
    Ok(all)
}

fn first_of(wanted: Option<&str>, image: &str) -> String {
    wanted
        .filter(|text| !text.is_empty())
        .unwrap_or(image)
        .to_owned()
}

fn resources(spec: Option<&TaskSpecResources>, wanted: &TaskSpecContainerSpec) -> Resources {
    let limits = spec.and_then(|spec| spec.limits.as_ref());
    let reservations = spec.and_then(|spec| spec.reservations.as_ref());
    let positive = |value: Option<i64>| value.filter(|value| *value > 0);
    Resources {
        memory_limit: positive(limits.and_then(|limits| limits.memory_bytes)),
        memory_reservation: positive(reservations.and_then(|kept| kept.memory_bytes)),
        nano_cpus: positive(limits.and_then(|limits| limits.nano_cpus)),
        pids_limit: positive(limits.and_then(|limits| limits.pids)),
        oom_score_adj: wanted
            .oom_score_adj
            .and_then(|score| i32::try_from(score).ok()),
    }
}

fn ulimits(wanted: &TaskSpecContainerSpec) -> Vec<Ulimit> {
    let all = wanted.ulimits.iter().flatten();
    all.filter_map(|limit| {
        let soft = limit.soft?;
        Some(Ulimit {
            name: limit.name.clone()?,
            soft,
            hard: limit.hard.unwrap_or(soft),
        })
    })
    .collect()
}

/// Image labels, container labels over them, and those every Swarm task has.
fn labels(
    task: &proto::Task,
    wanted: &TaskSpecContainerSpec,
    image: &ImageConfig,
    node: &Names,
) -> BTreeMap<String, String> {
    let mut all = image.labels.clone();
    all.extend(wanted.labels.clone().unwrap_or_default());
    all.extend(swarm_labels(task, &node.id));
    all
}

/// The labels that every Swarm task's container has.
pub fn swarm_labels(task: &proto::Task, node_id: &str) -> [(String, String); 6] {
    [
        ("node.id", node_id),
        ("service.id", &task.service_id),
        ("service.name", &task.service_name),
        ("task", ""),
        ("task.id", &task.id),
        ("task.name", &task.name),
    ]
    .map(|(key, value)| (format!("com.docker.swarm.{key}"), value.to_owned()))
}

/// How long a task's command may take to end before it is killed.
pub fn stop_grace(wanted: Option<&TaskSpecContainerSpec>) -> Duration {
    wanted
        .and_then(|wanted| wanted.stop_grace_period)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map_or(DEFAULT_GRACE, Duration::from_nanos)
}

/// Reads `SIGTERM`, `TERM` or `15`.
///
/// # Errors
/// Not a signal.
pub fn signal(text: &str) -> Result<i32, SpecError> {
    let wrong = || SpecError::Signal(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(wrong);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") {
        name
    } else {
        format!("SIG{name}")
    };
    Signal::from_str(&name)
        .map(|signal| signal as i32)
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests;
