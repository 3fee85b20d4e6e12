//! What is refused and with which words; what is given out.

use crate::{
    Cipher, Command, ErrorKind, NodeReport, Operation, Proposal, Response,
    fixture::{World, constrained, global, global_job, job, on, published, replicated, template},
    state::{PublishMode, ServiceMode, State, TaskState},
};
use mesh_api::engine;
use std::collections::BTreeSet;

type Spec = engine::ServiceSpec;

fn edited(change: impl FnOnce(&mut Spec)) -> Spec {
    let mut spec = replicated("new", 1);
    change(&mut spec);
    spec
}

fn container(change: impl FnOnce(&mut engine::TaskSpecContainerSpec)) -> Spec {
    edited(|s| change(template(s).container_spec.as_mut().unwrap()))
}

fn image(name: &str) -> Spec {
    container(|c| c.image = Some(name.to_owned()))
}

fn privileged(json: &str) -> Spec {
    container(|c| c.privileges = serde_json::from_str(json).unwrap())
}

fn constraint(text: &str) -> Spec {
    constrained(replicated("new", 1), &[text])
}

#[test]
fn bad_services_are_refused_and_nothing_changes() {
    let mut world = World::new(&["n1"]);
    let web = world.service(published("web", 80, false)).unwrap();
    world.service(published("local", 81, true)).unwrap();
    let in_use = |port, what: &str, id: &str, kind: &str| {
        format!(
            "rpc error: code = InvalidArgument desc = port '{port}' is already in use by service \
             '{what}' ({id}) as {kind}"
        )
    };
    let local = world.state.find_service("local").unwrap().id.clone();
    let invalid = |text: &str| format!("rpc error: code = InvalidArgument desc = {text}");
    use ErrorKind::{AlreadyExists, InvalidArgument, NotFound, Unimplemented};
    let name = |n: &str| replicated(n, 1);
    let cases: Vec<(Spec, ErrorKind, String)> = vec![
        (
            name("web"),
            AlreadyExists,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: \
             service web already exists"
                .to_owned(),
        ),
        (
            name(""),
            InvalidArgument,
            invalid("meta: name must be provided"),
        ),
        (
            name("-web"),
            InvalidArgument,
            invalid("name must be valid as a DNS name component"),
        ),
        (
            name("we b"),
            InvalidArgument,
            invalid("name must be valid as a DNS name component"),
        ),
        (
            name(&"a".repeat(64)),
            InvalidArgument,
            invalid("name must be 63 characters or fewer"),
        ),
        (
            replicated("new", -1),
            InvalidArgument,
            invalid("Number of replicas must be non-negative"),
        ),
        (
            on(name("new"), &["foo"]),
            NotFound,
            "network foo not found".to_owned(),
        ),
        (
            on(name("new"), &["ingress"]),
            InvalidArgument,
            invalid("Service cannot be explicitly attached to the ingress network \"ingress\""),
        ),
        (
            published("new", 80, false),
            InvalidArgument,
            in_use(80, "web", &web, "an ingress port"),
        ),
        (
            published("new", 80, true),
            InvalidArgument,
            in_use(80, "web", &web, "an ingress port"),
        ),
        (
            published("new", 81, false),
            InvalidArgument,
            in_use(81, "local", &local, "a host-published port"),
        ),
        (
            edited(|s| {
                *s = published("new", 90, false);
                s.endpoint_spec.as_mut().unwrap().mode = Some(engine::EndpointSpecModeEnum::DNSRR);
            }),
            InvalidArgument,
            invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode"),
        ),
        (
            edited(|s| {
                *s = published("new", 90, false);
                let ports = s.endpoint_spec.as_mut().unwrap().ports.as_mut().unwrap();
                ports.push(ports[0].clone());
            }),
            InvalidArgument,
            invalid("EndpointSpec: duplicate published ports provided"),
        ),
        (
            published("new", 2377, false),
            InvalidArgument,
            invalid(
                "EndpointSpec: port 2377 cannot be published: nodes reach the managers on it; \
                 choose another one",
            ),
        ),
        (
            published("new", 2377, true),
            InvalidArgument,
            invalid(
                "EndpointSpec: port 2377 cannot be published: nodes reach the managers on it; \
                 choose another one",
            ),
        ),
        (
            edited(|s| {
                *s = published("new", 4789, false);
                let ports = s.endpoint_spec.as_mut().unwrap().ports.as_mut().unwrap();
                ports[0].protocol = Some(engine::EndpointPortConfigProtocolEnum::UDP);
            }),
            InvalidArgument,
            invalid(
                "EndpointSpec: port 4789 cannot be published: it is the data path port of the \
                 swarm; choose another one",
            ),
        ),
        (
            published("new", 70_000, false),
            InvalidArgument,
            invalid("EndpointSpec: invalid published port 70000: expected 1 to 65535"),
        ),
        (
            image(""),
            InvalidArgument,
            invalid("ContainerSpec: image reference must be provided"),
        ),
        (
            image("Not An Image"),
            InvalidArgument,
            invalid("ContainerSpec: \"Not An Image\" is not a valid repository/tag"),
        ),
        (
            constraint("node.role=worker"),
            InvalidArgument,
            invalid("constraint expected one operator from ==, !="),
        ),
        (
            constraint("?x==worker"),
            InvalidArgument,
            invalid("key '?x' is invalid"),
        ),
        (
            constraint("node.role=="),
            InvalidArgument,
            invalid("value '' is invalid"),
        ),
        (
            edited(|s| s.task_template = None),
            InvalidArgument,
            invalid("TaskSpec: missing runtime"),
        ),
        (
            privileged(r#"{"Seccomp": {"Mode": "custom", "Profile": "e30="}}"#),
            Unimplemented,
            "custom seccomp profiles are not supported; use mode default or unconfined".to_owned(),
        ),
        (
            privileged(r#"{"SELinuxContext": {"User": "", "Type": "svirt_t"}}"#),
            Unimplemented,
            "SELinux labels are not supported; leave them out".to_owned(),
        ),
    ];
    let picture = |state: &State| {
        let mut state = state.clone();
        state.index = 0;
        serde_json::to_value(&state).unwrap()
    };
    let before = picture(&world.state);
    for (spec, kind, message) in cases {
        let error = world.service(spec).unwrap_err();
        assert_eq!((error.kind, error.message), (kind, message));
        assert_eq!(picture(&world.state), before);
    }
}

#[test]
fn what_an_older_version_refused_stays_refused() {
    let mut world = World::new(&[]);
    let mut spec = replicated("web", 1);
    let container = template(&mut spec).container_spec.as_mut().unwrap();
    container.health_check = Some(engine::HealthConfig {
        test: Some(vec!["CMD".to_owned(), "true".to_owned()]),
        ..Default::default()
    });
    let checks = "health checks are not supported yet; leave them out";
    let jobs = "jobs are not supported yet; use mode replicated or global";
    for (spec, rules, text) in [
        (spec, None, checks),
        (job("a", 1, 1), None, jobs),
        (global_job("b"), Some(1), jobs),
    ] {
        let before = world.state.services().count();
        let create = Operation::Command(Command::CreateService {
            spec: Box::new(spec),
            registry_auth: String::new(),
        });
        let seed = [0u8; 16];
        let mut written = serde_json::json!({"time": 1, "seed": seed, "operation": create});
        if let Some(rules) = rules {
            written["rules"] = serde_json::json!(rules);
        }
        let old: Proposal = serde_json::from_value(written).unwrap();
        let error = world.apply_by(old.rules, old.operation).unwrap_err();
        assert_eq!(error.message, text);
        assert_eq!(world.state.services().count(), before);
        world.apply(create).unwrap();
        assert_eq!(world.state.services().count(), before + 1);
    }
}

#[test]
fn images_that_are_fine() {
    let mut world = World::new(&[]);
    for name in [
        "whoami",
        "whoami:latest",
        "library/whoami:1.2",
        "localhost:5000/a/b_c:Tag-1",
        "registry.example.com/whoami@sha256:0123",
        "Registry.Example.com/whoami",
    ] {
        let id = world
            .service(image(name))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        world.call(Command::RemoveService { id }).unwrap();
    }
}

#[test]
fn updates_have_to_see_the_latest_version() {
    let mut world = World::new(&["n1"]);
    let id = world.service(replicated("web", 1)).unwrap();
    let version = world.state.service(&id).unwrap().meta.version;
    let update = |version, spec: Spec| Command::UpdateService {
        id: "web".to_owned(),
        version,
        spec: Box::new(spec),
        registry_auth: None,
        rollback: false,
    };
    let updated = world.call(update(version, replicated("web", 2))).unwrap();
    let Response::Updated { version: next } = updated else {
        panic!("{updated:?}")
    };
    assert_eq!(world.state.service(&id).unwrap().meta.version, next);
    let error = world
        .call(update(version, replicated("web", 3)))
        .unwrap_err();
    assert!(error.message.ends_with("update out of sequence"), "{error}");
    let error = world
        .call(update(next, replicated("other", 3)))
        .unwrap_err();
    assert!(
        error
            .message
            .ends_with("renaming services is not supported"),
        "{error}"
    );
    assert_eq!(world.state.service(&id).unwrap().replicas(), 2);
}

#[test]
fn networks_get_vnis_and_subnets() {
    let mut world = World::new(&[]);
    let ingress = world.state.ingress_network().unwrap().clone();
    assert_eq!(ingress.vni, 4096);
    assert_eq!(ingress.subnet.to_string(), "10.0.0.0/20");
    let a = world.network("a", "").unwrap();
    let b = world.network("b", "10.0.48.0/24").unwrap();
    let get = |world: &World, id: &str| world.state.network(id).unwrap().clone();
    assert_eq!(get(&world, &a).subnet.to_string(), "10.0.16.0/20");
    assert_eq!(get(&world, &a).gateway.to_string(), "10.0.16.1");
    assert_eq!((get(&world, &a).vni, get(&world, &b).vni), (4097, 4098));
    // The next ones walk around the one that the user chose.
    for (name, subnet) in [("c", "10.0.32.0/20"), ("d", "10.0.64.0/20")] {
        let id = world.network(name, "").unwrap();
        assert_eq!(get(&world, &id).subnet.to_string(), subnet);
    }
    // A removed network's VNI is not used again at once.
    world
        .call(Command::RemoveNetwork { id: "a".to_owned() })
        .unwrap();
    let e = world.network("e", "").unwrap();
    assert_eq!(get(&world, &e).vni, 4101);
    assert_eq!(get(&world, &e).subnet.to_string(), "10.0.16.0/20");

    let cases = [
        (
            "b",
            "",
            ErrorKind::AlreadyExists,
            "network with name b already exists",
        ),
        (
            "x",
            "10.0.48.128/25",
            ErrorKind::PermissionDenied,
            "Pool overlaps with other one",
        ),
        (
            "x",
            "10.0.0.0/9",
            ErrorKind::PermissionDenied,
            "overlaps 10.0.",
        ),
        (
            "x",
            "10.77.0.1/24",
            ErrorKind::InvalidArgument,
            "it should be 10.77.0.0/24",
        ),
        (
            "x",
            "fd00::/64",
            ErrorKind::InvalidArgument,
            "the network has no IPv6; create it with --ipv6",
        ),
        (
            "x",
            "10.77.0.0/31",
            ErrorKind::InvalidArgument,
            "length has to be between",
        ),
        ("-x", "", ErrorKind::InvalidArgument, "invalid network name"),
        (
            "x",
            "10.9.9.0/24",
            ErrorKind::PermissionDenied,
            "10.9.9.0/24 holds 10.9.9.9, the address of node m",
        ),
    ];
    for (name, subnet, kind, text) in cases {
        let error = world.network(name, subnet).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(text), "{error}");
    }
}

#[test]
fn networks_are_encrypted_if_asked_for() {
    let mut world = World::new(&[]);
    for (name, option, encrypted) in [
        ("plain", None, false),
        ("docker", Some(""), true),
        ("yes", Some("true"), true),
        ("no", Some("false"), false),
    ] {
        let request = engine::NetworkCreateRequest {
            name: name.to_owned(),
            options: option.map(|value| [("encrypted".to_owned(), value.to_owned())].into()),
            ..Default::default()
        };
        let id = world
            .create(Command::CreateNetwork {
                request: Box::new(request),
            })
            .unwrap();
        assert_eq!(
            world.state.network(&id).unwrap().is_encrypted(),
            encrypted,
            "{name}"
        );
    }
}

#[test]
fn pools_leave_out_what_holds_a_nodes_address() {
    let mut world = World::new(&[]);
    for (number, taken) in [
        "10.0.128.0/17",
        "10.0.64.0/18",
        "10.0.32.0/19",
        "10.0.16.0/20",
    ]
    .iter()
    .chain(&["10.1.0.0/16", "10.2.0.0/15", "10.4.0.0/14", "10.8.0.0/16"])
    .enumerate()
    {
        world.network(&format!("t{number}"), taken).unwrap();
    }
    // The manager is at 10.9.9.9.
    let id = world.network("next", "").unwrap();
    let subnet = world.state.network(&id).unwrap().subnet;
    assert_eq!(subnet.to_string(), "10.9.16.0/20");
}

#[test]
fn mounts_that_no_node_could_make_are_refused() {
    use engine::MountTypeEnum as Type;
    let mut world = World::new(&["n1"]);
    for (typ, source, target, text) in [
        (
            Type::BIND,
            "a",
            "/a",
            "invalid bind mount source, must be an absolute path: a",
        ),
        (
            Type::BIND,
            "/a",
            "a",
            "invalid mount target, must be an absolute path: a",
        ),
        (Type::BIND, "/a\0", "/a", "cannot hold a NUL"),
        (
            Type::VOLUME,
            "/a",
            "/a",
            "invalid volume mount source, must not be an absolute path: /a",
        ),
        (
            Type::TMPFS,
            "a",
            "/a",
            "invalid tmpfs source, source must be empty",
        ),
        (
            Type::BIND,
            "/a",
            "/twice",
            "ContainerSpec: duplicate mount point: /twice",
        ),
    ] {
        let mount = |source: &str, target: &str| engine::Mount {
            typ: Some(typ),
            source: Some(source.to_owned()),
            target: Some(target.to_owned()),
            ..Default::default()
        };
        let spec =
            container(|c| c.mounts = Some(vec![mount(source, target), mount("/b", "/twice")]));
        let error = world.service(spec).unwrap_err();
        assert!(error.message.contains(text), "{error}");
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }
}

#[test]
fn the_host_network_is_none_of_the_clusters() {
    let mut world = World::new(&["n1"]);
    world.network("front", "10.1.0.0/24").unwrap();
    let id = world.service(on(replicated("web", 1), &["host"])).unwrap();
    world.work();
    assert!(world.state.service(&id).unwrap().vips.is_empty());
    assert!(world.wanted(&id)[0].attachments.is_empty());
    for bad in [
        on(replicated("both", 1), &["host", "front"]),
        on(published("port", 80, false), &["host"]),
        on(published("port", 80, true), &["host"]),
    ] {
        let error = world.service(bad).unwrap_err();
        assert!(
            error.message.contains("on the host network cannot"),
            "{error}"
        );
    }
    assert!(world.network("host", "10.2.0.0/24").is_err());
}

#[test]
fn a_network_in_use_stays() {
    let mut world = World::new(&["n1"]);
    world.network("front", "").unwrap();
    let id = world.service(on(replicated("web", 1), &["front"])).unwrap();
    let remove = || Command::RemoveNetwork {
        id: "front".to_owned(),
    };
    let error = world.call(remove()).unwrap_err();
    assert!(
        error.message.contains("is in use by service web"),
        "{error}"
    );
    world.work();
    world
        .call(Command::RemoveService { id: id.clone() })
        .unwrap();
    let error = world.call(remove()).unwrap_err();
    assert!(error.message.contains("is in use by task"), "{error}");
    world.now += crate::fixture::SECOND;
    world.work();
    assert_eq!(world.state.tasks().count(), 0);
    world.call(remove()).unwrap();
    let error = world
        .call(Command::RemoveNetwork {
            id: "ingress".to_owned(),
        })
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
}

#[test]
fn addresses_are_unique_rest_and_run_out() {
    let mut world = World::new(&["n1"]);
    // 16 addresses: network, gateway and broadcast leave 13; the VIP takes one.
    world.network("tiny", "10.77.0.0/28").unwrap();
    let id = world.service(on(replicated("web", 4), &["tiny"])).unwrap();
    let vip = world.state.service(&id).unwrap().vips[0].address;
    assert_eq!(vip.to_string(), "10.77.0.2");
    world.work();
    let addresses = |world: &World| -> BTreeSet<_> {
        world
            .wanted(&id)
            .iter()
            .map(|t| t.attachments[0].address)
            .collect()
    };
    let first = addresses(&world);
    assert_eq!(first.len(), 4);
    assert!(!first.contains(&vip));
    world.scale(&id, 0);
    world.now += crate::fixture::SECOND;
    world.work();
    world.scale(&id, 4);
    world.work();
    assert!(
        addresses(&world).is_disjoint(&first),
        "freed addresses rest"
    );
    assert_eq!(world.state.service(&id).unwrap().vips[0].address, vip);

    world.scale(&id, 20);
    world.settle();
    let live = world.state.tasks_of_service(&id);
    let live = live.filter(|t| !t.status.state.is_terminal());
    let full: BTreeSet<_> = live
        .flat_map(|t| &t.attachments)
        .map(|a| a.address)
        .collect();
    assert_eq!(full.len(), 12, "13 without the VIP");
    let rejected = world
        .state
        .tasks_of_service(&id)
        .find(|t| t.status.state == TaskState::Rejected)
        .expect("no address, no task");
    assert!(
        rejected
            .status
            .error
            .contains("no available IPv4 addresses on network tiny")
    );
}

#[test]
fn dynamic_ports_are_given_once_and_kept() {
    let mut world = World::new(&["n1"]);
    let a = world.service(published("a", 0, false)).unwrap();
    let b = world.service(published("b", 0, false)).unwrap();
    let port = |world: &World, id: &str| world.state.service(id).unwrap().ports[0];
    assert_eq!(
        (port(&world, &a).published, port(&world, &b).published),
        (30_000, 30_001)
    );
    assert_eq!(port(&world, &a).mode, PublishMode::Ingress);
    world.scale(&a, 3);
    assert_eq!(port(&world, &a).published, 30_000);
    world.call(Command::RemoveService { id: a }).unwrap();
    let c = world.service(published("c", 0, false)).unwrap();
    assert_eq!(port(&world, &c).published, 30_002);
}

#[test]
fn the_same_log_gives_the_same_state() {
    let run = || {
        let mut world = World::new(&["n1", "n2"]);
        world.network("front", "").unwrap();
        let mut spec = on(published("web", 0, false), &["front"]);
        spec.mode = replicated("", 5).mode;
        let id = world.service(spec).unwrap();
        world.work();
        world.scale(&id, 2);
        world.now += crate::fixture::SECOND;
        world.work();
        let mut value = serde_json::to_value(&world.state).unwrap();
        // Random in the fixture, not in apply.
        value["cluster"]["worker_token"].take();
        value["cluster"]["manager_token"].take();
        value
    };
    assert_eq!(run(), run());
}

#[test]
fn a_snapshot_gives_the_same_state() {
    let mut world = World::new(&["n1"]);
    world.network("front", "").unwrap();
    let id = world
        .service(on(published("web", 80, false), &["front"]))
        .unwrap();
    world.service(global("new")).unwrap();
    world.work();
    let bytes = serde_json::to_vec(&world.state).unwrap();
    let mut copy: State = serde_json::from_slice(&bytes).unwrap();
    copy.rebuild_indexes();
    let mode = copy.find_service("new").unwrap().mode();
    assert_eq!(mode, ServiceMode::Global);
    world.state = copy;
    assert!(
        world.service(published("other", 80, false)).is_err(),
        "the port index is back"
    );
    assert!(
        world.service(replicated("web", 1)).is_err(),
        "the name index is back"
    );
    world.scale(&id, 3);
    world.work();
    let addresses: BTreeSet<_> = world
        .wanted(&id)
        .iter()
        .flat_map(|t| &t.attachments)
        .map(|a| a.address)
        .collect();
    assert_eq!(addresses.len(), 6, "the address index is back");
}

#[test]
fn nodes_come_and_go_by_the_rules() {
    let mut world = World::new(&["n1", "n2"]);
    let remove = |id: &str, force| Command::RemoveNode {
        id: id.to_owned(),
        force,
    };
    let error = world.call(remove("n1", false)).unwrap_err();
    assert!(
        error
            .message
            .ends_with("node n1 is not down and can't be removed"),
        "{error}"
    );
    let error = world.call(remove("m", true)).unwrap_err();
    assert!(error.message.contains("is a cluster manager"), "{error}");
    let error = world.call(remove("nx", true)).unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::NotFound, "node nx not found")
    );
    let error = world.call(remove("n", true)).unwrap_err();
    assert!(error.message.contains("ambiguous"), "{error}");

    let version = world.state.node("m").unwrap().meta.version;
    let demote = engine::NodeSpec {
        role: Some(engine::NodeSpecRoleEnum::WORKER),
        ..Default::default()
    };
    let demote = Command::UpdateNode {
        id: "m".to_owned(),
        version,
        spec: demote,
    };
    let error = world.call(demote).unwrap_err();
    assert!(
        error
            .message
            .contains("attempting to demote the last manager"),
        "{error}"
    );

    world.node_down("n1");
    world.call(remove("n1", false)).unwrap();
    world.call(remove("n2", true)).unwrap();
    assert_eq!(world.state.nodes().count(), 1);
}

