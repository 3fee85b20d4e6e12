//! Brings about what was planned. Nothing else in the agent writes maps, links or names.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::SystemTime};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use ipnetwork::Ipv4Network;
use mesh_api::proto::{self, TaskStatus};

use super::{
    Done, Reconciler, datapath_config,
    jobs::{self, Order},
    observe::{self, Observed},
    open_datapath,
    plan::{self, Job, Step, TaskFacts},
    record::{Record, free_address},
    state::{TaskState, Wanted},
};
use crate::{
    assignment::Assignment,
    desired, dns,
    links::{
        egress::{self, Egress, HostPort},
        host::{Host, HostView},
        netns,
        plan::{TaskLink, container_id, host_prefix},
        sysctl, task as task_links,
    },
    node::LocalTask,
};

/// Tasks whose links are made at the same time; the kernel does them one by one anyway.
const CONNECTS_AT_ONCE: usize = 4;

/// Failed attempts to connect a task that has not started, before it is rejected.
const CONNECT_ATTEMPTS: u32 = 3;

impl Reconciler {
    /// One pass: observe, plan, apply.
    pub(super) async fn pass(&mut self, assignment: &Arc<Assignment>) -> Result<()> {
        let observed = Observed {
            host: self.host.observe().await?,
            containers: self
                .tools
                .runtime
                .list()
                .into_iter()
                .map(|info| (info.spec.id.clone(), info))
                .collect(),
        };
        for (id, task) in &assignment.tasks {
            if let Some(record) = self.known.get_mut(id) {
                if record.task != *task {
                    record.task = task.clone();
                    self.records.store(record).context("write a task record")?;
                }
            }
        }
        let steps = self.plan(assignment, &observed);
        let again = !steps.is_empty();
        let rewired = self.carry_out(assignment, &observed, steps).await?;
        let host = if rewired {
            self.host.observe().await?
        } else {
            observed.host
        };
        let network = self.apply_network(assignment, &host).await;
        self.publish();
        if again {
            self.wake.notify_one();
        }
        network?;
        let revision = assignment.revision;
        self.applied
            .send_if_modified(|old| std::mem::replace(old, revision) != revision);
        Ok(())
    }

    fn plan(&self, assignment: &Assignment, observed: &Observed) -> Vec<(String, Step)> {
        let mut ids: Vec<_> = assignment.tasks.keys().chain(self.known.keys()).collect();
        ids.sort();
        ids.dedup();
        ids.into_iter()
            .filter_map(|id| {
                let record = self.known.get(id);
                let facts = TaskFacts {
                    wanted: assignment
                        .tasks
                        .get(id)
                        .map(|t| Wanted::parse(&t.desired_state)),
                    state: record.map(Record::state),
                    container: observed.container(id),
                    job: self.jobs.get(id).map(|(job, _)| *job),
                    net: record.map_or(plan::Net::Absent, |record| {
                        let configured = self.configured.contains(id);
                        observe::net_of(
                            &self.config,
                            &self.instance,
                            assignment,
                            observed,
                            record,
                            configured,
                        )
                    }),
                    names: self.servers.contains_key(id),
                    rootfs: observed
                        .containers
                        .get(id)
                        .is_some_and(|info| is_mounted(&info.spec.rootfs)),
                };
                plan::next(&facts).map(|step| (id.clone(), step))
            })
            .collect()
    }

    /// Does every step; returns whether links changed.
    async fn carry_out(
        &mut self,
        assignment: &Assignment,
        observed: &Observed,
        steps: Vec<(String, Step)>,
    ) -> Result<bool> {
        let mut rewired = false;
        for stray in observe::stray_links(&observed.host, &self.instance, &self.known) {
            self.host.delete(stray.index).await?;
            rewired = true;
        }
        let mut connect = Vec::new();
        for (id, step) in steps {
            tracing::debug!(task = id, ?step, "next");
            match step {
                Step::Accept => self.accept(&assignment.tasks[&id])?,
                Step::Move(state, error) => self.move_to(&id, state, error, observed)?,
                Step::Connect => connect.push(id),
                Step::Serve => self.serve(&id).await,
                Step::Disconnect => {
                    self.disconnect(&id, &observed.host).await?;
                    rewired = true;
                }
                Step::Abort => {
                    if let Some((_, handle)) = self.jobs.remove(&id) {
                        handle.abort();
                    }
                }
                Step::Begin(job) => self.begin(&id, job, assignment),
            }
        }
        if !connect.is_empty() {
            rewired = true;
            self.connect_all(assignment, observed, connect).await?;
        }
        Ok(rewired)
    }

