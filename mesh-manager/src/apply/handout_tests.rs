//! Secrets and configs: names, labels, who uses them, and what a service may claim.

use super::*;
use crate::{
    Command,
    fixture::{World, replicated, template},
    state::State,
};
use serde_json::{Value, json};

const BOTH: [Kind; 2] = [Kind::Secret, Kind::Config];

fn refusal<T: std::fmt::Debug>(outcome: Result<T, ManagerError>) -> (ErrorKind, String) {
    let error = outcome.unwrap_err();
    (error.kind, error.message)
}

fn remove(world: &mut World, kind: Kind, id: &str) -> Outcome {
    let id = id.to_owned();
    world.call(Command::RemoveHandout { kind, id })
}

#[test]
fn names_are_taken_once_per_kind() {
    let mut world = World::new(&[]);
    for kind in BOTH {
        let id = world.handout(kind, "key", b"sesame").unwrap();
        let taken = refusal(world.handout(kind, "key", b"other"));
        let text = format!("{} key already exists", kind.noun());
        assert_eq!(taken, (ErrorKind::AlreadyExists, text));
        for key in [&*id, "key", &id[..8]] {
            assert_eq!(world.state.find_handout(kind, key).unwrap().id, id);
        }
        let missing = refusal(world.state.find_handout(kind, "nobody"));
        let text = format!("{} nobody not found", kind.noun());
        assert_eq!(missing, (ErrorKind::NotFound, text));
    }
    for kind in BOTH {
        remove(&mut world, kind, "key").unwrap();
        assert_eq!(
            refusal(remove(&mut world, kind, "key")).0,
            ErrorKind::NotFound
        );
        world.handout(kind, "key", b"again").unwrap();
    }
}

#[test]
fn only_labels_change() {
    for kind in BOTH {
        let mut world = World::new(&[]);
        let id = world.handout(kind, "key", b"sesame").unwrap();
        let version = world.state.handout(kind, &id).unwrap().meta.version;
        let mut update = |version, name: &str, data: Option<&[u8]>| {
            world.call(Command::UpdateHandout {
                kind,
                id: id[..10].to_owned(),
                version,
                name: name.to_owned(),
                labels: [("a".to_owned(), "b".to_owned())].into(),
                data: data.map(|data| data.to_vec().into()),
            })
        };
        for (name, data) in [("other", None), ("key", Some(&b"open"[..])), ("", None)] {
            let (kind, text) = refusal(update(version, name, data));
            assert_eq!(kind, ErrorKind::InvalidArgument);
            assert!(
                text.ends_with("only updates to Labels are allowed"),
                "{text}"
            );
        }
        let stale = refusal(update(version - 1, "key", None)).1;
        assert!(stale.contains("update out of sequence"), "{stale}");
        update(version, "key", Some(b"sesame")).unwrap();
        assert!(update(version, "key", None).is_err(), "seen once");
        let changed = world.state.handout(kind, &id).unwrap();
        assert_eq!(changed.labels["a"], "b");
        assert_eq!(changed.data.reveal(), b"sesame");
        assert!(changed.meta.version > version);
    }
}

#[test]
fn what_a_service_uses_stays() {
    for kind in BOTH {
        let mut world = World::new(&["n1"]);
        world.handout(kind, "key", b"sesame").unwrap();
        for name in ["api", "web"] {
            let spec = world.claiming(replicated(name, 1), &[(kind, "key")]);
            world.service(spec).unwrap();
        }
        let noun = kind.noun();
        let refused = refusal(remove(&mut world, kind, "key"));
        let expected = format!("{noun} 'key' is in use by the following services: api, web");
        assert_eq!(refused, (ErrorKind::InvalidArgument, expected));
        // The tasks may still be there.
        world.work();
        let id = "api".to_owned();
        world.call(Command::RemoveService { id }).unwrap();
        let text = refusal(remove(&mut world, kind, "key")).1;
        let expected = format!("{noun} 'key' is in use by the following service: web");
        assert_eq!(text, expected);
        let web = world.state.find_service("web").unwrap().id.clone();
        world
            .edit(&web, |spec| {
                let container = template(spec).container_spec.as_mut().unwrap();
                (container.secrets, container.configs) = (None, None);
            })
            .unwrap();
        remove(&mut world, kind, "key").unwrap();
        // The way back is closed then, and says why.
        let version = world.state.service(&web).unwrap().meta.version;
        let spec = Box::new(world.state.service(&web).unwrap().spec.clone());
        let back = world.call(Command::UpdateService {
            id: web,
            version,
            spec,
            registry_auth: None,
            rollback: true,
        });
        let text = refusal(back).1;
        assert!(text.ends_with(&format!("{noun} not found: key")), "{text}");
    }
}