#[test]
fn old_reports_change_nothing() {
    let mut world = World::new(&["n1"]);
    let id = world.service(replicated("web", 1)).unwrap();
    world.work();
    let task = world.wanted(&id)[0].id.clone();
    world.report(&task, TaskState::Preparing);
    assert_eq!(
        world.state.task(&task).unwrap().status.state,
        TaskState::Running
    );
    world.report(&task, TaskState::Failed);
    world.report(&task, TaskState::Shutdown);
    assert_eq!(
        world.state.task(&task).unwrap().status.state,
        TaskState::Failed
    );
    world
        .apply(Operation::TaskStatuses(vec![(
            "gone".to_owned(),
            Default::default(),
        )]))
        .unwrap();
}

#[test]
fn a_key_belongs_to_who_had_the_address_last() {
    let mut world = World::new(&["before", "now", "other"]);
    for (id, address) in [
        ("before", "10.9.0.1"),
        ("other", "10.9.0.2"),
        ("now", "10.9.0.1"),
    ] {
        let description = NodeReport {
            data_path_address: address.to_owned(),
            cipher: Some(Cipher {
                key: id.to_owned(),
                port: 51820,
                epoch: None,
                next_port: 0,
                former_key: String::new(),
            }),
            ..NodeReport::default()
        };
        let node_id = id.to_owned();
        world
            .apply(Operation::NodeUp {
                node_id,
                description,
            })
            .unwrap();
    }
    let has_key = |id| world.state.node(id).unwrap().description.cipher.is_some();
    assert!(!has_key("before"));
    assert!(has_key("now") && has_key("other"));
}

#[test]
fn the_size_of_a_node_s_wire_stays_until_it_tells_another() {
    let mut world = World::new(&["n1"]);
    for (told, known) in [(0, 0), (1400, 1400), (0, 1400), (9000, 9000)] {
        let description = NodeReport {
            mtu: told,
            ..NodeReport::default()
        };
        let node_id = "n1".to_owned();
        world
            .apply(Operation::NodeUp {
                node_id,
                description,
            })
            .unwrap();
        assert_eq!(world.state.node("n1").unwrap().description.mtu, known);
    }
}
