//! `mesh-agent`: parses flags and runs the node; `mesh-agent shim` is a task's own process (where `mesh-shim` is
//! missing), `mesh-agent wireguard` the one that encrypts, `mesh-agent mount` one that mounts a volume.

use std::{
    io::{ErrorKind, IsTerminal},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use ipnetwork::Ipv4Network;
use mesh_agent::{
    alone, api,
    config::Config,
    dns,
    links::{host::Host, local_pool, plan::host_prefix},
    node::Node,
    returns, volumes,
};
use mesh_image::{ImageStore, RegistryOptions};
use mesh_runtime::{Runtime, RuntimeConfig};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Logged only when asked for by name: at "info" every query of every task is a line, and so is Raft's whole state.
const QUIET: &str = "hickory_server=warn,openraft=warn";

/// Threads of the async runtime: the agent waits, it does not compute.
const WORKERS: usize = 2;

/// Threads for work that blocks; more only wait for the same disk and kernel locks.
const BLOCKING: usize = 64;

/// Pause before a membership that could not be taken up is tried again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // Before any thread: both fork, and the shim makes containers, which only works single-threaded.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|first| first.to_str()) {
        Some("shim") => return mesh_runtime::shim_main(arguments),
        Some("wireguard") => return mesh_wireguard::helper_main(arguments),
        Some(volumes::HELPER) => return volumes::helper_main(),
        _ => {}
    }
    match start(Config::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_new(format!("{QUIET},{}", config.log_level)).context("--log-level")?,
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    leave_no_core();
    keep_memory_small();
    raise_file_limit();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .context("start the async runtime")?
        .block_on(run(config))
}

/// Secrets, tokens and private keys are in this process's memory, and in no file that a crash leaves behind. What it starts is
/// not concerned: that is undone when a program is executed.
fn leave_no_core() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "a crash may leave secrets behind in a core");
    }
}

/// The GNU C library has up to eight heaps for each processor, and keeps what buffers leave behind in them; one for each
/// worker is enough. Without these settings, a manager of 1,000 nodes holds 6 % more, an idle agent 10 %.
fn keep_memory_small() {
    let heaps = i32::try_from(WORKERS).unwrap_or(1);
    // Bytes: longer buffers are the system's at once, and again once they are freed; so is what is free at a heap's end.
    let (buffer, end) = (64 << 10, 128 << 10);
    for (what, limit) in [
        (libc::M_ARENA_MAX, heaps),
        (libc::M_MMAP_THRESHOLD, buffer),
        (libc::M_TRIM_THRESHOLD, end),
    ] {
        // SAFETY: plain numbers; what is refused stays as it is.
        unsafe { libc::mallopt(what, limit) };
    }
}

/// Every task costs a handful of sockets; the usual soft limit of 1024 ends at 200 tasks.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}

async fn run(mut config: Config) -> Result<()> {
    anyhow::ensure!(
        nix::unistd::Uid::effective().is_root(),
        "network namespaces, containers and eBPF need root"
    );
    let resources = config.generic_resources().map_err(anyhow::Error::msg);
    resources.context("--node-generic-resource")?;
    config.make_dirs().with_context(|| {
        format!(
            "create {} and {}",
            config.data_dir.display(),
            config.run_dir.display()
        )
    })?;
    let _lock = lock(&config)?;
    alone::claim()?;
    let instance = instance(&config)?;
    config.local_pool = Some(pool(&config, &instance).await?);
    let hostname = match &config.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .context("read the host name")?
            .to_string_lossy()
            .into_owned(),
    };
    let own = std::env::current_exe().context("find this program")?;
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: config.data_dir.join("containers"),
        run_dir: config.run_dir.join("shims"),
        cgroup_parent: format!("mesh/{instance}"),
        shim_exe: own.with_file_name("mesh-shim"),
        agent_exe: Some(own),
    })
    .await
    .context("open the container runtime")?;
    let images = ImageStore::open_with(
        config.images_dir(),
        RegistryOptions {
            certs_dir: Some(config.registry_certs.clone()),
            insecure: config.insecure_registries.clone(),
            mirrors: config.registry_mirrors.clone(),
        },
    )
    .context("open the image store")?;
    let volumes = volumes::Volumes::open(
        &config.volumes_dir(),
        config.mounts_dir(),
        // Still this program if its file has been replaced.
        "/proc/self/exe".into(),
        runtime.clone(),
    )
    .context("open the volumes")?;
    let mut listeners = vec![api::bind(&config.socket())?];
    for host in &config.hosts {
        let path = host.strip_prefix("unix://").unwrap_or(host);
        listeners.push(api::bind(Path::new(path))?);
    }
    let metrics = match config.metrics_addr {
        Some(address) => Some(
            tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("listen on {address} for metrics"))?,
        ),
        None => None,
    };
    let node = Node::new(config, instance, hostname, runtime, images, volumes);
    // It answers while the membership is taken up again: that may take its time.
    tokio::spawn(api::serve(node.clone(), listeners, std::future::pending()));
    if let Some(listener) = metrics {
        tokio::spawn(api::serve_metrics(node.clone(), listener));
    }
    tokio::spawn(returns::keep(node.clone()));
    let resuming = tokio::spawn(resume(node.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if node.runtime().list().is_empty() {
        // Nothing is left to adopt, so nothing of ours shall stay in the cgroup trees.
        node.runtime().remove_parent_cgroups();
    }
    resuming.abort();
    // Tasks, links and packet path stay: the next agent adopts them.
    tracing::info!("mesh-agent ends; tasks keep running");
    Ok(())
}

/// Takes up the membership found on disk, again and again: a disk may have been full. The API answers meanwhile: it says
/// what is wrong, and `swarm leave --force` is a way out.
async fn resume(node: Node) {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = node.resume().await {
        tracing::error!("{error}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::info!(instance = node.instance(), "mesh-agent is ready");
}

/// Keeps a second agent out of the same directories.
fn lock(config: &Config) -> Result<nix::fcntl::Flock<std::fs::File>> {
    let path = config.data_dir.join("lock");
    let file = std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow::anyhow!(
            "{} is in use by another mesh-agent ({errno}); give each its own --data-dir and --run-dir",
            config.data_dir.display()
        )
    })
}

/// The pool of node-local addresses that is to be used: one that takes nothing away from the node.
async fn pool(config: &Config, instance: &str) -> Result<Ipv4Network> {
    let own = host_prefix(instance);
    let mut occupied = Host::connect()?.occupied(&own).await?;
    let servers = dns::node_upstreams(&config.dns, Path::new("/etc/resolv.conf"));
    occupied.extend(local_pool::name_servers(&servers));
    let pool = local_pool::choose(config.local_pool, &occupied)?;
    if pool != config.local_pool.unwrap_or(local_pool::POOLS[0]) {
        tracing::info!(%pool, "node-local addresses, of the first pool that overlaps nothing of the node");
    }
    Ok(pool)
}

/// The instance name: as said, else as made up at the first start.
fn instance(config: &Config) -> Result<String> {
    let path = config.data_dir.join("instance");
    let kept = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("read {}", path.display()));
        }
        read => read.unwrap_or_default(),
    };
    let name = match (&config.instance, kept.trim()) {
        (Some(given), _) => given.clone(),
        (None, "") => format!("{:08x}", rand::random::<u32>()),
        (None, kept) => kept.to_owned(),
    };
    // On a full disk the agent can still start.
    if name != kept.trim() {
        std::fs::write(&path, &name).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(name)
}
