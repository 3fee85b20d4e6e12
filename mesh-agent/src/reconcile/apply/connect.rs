//! Namespaces, links and name servers of tasks.

use std::net::IpAddr;

use anyhow::{Context, Result};
use futures::{StreamExt, stream};

use crate::{
    assignment::Assignment,
    dns,
    links::{
        host::{Host, HostView},
        netns,
        plan::{LinkKind, TaskLink},
        sysctl, task as task_links,
    },
    reconcile::{
        Reconciler, jobs,
        observe::{self, Observed},
        state::TaskState,
    },
};

/// Tasks whose links are made at the same time; the kernel does them one by one anyway.
const CONNECTS_AT_ONCE: usize = 4;

/// Failed attempts to connect a task that has not started, before it is rejected.
const CONNECT_ATTEMPTS: u32 = 3;

impl Reconciler {
    pub(super) async fn serve(&mut self, id: &str) {
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

    pub(super) async fn disconnect(&mut self, id: &str, host: &HostView) -> Result<()> {
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

    pub(super) async fn connect_all(
        &mut self,
        assignment: &Assignment,
        observed: &Observed,
        ids: Vec<String>,
    ) -> Result<()> {
        if let Err(error) = sysctl::set("net/ipv4/ip_forward", "1") {
            tracing::warn!(%error, "tasks do not reach the outside");
        }
        let mtu = observe::task_mtu(&observed.host, self.vtep);
        let work = ids.into_iter().filter_map(|id| {
            let record = self.known.get(&id)?;
            let links = observe::links_of(&self.instance, assignment, record)?;
            let path = self.config.netns_path(&id);
            let host = self.host.clone();
            let missing: Vec<_> = links
                .iter()
                .filter(|link| !observed.host.interfaces.contains_key(&link.host_name))
                .map(|link| (link.clone(), link_mtu(assignment, link, mtu)))
                .collect();
            let pid = observed.containers.get(&id).map_or(0, |info| info.pid);
            Some(async move {
                let result = connect(&host, &path, pid, &links, &missing).await;
                (id, links, result)
            })
        });
        let mut finished: Vec<_> = stream::iter(work.collect::<Vec<_>>())
            .buffer_unordered(CONNECTS_AT_ONCE)
            .collect()
            .await;
        let view = self.host.observe().await?;
        for (_, links, result) in &mut finished {
            if result.is_ok()
                && let Err(error) = configure_host(&self.host, &view, links).await
            {
                *result = Err(error);
            }
        }
        for (id, _, result) in finished {
            match result {
                Ok(cookie) => {
                    self.configured.insert(id.clone(), cookie);
                    self.failures.remove(&id);
                }
                Err(error) => self.connect_failed(&id, &error, observed)?,
            }
        }
        Ok(())
    }

    pub(super) fn connect_failed(
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
}

/// The MTU of a link: what fits into the tunnel, encrypted or not, and no more than its network's.
fn link_mtu(assignment: &Assignment, link: &TaskLink, tunnel: u32) -> u32 {
    let LinkKind::Overlay { network } = &link.kind else {
        return tunnel;
    };
    let Some(network) = assignment.networks.get(network) else {
        return tunnel;
    };
    let fits = match network.encrypted {
        true => tunnel - mesh_wireguard::OVERHEAD,
        false => tunnel,
    };
    match network.mtu {
        0 => fits,
        wanted => fits.min(wanted),
    }
}

/// Makes a task's namespace and the links that are `missing`, with their MTU, and says the namespace's cookie.
async fn connect(
    host: &Host,
    path: &std::path::Path,
    pid: u32,
    links: &[TaskLink],
    missing: &[(TaskLink, u32)],
) -> Result<u64> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || {
        if pid != 0 && !netns::exists(&owned) {
            netns::adopt(&owned, pid)
        } else {
            netns::create(&owned)
        }
    })
    .await??;
    for (link, mtu) in missing {
        host.create_pair(link, path, *mtu).await?;
    }
    task_links::configure(path, links.to_vec()).await?;
    netns::within_async(path, mesh_datapath::namespace_cookie)
        .await
        .with_context(|| format!("identify the namespace {}", path.display()))
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
