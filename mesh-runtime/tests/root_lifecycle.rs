//! Starting, ending, stopping and deleting containers; their logs and exit codes.

mod common;

use common::{World, cgroup_directories, eventually, within};
use futures::StreamExt;
use mesh_runtime::{ContainerEvent, ContainerState, LogLimits, LogOptions, Output, RuntimeError};
use std::time::Duration;

#[tokio::test]
async fn a_command_runs_and_its_exit_code_and_output_are_kept() {
    let world = World::new("basic").await;
    let spec = world.spec("a", "echo out; echo err >&2; exit 7");
    let info = world.runtime.create(&spec).await.unwrap();
    assert_eq!(info.state, ContainerState::Created);
    assert!(info.pid > 0 && info.shim_pid > 0);
    let mut events = world.runtime.events();
    world.runtime.start("a").await.unwrap();
    let status = world.wait("a").await;
    assert_eq!((status.code, status.signal), (7, None));
    assert!(!status.oom_killed);

    let stream = world
        .runtime
        .logs("a", LogOptions::default())
        .await
        .unwrap();
    let mut records: Vec<_> = stream.map(Result::unwrap).collect().await;
    records.sort_by_key(|record| record.stream == Output::Stderr);
    assert_eq!(records[0].line, b"out\n");
    assert_eq!(
        (records[1].stream, &records[1].line[..]),
        (Output::Stderr, &b"err\n"[..])
    );

    let event = within(events.recv()).await.unwrap();
    let ContainerEvent::Exited { id, status } = event;
    assert_eq!((id.as_str(), status.code), ("a", 7));
    let info = world.runtime.inspect("a").unwrap();
    assert_eq!((info.state, info.pid), (ContainerState::Exited, 0));
    assert!(info.started_at.is_some());
}

#[tokio::test]
async fn the_command_waits_for_start() {
    let world = World::new("wait").await;
    world
        .runtime
        .create(&world.spec("a", "echo ran"))
        .await
        .unwrap();
    let error = world
        .runtime
        .exec("a", &Default::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, RuntimeError::WrongState { .. }), "{error}");
    assert_eq!(world.output("a").await, "");
    world.runtime.start("a").await.unwrap();
    let error = world.runtime.start("a").await.unwrap_err();
    assert!(matches!(error, RuntimeError::WrongState { .. }), "{error}");
    world.wait("a").await;
    assert_eq!(world.output("a").await, "ran\n");
}