    fn accept(&mut self, task: &proto::Task) -> Result<()> {
        let taken = observe::taken_addresses(&self.known);
        let local = free_address(self.config.local_pool, &taken).with_context(|| {
            format!(
                "no node-local address is free in {}; choose a larger --local-pool",
                self.config.local_pool
            )
        })?;
        let now = now();
        let record = Record {
            task: task.clone(),
            status: status(&task.id, TaskState::Accepted, None, now),
            created: now,
            local: u32::from(local),
            ..Record::default()
        };
        self.records.store(&record).context("write a task record")?;
        self.known.insert(task.id.clone(), record);
        Ok(())
    }

    fn move_to(
        &mut self,
        id: &str,
        state: TaskState,
        error: Option<String>,
        observed: &Observed,
    ) -> Result<()> {
        let Some(record) = self.known.get_mut(id) else {
            return Ok(());
        };
        let info = observed.containers.get(id);
        let mut next = status(id, state, error, now());
        next.container_id = container_id(id);
        if let Some(info) = info {
            next.pid = i32::try_from(info.pid).unwrap_or_default();
            next.exit_code = info.exit.as_ref().map(|exit| exit.code);
            record.started = info
                .started_at
                .and_then(|at| at.timestamp_nanos_opt())
                .unwrap_or(record.started);
        }
        if state.is_over() {
            record.finished = info
                .and_then(|info| info.exit.as_ref()?.at.timestamp_nanos_opt())
                .unwrap_or(next.timestamp);
        }
        if let Some(error) = (!next.error.is_empty()).then_some(&next.error) {
            tracing::warn!(task = record.task.name, state = state.word(), error);
        } else {
            tracing::info!(task = record.task.name, state = state.word());
        }
        record.status = next;
        self.records.store(record).context("write a task record")
    }

    async fn serve(&mut self, id: &str) {
        let Some(record) = self.known.get(id) else {
            return;
        };
        let networks = record
            .task
            .attachments
            .iter()
            .map(|a| a.network_id.clone())
            .collect();
        let own = jobs::spec_of(&record.task)
            .ok()
            .and_then(|spec| spec.container_spec?.dns_config?.nameservers)
            .unwrap_or_default();
        let upstreams = if own.is_empty() {
            self.upstreams.clone()
        } else {
            let addresses = own.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            mesh_dns::Upstreams::new(addresses.map(|address| (address, 53).into()))
        };
        let path = self.config.netns_path(id);
        match dns::start(&path, self.zone.subscribe(), networks, upstreams).await {
            Ok(server) => drop(self.servers.insert(id.to_owned(), server)),
            Err(error) => {
                tracing::warn!(task = id, %error, "the task's name server did not start");
                // The namespace is not what it should be: look at it anew.
                self.configured.remove(id);
            }
        }
    }

    async fn disconnect(&mut self, id: &str, host: &HostView) -> Result<()> {
        self.servers.remove(id);
        self.configured.remove(id);
        self.failures.remove(id);
        if let Some(record) = self.known.get(id) {
            for name in observe::host_names(&self.instance, &record.task) {
                if let Some(interface) = host.interfaces.get(&name) {
                    self.host.delete(interface.index).await?;
                }
            }
        }
        Ok(netns::remove(&self.config.netns_path(id))?)
    }

    async fn connect_all(
        &mut self,
        assignment: &Assignment,
        observed: &Observed,
        ids: Vec<String>,
    ) -> Result<()> {
        sysctl::set("net/ipv4/ip_forward", "1").context("let tasks reach the outside")?;
        let mtu = observe::task_mtu(&observed.host, self.vtep);
        let work = ids.into_iter().filter_map(|id| {
            let record = self.known.get(&id)?;
            let links = observe::links_of(&self.instance, assignment, record)?;
            let path = self.config.netns_path(&id);
            let host = self.host.clone();
            let missing: Vec<_> = links
                .iter()
                .filter(|link| !observed.host.interfaces.contains_key(&link.host_name))
                .cloned()
                .collect();
            let pid = observed.containers.get(&id).map_or(0, |info| info.pid);
            Some(async move {
                let result = connect(&host, &path, pid, &links, &missing, mtu).await;
                (id, links, result)
            })
        });
        let mut finished: Vec<_> = stream::iter(work.collect::<Vec<_>>())
            .buffer_unordered(CONNECTS_AT_ONCE)
            .collect()
            .await;
        let view = self.host.observe().await?;
        for (_, links, result) in &mut finished {
            if result.is_ok() {
                *result = configure_host(&self.host, &view, links).await;
            }
        }
        for (id, _, result) in finished {
            match result {
                Ok(()) => {
                    self.configured.insert(id.clone());
                    self.failures.remove(&id);
                }
                Err(error) => self.connect_failed(&id, &error, observed)?,
            }
        }
        Ok(())
    }

