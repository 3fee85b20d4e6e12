//! Two whole nodes in namespaces of this test's own: init, join, a service on both, an agent that
//! comes back, leave. The API server is not part of it: commands go to the manager directly.

mod common;

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Parser;
use common::{ip, open, traces, volumes};
use mesh_agent::{
    config::Config,
    links::netns,
    node::{Node, NodeError, NodeState},
};
use mesh_api::engine::{self, SwarmInitRequest, SwarmJoinRequest};
use mesh_manager::Command;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Directories, namespaces and the link between them; taken away at the end whatever happens, with all that runs there.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("mesh-two")
            .tempdir()
            .expect("a directory");
        let world = Self { dir };
        for name in ["a", "b"] {
            netns::create(&world.netns(name)).expect("a namespace; are you root?");
        }
        let (one, two) = (world.netns("a"), world.netns("b"));
        netns::within(&one, move || {
            ip("link set lo up")?;
            let there = std::fs::File::open(&two)?;
            use std::os::fd::AsRawFd;
            // `ip` opens the other end's namespace through this process.
            ip(&format!(
                "link add lan0 type veth peer name lan0 netns /proc/{}/fd/{}",
                std::process::id(),
                there.as_raw_fd()
            ))?;
            ip("address add 192.0.2.1/24 dev lan0")?;
            ip("link set lan0 up")
        })
        .expect("first node");
        netns::within(&world.netns("b"), || {
            ip("link set lo up")?;
            ip("address add 192.0.2.2/24 dev lan0")?;
            ip("link set lan0 up")
        })
        .expect("second node");
        world
    }

    fn netns(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("ns-{name}"))
    }

    fn base(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs an agent in its namespace until it is stopped.
    fn boot(&self, name: &'static str) -> Machine {
        let (namespace, base) = (self.netns(name), self.base(name));
        let (ready, booted) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            netns::within(&namespace, move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let node = boot(name, &base).await;
                    ready
                        .send((node, tokio::runtime::Handle::current()))
                        .expect("the test waits");
                    let _ = stopped.await;
                });
                // As a killed agent: nothing is put in order. But what writes at this moment holds the files that the
                // next agent opens, until it has written.
                runtime.shutdown_timeout(PATIENCE);
                Ok(())
            })
            .expect("the agent's thread");
        });
        let (node, handle) = booted.recv_timeout(PATIENCE).expect("the agent boots");
        Machine {
            node,
            handle,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        traces(self.dir.path(), ["a", "b"].map(instance)).remove();
    }
}

fn instance(name: &str) -> String {
    format!("{name}{}", std::process::id())
}