#[tokio::test]
async fn stop_asks_first_and_kills_after_the_grace() {
    let world = World::new("stop").await;
    let polite = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done";
    world.run(&world.spec("polite", polite)).await;
    world.wait_for_line("polite", "up").await;
    let status = within(world.runtime.stop("polite", None, Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(status.code, 3);
    assert_eq!(world.output("polite").await, "up\nbye\n");

    let mut spec = world.spec(
        "custom",
        "trap 'exit 4' USR1; echo up; while :; do sleep 0.1; done",
    );
    spec.stop_signal = Some(libc::SIGUSR1);
    world.run(&spec).await;
    world.wait_for_line("custom", "up").await;
    let status = within(world.runtime.stop("custom", None, Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(status.code, 4);

    let deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    world.run(&world.spec("deaf", deaf)).await;
    world.wait_for_line("deaf", "up").await;
    let grace = Duration::from_millis(300);
    let status = within(world.runtime.stop("deaf", None, grace))
        .await
        .unwrap();
    assert_eq!((status.code, status.signal), (137, Some(libc::SIGKILL)));
    // An ended container answers at once.
    let again = world.runtime.stop("deaf", None, grace).await.unwrap();
    assert_eq!(again.code, 137);
}

#[tokio::test]
async fn delete_leaves_nothing() {
    let world = World::new("delete").await;
    world.run(&world.spec("a", "sleep 1000 & sleep 1000")).await;
    let info = world.runtime.inspect("a").unwrap();
    eventually("both processes run", || {
        world.runtime.pids("a").unwrap().len() >= 2
    })
    .await;
    let cgroup = format!("{}/a", world.cgroup);
    assert!(!cgroup_directories(&cgroup).is_empty());
    within(world.runtime.delete("a")).await.unwrap();
    assert!(cgroup_directories(&cgroup).is_empty());
    for pid in [info.pid, info.shim_pid] {
        eventually("processes are gone", || {
            !std::path::Path::new(&format!("/proc/{pid}/ns")).exists()
                || std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_err()
        })
        .await;
    }
    for directory in ["state/a", "run/a"] {
        assert!(!world.root.join(directory).exists(), "{directory}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.root.to_str().unwrap()));
    assert!(world.runtime.list().is_empty());
    world.runtime.delete("a").await.unwrap();
    // The id can be used again, also when the container was never started.
    world
        .runtime
        .create(&world.spec("a", "true"))
        .await
        .unwrap();
    within(world.runtime.delete("a")).await.unwrap();
}

#[tokio::test]
async fn what_cannot_run_says_why_and_leaves_nothing() {
    let world = World::new("errors").await;
    let create = async |args: &[&str]| {
        let mut spec = world.spec("bad", "");
        spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        world.runtime.create(&spec).await.unwrap_err()
    };
    let error = create(&["foo"]).await;
    assert_eq!(
        error.to_string(),
        "exec: \"foo\": executable file not found in $PATH"
    );
    assert_eq!(error.exit_code(), 127);
    let error = create(&["/bin/foo"]).await;
    assert_eq!(error.exit_code(), 127, "{error}");
    let error = create(&["/etc/passwd"]).await;
    assert_eq!(error.exit_code(), 126, "{error}");
    assert!(error.to_string().contains("permission denied"), "{error}");
    let error = create(&["/etc"]).await;
    assert_eq!(error.exit_code(), 126, "{error}");
    assert!(world.runtime.list().is_empty());
    assert!(cgroup_directories(&format!("{}/bad", world.cgroup)).is_empty());

    let mut spec = world.spec("bad", "true");
    spec.user = "nobody-here".to_owned();
    let error = world.runtime.create(&spec).await.unwrap_err();
    assert!(error.to_string().contains("unable to find user"), "{error}");
    let mut spec = world.spec("bad", "true");
    spec.rootfs = "/does/not/exist".into();
    let error = world.runtime.create(&spec).await.unwrap_err();
    assert!(error.to_string().contains("/does/not/exist") || error.to_string().contains("No such"));

    world
        .runtime
        .create(&world.spec("taken", "true"))
        .await
        .unwrap();
    let error = world
        .runtime
        .create(&world.spec("taken", "true"))
        .await
        .unwrap_err();
    assert!(matches!(error, RuntimeError::Exists { .. }), "{error}");
    let error = world
        .runtime
        .create(&world.spec("../x", "true"))
        .await
        .unwrap_err();
    assert!(matches!(error, RuntimeError::InvalidSpec { .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_program_fails_at_start() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new("noexec").await;
    let path = world.rootfs().join("bin/garbage");
    std::fs::write(&path, b"\x00\x01garbage").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = world.spec("a", "");
    spec.args = vec!["garbage".to_owned()];
    world.runtime.create(&spec).await.unwrap();
    let error = world.runtime.start("a").await.unwrap_err();
    assert_eq!(error.exit_code(), 126, "{error}");
    assert!(error.to_string().contains("exec format error"), "{error}");
    let status = world.wait("a").await;
    assert_eq!(status.code, 126);
    assert!(status.error.unwrap().contains("exec format error"));
}

#[tokio::test]
async fn logs_rotate_tail_and_follow() {
    let world = World::new("logs").await;
    let mut spec = world.spec("a", "seq 1 3000; echo done; sleep 1000");
    spec.log = LogLimits {
        max_size: 40_000,
        max_files: 3,
        ..LogLimits::default()
    };
    world.run(&spec).await;
    world.wait_for_line("a", "done").await;
    let files = std::fs::read_dir(world.root.join("state/a"))
        .unwrap()
        .flatten();
    let logs = files.filter(|f| f.file_name().to_string_lossy().starts_with("output.log"));
    assert_eq!(logs.count(), 3);
    let options = LogOptions {
        tail: Some(3),
        ..LogOptions::default()
    };
    let stream = world.runtime.logs("a", options).await.unwrap();
    let lines: Vec<_> = stream.map(|record| record.unwrap().line).collect().await;
    assert_eq!(lines.concat(), b"2999\n3000\ndone\n");
    let since = LogOptions {
        since: Some(chrono::Utc::now()),
        ..LogOptions::default()
    };
    let stream = world.runtime.logs("a", since).await.unwrap();
    assert_eq!(stream.count().await, 0);

    // Following over rotations loses nothing, and ends when the container does.
    let mut spec = world.spec("b", "for i in $(seq 1 3000); do echo $i; done");
    spec.log = LogLimits {
        max_size: 20_000,
        max_files: 20,
        ..LogLimits::default()
    };
    world.runtime.create(&spec).await.unwrap();
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let stream = world.runtime.logs("b", follow).await.unwrap();
    world.runtime.start("b").await.unwrap();
    let lines: Vec<_> = within(stream.map(|r| r.unwrap().line).collect::<Vec<_>>()).await;
    let expected: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(lines.concat()).unwrap(), expected);
}

#[tokio::test]
async fn long_lines_and_bytes_survive() {
    let world = World::new("bytes").await;
    let script = "head -c 100000 /dev/zero; printf 'a\\377b\\nno newline'";
    world.run(&world.spec("a", script)).await;
    world.wait("a").await;
    let stream = world
        .runtime
        .logs("a", LogOptions::default())
        .await
        .unwrap();
    let lines: Vec<_> = stream.map(|record| record.unwrap().line).collect().await;
    let mut expected = vec![0; 100_000];
    expected.extend(b"a\xffb\nno newline");
    assert!(lines.concat() == expected);
    assert!(lines.iter().all(|line| line.len() <= 16 << 10));
}

#[tokio::test]
async fn an_init_forwards_signals_and_reaps() {
    let world = World::new("init").await;
    let script = "trap 'exit 5' TERM; (sleep 0.1 &) ; echo up $$; while :; do sleep 0.1; done";
    let mut spec = world.spec("a", script);
    spec.init = true;
    world.run(&spec).await;
    let line = world.wait_for_line("a", "up").await;
    assert_ne!(line, "up 1\n");
    let status = within(world.runtime.stop("a", None, Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(status.code, 5);
    let mut spec = world.spec("b", "");
    spec.init = true;
    spec.args = vec!["false".to_owned()];
    assert_eq!(world.complete(&spec).await.0.code, 1);
}