    fn connect_failed(
        &mut self,
        id: &str,
        error: &anyhow::Error,
        observed: &Observed,
    ) -> Result<()> {
        let tries = self.failures.entry(id.to_owned()).or_default();
        *tries += 1;
        tracing::warn!(
            task = id,
            error = format!("{error:#}"),
            "cannot connect the task"
        );
        let early = self
            .known
            .get(id)
            .is_some_and(|record| record.state() < TaskState::Starting);
        if early && *tries >= CONNECT_ATTEMPTS {
            self.move_to(
                id,
                TaskState::Rejected,
                Some(format!("{error:#}")),
                observed,
            )?;
        }
        Ok(())
    }

    fn begin(&mut self, id: &str, job: Job, assignment: &Assignment) {
        let Some(record) = self.known.get(id) else {
            return;
        };
        let order = Order {
            task: record.task.clone(),
            netns: (!observe::uses_host_network(&record.task)).then(|| self.config.netns_path(id)),
            files: self.records.files(id),
            addresses: observe::links_of(&self.instance, assignment, record)
                .unwrap_or_default()
                .iter()
                .map(|link| IpAddr::V4(link.address))
                .collect(),
        };
        let (tools, done, id) = (self.tools.clone(), self.done.clone(), id.to_owned());
        let key = id.clone();
        let handle = tokio::spawn(async move {
            let result = match job {
                Job::Prepare => tools.prepare(order).await,
                Job::Start => tools.start(&id).await,
                Job::Stop => tools.stop(&order.task).await,
                Job::Release => tools.release(&id).await,
                Job::Forget => tools.forget(&id).await,
            };
            let _ = done.send(Done { id, job, result });
        });
        self.jobs.insert(key, (job, handle));
    }

    /// Takes note of the end of a job.
    pub(super) fn finish(&mut self, done: Done) {
        let Done { id, job, result } = done;
        self.jobs.remove(&id);
        let nothing = Observed {
            host: HostView::default(),
            containers: BTreeMap::new(),
        };
        let noted = match (job, result) {
            (Job::Forget, Ok(())) => {
                self.known.remove(&id);
                self.statuses.forget(&id);
                self.records.remove(&id).context("remove a task record")
            }
            (_, Ok(())) => Ok(()),
            (Job::Prepare, Err(error)) => self.move_to(
                &id,
                TaskState::Rejected,
                Some(format!("{error:#}")),
                &nothing,
            ),
            (Job::Start, Err(error)) => {
                self.move_to(&id, TaskState::Failed, Some(format!("{error:#}")), &nothing)
            }
            // Planned again by the next periodic pass.
            (job, Err(error)) => {
                tracing::warn!(
                    task = id,
                    ?job,
                    error = format!("{error:#}"),
                    "will be tried again"
                );
                return;
            }
        };
        if let Err(error) = noted {
            tracing::error!(task = id, error = format!("{error:#}"), "cannot take note");
        }
        self.wake.notify_one();
    }

    /// Packet path, names, egress.
    async fn apply_network(&mut self, assignment: &Assignment, host: &HostView) -> Result<()> {
        let zone = desired::zone(assignment);
        self.zone.send_if_modified(|old| {
            let changed = **old != zone;
            if changed {
                *old = Arc::new(zone);
            }
            changed
        });
        let node = observe::node_facts(host, &self.instance, self.vtep);
        let links = observe::link_facts(host, &self.instance, assignment, self.known.values());
        let wanted = desired::datapath(assignment, &node, &links);
        let shared = self.datapath.clone();
        let config = datapath_config(&self.instance, self.vxlan_port, self.config.xdp);
        let report = tokio::task::spawn_blocking(move || -> Result<_> {
            open_datapath(&shared, &config)?;
            let mut slot = shared
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let datapath = slot.as_mut().context("the packet path is closed")?;
            Ok(datapath.apply(&wanted)?)
        })
        .await?;
        let text = egress::script(
            &self.instance,
            &host_prefix(&self.instance),
            &self.egress(assignment),
        );
        if self.egress.as_ref() != Some(&text) {
            egress::apply(&text).await?;
            self.egress = Some(text);
        }
        let report = report.context("packet path")?;
        if !report.is_empty() {
            tracing::debug!(
                ?report,
                revision = assignment.revision,
                "packet path changed"
            );
        }
        Ok(())
    }

