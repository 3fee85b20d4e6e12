//! Changes of the cluster object: its tokens, and what managers are locked with.

use crate::{Command, ErrorKind, Operation, command::RULES, fixture::World};
use mesh_api::{Sensitive, engine};
use mesh_pki::UnlockKey;

fn update(version: u64, spec: engine::SwarmSpec) -> Command {
    Command::UpdateSwarm {
        version,
        spec,
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: false,
        unlock_key: None,
        root: None,
    }
}

#[test]
fn tokens_rotate() {
    let mut world = World::new(&[]);
    let old = world.state.cluster().unwrap().clone();
    let rotate = |version| {
        let mut command = update(version, engine::SwarmSpec::default());
        if let Command::UpdateSwarm {
            rotate_worker_token,
            ..
        } = &mut command
        {
            *rotate_worker_token = true;
        }
        command
    };
    world.call(rotate(old.meta.version)).unwrap();
    let new = world.state.cluster().unwrap();
    assert_ne!(new.worker_token, old.worker_token);
    assert_eq!(new.worker_token[..59], old.worker_token[..59], "same root");
    assert_eq!(new.manager_token, old.manager_token);
    assert_eq!(new.spec, old.spec, "an empty spec changes nothing");
    let error = world.call(rotate(old.meta.version)).unwrap_err();
    assert!(error.message.contains("update out of sequence"), "{error}");
}

/// Turns autolock on or off, or leaves it, with this key at hand.
fn lock(world: &World, autolock: Option<bool>, rotate: bool, key: Option<&UnlockKey>) -> Command {
    let spec = engine::SwarmSpec {
        encryption_config: Some(engine::SwarmSpecEncryptionConfig {
            auto_lock_managers: autolock,
        }),
        ..Default::default()
    };
    Command::UpdateSwarm {
        version: world.state.cluster().unwrap().meta.version,
        spec,
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: rotate,
        unlock_key: key.map(|key| key.as_bytes().to_vec().into()),
        root: None,
    }
}

#[test]
fn the_unlock_key_is_there_while_managers_are_locked() {
    let mut world = World::new(&[]);
    let [first, second, third, fourth] = [(); 4].map(|()| UnlockKey::generate());
    let table = [
        ("off", None, false, &first, None),
        ("nothing to rotate", None, true, &first, None),
        ("turned on", Some(true), false, &first, Some(&first)),
        ("on still", Some(true), false, &second, Some(&first)),
        ("not said", None, false, &second, Some(&first)),
        ("rotated", Some(true), true, &second, Some(&second)),
        ("turned off", Some(false), true, &third, None),
        ("another one", Some(true), false, &fourth, Some(&fourth)),
    ];
    for (what, autolock, rotate, new, expected) in table {
        let command = lock(&world, autolock, rotate, Some(new));
        world.call(command).unwrap();
        let cluster = world.state.cluster().unwrap();
        assert_eq!(cluster.unlock_key().as_ref(), expected, "{what}");
        assert!(
            !format!("{cluster:?}").contains("unlock_key: Some(["),
            "{what}"
        );
    }
}

#[test]
fn a_lock_without_a_key_is_refused_and_so_is_what_old_versions_refused() {
    let mut world = World::new(&[]);
    let before = world.state.cluster().unwrap().clone();
    let mut refused = |rules, command| {
        let error = world
            .apply_by(rules, Operation::Command(command))
            .unwrap_err();
        let now = world.state.cluster().unwrap();
        assert_eq!(
            (now.meta.version, &now.spec),
            (before.meta.version, &before.spec)
        );
        error.kind
    };
    let world_now = World::new(&[]);
    let key = UnlockKey::generate();
    let without = lock(&world_now, Some(true), false, None);
    assert_eq!(refused(RULES, without.clone()), ErrorKind::InvalidArgument);
    let mut short = without;
    if let Command::UpdateSwarm { unlock_key, .. } = &mut short {
        *unlock_key = Some(Sensitive::from(vec![1; 31]));
    }
    assert_eq!(refused(RULES, short), ErrorKind::InvalidArgument);
    let good = lock(&world_now, Some(true), false, Some(&key));
    assert_eq!(refused(2, good), ErrorKind::Unimplemented);
}

