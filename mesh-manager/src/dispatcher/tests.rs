//! What a node is told, and what it is spared.

use super::{Sent, Session, Sessions};
use crate::{
    Command, Operation,
    fixture::{SECOND, World, constrained, job, on, published, replicated, template},
    state::TaskState,
};
use mesh_api::{
    handout::Kind,
    proto::{self, object::Object as Body},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Names of what an assignment brings, sorted.
fn brings(assignment: &proto::Assignment) -> Vec<String> {
    let name = |object: &proto::Object| match object.object.as_ref().unwrap() {
        Body::Task(t) => format!("task {}", t.service_name),
        Body::Network(n) => format!("network {}", n.name),
        Body::Service(s) => format!("service {}", s.name),
        Body::Endpoint(e) => format!("endpoint of {}", e.name.split('.').next().unwrap()),
        Body::Peer(p) => format!("peer {}", p.hostname),
        Body::Secret(s) => format!("secret {}", String::from_utf8_lossy(&s.data)),
        Body::Config(c) => format!("config {}", String::from_utf8_lossy(&c.data)),
    };
    let mut names: Vec<_> = assignment.objects.iter().map(name).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_task_that_has_ended_is_never_to_run_again() {
    let mut world = World::new(&["n1"]);
    world.service(job("job", 1, 1)).unwrap();
    world.work();
    let told = |assignment: &proto::Assignment| -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        for object in &assignment.objects {
            match object.object.as_ref().unwrap() {
                Body::Task(t) => told.push(format!("{} {}", t.slot, t.desired_state)),
                Body::Endpoint(_) => told.push("endpoint".to_owned()),
                _ => {}
            }
        }
        told
    };
    let mut sent = Sent::default();
    let first = sent.advance(&world.state, "n1").unwrap();
    assert_eq!(told(&first), ["0 running"]);
    let task = world.state.tasks().next().unwrap().id.clone();
    world.report(&task, TaskState::Complete);
    let delta = sent.advance(&world.state, "n1").unwrap();
    assert_eq!(told(&delta), ["0 shutdown"]);
    // An agent that remembers nothing of it is told all.
    let anew = Sent::default().advance(&world.state, "n1").unwrap();
    assert_eq!(told(&anew), ["0 shutdown"]);
}

#[test]
fn a_node_learns_what_concerns_it() {
    let mut world = World::new(&["n1", "n2"]);
    world.network("front", "").unwrap();
    world.network("back", "").unwrap();
    let pin = |spec, node: &str| constrained(spec, &[&format!("node.hostname=={node}")]);
    world
        .service(pin(on(replicated("web", 1), &["front"]), "n1"))
        .unwrap();
    world
        .service(pin(on(replicated("db", 1), &["back"]), "n2"))
        .unwrap();
    world
        .service(pin(published("shop", 80, false), "n2"))
        .unwrap();
    world.work();

    let mut sent = Sent::default();
    let first = sent.advance(&world.state, "n1").unwrap();
    assert!(first.full);
    assert_eq!(first.revision, world.state.index());
    assert_eq!(
        brings(&first),
        [
            "endpoint of shop",
            "endpoint of web",
            "network front",
            "network ingress",
            "peer n1",
            "peer n2",
            "service shop",
            "service web",
            "task web",
        ]
    );
    assert!(sent.advance(&world.state, "n1").is_none(), "nothing new");

    // A second replica of db elsewhere is none of n1's business; one of web is.
    let db = world.state.find_service("db").unwrap().id.clone();
    world.scale(&db, 2);
    world.work();
    assert!(sent.advance(&world.state, "n1").is_none());
    let web = world.state.find_service("web").unwrap().id.clone();
    world
        .edit(&web, |s| {
            template(s).placement = None;
            s.mode = replicated("web", 2).mode;
        })
        .unwrap();
    world.work();
    let delta = sent.advance(&world.state, "n1").unwrap();
    assert!(!delta.full);
    assert_eq!(brings(&delta)[0], "endpoint of web");

    world
        .call(Command::RemoveService {
            id: "shop".to_owned(),
        })
        .unwrap();
    let delta = sent.advance(&world.state, "n1").unwrap();
    let mut kinds: Vec<_> = delta.removed.iter().map(|r| r.kind()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [proto::Kind::Service, proto::Kind::Endpoint]);
}

#[test]
fn secrets_and_configs_go_to_nodes_with_a_task_that_claims_them() {
    let mut world = World::new(&["n1", "n2"]);
    for (kind, name) in [
        (Kind::Secret, "key"),
        (Kind::Secret, "unused"),
        (Kind::Config, "conf"),
    ] {
        world.handout(kind, name, name.as_bytes()).unwrap();
    }
    let claims = [(Kind::Secret, "key"), (Kind::Config, "conf")];
    let spec = world.claiming(replicated("web", 1), &claims);
    let id = world
        .service(constrained(spec, &["node.hostname==n1"]))
        .unwrap();
    let [mut first, mut second] = [Sent::default(), Sent::default()];
    let handed = |sent: &mut Sent, world: &World, node: &str| -> Vec<String> {
        let assignment = sent.advance(&world.state, node);
        let mut told = assignment.map(|a| brings(&a)).unwrap_or_default();
        told.retain(|name| name.starts_with("secret") || name.starts_with("config"));
        told
    };
    assert!(handed(&mut first, &world, "n1").is_empty(), "no task yet");
    world.settle();
    // With the task itself, before it begins.
    let both = ["config conf", "secret key"];
    assert_eq!(handed(&mut first, &world, "n1"), both);
    world.work();
    assert!(handed(&mut first, &world, "n1").is_empty(), "nothing new");
    assert!(handed(&mut second, &world, "n2").is_empty());
    // One that starts anew is told again, in full.
    assert_eq!(handed(&mut Sent::default(), &world, "n1"), both);

    // Other labels are nothing to a node.
    let version = world.state.find_handout(Kind::Secret, "key").unwrap();
    let version = version.meta.version;
    world
        .call(Command::UpdateHandout {
            kind: Kind::Secret,
            id: "key".to_owned(),
            version,
            name: "key".to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            data: None,
        })
        .unwrap();
    assert!(handed(&mut first, &world, "n1").is_empty());

    // They go with the last task that has them.
    world.scale(&id, 0);
    world.work();
    let last = first.advance(&world.state, "n1").unwrap();
    let mut kinds: Vec<_> = last.removed.iter().map(|r| r.kind()).collect();
    kinds.retain(|kind| matches!(kind, proto::Kind::Secret | proto::Kind::Config));
    assert_eq!(kinds, [proto::Kind::Secret, proto::Kind::Config]);
}

#[test]
fn endpoints_are_active_only_while_they_run() {
    let mut world = World::new(&["n1"]);
    let id = world.service(published("web", 80, false)).unwrap();
    let mut sent = Sent::default();
    let endpoint = |sent: &mut Sent, world: &World| {
        let assignment = sent.advance(&world.state, "n1")?;
        assignment.objects.into_iter().find_map(|o| match o.object {
            Some(Body::Endpoint(e)) => Some(e.state()),
            _ => None,
        })
    };
    world.settle();
    let starting = endpoint(&mut sent, &world);
    assert_eq!(
        starting,
        Some(proto::EndpointState::Draining),
        "reachable, takes no flows yet"
    );
    world.work();
    assert_eq!(
        endpoint(&mut sent, &world),
        Some(proto::EndpointState::Active)
    );
    world.acknowledge = false;
    world.scale(&id, 0);
    world.settle();
    assert_eq!(
        endpoint(&mut sent, &world),
        Some(proto::EndpointState::Draining)
    );
    world.acknowledge = true;
    world.now += SECOND;
    world.settle();
    assert_eq!(
        endpoint(&mut sent, &world),
        None,
        "still draining while it stops"
    );
    world.work();
    let last = sent.advance(&world.state, "n1").unwrap();
    assert!(
        last.removed
            .iter()
            .any(|r| r.kind() == proto::Kind::Endpoint)
    );
}

#[test]
fn a_state_is_acknowledged_once_every_node_has_it() {
    let sessions = Sessions::default();
    let hour = Duration::from_secs(3600);
    let of = |nodes: &[&str], patience| {
        sessions.acknowledged(nodes.iter().copied(), patience, Instant::now())
    };
    let of_both = || of(&["a", "b"], hour);
    assert_eq!(of(&[], hour), u64::MAX, "no nodes, nobody to wait for");
    let session = |node: &str| {
        let (messages, _) = tokio::sync::mpsc::channel(1);
        Arc::new(Session::new(node, CancellationToken::new(), messages))
    };
    let (a, b) = (session("a"), session("b"));
    sessions.add(a.clone());
    a.note_sent(4);
    a.note_applied(4);
    assert_eq!(of(&["a"], hour), 4);
    assert_eq!(of_both(), 0, "b has no session");
    sessions.add(b.clone());
    assert_eq!(of_both(), 0, "b was told nothing yet");
    a.note_sent(7);
    b.note_sent(5);
    b.note_applied(5);
    assert_eq!(of_both(), 4);
    a.note_applied(7);
    assert_eq!(of_both(), 5);
    // Nothing new for b: its silence is consent.
    b.note_covered(7);
    assert_eq!(of_both(), 7);

    // What it had from the managers of a group that was rebuilt says nothing of what it is sent now.
    b.note_applied(1000);
    assert_eq!(of_both(), 0);
    b.note_applied(5);
    assert_eq!(of_both(), 7);

    // A newer session ends the older one; the older one's end does not remove the newer.
    let again = session("a");
    sessions.add(again.clone());
    // What its node had kept from before, and says to have applied, is not what it was told since.
    again.note_applied(7);
    assert_eq!(of_both(), 0);
    again.note_sent(9);
    assert_eq!(of_both(), 0);
    b.note_covered(11);
    again.note_sent(11);
    again.note_applied(9);
    assert_eq!(of_both(), 9);
    again.note_applied(7);
    assert_eq!(of_both(), 0, "nor is that");
    assert!(a.cancel.is_cancelled());
    sessions.remove(&a);
    assert_eq!(sessions.get("a").unwrap().id, again.id);
}

#[test]
fn a_node_that_stands_still_is_waited_for_once() {
    let sessions = Sessions::default();
    let (messages, _) = tokio::sync::mpsc::channel(1);
    let session = Arc::new(Session::new("a", CancellationToken::new(), messages));
    sessions.add(session.clone());
    let hour = Duration::from_secs(3600);
    let of = |node, now| sessions.acknowledged([node].into_iter(), hour, now);
    let is_waited_for = |now| of("a", now) < u64::MAX;
    let check = |is_behind: bool| {
        assert!(is_waited_for(Instant::now()));
        assert_eq!(is_waited_for(Instant::now() + hour), !is_behind);
    };
    // A new session has yet to be told something.
    check(true);
    session.note_sent(5);
    check(true);
    session.note_applied(5);
    check(false);
    session.note_sent(7);
    check(true);
    let then = later();
    // However long it takes: it moves.
    session.note_sent(9);
    session.note_applied(7);
    assert!(is_waited_for(then + hour));
    check(true);
    session.note_applied(9);
    check(false);
    // Nothing new is nothing to apply.
    session.note_covered(11);
    check(false);
    assert_eq!(of("b", Instant::now() + hour), 0, "it had no session");
}

/// Waits until the clock has moved.
fn later() -> Instant {
    let then = Instant::now();
    while Instant::now() <= then {}
    Instant::now()
}

#[test]
fn a_node_that_keeps_no_session_is_waited_for_once() {
    let sessions = Sessions::default();
    let patience = Duration::from_secs(30);
    let is_acknowledged =
        |index, now| sessions.acknowledged(["a"].into_iter(), patience, now) >= index;
    let open = |kept: u64| {
        later();
        let (messages, _) = tokio::sync::mpsc::channel(1);
        let session = Arc::new(Session::new("a", CancellationToken::new(), messages));
        sessions.add(session.clone());
        // What it had saved, which it tells before anything else.
        session.note_applied(kept);
        session
    };
    let session = open(0);
    session.note_sent(5);
    session.note_applied(5);
    // A task leaves by 7; its agent fails at that, comes back and fails, now in the middle of a session, now between two.
    session.note_sent(7);
    let first_left = later();
    for revision in 8..12 {
        if revision % 2 == 0 {
            let ending = sessions.get("a").unwrap();
            sessions.remove(&ending);
            let now = later();
            assert!(!is_acknowledged(7, now) && is_acknowledged(7, first_left + patience));
        }
        open(5).note_sent(revision);
        let now = later();
        assert!(!is_acknowledged(7, now) && is_acknowledged(7, first_left + patience));
    }
    // So the next one, which leaves by 20 once the first has waited, does not wait for it.
    assert!(is_acknowledged(20, first_left + patience));

    // It follows again.
    let session = open(5);
    session.note_sent(20);
    session.note_applied(20);
    let now = later();
    assert!(is_acknowledged(20, now) && !is_acknowledged(21, now + patience));
    // Its agent is started again: until it is told, it goes by old news, and has all the time.
    sessions.remove(&session);
    let ended = later();
    assert!(!is_acknowledged(20, ended + patience * 2));
    open(20);
    assert!(!is_acknowledged(20, ended + patience));
    // So has one that stood still, and was down since.
    for is_open in [true, false] {
        sessions.get("a").unwrap().note_sent(22);
        let ended = later();
        if !is_open {
            let ending = sessions.get("a").unwrap();
            sessions.remove(&ending);
        }
        assert!(is_acknowledged(22, ended + patience));
        let session = sessions.get("a");
        sessions.forget("a");
        if let Some(session) = session {
            assert!(session.cancel.is_cancelled());
            // As it ends, later on.
            sessions.remove(&session);
        }
        assert!(!is_acknowledged(22, ended + patience));
        open(20);
        assert!(!is_acknowledged(22, ended + patience));
    }
    // One that has said what it has before it is told the same has all the time for the next.
    let session = open(22);
    session.note_sent(22);
    let now = later();
    session.note_sent(23);
    assert!(is_acknowledged(22, now) && !is_acknowledged(23, now + patience));
}

/// What a node knows: its objects by kind and id.
#[derive(Debug, Default, PartialEq)]
struct Known(BTreeMap<(i32, String), Body>);

impl Known {
    fn take(&mut self, assignment: proto::Assignment) {
        let id = |body: &Body| {
            let (kind, id) = match body {
                Body::Task(t) => (proto::Kind::Task, &t.id),
                Body::Network(n) => (proto::Kind::Network, &n.id),
                Body::Service(s) => (proto::Kind::Service, &s.id),
                Body::Endpoint(e) => (proto::Kind::Endpoint, &e.id),
                Body::Peer(p) => (proto::Kind::Peer, &p.id),
                Body::Secret(s) => (proto::Kind::Secret, &s.id),
                Body::Config(c) => (proto::Kind::Config, &c.id),
            };
            (kind.into(), id.clone())
        };
        for object in assignment.objects {
            let body = object.object.unwrap();
            self.0.insert(id(&body), body);
        }
        for gone in assignment.removed {
            self.0.remove(&(gone.kind, gone.id));
        }
    }
}

#[test]
fn differences_add_up_to_the_whole() {
    let mut world = World::new(&["n1", "n2", "n3"]);
    world.network("front", "").unwrap();
    let web = world.service(on(replicated("web", 3), &["front"])).unwrap();
    let shop = world.service(published("shop", 80, false)).unwrap();
    let plain = world.service(replicated("plain", 4)).unwrap();
    let catalog = Arc::default();
    let mut sessions: Vec<(&str, Sent, Known)> = ["n1", "n2", "n3"]
        .map(|node| (node, Sent::nothing(&catalog), Known::default()))
        .into();
    let mut step = |world: &mut World, what: &str, change: &dyn Fn(&mut World)| {
        change(world);
        for _ in 0..2 {
            // Both with everything under way and at rest.
            for (node, sent, known) in &mut sessions {
                if let Some(assignment) = sent.advance(&world.state, node) {
                    known.take(assignment);
                }
                let mut whole = Known::default();
                let all = Sent::default().advance(&world.state, node);
                whole.take(all.unwrap());
                assert_eq!(*known, whole, "{node} after {what}");
            }
            world.work();
        }
    };
    step(&mut world, "the first tasks", &|world| world.work());
    step(&mut world, "web grew", &|world| world.scale(&web, 6));
    step(&mut world, "shop grew", &|world| world.scale(&shop, 3));
    step(&mut world, "n3 went down", &|world| world.node_down("n3"));
    step(&mut world, "plain shrank", &|world| world.scale(&plain, 1));
    step(&mut world, "n3 came back", &|world| world.node_up("n3"));
    step(&mut world, "web shrank", &|world| world.scale(&web, 1));
    step(&mut world, "a snapshot was read", &|world| {
        world.state.rebuild_indexes();
    });
    step(&mut world, "shop was removed", &|world| {
        let id = shop.clone();
        world.call(Command::RemoveService { id }).unwrap();
    });
    step(&mut world, "web was renewed", &|world| {
        world.force_update(&web)
    });
}

/// Whatever happens in whatever order, and however seldom a session looks.
#[test]
fn differences_add_up_to_the_whole_at_any_time() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = ["n1", "n2", "n3", "n4"];
        let mut world = World::new(&nodes);
        let networks = ["front", "back"];
        for network in networks {
            world.network(network, "").unwrap();
        }
        let catalog = Arc::default();
        let session = |node| (node, Sent::nothing(&catalog), Known::default());
        let mut sessions = nodes.map(session);
        let mut services: Vec<String> = Vec::new();
        for step in 0..150 {
            let some = services.get(random.random_range(0..6)).cloned();
            let node = nodes[random.random_range(0..4)];
            match (random.random_range(0..12), some) {
                (0..3, None) => {
                    let (name, replicas) = (format!("s{step}"), random.random_range(0..4));
                    let network = networks[random.random_range(0..2)];
                    let port = random.random_bool(0.5).then_some(1000 + step);
                    let spec = match port {
                        Some(port) => published(&name, port, false),
                        None => replicated(&name, replicas),
                    };
                    let spec = match random.random_bool(0.5) {
                        true => on(spec, &[network]),
                        false => spec,
                    };
                    services.push(world.service(spec).unwrap());
                }
                (0..3, Some(id)) => world.scale(&id, random.random_range(0..6)),
                (3, Some(id)) => world.force_update(&id),
                (4, Some(id)) => {
                    services.retain(|one| *one != id);
                    world.call(Command::RemoveService { id }).unwrap();
                }
                (5, _) => world.node_down(node),
                (6..8, _) => world.node_up(node),
                (8, _) => world.work(),
                (9, _) => world.now += 10 * SECOND,
                (10, _) if step % 40 == 0 => world.state.rebuild_indexes(),
                // One task goes on, or ends.
                _ => {
                    let all: Vec<(String, TaskState)> = world
                        .state
                        .tasks()
                        .filter(|task| task.node_id.is_some() && !task.status.state.is_terminal())
                        .map(|task| (task.id.clone(), task.desired))
                        .collect();
                    if !all.is_empty() {
                        let (task, desired) = &all[random.random_range(0..all.len())];
                        world.report(task, (*desired).min(TaskState::Shutdown));
                    }
                }
            }
            if random.random_bool(0.5) {
                let changes = world.plan();
                world.apply(Operation::Reconcile(changes)).unwrap();
            }
            for (pace, (node, sent, known)) in (1..).zip(&mut sessions) {
                if step % pace > 0 {
                    continue;
                }
                if let Some(assignment) = sent.advance(&world.state, node) {
                    known.take(assignment);
                }
                let mut whole = Known::default();
                let all = Sent::default().advance(&world.state, node);
                whole.take(all.unwrap());
                assert_eq!(*known, whole, "{node} after step {step} of seed {seed}");
            }
        }
    }
}
