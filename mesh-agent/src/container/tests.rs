//! Tables for the whole translation.

use std::path::Path;

use mesh_api::engine::{Limit, Mount as EngineMount, MountTypeEnum};
use mesh_runtime::Mount;

use super::*;

fn task() -> proto::Task {
    proto::Task {
        id: "taskid0123456789abcdefghi".into(),
        service_id: "sid".into(),
        service_name: "web".into(),
        name: "web.3.taskid0123456789abcdefghi".into(),
        slot: 3,
        service_labels: [("tier".to_owned(), "front".to_owned())].into(),
        ..Default::default()
    }
}

fn places() -> Places {
    Places {
        rootfs: "/r".into(),
        netns: Some("/n".into()),
        resolv_conf: "/t/resolv.conf".into(),
        hosts: "/t/hosts".into(),
        hostname: "/t/hostname".into(),
        volumes: "/v".into(),
    }
}

fn make(wanted: TaskSpecContainerSpec, image: &ImageConfig) -> Result<Plan, SpecError> {
    let spec = TaskSpec {
        container_spec: Some(wanted),
        resources: Some(TaskSpecResources {
            limits: Some(Limit {
                memory_bytes: Some(1 << 20),
                nano_cpus: Some(0),
                pids: Some(9),
            }),
            reservations: None,
        }),
        ..Default::default()
    };
    let node = Names {
        id: "nid".into(),
        hostname: "n1".into(),
        architecture: "x86_64".into(),
    };
    plan(&task(), &spec, image, &node, &places())
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["entry".into()],
        cmd: vec!["cmd".into()],
        env: vec!["A=1".into(), "B=2".into()],
        working_dir: "/srv".into(),
        stop_signal: Some("SIGQUIT".into()),
        ..Default::default()
    }
}

fn words(text: &str) -> Option<Vec<String>> {
    Some(text.split_whitespace().map(Into::into).collect())
}

#[test]
fn commands() {
    for (command, args, expected) in [
        ("", "", "entry cmd"),
        ("", "x y", "entry x y"),
        ("sh", "", "sh"),
        ("sh", "-c true", "sh -c true"),
    ] {
        let wanted = TaskSpecContainerSpec {
            command: words(command),
            args: words(args),
            ..Default::default()
        };
        let plan = make(wanted, &image()).expect("a plan");
        assert_eq!(plan.container.args.join(" "), expected);
    }
    assert_eq!(
        make(TaskSpecContainerSpec::default(), &ImageConfig::default()),
        Err(SpecError::NoCommand)
    );
}

#[test]
fn environment_hostname_and_defaults() {
    let wanted = TaskSpecContainerSpec {
        env: words(
            "A=9 B HOST={{.Node.Hostname}} WHO={{.Service.Name}}.{{.Task.Slot}} T={{.Service.Labels.tier}}",
        ),
        hostname: Some("{{.Service.Name}}-{{.Task.Slot}}".into()),
        ..Default::default()
    };
    let container = make(wanted, &image()).expect("a plan").container;
    assert_eq!(container.env, ["A=9", "HOST=n1", "WHO=web.3", "T=front"]);
    assert_eq!(container.hostname, "web-3");
    assert_eq!(container.cwd, "/srv");
    assert_eq!(container.stop_signal, Some(3));
    assert_eq!(container.resources.memory_limit, Some(1 << 20));
    assert_eq!(container.resources.nano_cpus, None);
    assert_eq!(container.resources.pids_limit, Some(9));
    assert_eq!(container.labels["com.docker.swarm.service.name"], "web");
    assert_eq!(container.labels["com.docker.swarm.node.id"], "nid");

    let plain = make(TaskSpecContainerSpec::default(), &image()).expect("a plan");
    assert_eq!(plain.container.hostname, container_id(&task().id)[..12]);

    let broken = TaskSpecContainerSpec {
        env: words("X={{.Nobody"),
        ..Default::default()
    };
    assert!(matches!(
        make(broken, &image()),
        Err(SpecError::Template { .. })
    ));
}

