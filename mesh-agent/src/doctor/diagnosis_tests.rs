//! Answers of two nodes, spoiled in one way each, and what is made of them.

use super::*;

const MILLISECOND: u64 = 1_000_000;

fn port(published: u16, protocol: Protocol) -> Port {
    Port {
        protocol,
        published,
        target: 80,
        mode: PublishMode::Ingress,
        dynamic: false,
    }
}

fn plan() -> Plan {
    let member = |n: u8| Member {
        id: format!("id{n}"),
        name: format!("n{n}"),
        address: format!("192.0.2.{n}"),
        away: None,
    };
    let target = |node, by| Target {
        service: "web".into(),
        port: port(80, Protocol::Tcp),
        node,
        by: Some(by),
    };
    Plan {
        members: vec![member(1), member(2)],
        targets: vec![target(0, 1), target(1, 0)],
        ..Plan::default()
    }
}

/// What a node answers where all is well.
fn answer(peer: u8) -> CheckAnswer {
    let client = format!("192.0.2.{}:40000", 3 - peer);
    CheckAnswer {
        clock_ahead: 2 * MILLISECOND as i64,
        findings: Vec::new(),
        paths: vec![PathAnswer {
            peer: format!("192.0.2.{peer}"),
            round_trip: MILLISECOND / 10,
            largest: 1450,
            wanted: 1450,
            heard: 2,
            changed: 0,
            bad_checksums: 0,
            narrowed: 0,
            direct_return: DirectReturn::Possible.into(),
            returned_under: String::new(),
        }],
        ports: vec![PortAnswer {
            address: format!("192.0.2.{peer}"),
            port: 80,
            client: client.clone(),
            error: String::new(),
            took: MILLISECOND,
            protocol: proto::Protocol::Tcp.into(),
        }],
        flows: vec![SeenFlow {
            client,
            front: format!("192.0.2.{peer}:80"),
            protocol: "tcp".into(),
        }],
        fronts: vec!["80/tcp".into()],
    }
}

type Answers = BTreeMap<String, CheckAnswer>;

/// Both nodes' answers where all is well.
fn answers() -> Answers {
    Answers::from([("id1".into(), answer(2)), ("id2".into(), answer(1))])
}

/// The findings that are not "ok", of a case that is spoiled.
fn found(spoil: impl FnOnce(&mut Plan, &mut Answers)) -> Vec<(Level, String)> {
    let (mut plan, mut answers) = (plan(), answers());
    spoil(&mut plan, &mut answers);
    diagnose(&plan, &answers)
        .into_iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|finding| {
            assert!(!finding.remedy.is_empty(), "{finding:?}");
            let Finding {
                level,
                node,
                check,
                subject,
                found,
                ..
            } = finding;
            (level, format!("{node} {check} {subject}: {found}"))
        })
        .collect()
}

fn fault(text: &str) -> Vec<(Level, String)> {
    vec![(Level::Fault, text.to_owned())]
}

#[test]
fn all_well() {
    assert_eq!(found(|_, _| {}), []);
    let lines: Vec<String> = diagnose(&plan(), &answers())
        .into_iter()
        .filter(|finding| finding.node == "n1")
        .map(|finding| format!("{} {}: {}", finding.check, finding.subject, finding.found))
        .collect();
    assert_eq!(
        lines,
        [
            "node agent: answers",
            "clock : 0.002 s ahead of the manager's",
            "path to n2: packets of up to 1450 bytes, answered in 0.10 ms",
            "return to clients of n2: direct return is possible",
            "port 80/tcp web: a task answers in 1.00 ms",
        ]
    );
}

#[test]
fn nodes_that_are_away() {
    let down = found(|plan, answers| {
        plan.members[1].away = Some("heartbeat failure".into());
        plan.targets.truncate(1);
        plan.targets[0].by = Some(0);
        answers.get_mut("id1").unwrap().ports[0].address = "192.0.2.1".into();
        answers.get_mut("id1").unwrap().flows[0].front = "192.0.2.1:80".into();
        answers.remove("id2");
    });
    assert_eq!(down, fault("n2 node agent: down: heartbeat failure"));
    let silent = found(|_, answers| {
        answers.remove("id2");
    });
    assert_eq!(
        silent,
        [
            (
                Level::Warning,
                "n1 port 80/tcp web: not asked: n2 did not get to it".into()
            ),
            (Level::Fault, "n2 node agent: no answer within 6 s".into()),
        ]
    );
}

#[test]
fn clocks() {
    let off = |nanoseconds: i64| {
        found(|_, answers| answers.get_mut("id2").unwrap().clock_ahead = nanoseconds)
    };
    assert_eq!(off(-900_000_000), []);
    let behind = "n2 clock : 5.000 s behind the manager's".to_owned();
    assert_eq!(off(-5_000_000_000), [(Level::Warning, behind)]);
    assert_eq!(
        off(7_200_000_000_000),
        fault("n2 clock : 7200.000 s ahead of the manager's")
    );
}

