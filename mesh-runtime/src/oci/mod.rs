//! From a [`ContainerSpec`] to an OCI runtime configuration. Pure but for looking up users and
//! checking that bind sources are there.

pub(crate) mod capabilities;
mod mounts;
mod seccomp;
pub(crate) mod user;

use serde_json::{Value, json};

use crate::cgroup::device::DEFAULT_RULES;
use crate::error::{Result, RuntimeError};
use crate::spec::{ContainerSpec, ExecSpec, Resources, Ulimit};
use user::User;

/// Docker's search path.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel's period for CPU quotas, in microseconds.
const CPU_PERIOD: i64 = 100_000;
/// Least memory limit Docker accepts: a container below it cannot start.
const MIN_MEMORY: i64 = 6 << 20;
/// Open files of a process when no ulimit is asked for, as Docker has it. Without it a container
/// would have the agent's limit, which may be so high that programs that walk it take minutes.
const OPEN_FILES: u64 = 1 << 20;
/// Limits that `setrlimit` knows.
const LIMITS: &[&str] = &[
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// What matters of the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// Mount points of cgroup v1 hierarchies.
    pub(crate) cgroup_v1_mounts: Vec<std::path::PathBuf>,
    /// The capabilities this process could give away, as the kernel's bit set.
    pub(crate) capabilities: u64,
    /// The most files a process of the agent may open.
    pub(crate) open_files: u64,
}

/// The OCI configuration of a container whose cgroup is `cgroup` (relative to each hierarchy).
///
/// # Errors
/// [`RuntimeError::InvalidSpec`] with the field and the reason.
pub(crate) fn configuration(
    spec: &ContainerSpec,
    user: &User,
    cgroup: &str,
    host: &Host,
) -> Result<Value> {
    if spec.args.is_empty() || spec.args[0].is_empty() {
        return Err(invalid("no command specified"));
    }
    let capabilities = capabilities::resolve(&spec.cap_add, &spec.cap_drop, host.capabilities)?;
    let mut linux = json!({
        "cgroupsPath": format!("/{cgroup}"),
        "namespaces": namespaces(spec),
        "resources": resources(&spec.resources)?,
        "maskedPaths": mounts::MASKED,
        "readonlyPaths": mounts::read_only(host),
        "sysctl": spec.sysctls,
    });
    if !spec.seccomp_unconfined {
        linux["seccomp"] = seccomp::default_filter(&capabilities);
    }
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    Ok(json!({
        "ociVersion": "1.2.0",
        "root": {"path": spec.rootfs, "readonly": spec.read_only_rootfs},
        "hostname": hostname(spec),
        "mounts": mounts::build(spec)?,
        "linux": linux,
        "process": process(
            &spec.args,
            environment(&spec.env, &hostname(spec), &user.home, spec.tty),
            cwd,
            user,
            &capabilities,
            spec,
            host,
        )?,
    }))
}

/// The OCI `process` of an exec in a container made from `spec`.
///
/// # Errors
/// [`RuntimeError::InvalidSpec`] with the field and the reason.
pub(crate) fn exec_process(
    spec: &ContainerSpec,
    exec: &ExecSpec,
    user: &User,
    host: &Host,
) -> Result<Value> {
    if exec.args.is_empty() || exec.args[0].is_empty() {
        return Err(invalid("no command specified"));
    }
    let capabilities = if exec.privileged {
        capabilities::available(host.capabilities)
    } else {
        capabilities::resolve(&spec.cap_add, &spec.cap_drop, host.capabilities)?
    };
    let mut env = spec.env.clone();
    for entry in &exec.env {
        let key = entry.split('=').next().unwrap_or_default();
        env.retain(|old| old.split('=').next() != Some(key));
        env.push(entry.clone());
    }
    let cwd = [&exec.cwd, &spec.cwd]
        .into_iter()
        .find(|cwd| !cwd.is_empty());
    let env = environment(&env, &hostname(spec), &user.home, exec.tty);
    let cwd = cwd.map_or("/", String::as_str);
    let mut process = process(&exec.args, env, cwd, user, &capabilities, spec, host)?;
    process["terminal"] = json!(exec.tty);
    Ok(process)
}