#[test]
fn a_service_claims_what_is_there() {
    let mut world = World::new(&[]);
    let id = world.handout(Kind::Secret, "key", b"sesame").unwrap();
    let file = json!({"Name": "key", "UID": "0", "GID": "0", "Mode": 0o444});
    let cases = [
        (
            json!([{"SecretID": id, "SecretName": "other", "File": file}]),
            "secret not found: other",
        ),
        (
            json!([{"SecretID": "x", "SecretName": "a", "File": file},
                   {"SecretID": "y", "SecretName": "b", "File": {"Name": "b"}}]),
            "secrets not found: a, b",
        ),
        (
            json!([{"SecretName": "key", "File": file}]),
            "malformed secret reference",
        ),
        (
            json!([{"SecretID": id, "SecretName": "key"}]),
            "malformed secret reference, no target provided",
        ),
        (
            json!([{"SecretID": id, "SecretName": "key", "File": {}}]),
            "malformed file secret reference, invalid target file name provided",
        ),
        (
            json!([{"SecretID": id, "SecretName": "key", "File": file},
                   {"SecretID": id, "SecretName": "key", "File": file}]),
            "secret references 'key' and 'key' have a conflicting target: 'key'",
        ),
    ];
    let with = |claims: Value| {
        let mut spec = replicated("web", 1);
        let container = template(&mut spec).container_spec.as_mut().unwrap();
        container.secrets = serde_json::from_value(claims).unwrap();
        spec
    };
    for (claims, told) in cases {
        let (kind, text) = refusal(world.service(with(claims)));
        assert_eq!(kind, ErrorKind::InvalidArgument);
        assert!(text.ends_with(&format!("desc = {told}")), "{text}");
    }
    // A config of the same id is another thing.
    let mut spec = replicated("web", 1);
    let claim = json!([{"ConfigID": id, "ConfigName": "key", "File": file}]);
    let container = template(&mut spec).container_spec.as_mut().unwrap();
    container.configs = serde_json::from_value(claim).unwrap();
    let text = refusal(world.service(spec)).1;
    assert!(text.ends_with("config not found: key"), "{text}");
    assert_eq!(world.state.services().count(), 0);
    world
        .service(with(
            json!([{"SecretID": id, "SecretName": "key", "File": file}]),
        ))
        .unwrap();
}

#[test]
fn the_state_keeps_them_and_does_not_show_them() {
    let mut world = World::new(&[]);
    for kind in BOTH {
        world.handout(kind, "key", b"sesame").unwrap();
    }
    assert!(!format!("{:?}", world.state).contains("sesame"));
    let snapshot = serde_json::to_vec(&world.state).unwrap();
    let read: State = serde_json::from_slice(&snapshot).unwrap();
    for kind in BOTH {
        let kept = read.find_handout(kind, "key").unwrap();
        assert_eq!(kept, world.state.find_handout(kind, "key").unwrap());
        let shown = kept.to_engine(kind).spec.unwrap().data;
        let expected = (kind == Kind::Config).then(|| "c2VzYW1l".to_owned());
        assert_eq!(shown, expected);
    }
    // A snapshot of a version without them.
    let mut old: Value = serde_json::from_slice(&snapshot).unwrap();
    let fields = old.as_object_mut().unwrap();
    assert!(fields.remove("secrets").is_some() && fields.remove("configs").is_some());
    let read: State = serde_json::from_value(old).unwrap();
    assert_eq!(read.handouts(Kind::Secret).count(), 0);
}