#[test]
fn a_task_is_told_what_it_was_given() {
    let given = mesh_api::generic_resource::parse(["gpu=b", "gpu=a", "fast-ssd=2"]).expect("some");
    let task = proto::Task {
        generic_resources: mesh_api::generic_resource::to_proto(&given),
        ..task()
    };
    let spec = TaskSpec {
        container_spec: Some(TaskSpecContainerSpec {
            env: words("DOCKER_RESOURCE_GPU=all C=3"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let node = Names {
        id: "nid".into(),
        hostname: "n1".into(),
        architecture: "x86_64".into(),
    };
    let plan = plan(&task, &spec, &image(), &node, &places()).expect("a plan");
    let expected = [
        "A=1",
        "B=2",
        "C=3",
        "DOCKER_RESOURCE_FAST-SSD=2",
        "DOCKER_RESOURCE_GPU=a,b",
    ];
    assert_eq!(plan.container.env, expected);
}

#[test]
fn privileges() {
    for (json, unconfined, no_new) in [
        ("{}", false, false),
        (
            r#"{"Seccomp": {"Mode": "default"}, "NoNewPrivileges": true}"#,
            false,
            true,
        ),
        (r#"{"Seccomp": {"Mode": "unconfined"}}"#, true, false),
    ] {
        let wanted = TaskSpecContainerSpec {
            privileges: serde_json::from_str(json).expect("privileges"),
            ..Default::default()
        };
        let container = make(wanted, &image()).expect("a plan").container;
        assert_eq!(
            (container.seccomp_unconfined, container.no_new_privileges),
            (unconfined, no_new),
            "{json}"
        );
    }
}

#[test]
fn mounts_of_every_kind() {
    let mount = |typ, source: &str, target: &str| EngineMount {
        typ: Some(typ),
        source: Some(source.into()),
        target: Some(target.into()),
        ..Default::default()
    };
    let with = |mount| TaskSpecContainerSpec {
        mounts: Some(vec![mount]),
        ..Default::default()
    };
    let bind = |typ, source, target| match make(with(mount(typ, source, target)), &image()) {
        Ok(plan) => match &plan.container.mounts[0] {
            Mount::Bind(bind) => Ok(bind.source.display().to_string()),
            Mount::Tmpfs(_) => Ok("tmpfs".to_owned()),
        },
        Err(error) => Err(error.to_string()),
    };
    assert_eq!(bind(MountTypeEnum::BIND, "/h", "/c").as_deref(), Ok("/h"));
    assert_eq!(
        bind(MountTypeEnum::VOLUME, "data-{{.Task.Slot}}", "/c").as_deref(),
        Ok("/v/data-3/_data")
    );
    assert_eq!(bind(MountTypeEnum::TMPFS, "", "/c").as_deref(), Ok("tmpfs"));
    for (typ, source, target) in [
        (MountTypeEnum::BIND, "relative", "/c"),
        (MountTypeEnum::BIND, "/h", "relative"),
        (MountTypeEnum::VOLUME, "../../etc", "/c"),
        (MountTypeEnum::VOLUME, "a/b", "/c"),
        (MountTypeEnum::TMPFS, "/h", "/c"),
        (MountTypeEnum::NPIPE, "", "/c"),
    ] {
        assert!(
            bind(typ, source, target).is_err(),
            "{typ} {source} {target}"
        );
    }
    let short = bind(MountTypeEnum::VOLUME, "d", "/c");
    let words =
        "create d: volume name is too short, names should be at least two alphanumeric characters";
    assert_eq!(short, Err(words.to_owned()));
}

#[test]
fn image_volumes_get_a_directory_unless_mounted_over() {
    let mut image = image();
    image.volumes = ["/data".to_owned(), "/log".to_owned()].into();
    let wanted = TaskSpecContainerSpec {
        mounts: Some(vec![EngineMount {
            typ: Some(MountTypeEnum::TMPFS),
            target: Some("/log".into()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let plan = make(wanted.clone(), &image).expect("a plan");
    assert_eq!(plan.container.mounts.len(), 2);
    let again = make(wanted, &image).expect("a plan");
    assert_eq!(plan.volumes, again.volumes);
    let (name, volume) = plan.volumes.first_key_value().expect("a volume");
    assert_eq!((name.len(), plan.volumes.len()), (64, 1));
    assert!(volume.is_anonymous);
    assert_eq!(volume.copy, [Path::new("/data")]);
}

#[test]
fn signals() {
    for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGUSR1", 10)] {
        assert_eq!(signal(text), Ok(number), "{text}");
    }
    for text in ["SIGNOPE", "0", "65", ""] {
        assert!(signal(text).is_err(), "{text:?}");
    }
}
