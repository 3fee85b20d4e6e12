//! The keys of managers' logs: locked with the cluster's unlock key, and exchanged for others.

mod common;

use common::{PATIENCE, config, create, eventually, free_address, service};
use mesh_api::engine;
use mesh_manager::{
    Command, Config, ErrorKind, InitOptions, Manager, ManagerHandle, Timings, Unlock,
};
use mesh_pki::{NodeIdentity, UnlockKey};
use serde_json::json;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command as Process, Stdio},
};

/// Tells the re-executed test binary where to work, and how to go on there.
const CHILD_DIRECTORY: &str = "MESH_TEST_CHILD_DIRECTORY";
const CHILD_KEY: &str = "MESH_TEST_CHILD_KEY";

fn locked_spec(autolock: bool) -> engine::SwarmSpec {
    engine::SwarmSpec {
        encryption_config: Some(engine::SwarmSpecEncryptionConfig {
            auto_lock_managers: Some(autolock),
        }),
        ..Default::default()
    }
}

async fn init(config: Config) -> ManagerHandle {
    let options = InitOptions {
        spec: locked_spec(true),
        ..InitOptions::default()
    };
    Manager::init(config, options).await.unwrap()
}

fn key(manager: &ManagerHandle) -> Option<UnlockKey> {
    manager.view().cluster().unwrap().unlock_key()
}

async fn update(manager: &ManagerHandle, autolock: bool, rotate: bool) {
    update_with(manager, autolock, rotate, &UnlockKey::generate()).await;
}

async fn update_with(manager: &ManagerHandle, autolock: bool, rotate: bool, key: &UnlockKey) {
    let version = manager.view().cluster().unwrap().meta.version;
    let command = Command::UpdateSwarm {
        version,
        spec: locked_spec(autolock),
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: rotate,
        unlock_key: Some(key.as_bytes().to_vec().into()),
        root: None,
    };
    manager.call(command).await.unwrap();
}

/// As another process finds it.
fn anew(config: &Config) -> Config {
    Config {
        unlock: Unlock::default(),
        ..config.clone()
    }
}

async fn restart(config: &Config, key: &UnlockKey) -> ManagerHandle {
    let config = anew(config);
    assert!(Manager::is_locked(&config).unwrap());
    assert!(Manager::unlock(&config, key.clone()).unwrap());
    assert!(!Manager::is_locked(&config).unwrap());
    go_on(config).await
}

async fn go_on(config: Config) -> ManagerHandle {
    // What served the last connections of the former one may hold the log for a moment.
    let manager = common::group::restart(config, Vec::new()).await;
    let ready = tokio::time::timeout(PATIENCE, manager.ready()).await;
    ready.expect("a leader").expect("a state");
    manager
}

/// Whether this key opens what is on disk.
fn fits(config: &Config, key: &UnlockKey) -> bool {
    Manager::unlock(&anew(config), key.clone()).unwrap()
}

fn has_in_clear(directory: &Path, text: &str) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_disk_takes_the_unlock_key() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let manager = init(config.clone()).await;
    let identity = manager.identity().clone();
    let first = key(&manager).unwrap();
    create(&manager, service("web", 0)).await;
    manager.shutdown().await;
    drop(manager);

    let secret = identity.key_pem.lines().nth(1).unwrap();
    assert!(!has_in_clear(&config.identity_dir, secret));
    assert!(!has_in_clear(&config.data_dir, "\"keys\""));
    let locked = anew(&config);
    let seen = Manager::identity(&locked).unwrap().unwrap();
    assert!(seen == identity.clone().without_key());
    let refused = Manager::restart(locked.clone(), Vec::new()).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::FailedPrecondition);
    assert!(!fits(&config, &UnlockKey::generate()));
    assert!(
        Manager::is_locked(&locked).unwrap(),
        "a wrong key changes nothing"
    );

    let manager = restart(&config, &first).await;
    assert!(*manager.identity() == identity);
    assert!(manager.view().find_service("web").is_ok());
    update(&manager, true, true).await;
    let second = key(&manager).unwrap();
    assert!(second != first && fits(&config, &second) && !fits(&config, &first));
    create(&manager, service("more", 0)).await;
    manager.shutdown().await;
    drop(manager);

    let manager = restart(&config, &second).await;
    for name in ["web", "more"] {
        assert!(manager.view().find_service(name).is_ok(), "{name}");
    }
    let backup = manager.backup().unwrap();
    assert!(mesh_api::backup::is_locked(&backup));
    update(&manager, false, false).await;
    assert_eq!(key(&manager), None);
    assert!(!mesh_api::backup::is_locked(&manager.backup().unwrap()));
    manager.shutdown().await;
    drop(manager);
    let open = anew(&config);
    assert!(!Manager::is_locked(&open).unwrap());
    go_on(open).await.shutdown().await;
}