struct Machine {
    node: Node,
    handle: tokio::runtime::Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// Runs on the agent's own thread, for that is where its namespace is.
    fn on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver.recv_timeout(PATIENCE).expect("an answer in time")
    }

    fn call(&self, command: Command) {
        let manager = self.node.manager().expect("a manager");
        self.on(async move { manager.call(command).await })
            .expect("accepted");
    }

    fn running(&self) -> Vec<String> {
        let tasks = self.node.tasks();
        tasks
            .iter()
            .filter(|t| t.status.state == "running")
            .map(|t| t.task.id.clone())
            .collect()
    }

    fn kill(mut self) {
        self.end().expect("ended");
    }

    fn end(&mut self) -> thread::Result<()> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Machine {
    /// After a failed assertion: what is taken away then must not be made again.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

async fn boot(name: &str, base: &Path) -> Node {
    let instance = instance(name);
    let config = Config::parse_from([
        "mesh-agent".as_ref(),
        "--data-dir".as_ref(),
        base.join("data").as_os_str(),
        "--run-dir".as_ref(),
        base.join("run").as_os_str(),
    ]);
    let (runtime, images) = open(&config, &instance).await;
    let volumes = volumes(&config, &runtime);
    let node = Node::new(config, instance, name.to_owned(), runtime, images, volumes);
    node.resume().await.expect("resume");
    node
}

fn service(replicas: i64) -> engine::ServiceSpec {
    serde_json::from_value(serde_json::json!({
        "Name": "web",
        "TaskTemplate": {
            "ContainerSpec": {"Image": "box:latest", "Command": ["/bin/sleep", "1000"], "StopGracePeriod": 100_000_000},
            "Networks": [{"Target": "app"}],
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
    }))
    .expect("a spec")
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_nodes_make_a_cluster() {
    let world = World::new();
    let (one, two) = (world.boot("a"), world.boot("b"));

    // What an init leaves that was cut off before its membership was written.
    let manager = one.node.config().manager_dir();
    std::fs::create_dir_all(&manager).expect("a directory");
    std::fs::write(manager.join("raft.redb"), b"cut off").expect("a file");
    let node = one.node.clone();
    one.on(async move { node.swarm_init(SwarmInitRequest::default(), None).await })
        .expect("init");
    let node = one.node.clone();
    let again = one.on(async move { node.swarm_init(SwarmInitRequest::default(), None).await });
    assert!(matches!(again, Err(NodeError::AlreadyMember)));

    // Wrong doors first.
    let token = one
        .node
        .manager()
        .expect("manager")
        .view()
        .cluster()
        .expect("cluster")
        .worker_token
        .clone();
    let join = |remote: &str, token: &str| {
        let (node, request) = (
            two.node.clone(),
            SwarmJoinRequest {
                remote_addrs: Some(vec![remote.to_owned()]),
                join_token: Some(token.to_owned()),
                ..Default::default()
            },
        );
        two.on(async move { node.swarm_join(request, None).await })
    };
    let mut wrong = token.to_string();
    wrong.replace_range(wrong.len() - 5.., "00000");
    for (remote, token, expected) in [
        (
            "192.0.2.1:2377",
            wrong.as_str(),
            "A valid join token is necessary to join this cluster",
        ),
        ("192.0.2.1:1", &token, "Unavailable"),
        ("192.0.2.1", "nonsense", "token"),
    ] {
        let error = join(remote, token).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(two.node.state(), NodeState::Inactive);
    }
    join("192.0.2.1", &token).expect("join");
    assert!(matches!(two.node.state(), NodeState::Active(_)));

    let network = serde_json::json!({"Name": "app", "Driver": "overlay"});
    one.call(Command::CreateNetwork {
        request: Box::new(serde_json::from_value(network).expect("a network")),
    });
    one.call(Command::CreateService {
        spec: Box::new(service(4)),
        registry_auth: String::new(),
    });
    eventually("four tasks on two nodes", || {
        one.running().len() == 2 && two.running().len() == 2
    });

    // The agents die; the tasks do not.
    let before = (one.running(), two.running());
    let pid = |machine: &Machine| machine.node.tasks()[0].status.pid;
    let pids = (pid(&one), pid(&two));
    two.kill();
    one.kill();
    assert!(Path::new(&format!("/proc/{}", pids.0)).exists());
    let (one, two) = (world.boot("a"), world.boot("b"));
    eventually("the same tasks", || {
        (one.running(), two.running()) == before
    });
    assert_eq!((pid(&one), pid(&two)), pids);

    // A manager does not leave by accident.
    let node = one.node.clone();
    let refused = one.on(async move { node.swarm_leave(false).await });
    assert!(matches!(refused, Err(NodeError::LeaveRefused(_))));
    for machine in [&two, &one] {
        let node = machine.node.clone();
        machine
            .on(async move { node.swarm_leave(true).await })
            .expect("leave");
        assert_eq!(machine.node.state(), NodeState::Inactive);
        assert!(machine.node.runtime().list().is_empty());
    }
    assert!(!Path::new(&format!("/proc/{}", pids.0)).exists());
    two.kill();
    one.kill();
    let left = traces(world.dir.path(), ["a", "b"].map(instance)).find_of_agents();
    let own = |line: &String| line.starts_with("mount ") && line.contains("/ns-");
    assert!(left.iter().all(own), "{left:?}");
}
