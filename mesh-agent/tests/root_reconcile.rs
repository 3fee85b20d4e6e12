//! The reconciler with real containers, links and names, and managers played by the test.

mod common;

use std::{
    collections::BTreeMap, net::IpAddr, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc,
    time::Duration,
};

use clap::Parser;
use common::{ip, open, traces, volumes};
use mesh_agent::{
    assignment::Assignment,
    config::Config,
    container::Names,
    health::Table,
    links::netns,
    node::LocalTask,
    reconcile::{self, Handle, Parts, jobs::Tools},
    session::Statuses,
};
use mesh_api::proto;
use mesh_runtime::Runtime;
use tokio::sync::watch;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

const NODE_ADDRESS: &str = "192.0.2.1";

/// A node's directories and namespace; everything is taken away at the end, whatever happens, with all that runs there.
struct World {
    dir: tempfile::TempDir,
    instance: String,
}

impl World {
    fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("mesh-rec")
            .tempdir()
            .expect("a directory");
        Self {
            dir,
            instance: format!("{name}{}", std::process::id()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `test` in a network namespace of its own that has one uplink.
    fn run<F: Future<Output = ()>>(&self, test: impl FnOnce(Machine) -> F + Send + 'static) {
        let node = self.path("node");
        netns::create(&node).expect("the node's namespace; are you root?");
        let machine = Machine {
            base: self.dir.path().to_owned(),
            instance: self.instance.clone(),
        };
        netns::within(&node, move || {
            for line in [
                "link set lo up",
                "link add up0 type veth peer name up1",
                "link set up0 up",
                "link set up1 up",
                "address add 192.0.2.1/24 dev up0",
            ] {
                ip(line)?;
            }
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(test(machine));
            Ok(())
        })
        .expect("the test");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        traces(self.dir.path(), [self.instance.clone()]).remove();
    }
}

/// What outlives an agent: directories and the kernel's objects.
#[derive(Clone)]
struct Machine {
    base: PathBuf,
    instance: String,
}

/// One agent's life on a machine.
struct Agent {
    runtime: Runtime,
    assignment: watch::Sender<Arc<Assignment>>,
    tasks: watch::Receiver<Arc<Vec<LocalTask>>>,
    handle: Handle,
}

impl Machine {
    async fn boot(&self) -> Agent {
        let config = Config::parse_from([
            "mesh-agent",
            "--data-dir",
            &self.base.join("data").to_string_lossy(),
            "--run-dir",
            &self.base.join("run").to_string_lossy(),
            "--dns",
            "192.0.2.53",
        ]);
        let (runtime, images) = open(&config, &self.instance).await;
        let (assignment, assignment_in) = watch::channel(Arc::default());
        let (tasks_out, tasks) = watch::channel(Arc::default());
        let volumes = volumes(&config, &runtime);
        let tools = Tools::new(
            runtime.clone(),
            images,
            Names {
                id: "node1".into(),
                hostname: "n1".into(),
                architecture: "x86_64".into(),
            },
            volumes,
            vec![],
        );
        let handle = reconcile::start(Parts {
            config,
            instance: self.instance.clone(),
            vtep: NODE_ADDRESS.parse::<IpAddr>().expect("an address"),
            vxlan_port: 4789,
            tools,
            assignment: assignment_in,
            statuses: Arc::new(Statuses::default()),
            applied: watch::channel(0).0,
            encryption: None,
            cipher: watch::channel(None).0,
            mtu: watch::channel(0).0,
            tasks: tasks_out,
            health: Table::default(),
            datapath: Arc::default(),
        })
        .expect("reconciler");
        Agent {
            runtime,
            assignment,
            tasks,
            handle,
        }
    }

    fn netns(&self, task: &str) -> PathBuf {
        self.base.join("run/netns").join(task)
    }
}

impl Agent {
    fn assign(&self, tasks: &[proto::Task]) {
        let network = |id: &str, vni, subnet: &str, ingress| proto::Network {
            id: id.into(),
            name: id.into(),
            vni,
            subnet: subnet.into(),
            ingress,
            ..Default::default()
        };
        let mut next = Assignment {
            revision: self.assignment.borrow().revision + 1,
            ..Default::default()
        };
        for net in [
            network("ingress", 4096, "10.0.0.0/20", true),
            network("app", 4097, "10.0.16.0/20", false),
        ] {
            next.networks.insert(net.id.clone(), net);
        }
        for task in tasks {
            next.add_endpoint(proto::Endpoint {
                id: task.id.clone(),
                service_id: task.service_id.clone(),
                name: task.name.clone(),
                node_id: "node1".into(),
                attachments: task.attachments.clone(),
                ..Default::default()
            });
            next.tasks.insert(task.id.clone(), task.clone());
        }
        self.assignment.send_replace(Arc::new(next));
    }

    /// Tells what a secret holds.
    fn hand(&self, id: &str, data: &[u8]) {
        let mut next = self.assignment.borrow().as_ref().clone();
        next.revision += 1;
        let told = proto::Handout {
            data: data.to_vec(),
            ..Default::default()
        };
        let data = Arc::new(told.into());
        next.secrets.insert(id.into(), data);
        self.assignment.send_replace(Arc::new(next));
    }

    async fn until(&mut self, what: &str, done: impl Fn(&BTreeMap<String, LocalTask>) -> bool) {
        let by_id = |tasks: &Arc<Vec<LocalTask>>| -> BTreeMap<String, LocalTask> {
            tasks
                .iter()
                .map(|t| (t.task.id.clone(), t.clone()))
                .collect()
        };
        let waited =
            tokio::time::timeout(PATIENCE, self.tasks.wait_for(|tasks| done(&by_id(tasks)))).await;
        let late = waited.is_err();
        drop(waited);
        if late {
            let now: Vec<_> = self
                .tasks
                .borrow()
                .iter()
                .map(|t| t.status.clone())
                .collect();
            panic!("{what} did not happen; tasks: {now:#?}");
        }
    }

    async fn until_state(&mut self, task: &str, state: &str) -> LocalTask {
        self.until(&format!("{task} {state}"), |all| {
            all.get(task).is_some_and(|t| t.status.state == state)
        })
        .await;
        self.tasks
            .borrow()
            .iter()
            .find(|t| t.task.id == task)
            .cloned()
            .expect("just seen")
    }
}

fn task(id: &str, command: &str, desired: &str) -> proto::Task {
    let spec = serde_json::json!({
        "ContainerSpec": {
            "Image": "box:latest",
            "Command": ["/bin/sh", "-c", command],
            "StopGracePeriod": 500_000_000_i64,
        }
    });
    let last = id.bytes().last().map_or(9, |byte| byte % 100 + 3);
    proto::Task {
        id: id.into(),
        service_id: "s".into(),
        service_name: "svc".into(),
        name: format!("svc.1.{id}"),
        slot: 1,
        desired_state: desired.into(),
        spec_json: spec.to_string().into_bytes(),
        attachments: vec![proto::Attachment {
            network_id: "app".into(),
            address: format!("10.0.16.{last}/20"),
            aliases: vec![],
        }],
        ..Default::default()
    }
}

#[test]
fn a_task_lives_and_dies_as_the_managers_want() {
    let world = World::new("life");
    world.run(|machine| async move {
        let mut agent = machine.boot().await;
        agent.assign(&[task("t1", "exec sleep 1000", "ready")]);
        agent.until_state("t1", "ready").await;
        agent.assign(&[task("t1", "exec sleep 1000", "running")]);
        let running = agent.until_state("t1", "running").await;
        assert!(running.status.pid > 0 && running.started > 0);
        assert!(netns::exists(&machine.netns("t1")));

        // Ends by itself, well and badly; cannot be prepared.
        let mut unknown = task("t4", "true", "running");
        unknown.spec_json = br#"{"ContainerSpec":{"Image":"127.0.0.1:1/none:latest"}}"#.to_vec();
        agent.assign(&[
            task("t1", "exec sleep 1000", "shutdown"),
            task("t2", "exit 0", "running"),
            task("t3", "exit 3", "running"),
            unknown,
        ]);
        agent.until_state("t1", "shutdown").await;
        agent.until_state("t2", "complete").await;
        let failed = agent.until_state("t3", "failed").await;
        assert_eq!(failed.status.error, "task: non-zero exit (3)");
        assert_eq!(failed.status.exit_code, Some(3));
        let rejected = agent.until_state("t4", "rejected").await;
        assert!(
            rejected.status.error.starts_with("No such image"),
            "{}",
            rejected.status.error
        );

        // Forgotten tasks leave nothing behind.
        agent.assign(&[]);
        agent.until("all forgotten", BTreeMap::is_empty).await;
        assert!(agent.runtime.list().is_empty());
        assert!(
            std::fs::read_dir(machine.base.join("run/netns"))
                .expect("netns")
                .next()
                .is_none()
        );
        agent.handle.clear().await.expect("clear");
    });
}

#[test]
fn a_new_agent_adopts_the_tasks_and_mends_what_is_broken() {
    let world = World::new("heal");
    world.run(|machine| async move {
        let mut agent = machine.boot().await;
        let wanted = [
            task("a1", "exec sleep 1000", "running"),
            task("a2", "exec sleep 1000", "running"),
        ];
        agent.assign(&wanted);
        let first = agent.until_state("a1", "running").await;
        agent.until_state("a2", "running").await;
        agent.handle.stop();

        // Meanwhile: a process dies, a link is removed, a namespace unmounted.
        let second = agent.runtime.inspect("a2").expect("container").pid;
        drop(agent.runtime);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(second).expect("pid")),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("kill");
        let link = mesh_agent::links::plan::host_name(&machine.instance, "a1", 0);
        ip(&format!("link del {link}")).expect("a link");
        netns::remove(&machine.netns("a1")).expect("unmount");

        let mut agent = machine.boot().await;
        agent.assign(&wanted);
        let failed = agent.until_state("a2", "failed").await;
        assert_eq!(failed.status.error, "task: non-zero exit (137)");
        let adopted = agent.until_state("a1", "running").await;
        assert_eq!(adopted.status.pid, first.status.pid, "the same process");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let inside = netns::within_async(&machine.netns("a1"), || {
                let output = std::process::Command::new("ip")
                    .args(["-br", "address"])
                    .output()?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            })
            .await
            .unwrap_or_default();
            if inside.contains("10.0.16.") && inside.contains("172.31.") {
                break;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "links are not mended: {inside}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        agent.handle.clear().await.expect("clear");
        assert!(agent.runtime.list().is_empty());
    });
}

#[test]
fn a_task_waits_for_its_secret_and_takes_it_along() {
    let world = World::new("handed");
    world.run(|machine| async move {
        let mut agent = machine.boot().await;
        let mut wanted = task("keyed", "exec sleep 1000", "running");
        let mut spec: serde_json::Value =
            serde_json::from_slice(&wanted.spec_json).expect("a spec");
        let file = serde_json::json!({"Name": "key", "UID": "7", "GID": "8", "Mode": 0o440});
        spec["ContainerSpec"]["Secrets"] =
            serde_json::json!([{"SecretID": "1", "SecretName": "key", "File": file}]);
        wanted.spec_json = spec.to_string().into_bytes();
        // As after a restart without a manager: the task is known, its secret is not.
        agent.assign(std::slice::from_ref(&wanted));
        agent.until_state("keyed", "preparing").await;
        assert!(agent.runtime.list().is_empty());
        agent.hand("1", b"sesame");
        let running = agent.until_state("keyed", "running").await;
        let root = PathBuf::from(format!("/proc/{}/root", running.status.pid));
        let path = root.join("run/secrets/key");
        assert_eq!(std::fs::read(&path).expect("the secret"), b"sesame");
        let meta = std::fs::metadata(&path).expect("its owner");
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (7, 8, 0o440)
        );
        // The container alone has it.
        let handover = machine.base.join("run/handover");
        let left = std::fs::read_dir(&handover).expect("a folder").count();
        assert_eq!(left, 0);
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let handover = handover.to_string_lossy();
        assert!(!mounts.contains(&*handover), "{mounts}");

        agent.assign(&[]);
        agent.until("keyed gone", BTreeMap::is_empty).await;
        agent.handle.clear().await.expect("cleared");
    });
}
