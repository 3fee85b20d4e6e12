//! Tasks of services as `mesh-ctl service ps` tells of them, and the processes behind them.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    image,
    netns::run,
    node::{Node, pids, text},
    rig::{Rig, UP_LIMIT},
    wait::eventually,
};

/// A task of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// "web.1".
    pub name: String,
    /// Name of its node.
    pub node: String,
    /// "Running", "Failed", ...
    pub state: String,
    /// What its container is called on its node: `web.1.<id>`.
    pub container: String,
}

impl Rig {
    /// `web`, four tasks published on 80, and `shell`, one that only sleeps, both on a network `front`. Gives `shell`'s
    /// task once all run.
    ///
    /// # Errors
    /// When a service is refused or does not run in time.
    pub fn web_and_shell(&self) -> Result<Task> {
        self.network("front")?;
        let web = [
            "--network",
            "front",
            "--replicas",
            "4",
            "--publish",
            "80:80",
        ];
        // Longer than any request that a test makes.
        self.create("web", &[&web[..], &["--stop-grace-period", "2m"]].concat())?;
        self.sleepers("shell", &["--network", "front"])?;
        self.wait_running("web", 4)?;
        self.task("shell")
    }

    /// Makes an overlay network.
    ///
    /// # Errors
    /// When it is refused.
    pub fn network(&self, name: &str) -> Result<()> {
        let create = ["network", "create", "--driver", "overlay", name];
        self.first().ok(&create).map(drop)
    }

    /// Makes a service of the test image, and waits for it unless `args` say otherwise.
    ///
    /// # Errors
    /// When it is refused or does not run.
    pub fn create(&self, name: &str, args: &[&str]) -> Result<()> {
        self.service(name, args, &[])
    }

    /// Makes a service whose tasks only sleep, to run programs in.
    ///
    /// # Errors
    /// When it is refused or does not run.
    pub fn sleepers(&self, name: &str, args: &[&str]) -> Result<()> {
        // As the first process of a container, busybox' sleep takes no notice of SIGTERM.
        let at_once = ["--stop-grace-period", "100ms"];
        self.service(name, &[&at_once, args].concat(), &["sleep", "1000000"])
    }

    fn service(&self, name: &str, args: &[&str], command: &[&str]) -> Result<()> {
        let create = ["service", "create", "-q", "--name", name];
        let all = [&create[..], args, &[image::WHOAMI], command].concat();
        self.first().ok(&all).map(drop)
    }

    /// Every task of a service that the manager remembers, the newest of a slot first.
    ///
    /// # Errors
    /// When the command fails or prints something else.
    pub fn history(&self, service: &str) -> Result<Vec<Task>> {
        let format = "{{.ID}}\t{{.Name}}\t{{.Node}}\t{{.CurrentState}}";
        let list =
            self.first()
                .ok(&["service", "ps", "--no-trunc", "--format", format, service])?;
        list.lines()
            .map(|line| {
                let mut words = line.split('\t').map(str::trim);
                let mut word = || {
                    words
                        .next()
                        .with_context(|| format!("cannot read {line:?}"))
                };
                let id = word()?.to_owned();
                let name = word()?.to_owned();
                let node = word()?.to_owned();
                let state = word()?.split(' ').next().unwrap_or_default().to_owned();
                Ok(Task {
                    container: format!("{name}.{id}"),
                    id,
                    name,
                    node,
                    state,
                })
            })
            .collect()
    }

    /// The running tasks of a service.
    ///
    /// # Errors
    /// When the command fails.
    pub fn running(&self, service: &str) -> Result<Vec<Task>> {
        let mut tasks = self.history(service)?;
        tasks.retain(|task| task.state == "Running");
        tasks.sort();
        Ok(tasks)
    }

