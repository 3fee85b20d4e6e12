//! Execs: exit codes, streams, terminals, errors.

mod common;

use common::{World, within};
use mesh_runtime::ExecSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn exec(args: &[&str]) -> ExecSpec {
    ExecSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..ExecSpec::default()
    }
}

#[tokio::test]
async fn exit_codes_streams_and_environment() {
    let world = World::new("exec").await;
    let mut spec = world.spec("a", "sleep 1000");
    spec.env = vec!["A=1".to_owned(), "B=2".to_owned()];
    world.run(&spec).await;
    let (code, _) = world.exec("a", &["sh", "-c", "exit 42"]).await;
    assert_eq!(code, 42);
    let (code, _) = world.exec("a", &["sh", "-c", "kill -9 $$"]).await;
    assert_eq!(code, 137);

    let mut with_env = exec(&["sh", "-c", "echo $A$B$C; pwd; hostname; ps | grep -c sleep"]);
    with_env.env = vec!["B=3".to_owned(), "C=4".to_owned()];
    with_env.cwd = "/tmp".to_owned();
    let (_, text) = world.exec_spec("a", &with_env).await;
    assert!(text.starts_with("134\n/tmp\na\n"), "{text}");

    let mut session = world
        .runtime
        .exec("a", &exec(&["sh", "-c", "echo o; echo e >&2"]))
        .await
        .unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    session
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    session
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .await
        .unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("o\n", "e\n"));
    assert_eq!(within(session.handle.wait()).await.unwrap(), 0);
    assert_eq!(session.handle.exit_code(), Some(0));
}

#[tokio::test]
async fn standard_input_reaches_the_command_and_ends() {
    let world = World::new("stdin").await;
    world.run(&world.spec("a", "sleep 1000")).await;
    let mut spec = exec(&["wc", "-c"]);
    spec.stdin = true;
    let mut session = world.runtime.exec("a", &spec).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let payload = vec![b'x'; 1 << 20];
    within(stdin.write_all(&payload)).await.unwrap();
    drop(stdin);
    let mut text = String::new();
    within(session.stdout.take().unwrap().read_to_string(&mut text))
        .await
        .unwrap();
    assert_eq!(text.trim(), "1048576");
    // Without it, the command reads nothing.
    assert_eq!(world.exec("a", &["wc", "-c"]).await.1.trim(), "0");
}