fn process(
    args: &[String],
    env: Vec<String>,
    cwd: &str,
    user: &User,
    capabilities: &[String],
    spec: &ContainerSpec,
    host: &Host,
) -> Result<Value> {
    if !cwd.starts_with('/') {
        return Err(invalid(format!(
            "working directory \"{cwd}\" must be an absolute path"
        )));
    }
    let mut limits = spec.ulimits.iter().map(limit).collect::<Result<Vec<_>>>()?;
    if !limits.iter().any(|limit| limit["type"] == "RLIMIT_NOFILE") {
        let number = OPEN_FILES.min(host.open_files);
        limits.push(json!({"type": "RLIMIT_NOFILE", "soft": number, "hard": number}));
    }
    let mut process = json!({
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "rlimits": limits,
        "oomScoreAdj": spec.resources.oom_score_adj.unwrap_or(0),
    });
    // libcontainer takes "absent" and "false" for different things: with `false` it would load the
    // filter after giving up the right to do so.
    if spec.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    Ok(process)
}

fn hostname(spec: &ContainerSpec) -> String {
    if spec.hostname.is_empty() {
        spec.id.chars().take(12).collect()
    } else {
        spec.hostname.clone()
    }
}

fn environment(env: &[String], hostname: &str, home: &str, tty: bool) -> Vec<String> {
    let mut result = env.to_vec();
    let mut add = |entry: String| {
        let key = format!("{}=", entry.split('=').next().unwrap_or_default());
        if !env.iter().any(|known| known.starts_with(&key)) {
            result.push(entry);
        }
    };
    add(DEFAULT_PATH.to_owned());
    add(format!("HOSTNAME={hostname}"));
    if tty {
        add("TERM=xterm".to_owned());
    }
    add(format!("HOME={home}"));
    result
}

fn namespaces(spec: &ContainerSpec) -> Vec<Value> {
    let mut list = ["pid", "ipc", "uts", "mount", "cgroup"]
        .map(|kind| json!({"type": kind}))
        .to_vec();
    if let Some(path) = &spec.netns {
        list.push(json!({"type": "network", "path": path}));
    }
    list
}

fn limit(limit: &Ulimit) -> Result<Value> {
    let name = limit.name.to_ascii_uppercase();
    if !LIMITS.contains(&name.as_str()) {
        return Err(invalid(format!("unknown ulimit \"{}\"", limit.name)));
    }
    let value = |number: i64| if number < 0 { u64::MAX } else { number as u64 };
    let (soft, hard) = (value(limit.soft), value(limit.hard));
    if soft > hard {
        return Err(invalid(format!(
            "ulimit {}: soft limit {} is above hard limit {}",
            limit.name, limit.soft, limit.hard
        )));
    }
    Ok(json!({"type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard}))
}

fn resources(wanted: &Resources) -> Result<Value> {
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    for rule in DEFAULT_RULES {
        let mut device = json!({"allow": true, "type": rule.kind.to_string(),
            "access": rule.access});
        if let Some(major) = rule.major {
            device["major"] = json!(major);
        }
        if let Some(minor) = rule.minor {
            device["minor"] = json!(minor);
        }
        devices.push(device);
    }
    let mut result = json!({"devices": devices});
    let positive = |value: Option<i64>| value.filter(|number| *number > 0);

    let mut memory = serde_json::Map::new();
    if let Some(limit) = positive(wanted.memory_limit) {
        if limit < MIN_MEMORY {
            return Err(invalid(format!(
                "minimum memory limit allowed is 6MB, not {limit} bytes"
            )));
        }
        memory.insert("limit".into(), json!(limit));
        // Without it, a container pages out instead of being stopped at its limit.
        if swap_accounting() {
            memory.insert("swap".into(), json!(limit.saturating_mul(2)));
        }
    }
    if let Some(reservation) = positive(wanted.memory_reservation) {
        if positive(wanted.memory_limit).is_some_and(|limit| reservation > limit) {
            return Err(invalid("memory reservation is above the memory limit"));
        }
        memory.insert("reservation".into(), json!(reservation));
    }
    if !memory.is_empty() {
        result["memory"] = Value::Object(memory);
    }

    if let Some(nano) = positive(wanted.nano_cpus) {
        // The kernel refuses quotas below a millisecond.
        let quota = (nano.saturating_mul(CPU_PERIOD / 1000) / 1_000_000).max(1000);
        result["cpu"] = json!({"period": CPU_PERIOD, "quota": quota});
    }
    if let Some(limit) = positive(wanted.pids_limit) {
        result["pids"] = json!({"limit": limit});
    }
    Ok(result)
}

/// Whether the kernel counts swap per cgroup; without swap there is nothing to limit.
fn swap_accounting() -> bool {
    std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        || std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

fn invalid(reason: impl Into<String>) -> RuntimeError {
    RuntimeError::InvalidSpec {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
