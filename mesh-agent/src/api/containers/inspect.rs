//! `/containers/{id}/json`

use std::path::PathBuf;

use axum::{
    Json,
    extract::{Path, State},
};
use mesh_api::{
    engine::{
        self, ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum,
        ContainerSummaryStateEnum, Health, HealthStatusEnum, HealthcheckResult, HostConfig,
        HostConfigLogConfig, MountPoint, MountPointTypeEnum, MountTypeEnum, NetworkSettings,
    },
    moment,
};

use mesh_runtime::Mount;

use super::{container_spec, image_and_command, labels, networks, node_id, state};
use crate::{
    api::{Answer, Api},
    container::logging,
    health::{self, Status},
    node::LocalTask,
};

/// What Docker writes for a time that has not come.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub(in crate::api) async fn inspect(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<ContainerInspectResponse>> {
    let task = api.node.find_task(&id)?;
    let (image, command) = image_and_command(&api, &task);
    let (path, args) = match command.split_first() {
        Some((path, args)) => (path.clone(), args.to_vec()),
        None => (String::new(), Vec::new()),
    };
    let spec = container_spec(&task);
    Ok(Json(ContainerInspectResponse {
        id: Some(task.container_id.clone()),
        created: Some(moment::from_nanos(task.created)),
        path: Some(path),
        args: Some(args),
        state: Some(container_state(&task, api.node.health(&task))),
        image: Some(image),
        name: Some(format!("/{}", task.task.name)),
        restart_count: Some(0),
        driver: Some("overlay2".to_owned()),
        platform: Some("linux".to_owned()),
        exec_ids: Some(api.execs.of_container(&task.container_id)),
        host_config: Some(host_config(&task)),
        mounts: Some(mounts(&api, &task)),
        config: Some(ContainerConfig {
            hostname: spec.hostname.clone(),
            user: spec.user.clone(),
            tty: Some(spec.tty.unwrap_or(false)),
            open_stdin: Some(spec.open_stdin.unwrap_or(false)),
            env: spec.env.clone(),
            cmd: spec.args.clone(),
            entrypoint: spec.command.clone(),
            image: spec.image.clone(),
            working_dir: spec.dir.clone(),
            labels: Some(labels(&task, &node_id(&api))),
            stop_signal: spec.stop_signal.clone(),
            healthcheck: spec.health_check.clone(),
            ..Default::default()
        }),
        network_settings: Some(NetworkSettings {
            sandbox_key: Some(
                api.node
                    .config()
                    .netns_path(&task.task.id)
                    .display()
                    .to_string(),
            ),
            ip_address: Some(task.local_address.to_string()),
            networks: Some(networks(&api, &task)),
            ..Default::default()
        }),
        ..Default::default()
    }))
}

fn container_state(task: &LocalTask, health: Option<health::Health>) -> ContainerState {
    let running = state(task) == ContainerSummaryStateEnum::RUNNING;
    let time = |nanos: i64| match nanos {
        0 => NEVER.to_owned(),
        _ => moment::from_nanos(nanos),
    };
    ContainerState {
        status: Some(match state(task) {
            ContainerSummaryStateEnum::RUNNING => ContainerStateStatusEnum::RUNNING,
            ContainerSummaryStateEnum::EXITED => ContainerStateStatusEnum::EXITED,
            _ => ContainerStateStatusEnum::CREATED,
        }),
        running: Some(running),
        paused: Some(false),
        restarting: Some(false),
        oom_killed: Some(false),
        dead: Some(false),
        pid: Some(if running {
            i64::from(task.status.pid)
        } else {
            0
        }),
        exit_code: Some(i64::from(task.status.exit_code.unwrap_or(0))),
        error: Some(task.status.error.clone()),
        started_at: Some(time(task.started)),
        finished_at: Some(time(task.finished)),
        health: health.map(described),
    }
}

/// Docker's word for a task's health.
pub(super) fn health_word(health: Option<&health::Health>) -> &'static str {
    match health.map(|health| health.status) {
        None => "none",
        Some(Status::Starting) => "starting",
        Some(Status::Healthy) => "healthy",
        Some(Status::Unhealthy) => "unhealthy",
    }
}