fn key_file(config: &Config) -> PathBuf {
    config.data_dir.join("raft.key")
}

/// The ids of the keys of the log that are in the file.
fn data_keys(config: &Config, key: &UnlockKey) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Locked {
        locked: mesh_api::Sensitive,
    }
    let text = fs::read(key_file(config)).unwrap();
    let file: Locked = serde_json::from_slice(&text).unwrap();
    ids(&key.open(b"raft-keys", file.locked.reveal()).unwrap())
}

/// The ids of the keys, as they are in a file that is not locked.
fn ids(text: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Key {
        id: String,
    }
    #[derive(serde::Deserialize)]
    struct Keys {
        keys: Vec<Key>,
    }
    let keys = serde_json::from_slice::<Keys>(text).unwrap().keys;
    keys.into_iter().map(|key| key.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_old_is_exchanged_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let manager = Manager::init(config.clone(), InitOptions::default()).await;
    let manager = manager.unwrap();
    create(&manager, service("web", 0)).await;
    manager.shutdown().await;
    drop(manager);
    let now = || ids(&fs::read(key_file(&config)).unwrap());
    // Of 1970; as older versions wrote it, which did not say from when it is; and one of today.
    for (made, is_exchanged) in [(Some(json!(0)), true), (None, true), (None, false)] {
        if is_exchanged {
            let text = fs::read(key_file(&config)).unwrap();
            let mut file: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let key = file["keys"][0].as_object_mut().unwrap();
            assert!(key.remove("made").is_some());
            key.extend(made.map(|made| ("made".to_owned(), made)));
            fs::write(key_file(&config), file.to_string()).unwrap();
        }
        let before = now();
        let manager = go_on(anew(&config)).await;
        if is_exchanged {
            eventually("there is another key, and none besides", || {
                let now = now();
                (now.len() == 1 && now != before).then_some(())
            })
            .await;
        }
        assert!(manager.view().find_service("web").is_ok());
        manager.shutdown().await;
        if !is_exchanged {
            assert_eq!(now(), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_new_key_is_compacted_and_the_old_key_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let manager = init(config.clone()).await;
    create(&manager, service("web", 0)).await;
    for _ in 0..2 {
        update(&manager, true, true).await;
        let now = key(&manager).unwrap();
        eventually("one key is left", || {
            (data_keys(&config, &now).len() == 1).then_some(())
        })
        .await;
    }
    let last = key(&manager).unwrap();
    manager.shutdown().await;
    drop(manager);
    let manager = restart(&config, &last).await;
    assert!(manager.view().find_service("web").is_ok());
    manager.shutdown().await;
}

/// A manager may end when the cluster has another key, and its file has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_did_not_get_to_lock_itself_anew_opens_with_the_former_key() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let manager = init(config.clone()).await;
    let first = key(&manager).unwrap();
    // The disk takes everything but the key file.
    let next = config.data_dir.join("raft.key.next");
    fs::create_dir(&next).unwrap();
    update(&manager, true, true).await;
    let second = key(&manager).unwrap();
    create(&manager, service("web", 0)).await;
    assert!(fits(&config, &first) && !fits(&config, &second));
    manager.shutdown().await;
    drop(manager);
    fs::remove_dir(&next).unwrap();

    let manager = restart(&config, &first).await;
    assert!(manager.view().find_service("web").is_ok());
    assert_eq!(key(&manager), Some(second.clone()));
    eventually("it is locked anew", || {
        (fits(&config, &second) && !fits(&config, &first)).then_some(())
    })
    .await;
    manager.shutdown().await;
}

/// The log is read again from a snapshot in which managers were not locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_states_of_the_log_unlock_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let manager = init(config.clone()).await;
    for autolock in [false, true] {
        update(&manager, autolock, false).await;
    }
    let last = key(&manager).unwrap();
    manager.shutdown().await;
    drop(manager);
    let newest = || data_keys(&config, &last).pop();
    let before = newest();
    for _ in 0..2 {
        let manager = restart(&config, &last).await;
        assert_eq!(key(&manager), Some(last.clone()));
        manager.shutdown().await;
    }
    // Each time that it is locked anew, it gets another one.
    assert_eq!(newest(), before);
    let identity = NodeIdentity::load(&config.identity_dir, None);
    assert!(!identity.unwrap().unwrap().has_key());
}

/// Compacts the log often, so that kills also hit the end of old keys.
fn small_log(directory: &Path) -> Config {
    let timings = Timings {
        snapshot_entries: 10,
        kept_entries: 3,
        ..Timings::default()
    };
    Config {
        timings,
        ..config(directory, free_address())
    }
}

/// The child: locks its manager with one key after the other, and makes services, as fast as it can; prints what it is about
/// to do, and what it was answered.
async fn rotate_until_killed(directory: &Path) {
    let config = small_log(directory);
    let manager = match std::env::var(CHILD_KEY) {
        Ok(key) => restart(&config, &key.parse().unwrap()).await,
        Err(_) => init(config).await,
    };
    let start = manager.view().services().count();
    for number in start.. {
        let key = UnlockKey::generate();
        println!("asks {key}");
        update_with(&manager, true, true, &key).await;
        println!("locked {key}");
        let name = format!("s{number}");
        create(&manager, service(&name, 0)).await;
        println!("created {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_killed_while_it_is_locked_anew_loses_nothing() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        rotate_until_killed(Path::new(&directory)).await;
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut created = Vec::new();
    let mut now: Option<UnlockKey> = None;
    for round in 0..4 {
        let name = "a_manager_that_is_killed_while_it_is_locked_anew_loses_nothing";
        let mut process = Process::new(std::env::current_exe().unwrap());
        process
            .args(["--exact", name, "--nocapture"])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped());
        if let Some(key) = &now {
            process.env(CHILD_KEY, key.to_string());
        }
        let mut child = process.spawn().unwrap();
        let (mut asked, mut seen) = (None, 0);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Ok(line) = line else { break };
            // The harness may print on the same line.
            let told = |verb: &str| Some(line.split_once(verb)?.1.to_owned());
            let key = |verb: &str| told(verb).and_then(|key| key.parse::<UnlockKey>().ok());
            asked = key("asks ").or(asked);
            now = key("locked ").or(now);
            if let Some(name) = told("created ") {
                created.push(name);
                seen += 1;
                if seen == 6 + round {
                    // In the middle of whatever it does; lines already written still count.
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(
            seen >= 6 + round,
            "the child stopped early in round {round}"
        );
        // The last one may have come as far as the disk, or not.
        let config = config(directory.path(), free_address());
        let keys = [asked, now].into_iter().flatten();
        now = keys.into_iter().find(|key| fits(&config, key));
        assert!(now.is_some(), "neither key fits in round {round}");
    }
    let manager = restart(&small_log(directory.path()), &now.unwrap()).await;
    for name in created {
        assert!(manager.view().find_service(&name).is_ok(), "lost {name}");
    }
    manager.shutdown().await;
}