    fn egress(&self, assignment: &Assignment) -> Egress {
        let mut sources = vec![self.config.local_pool];
        sources.extend(
            assignment
                .networks
                .values()
                .filter(|network| network.ingress)
                .filter_map(|network| network.subnet.parse::<Ipv4Network>().ok()),
        );
        let mut host_ports: Vec<_> = self
            .known
            .values()
            .filter(|record| (TaskState::Starting..=TaskState::Running).contains(&record.state()))
            .flat_map(|record| {
                let address = self.gateway_address(assignment, record);
                let service = assignment.services.get(&record.task.service_id);
                service
                    .into_iter()
                    .flat_map(|service| &service.ports)
                    .filter(|port| port.mode() == proto::PublishMode::Host)
                    .filter_map(move |port| {
                        Some(HostPort {
                            protocol: match port.protocol() {
                                proto::Protocol::Tcp => 6,
                                proto::Protocol::Udp => 17,
                                proto::Protocol::Sctp => 132,
                            },
                            published: u16::try_from(port.published).ok()?,
                            address: address?,
                            target: u16::try_from(port.target).ok()?,
                        })
                    })
            })
            .collect();
        host_ports.sort();
        Egress {
            sources,
            host_ports,
        }
    }

    fn gateway_address(
        &self,
        assignment: &Assignment,
        record: &Record,
    ) -> Option<std::net::Ipv4Addr> {
        observe::links_of(&self.instance, assignment, record)?
            .iter()
            .find(|link| link.kind == crate::links::plan::LinkKind::Gateway)
            .map(|link| link.address)
    }

    /// Looks at what no notice tells about.
    pub(super) async fn look_closer(&mut self) {
        if self.egress.is_some() && !egress::exists(&self.instance).await {
            self.egress = None;
        }
    }

    /// Tells session and API what there is.
    pub(super) fn publish(&self) {
        for record in self.known.values() {
            self.statuses.report(record.status.clone());
        }
        let tasks: Vec<_> = self.known.values().filter_map(LocalTask::of).collect();
        self.tasks.send_if_modified(|old| {
            let changed = **old != tasks;
            if changed {
                *old = Arc::new(tasks);
            }
            changed
        });
    }

    /// After the last task is gone: everything of this agent on the node.
    pub(super) async fn remove_everything(&mut self) -> Result<()> {
        let view = self.host.observe().await?;
        for stray in observe::stray_links(&view, &self.instance, &BTreeMap::new()) {
            self.host.delete(stray.index).await?;
        }
        let (shared, config) = (
            self.datapath.clone(),
            datapath_config(&self.instance, self.vxlan_port, self.config.xdp),
        );
        tokio::task::spawn_blocking(move || {
            drop(
                shared
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .take(),
            );
            mesh_datapath::Datapath::remove(&config)
        })
        .await?
        .context("remove the packet path")?;
        egress::apply(&egress::removal(&self.instance)).await?;
        self.egress = None;
        super::cgroups::remove(&self.tools.runtime.config().cgroup_parent);
        Ok(())
    }
}

async fn connect(
    host: &Host,
    path: &std::path::Path,
    pid: u32,
    links: &[TaskLink],
    missing: &[TaskLink],
    mtu: u32,
) -> Result<()> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || {
        if pid != 0 && !netns::exists(&owned) {
            netns::adopt(&owned, pid)
        } else {
            netns::create(&owned)
        }
    })
    .await??;
    for link in missing {
        host.create_pair(link, path, mtu).await?;
    }
    Ok(task_links::configure(path, links.to_vec()).await?)
}

async fn configure_host(host: &Host, view: &HostView, links: &[TaskLink]) -> Result<()> {
    for link in links {
        let interface = view
            .interfaces
            .get(&link.host_name)
            .with_context(|| format!("interface {} vanished", link.host_name))?;
        host.configure_host_end(link, interface.index).await?;
    }
    Ok(())
}

fn status(id: &str, state: TaskState, error: Option<String>, now: i64) -> TaskStatus {
    TaskStatus {
        task_id: id.to_owned(),
        state: state.word().to_owned(),
        timestamp: now,
        message: state.message().to_owned(),
        error: error.unwrap_or_default(),
        ..TaskStatus::default()
    }
}

fn is_mounted(rootfs: &std::path::Path) -> bool {
    nix::sys::statfs::statfs(rootfs)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}