#[tokio::test]
async fn a_terminal_has_a_size_and_echoes() {
    let world = World::new("tty").await;
    world.run(&world.spec("a", "sleep 1000")).await;
    let mut spec = exec(&["sh", "-c", "tty; stty size; read x; stty size; echo got $x"]);
    spec.tty = true;
    spec.stdin = true;
    spec.size = Some((33, 101));
    let mut session = world.runtime.exec("a", &spec).await.unwrap();
    assert!(session.stderr.is_none());
    let mut stdout = session.stdout.take().unwrap();
    let mut text = String::new();
    while !text.contains("33 101") {
        let mut buffer = [0; 256];
        let count = within(stdout.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "the terminal ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(text.starts_with("/dev/pts/"), "{text}");
    session.handle.resize(40, 120).unwrap();
    let mut stdin = session.stdin.take().unwrap();
    within(stdin.write_all(b"word\n")).await.unwrap();
    within(stdout.read_to_string(&mut text)).await.unwrap();
    assert!(
        text.contains("40 120") && text.contains("got word"),
        "{text}"
    );
    assert_eq!(within(session.handle.wait()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_container_with_a_terminal() {
    let world = World::new("conttty").await;
    let mut spec = world.spec("a", "tty; while :; do stty size; sleep 0.1; done");
    spec.tty = true;
    world.run(&spec).await;
    world.wait_for_line("a", "/dev/").await;
    world.runtime.resize("a", 44, 155).await.unwrap();
    world.wait_for_line("a", "44 155").await;
    let status = world
        .runtime
        .stop("a", Some(libc::SIGKILL), common::DEADLINE)
        .await
        .unwrap();
    assert_eq!(status.code, 137);
}

#[tokio::test]
async fn execs_that_cannot_run_say_why() {
    let world = World::new("execerr").await;
    world.run(&world.spec("a", "sleep 1000")).await;
    let error = world
        .runtime
        .exec("a", &exec(&["foo"]))
        .await
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "exec: \"foo\": executable file not found in $PATH"
    );
    assert_eq!(error.exit_code(), 127);
    let error = world
        .runtime
        .exec("a", &exec(&["/etc/passwd"]))
        .await
        .err()
        .unwrap();
    assert_eq!(error.exit_code(), 126, "{error}");
    let mut nobody = exec(&["true"]);
    nobody.user = "stranger".to_owned();
    let mut nowhere = exec(&["true"]);
    nowhere.cwd = "/nowhere".to_owned();
    for (spec, reason) in [
        (
            nobody,
            "unable to find user stranger: no matching entries in passwd file",
        ),
        (
            nowhere,
            "chdir to cwd (\"/nowhere\") failed: no such file or directory",
        ),
    ] {
        let error = world.runtime.exec("a", &spec).await.err().unwrap();
        assert_eq!(error.to_string(), reason);
        assert_eq!(error.exit_code(), 126);
    }
    let error = world.runtime.exec("a", &exec(&[])).await.err().unwrap();
    assert!(error.to_string().contains("no command"), "{error}");
    let error = world
        .runtime
        .exec("none", &exec(&["true"]))
        .await
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "no such container: none");
    world
        .runtime
        .stop("a", Some(libc::SIGKILL), common::DEADLINE)
        .await
        .unwrap();
    let error = world
        .runtime
        .exec("a", &exec(&["true"]))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("must be running"), "{error}");
}

#[tokio::test]
async fn the_end_of_the_container_ends_its_execs() {
    let world = World::new("execend").await;
    world.run(&world.spec("a", "sleep 1000")).await;
    let session = world
        .runtime
        .exec("a", &exec(&["sleep", "1000"]))
        .await
        .unwrap();
    within(
        world
            .runtime
            .stop("a", Some(libc::SIGKILL), common::DEADLINE),
    )
    .await
    .unwrap();
    assert_eq!(within(session.handle.wait()).await.unwrap(), 137);
}

#[tokio::test]
async fn many_execs_at_once() {
    let world = World::new("execs").await;
    world.run(&world.spec("a", "sleep 1000")).await;
    let runs = (0..20).map(|number| {
        let world = &world;
        async move {
            let script = format!("echo {number}; exit {number}");
            let (code, text) = world.exec("a", &["sh", "-c", &script]).await;
            assert_eq!((code, text.trim()), (number, number.to_string().as_str()));
        }
    });
    within(futures::future::join_all(runs)).await;
    // Health checks are execs: nothing may pile up.
    let run = world.root.join("run/a");
    let left = || {
        let names = |path: &std::path::Path| {
            let entries = std::fs::read_dir(path).unwrap().flatten();
            entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect::<Vec<_>>()
        };
        [names(&run), names(&run.join("oci/a"))].concat()
    };
    common::eventually("sockets of execs are removed", || {
        !left()
            .iter()
            .any(|name| name.starts_with("tenant-") || name.starts_with("exec-"))
    })
    .await;
}

/// A command with children that leave its session, and outlive their parents.
const FAMILY: &str = "(setsid sleep 1000 &) ; sleep 1000 & echo up; ";

#[tokio::test]
async fn a_bound_exec_leaves_nothing_behind() {
    let world = World::new("bound").await;
    world.run(&world.spec("a", "sleep 1000")).await;
    let alone = || world.runtime.pids("a").unwrap().len() == 1;
    let begin = async |end: &str| {
        let mut spec = exec(&["sh", "-c", &format!("{FAMILY}{end}")]);
        spec.bound = true;
        let mut session = world.runtime.exec("a", &spec).await.unwrap();
        let mut line = [0; 3];
        let out = session.stdout.as_mut().unwrap();
        within(out.read_exact(&mut line)).await.unwrap();
        assert_eq!(&line, b"up\n");
        session
    };

    // It ends by itself.
    let session = begin("exit 3").await;
    assert_eq!(within(session.handle.wait()).await.unwrap(), 3);
    common::eventually("its children are gone", alone).await;

    // It is ended, and its end can be waited for.
    let session = begin("sleep 1000").await;
    assert!(world.runtime.pids("a").unwrap().len() >= 4);
    session.handle.end();
    assert_eq!(within(session.handle.wait()).await.unwrap(), 137);
    common::eventually("all of it is gone", alone).await;

    // Nobody holds it any more, as when the agent is killed.
    let session = begin("sleep 1000").await;
    drop(session);
    common::eventually("what nobody holds is gone", alone).await;

    // An exec that is not bound goes on.
    let args = ["sh", "-c", "sleep 1000"];
    drop(world.runtime.exec("a", &exec(&args)).await.unwrap());
    assert_eq!(world.exec("a", &["true"]).await.0, 0);
    common::eventually("it goes on alone", || {
        world.runtime.pids("a").unwrap().len() == 2
    })
    .await;
}