#[test]
fn paths() {
    // What the nodes know of each other: (of n1, of n2).
    let path = |spoil: fn(&mut PathAnswer, &mut PathAnswer)| {
        found(|_, answers| {
            let mut one = answers.remove("id1").unwrap();
            let two = answers.get_mut("id2").unwrap();
            spoil(&mut one.paths[0], &mut two.paths[0]);
            answers.insert("id1".into(), one);
        })
    };
    let one_way = path(|one, two| (one.round_trip, two.round_trip, two.heard) = (0, 0, 0));
    assert_eq!(
        one_way,
        [
            (
                Level::Fault,
                "n1 path to n2: tunnel packets are lost".into()
            ),
            (
                Level::Warning,
                "n2 path to n1: tunnel packets arrive, but their answers are lost".into()
            ),
        ]
    );
    let changed = path(|_, two| two.changed = 1);
    assert_eq!(
        changed,
        fault("n1 path to n2: 1 of 3 probes arrive with other contents")
    );
    let sums = path(|_, two| two.bad_checksums = 2);
    assert_eq!(
        sums,
        fault("n1 path to n2: 2 of 4 probes arrive with a wrong checksum")
    );
    let lost = "packets of more than 1350 bytes are lost; tasks send up to 1450";
    let narrow = path(|one, _| one.largest = 1350);
    assert_eq!(narrow, fault(&format!("n1 path to n2: {lost}")));
    let smaller = path(|one, two| (one.largest, two.largest, two.wanted) = (1350, 1350, 1350));
    assert_eq!(
        smaller,
        [(Level::Warning, format!("n1 path to n2: {lost}"))]
    );
    // A router that says so is followed, but not what it takes beyond that.
    let said = path(|one, _| (one.largest, one.narrowed) = (1354, 1350));
    assert_eq!(said, []);
    let less = path(|one, _| (one.largest, one.narrowed) = (1350, 1400));
    assert_eq!(less, fault(&format!("n1 path to n2: {lost}")));
}

#[test]
fn direct_return_that_nobody_asks_for_is_no_fault() {
    let told = |state: DirectReturn| {
        let (plan, mut answers) = (plan(), answers());
        let path = &mut answers.get_mut("id1").unwrap().paths[0];
        path.set_direct_return(state);
        path.returned_under = "192.0.2.2".into();
        let findings = diagnose(&plan, &answers).into_iter();
        let mut returns = findings.filter(|f| f.node == "n1" && f.check == "return");
        returns.next().map(|finding| (finding.level, finding.found))
    };
    assert_eq!(told(DirectReturn::Untried), None);
    let lost = "direct return is not possible under 192.0.2.2: the network loses packets that this node sends under that \
                node's address";
    assert_eq!(told(DirectReturn::Lost), Some((Level::Ok, lost.into())));
}

#[test]
fn ports() {
    let nobody = found(|_, answers| {
        let told = &mut answers.get_mut("id1").unwrap().ports[0];
        told.client.clear();
        told.error = "no answer within 1500 ms".into();
    });
    assert_eq!(
        nobody,
        fault("n2 port 80/tcp web: asked by n1: no answer within 1500 ms")
    );
    let other = found(|_, answers| answers.get_mut("id1").unwrap().flows.clear());
    assert_eq!(
        other,
        fault("n2 port 80/tcp web: asked by n1: something answers that is no task")
    );
    let unknown = found(|_, answers| answers.get_mut("id2").unwrap().fronts.clear());
    assert_eq!(
        unknown,
        fault("n2 port 80/tcp web: the node does not know the port yet")
    );
    let older = found(|_, answers| answers.get_mut("id1").unwrap().flows[0].protocol.clear());
    assert_eq!(older, []);
    let idle = found(|plan, _| plan.idle.push(("dns".into(), port(53, Protocol::Udp))));
    assert_eq!(
        idle,
        [(Level::Warning, " port 53/udp dns: no task runs".into())]
    );
}

#[test]
fn ports_of_datagrams() {
    // Of n2, asked by n1; the task is there as well.
    let udp = |spoil: fn(&mut Plan, &mut Answers)| {
        found(|plan, answers| {
            plan.targets[1].port.protocol = Protocol::Udp;
            let one = answers.get_mut("id1").unwrap();
            one.ports[0].set_protocol(proto::Protocol::Udp);
            let flow = SeenFlow {
                protocol: "udp".into(),
                ..one.flows[0].clone()
            };
            let two = answers.get_mut("id2").unwrap();
            two.fronts.push("80/udp".into());
            two.flows.push(flow);
            spoil(plan, answers);
        })
    };
    let warning = |text: &str| vec![(Level::Warning, format!("n2 port 80/udp web: {text}"))];
    assert_eq!(udp(|_, _| {}), []);
    let lost = udp(|_, answers| drop(answers.get_mut("id2").unwrap().flows.pop()));
    assert_eq!(lost, warning("asked by n1: what is sent gets to no task"));
    // Agents that do not know of it have tried a connection.
    let old = udp(|_, answers| {
        let told = &mut answers.get_mut("id1").unwrap().ports[0];
        told.set_protocol(proto::Protocol::Tcp);
    });
    assert_eq!(old, warning("not asked: n1 did not get to it"));
    let of_host = udp(|plan, answers| {
        plan.targets[1].port.mode = PublishMode::Host;
        plan.targets[1].by = None;
        answers.get_mut("id2").unwrap().flows.pop();
    });
    assert_eq!(of_host, []);
}