    /// Waits until exactly this many tasks of a service run; gives them.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_running(&self, service: &str, count: usize) -> Result<Vec<Task>> {
        self.wait_running_for(service, count, UP_LIMIT)
    }

    /// As [`wait_running`](Self::wait_running), with a limit of the caller's.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_running_for(
        &self,
        service: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Task>> {
        eventually(
            &format!("{count} running tasks of {service}"),
            limit,
            || {
                let tasks = self.running(service)?;
                if tasks.len() == count {
                    return Ok(tasks);
                }
                let answer = self
                    .first()
                    .ctl(&["service", "ps", "--no-trunc", service])?;
                bail!("{} run:\n{}", tasks.len(), answer.out)
            },
        )
    }

    /// One running task of a service.
    ///
    /// # Errors
    /// When none runs in time.
    pub fn task(&self, service: &str) -> Result<Task> {
        eventually("a running task", UP_LIMIT, || {
            self.running(service)?
                .into_iter()
                .next()
                .with_context(|| format!("no task of {service} runs"))
        })
    }

    /// Replaces all running tasks of a service by an update, and waits until others run.
    ///
    /// # Errors
    /// When the update is refused, or not over in time.
    pub fn replace_all(&self, service: &str) -> Result<()> {
        let before = self.running(service)?;
        self.first()
            .ok(&["service", "update", "--force", "-d", service])?;
        let limit = UP_LIMIT * before.len().max(1) as u32 / 2;
        eventually("all tasks to be replaced", limit, || {
            let running = self.running(service)?;
            let is_old = |task: &&Task| before.iter().any(|old| old.id == task.id);
            let old = running.iter().filter(is_old).count();
            ensure!(old == 0 && running.len() == before.len(), "{running:?}");
            Ok(())
        })
    }

    /// Ends a node's agent and shims and pulls its cable at once, as near to a power cut as it gets.
    ///
    /// # Errors
    /// When its agent does not run, or a process or the cable cannot be reached.
    pub fn cut_power(&self, node: &mut Node) -> Result<()> {
        node.kill()?;
        self.kill_shims(node)?;
        self.lan.plug(&node.port, false)
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("no node {name}"))
    }

    /// Runs a command in a task that has to succeed there; gives its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn exec(&self, task: &Task, argv: &[&str]) -> Result<String> {
        let mut args = vec!["exec", &task.container];
        args.extend(argv);
        self.node(&task.node)?.ok(&args)
    }

    /// Process ids of the shims of all nodes.
    pub fn shims(&self) -> Vec<u32> {
        self.processes("shim")
    }

    /// Ends the shims of a node's tasks at once.
    ///
    /// # Errors
    /// When one cannot be ended.
    pub fn kill_shims(&self, node: &Node) -> Result<()> {
        let dir = format!("{}/", node.dir.display());
        for pid in self.shims() {
            if text(&PathBuf::from(format!("/proc/{pid}/cmdline"))).contains(&dir) {
                run("kill", &["-9", &pid.to_string()])?;
            }
        }
        Ok(())
    }

    /// Process ids of the rig's processes that have this word on their command line.
    pub fn processes(&self, verb: &str) -> Vec<u32> {
        let dir = format!("{}/", self.dir().display());
        pids()
            .filter(|pid| {
                let line = text(&PathBuf::from(format!("/proc/{pid}/cmdline")));
                line.contains(&dir) && line.split('\0').any(|word| word == verb)
            })
            .collect()
    }

    /// Process id, on the machine, of the first process of a task.
    ///
    /// # Errors
    /// When the task has none.
    pub fn task_pid(&self, task: &Task) -> Result<u32> {
        pids()
            .find(|pid| {
                let cgroup = text(&PathBuf::from(format!("/proc/{pid}/cgroup")));
                let status = text(&PathBuf::from(format!("/proc/{pid}/status")));
                let mut pids = status
                    .lines()
                    .filter_map(|line| line.strip_prefix("NSpid:"));
                cgroup.contains(&task.id)
                    && pids.any(|pids| pids.split_whitespace().skip(1).last() == Some("1"))
            })
            .with_context(|| format!("no process of {} is found", task.container))
    }
}