#[test]
fn settings_that_nobody_follows_are_refused_where_they_change() {
    let spec = |raft: serde_json::Value| -> engine::SwarmSpec {
        serde_json::from_value(serde_json::json!({ "Raft": raft })).unwrap()
    };
    let refuse = |spec: &engine::SwarmSpec, old: Option<&engine::SwarmSpec>| {
        super::refuse_raft_settings(&mut spec.clone(), old)
    };
    let world = World::new(&[]);
    let stored = &world.state.cluster().unwrap().spec;
    let defaults =
        serde_json::json!({"SnapshotInterval": 10_000, "KeepOldSnapshots": 0, "ElectionTick": 0});
    let defaults = spec(defaults);
    for fine in [&engine::SwarmSpec::default(), &defaults, stored] {
        assert_eq!(refuse(fine, None), Ok(()));
        assert_eq!(refuse(fine, Some(stored)), Ok(()));
    }
    // What means nothing is left as it is, not stored.
    let mut zeros = spec(serde_json::json!({
        "SnapshotInterval": 0, "LogEntriesForSlowFollowers": 0, "ElectionTick": 0, "HeartbeatTick": 0
    }));
    super::refuse_raft_settings(&mut zeros, Some(stored)).unwrap();
    assert_eq!(zeros.raft, Some(engine::SwarmSpecRaft::default()));
    for name in [
        "SnapshotInterval",
        "KeepOldSnapshots",
        "LogEntriesForSlowFollowers",
        "ElectionTick",
        "HeartbeatTick",
    ] {
        let changed = spec(serde_json::json!({name: 7}));
        for old in [None, Some(stored)] {
            let error = refuse(&changed, old).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unimplemented, "{name}");
            assert!(
                error.message.contains("a snapshot after 5000 entries"),
                "{error}"
            );
        }
        // One that an older version took goes on to be shown, and may come back.
        let old = Some(&changed);
        assert_eq!(refuse(&changed, old), Ok(()), "{name}");
        assert_eq!(refuse(&engine::SwarmSpec::default(), old), Ok(()), "{name}");
    }
}

#[test]
fn heartbeats_that_no_agent_sends_are_refused_where_they_change() {
    let spec = |period| engine::SwarmSpec {
        dispatcher: Some(engine::SwarmSpecDispatcher {
            heartbeat_period: period,
        }),
        ..Default::default()
    };
    let short = spec(Some(99_999_999));
    for (asked, old, refusal) in [
        (None, None, None),
        (Some(0), None, None),
        (Some(100_000_000), None, None),
        (
            Some(99_999_999),
            None,
            Some("heartbeat time period cannot be shorter than 100ms: 99999999ns"),
        ),
        (
            Some(1),
            Some(&short),
            Some("heartbeat time period cannot be shorter than 100ms: 1ns"),
        ),
        // As an older manager took it; the client sends back what it has read.
        (Some(99_999_999), Some(&short), None),
    ] {
        let refused = super::refuse_short_heartbeat(&spec(asked), old).err();
        let said = |refusal: &str| format!("rpc error: code = InvalidArgument desc = {refusal}");
        let refused = refused.map(|error| error.message);
        assert_eq!(refused, refusal.map(said), "{asked:?}");
    }
    // Read again, the log of an older manager is what it was.
    let mut world = World::new(&[]);
    let version = world.state.cluster().unwrap().meta.version;
    world.call(update(version, short.clone())).unwrap();
    let now = world.state.cluster().unwrap();
    assert_eq!(now.spec.dispatcher, short.dispatcher);
}