fn described(health: health::Health) -> Health {
    let run = |run: health::Run| HealthcheckResult {
        start: Some(moment::to_text(run.start)),
        end: Some(moment::to_text(run.end)),
        exit_code: Some(run.code.into()),
        output: Some(run.output),
    };
    Health {
        status: Some(match health.status {
            Status::Starting => HealthStatusEnum::STARTING,
            Status::Healthy => HealthStatusEnum::HEALTHY,
            Status::Unhealthy => HealthStatusEnum::UNHEALTHY,
        }),
        failing_streak: Some(health.failing_streak.into()),
        log: Some(health.log.into_iter().map(run).collect()),
    }
}

/// The driver of a task's log.
pub(super) fn log_driver(task: &LocalTask) -> &str {
    let driver = task.spec.log_driver.as_ref();
    let name = driver.and_then(|driver| driver.name.as_deref());
    name.filter(|name| !name.is_empty())
        .unwrap_or(logging::DRIVERS[0])
}

fn host_config(task: &LocalTask) -> HostConfig {
    let spec = container_spec(task);
    let limits = task
        .spec
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.clone())
        .unwrap_or_default();
    HostConfig {
        memory: Some(limits.memory_bytes.unwrap_or(0)),
        nano_cpus: Some(limits.nano_cpus.unwrap_or(0)),
        pids_limit: limits.pids,
        cap_add: spec.capability_add,
        cap_drop: spec.capability_drop,
        readonly_rootfs: Some(spec.read_only.unwrap_or(false)),
        init: spec.init,
        sysctls: spec.sysctls,
        mounts: spec.mounts,
        log_config: Some(HostConfigLogConfig {
            typ: Some(log_driver(task).to_owned()),
            config: (task.spec.log_driver.as_ref()).and_then(|driver| driver.options.clone()),
        }),
        network_mode: Some("default".to_owned()),
        ..Default::default()
    }
}

/// The mounts that a task asks for, or its image does: of its container, if there is one, else of its spec.
pub(super) fn mounts(api: &Api, task: &LocalTask) -> Vec<MountPoint> {
    let Ok(container) = api.node.runtime().inspect(&task.task.id) else {
        let wanted = container_spec(task).mounts.unwrap_or_default();
        return wanted.into_iter().map(asked_for).collect();
    };
    // Secrets and configs come from there; Docker does not list them either.
    let handover = api.node.config().handover_dir();
    let volumes = api.node.volumes();
    let points = container.spec.mounts.into_iter().filter_map(|mount| {
        let (kind, source, target, read_only) = match mount {
            Mount::Bind(bind) if bind.source.starts_with(&handover) => return None,
            Mount::Bind(bind) => (
                MountPointTypeEnum::BIND,
                bind.source,
                bind.target,
                bind.read_only,
            ),
            Mount::Tmpfs(tmpfs) => {
                let none = PathBuf::new();
                (
                    MountPointTypeEnum::TMPFS,
                    none,
                    tmpfs.target,
                    tmpfs.read_only,
                )
            }
        };
        let name = volumes.name_of(&source);
        Some(MountPoint {
            typ: Some(match name {
                Some(_) => MountPointTypeEnum::VOLUME,
                None => kind,
            }),
            driver: name.as_ref().map(|_| "local".to_owned()),
            name,
            source: Some(source.display().to_string()),
            destination: Some(target.display().to_string()),
            mode: Some(String::new()),
            rw: Some(!read_only),
            propagation: Some(String::new()),
        })
    });
    points.collect()
}

fn asked_for(mount: engine::Mount) -> MountPoint {
    let kind = match mount.typ {
        Some(MountTypeEnum::BIND) => MountPointTypeEnum::BIND,
        Some(MountTypeEnum::TMPFS) => MountPointTypeEnum::TMPFS,
        _ => MountPointTypeEnum::VOLUME,
    };
    MountPoint {
        typ: Some(kind),
        name: (mount.source.clone()).filter(|_| kind == MountPointTypeEnum::VOLUME),
        source: mount.source,
        destination: mount.target,
        mode: Some(String::new()),
        rw: Some(!mount.read_only.unwrap_or(false)),
        ..Default::default()
    }
}
