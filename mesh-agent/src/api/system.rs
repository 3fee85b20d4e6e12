//! `/_ping`, `/version`, `/info`.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::IntoResponse,
};
use mesh_api::{
    API_VERSION, MIN_API_VERSION,
    engine::{
        LocalNodeState, PeerNode, PluginsInfo, SwarmInfo, SystemInfo, SystemInfoCgroupDriverEnum,
        SystemInfoCgroupVersionEnum, SystemVersion, SystemVersionComponents,
    },
    generic_resource, moment,
};
use mesh_image::Platform;

use super::Api;
use crate::{
    container::logging,
    node::{self, NodeError, NodeState},
};

pub(super) async fn ping() -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    (headers, "OK")
}

pub(super) async fn version() -> Json<SystemVersion> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let kernel = kernel();
    let architecture = Platform::host().architecture;
    let details = [
        ("KernelVersion", kernel.as_str()),
        ("Experimental", "false"),
        ("ApiVersion", API_VERSION),
        ("MinAPIVersion", MIN_API_VERSION),
        ("Os", "linux"),
        ("Arch", &architecture),
    ];
    Json(SystemVersion {
        components: Some(vec![SystemVersionComponents {
            name: "Engine".to_owned(),
            version: version.clone(),
            details: Some(
                details
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            ),
        }]),
        version: Some(version),
        api_version: Some(API_VERSION.to_owned()),
        min_api_version: Some(MIN_API_VERSION.to_owned()),
        os: Some("linux".to_owned()),
        arch: Some(architecture),
        kernel_version: Some(kernel),
        ..Default::default()
    })
}

pub(super) async fn info(State(api): State<Api>) -> Json<SystemInfo> {
    let node = &api.node;
    let tasks = node.tasks();
    let count = |wanted: bool| {
        let number = tasks
            .iter()
            .filter(|task| (task.status.state == "running") == wanted)
            .count();
        i64::try_from(number).ok()
    };
    let swarm = swarm(&api);
    let managers = swarm.managers.and_then(|n| usize::try_from(n).ok());
    let warnings = managers.and_then(mesh_api::even_managers);
    Json(SystemInfo {
        warnings: warnings.map(|warning| vec![warning]),
        id: Some(node.instance().to_owned()),
        name: Some(node.hostname().to_owned()),
        containers: i64::try_from(tasks.len()).ok(),
        containers_running: count(true),
        containers_paused: Some(0),
        containers_stopped: count(false),
        images: i64::try_from(node.images().list().len()).ok(),
        driver: Some("overlay2".to_owned()),
        docker_root_dir: Some(node.config().data_dir.display().to_string()),
        plugins: Some(PluginsInfo {
            volume: Some(vec!["local".to_owned()]),
            network: Some(vec!["overlay".to_owned()]),
            log: Some(logging::DRIVERS.map(str::to_owned).into()),
            ..Default::default()
        }),
        memory_limit: Some(true),
        pids_limit: Some(true),
        cpu_cfs_period: Some(true),
        cpu_cfs_quota: Some(true),
        ipv4_forwarding: Some(true),
        system_time: Some(moment::to_text(chrono::Utc::now())),
        logging_driver: Some("json-file".to_owned()),
        cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: Some(cgroup_version()),
        kernel_version: Some(kernel()),
        operating_system: Some(operating_system()),
        os_type: Some("linux".to_owned()),
        architecture: Some(std::env::consts::ARCH.to_owned()),
        ncpu: std::thread::available_parallelism()
            .ok()
            .and_then(|cpus| i64::try_from(cpus.get()).ok()),
        mem_total: Some(node::memory()),
        labels: Some(node.config().labels.clone()),
        generic_resources: node
            .config()
            .generic_resources()
            .ok()
            .and_then(|has| generic_resource::to_engine(&has)),
        experimental_build: Some(false),
        server_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        default_runtime: Some("mesh-shim".to_owned()),
        live_restore_enabled: Some(true),
        swarm: Some(swarm),
        security_options: Some(vec!["name=seccomp,profile=builtin".to_owned()]),
        ..Default::default()
    })
}

fn swarm(api: &Api) -> SwarmInfo {
    let (state, trouble) = (api.node.state(), api.node.trouble());
    let lasting = trouble.certificate.or(trouble.role);
    let mut info = SwarmInfo {
        node_id: Some(String::new()),
        node_addr: Some(String::new()),
        local_node_state: Some(match &state {
            NodeState::Inactive => LocalNodeState::INACTIVE,
            NodeState::Pending(_) => LocalNodeState::PENDING,
            NodeState::Active(_) => LocalNodeState::ACTIVE,
            NodeState::Locked => LocalNodeState::LOCKED,
            NodeState::Error(_) => LocalNodeState::ERROR,
        }),
        control_available: Some(false),
        error: Some(match &state {
            NodeState::Error(reason) => reason.clone(),
            NodeState::Locked => NodeError::Locked.to_string(),
            NodeState::Inactive => String::new(),
            NodeState::Pending(_) => lasting.or(trouble.session).unwrap_or_default(),
            // It goes on without a session.
            NodeState::Active(_) => lasting.unwrap_or_default(),
        }),
        ..Default::default()
    };
    let Some(member) = state.cluster() else {
        return info;
    };
    info.node_id = Some(member.node_id.clone());
    info.node_addr = Some(member.advertise.to_string());
    info.remote_managers = Some(
        member
            .managers
            .iter()
            .map(|address| PeerNode {
                addr: Some(address.clone()),
                node_id: None,
            })
            .collect(),
    );
    if let Ok(manager) = api.manager() {
        let view = manager.view();
        info.control_available = Some(true);
        info.cluster = view
            .cluster()
            .map(mesh_manager::state::Cluster::to_cluster_info);
        info.nodes = i64::try_from(view.nodes().count()).ok();
        let managers: Vec<PeerNode> = view
            .nodes()
            .filter_map(|node| {
                Some(PeerNode {
                    node_id: Some(node.id.clone()),
                    addr: Some(node.manager_addr.clone()?),
                })
            })
            .collect();
        info.managers = i64::try_from(managers.len()).ok();
        info.remote_managers = Some(managers);
    }
    info
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn kernel() -> String {
    read("/proc/sys/kernel/osrelease").trim().to_owned()
}

fn operating_system() -> String {
    read("/etc/os-release")
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

fn cgroup_version() -> SystemInfoCgroupVersionEnum {
    match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => SystemInfoCgroupVersionEnum::_2,
        false => SystemInfoCgroupVersionEnum::_1,
    }
}
