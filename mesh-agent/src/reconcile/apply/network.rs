//! Packet path, names and egress of the node as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use mesh_api::proto;

use crate::{
    assignment::Assignment,
    desired,
    links::{
        egress::{self, Egress, HostPort},
        forwarding,
        host::HostView,
        plan::{LinkKind, host_prefix},
    },
    protocol,
    reconcile::{Reconciler, observe, open_datapath, record::Record, state::TaskState},
};

impl Reconciler {
    /// Packet path, names, egress.
    pub(super) async fn apply_network(
        &mut self,
        assignment: &Arc<Assignment>,
        host: &HostView,
    ) -> Result<()> {
        if !Arc::ptr_eq(&self.named, assignment) {
            self.zone.send_replace(Arc::new(desired::zone(assignment)));
            self.named = Arc::clone(assignment);
        }
        let node = self
            .uplinks
            .facts(host, &self.instance, self.vtep, Instant::now());
        let links = observe::link_facts(host, &self.instance, assignment, self.known.values());
        if let Some(mtu) = observe::uplink_mtu(host, self.vtep) {
            self.mtu
                .send_if_modified(|told| std::mem::replace(told, mtu) != mtu);
        }
        let mut wanted = desired::datapath(assignment, &node, &links, &mut self.parts);
        let own = match self.apply_cipher(assignment, host).await {
            Ok(own) => own,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "encrypted networks do not follow what changes"
                );
                None
            }
        };
        if let Some(ciphers) = self.ciphers_that_are() {
            wanted.cipher = Some(ciphers.device);
            wanted.former_cipher = ciphers.former;
        }
        wanted.namespaces = desired::namespaces(assignment, &self.configured, &links);
        let wanted = Arc::new(wanted);
        let (shared, applied) = (self.datapath.clone(), Arc::clone(&wanted));
        let config = self.datapath_config();
        let report = tokio::task::spawn_blocking(move || -> Result<_> {
            open_datapath(&shared, &config)?;
            let mut slot = shared
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let datapath = slot.as_mut().context("the packet path is closed")?;
            Ok(datapath.apply(&applied)?)
        })
        .await?;
        // Not before: who knows a key may use it at once.
        if let Some(own) = own.filter(|_| report.is_ok()) {
            self.tell_cipher(own);
        }
        if let Err(error) = forwarding::route_v6(host, &node) {
            tracing::warn!(%error, "tasks do not reach the outside over IPv6");
        }
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
        self.orphans |= report.departed > 0;
        if self.orphans {
            self.orphans = false;
            if let Err(error) = self.close_orphans(&wanted).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "sockets may stay connected to ended tasks, trying again"
                );
                self.orphans = true;
            }
        }
        if !report.is_empty() {
            tracing::debug!(
                ?report,
                revision = assignment.revision,
                "packet path changed"
            );
        }
        Ok(())
    }

    pub(in crate::reconcile) fn egress(&self, assignment: &Assignment) -> Egress {
        let pool = self.config.local_pool();
        let mut sources = vec![IpNetwork::V4(pool)];
        // Of tasks that were there before the pool became another one.
        let locals = self.known.values().map(Record::local_address);
        let others: BTreeSet<_> = locals.filter(|address| !pool.contains(*address)).collect();
        sources.extend(others.into_iter().map(|one| IpNetwork::V4(one.into())));
        sources.extend(
            assignment
                .networks
                .values()
                .filter(|network| network.ingress)
                .flat_map(|network| [&network.subnet, &network.subnet_v6])
                .filter_map(|subnet| subnet.parse::<IpNetwork>().ok()),
        );
        let mut host_ports: Vec<_> = self
            .known
            .values()
            .filter(|record| (TaskState::Starting..=TaskState::Running).contains(&record.state()))
            .flat_map(|record| {
                let addresses = self.gateway_addresses(assignment, record);
                let service = assignment.services.get(&record.task.service_id);
                service
                    .into_iter()
                    .flat_map(|service| &service.ports)
                    .filter(|port| port.mode() == proto::PublishMode::Host)
                    .flat_map(move |port| {
                        addresses.clone().into_iter().filter_map(|address| {
                            Some(HostPort {
                                protocol: protocol::number(port.protocol()),
                                published: u16::try_from(port.published).ok()?,
                                address,
                                target: u16::try_from(port.target).ok()?,
                            })
                        })
                    })
            })
            .collect();
        host_ports.sort();
        Egress {
            sources,
            host_ports,
            // Nobody else's: no task or node has 127.0.0.1.
            loopback_v6: observe::ingress_v6(assignment)
                .map(|first| desired::v6(first, Ipv4Addr::LOCALHOST)),
        }
    }

    /// The task's addresses on its gateway link, of both families.
    fn gateway_addresses(&self, assignment: &Assignment, record: &Record) -> Vec<IpAddr> {
        let links = observe::links_of(&self.instance, assignment, record);
        links
            .iter()
            .flatten()
            .filter(|link| link.kind == LinkKind::Gateway)
            .flat_map(|link| {
                let six = link.v6.map(|(address, _)| IpAddr::V6(address));
                [IpAddr::V4(link.address)].into_iter().chain(six)
            })
            .collect()
    }

    /// After the last task is gone: everything of this agent on the node.
    pub(in crate::reconcile) async fn remove_everything(&mut self) -> Result<()> {
        let view = self.host.observe().await?;
        for stray in observe::stray_links(&view, &self.instance, &BTreeMap::new()) {
            self.host.delete(stray.index).await?;
        }
        let (shared, config) = (self.datapath.clone(), self.datapath_config());
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
        self.end_cipher().await?;
        egress::apply(&egress::removal(&self.instance)).await?;
        self.egress = None;
        self.tools.runtime.remove_parent_cgroups();
        Ok(())
    }
}
