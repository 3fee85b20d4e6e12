//! The OCI configurations that specifications turn into.

use super::*;
use crate::spec::{BindMount, ExtraFile, Mount};
use libcontainer::oci_spec::runtime::Spec;

fn user() -> User {
    User {
        uid: 33,
        gid: 34,
        groups: vec![4],
        home: "/var/www".to_owned(),
    }
}

fn host() -> Host {
    Host {
        cgroup_v1_mounts: vec!["/sys/fs/cgroup/memory".into()],
        capabilities: u64::MAX,
        open_files: 4096,
    }
}

fn plain() -> ContainerSpec {
    ContainerSpec {
        id: "abcdefghijklmnopqrstuvwxy".to_owned(),
        rootfs: "/tmp".into(),
        args: vec!["sh".to_owned()],
        ..ContainerSpec::default()
    }
}

#[test]
fn a_plain_container_is_a_valid_oci_configuration() {
    let value = configuration(&plain(), &user(), "mesh/a", &host()).unwrap();
    assert_eq!(value["hostname"], "abcdefghijkl");
    assert!(value["process"]["noNewPrivileges"].is_null());
    serde_json::from_value::<Spec>(value).unwrap();
}

#[test]
fn limits_become_cgroup_values() {
    let mut spec = plain();
    spec.resources.memory_limit = Some(64 << 20);
    spec.resources.memory_reservation = Some(32 << 20);
    spec.resources.nano_cpus = Some(500_000_000);
    spec.resources.pids_limit = Some(20);
    let value = configuration(&spec, &user(), "mesh/a", &host()).unwrap();
    let resources = &value["linux"]["resources"];
    assert_eq!(resources["memory"]["limit"], 64 << 20);
    assert_eq!(resources["memory"]["reservation"], 32 << 20);
    assert_eq!(resources["cpu"]["quota"], 50_000);
    assert_eq!(resources["pids"]["limit"], 20);
    serde_json::from_value::<Spec>(value).unwrap();
}

#[test]
fn the_environment_keeps_what_is_set_and_adds_the_rest() {
    let env = environment(&["PATH=/x".into(), "A=b".into()], "host", "/root", true);
    assert_eq!(
        env,
        [
            "PATH=/x",
            "A=b",
            "HOSTNAME=host",
            "TERM=xterm",
            "HOME=/root"
        ]
    );
}

#[test]
fn an_exec_overrides_the_environment_of_its_container() {
    let mut spec = plain();
    spec.env = vec!["A=1".into(), "B=2".into()];
    let exec = ExecSpec {
        args: vec!["env".into()],
        env: vec!["A=3".into()],
        ..ExecSpec::default()
    };
    let process = exec_process(&spec, &exec, &user(), &host()).unwrap();
    let env = process["env"].as_array().unwrap();
    assert!(env.contains(&json!("A=3")) && env.contains(&json!("B=2")));
    assert!(!env.contains(&json!("A=1")));
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    let refuse = |change: fn(&mut ContainerSpec), words: &str| {
        let mut spec = plain();
        change(&mut spec);
        let message = configuration(&spec, &user(), "m/a", &host())
            .unwrap_err()
            .to_string();
        assert!(message.contains(words), "{message}");
    };
    refuse(|spec| spec.args.clear(), "no command");
    refuse(|spec| spec.cwd = "tmp".into(), "absolute path");
    refuse(
        |spec| spec.resources.memory_limit = Some(1),
        "minimum memory",
    );
    refuse(|spec| spec.cap_add.push("FLY".into()), "unknown capability");
    refuse(
        |spec| {
            spec.ulimits.push(Ulimit {
                name: "speed".into(),
                soft: 1,
                hard: 1,
            });
        },
        "unknown ulimit",
    );
    refuse(
        |spec| {
            spec.mounts
                .push(crate::spec::Mount::Bind(crate::spec::BindMount {
                    source: "/does/not/exist".into(),
                    target: "/data".into(),
                    ..Default::default()
                }));
        },
        "does not exist",
    );
}

#[test]
fn what_is_mounted_deeper_is_mounted_later() {
    let mut spec = plain();
    let bind = |target: &str| {
        Mount::Bind(BindMount {
            source: "/tmp".into(),
            target: target.into(),
            ..BindMount::default()
        })
    };
    spec.mounts = vec![bind("/etc/deep/er"), bind("/etc")];
    spec.extra_files = vec![ExtraFile {
        source: "/etc/hosts".into(),
        target: "/etc/hosts".into(),
        read_only: false,
    }];
    let value = configuration(&spec, &user(), "mesh/a", &host()).unwrap();
    let mounts = value["mounts"].as_array().unwrap().iter();
    let targets: Vec<_> = mounts.map(|mount| &mount["destination"]).collect();
    assert_eq!(
        targets[targets.len() - 3..],
        ["/etc", "/etc/hosts", "/etc/deep/er"]
    );
}
