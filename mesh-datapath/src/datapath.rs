//! The data plane of one node as one value.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

use aya::{Ebpf, EbpfLoader, maps::Map};
use mesh_common::{Addr, AddrKey, BACKEND_ACTIVE, BACKEND_DRAINING, Line, Pool, Published};

use crate::{
    BackendLoad, Config, Desired, Error, Fill, Flow, Link, Report, Room, Snapshot, Uplink,
    UplinkMode, XdpMode,
    attach::{self, Attachment, Attachments},
    compile::{self, Applied, Contents, Front},
    fill::Lrus,
    flows::Flows,
    hooks::Hooks,
    host,
    left_out::LeftOut,
    lines::ROWS,
    netlink, object,
    paths::Paths,
    pins,
    rows::{self, Length, Rows},
    shortages::{Shortage, Shortages},
    snapshot,
    sockets::Sockets,
    tables::Tables,
    twins::Twins,
    upgrade::{self, Superseded},
    verifier,
};

/// The device that owns the tunnels' UDP port.
pub const TUNNEL_DEVICE: &str = "mesh-vxlan";

/// The loopback interface's index: 1 in every namespace.
const LOOPBACK: u32 = 1;

/// The data plane of one node: its programs, maps and attachments. Dropping it leaves all of them working.
///
/// It acts on the network namespace of the thread that calls it.
pub struct Datapath {
    pub(crate) config: Config,
    pub(crate) ebpf: Ebpf,
    pub(crate) tables: Tables,
    twins: Twins,
    lrus: Lrus,
    pub(crate) paths: Paths,
    attachments: Attachments,
    hooks: Hooks,
    rows: Rows,
    shortages: Shortages,
    left_out: LeftOut,
    /// Something became free that those with a shortage may have.
    freed: bool,
    /// Pools that have dropped a row, whose backends may be free.
    settled: BTreeSet<u32>,
    fronts: snapshot::Fronts,
    /// What the last apply has brought about: nothing after one that failed, and before the first.
    pub(crate) applied: Option<Applied>,
    superseded: Superseded,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs, or this binary's version of them next to maps and links that an earlier process pinned.
    /// Packets go on through the old programs until [`Datapath::apply`] swaps them.
    ///
    /// # Errors
    /// When the object is missing, the kernel refuses a program, or the pin folder is not on a bpffs.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let object = object::bytes();
        if object.is_empty() {
            return Err(Error::NoObject);
        }
        let dir = config.versioned_pin_dir();
        let maps = dir.join("maps");
        fs::create_dir_all(&maps).map_err(|source| Error::Path {
            action: "make folder (is there a bpffs?)",
            path: maps.clone(),
            source,
        })?;
        let sizes = sizes(config);
        let mut superseded = upgrade::adopt(config, object, &sizes.map(|(name, _)| name))?;
        let mut loader = EbpfLoader::new();
        for (name, entries) in sizes {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader
            .default_map_pin_directory(&maps)
            // Their kind of definition does not say that they are pinned.
            .map_pin_path("SOCKETS", maps.join("SOCKETS"))
            .map_pin_path(ROWS, maps.join(ROWS))
            .load(object)
            .map_err(|source| Error::Load {
                pin_dir: maps.clone(),
                source: Box::new(source),
            })?;
        for program in verifier::programs() {
            attach::load(&mut ebpf, program)?;
        }
        let twins = Twins::open(&mut ebpf)?;
        superseded.convert(&maps)?;
        let tables = Tables::open(&mut ebpf)?;
        let lrus = Lrus::open(&mut ebpf)?;
        let paths = Paths::open(&mut ebpf)?;
        let mut rows = Rows::new(config.row_bytes / size_of::<Line>() as u32);
        for pool in tables.pools() {
            rows.adopt(pool, |row| tables.read_row(row))?;
        }
        Ok(Self {
            config: config.clone(),
            ebpf,
            tables,
            twins,
            lrus,
            paths,
            attachments: Attachments::open(config)?,
            hooks: Hooks::open(dir.join("hooks"), config.cgroup.clone())?,
            rows,
            shortages: Shortages::default(),
            left_out: LeftOut::default(),
            freed: false,
            settled: BTreeSet::new(),
            fronts: snapshot::Fronts::default(),
            applied: None,
            superseded,
        })
    }

    /// Brings the kernel to `desired`. Idempotent: a second call with the same state reports nothing. Looks only at
    /// services that differ from those of the call before, if that one succeeded.
    ///
    /// # Errors
    /// The first failure; what was done before it stays done, and the next call goes on from there.
    pub fn apply(&mut self, desired: &Desired) -> Result<Report, Error> {
        let mut report = Report::default();
        let uplink = host::uplink_of(desired);
        let kinds = uplink_kinds(desired)?;
        let on_veth = kinds.values().any(|kind| kind.as_deref() == Some("veth"));
        let port = self.config.vxlan_port;
        let applied = self.applied.take();
        let nothing = Applied::default();
        let before = applied.as_ref().unwrap_or(&nothing);
        let contents = compile::contents(desired, before, uplink, on_veth, port);
        let tunnel = if desired.vtep.is_some() {
            netlink::add_vxlan(TUNNEL_DEVICE, port, &self.config.pin_dir)?;
            host::admit_loopback_replies()?;
            host::ifindex(TUNNEL_DEVICE)
        } else {
            None
        };
        self.put(&contents, &before.contents, &mut report)?;
        self.settle(host::monotonic_seconds(), &mut report)?;
        self.twins.sync(&self.ebpf)?;
        let wanted = self.wanted_attachments(desired, &kinds, tunnel);
        let xdp_optional = self.config.xdp == XdpMode::Auto;
        self.attachments
            .sync(&mut self.ebpf, &wanted, xdp_optional, &mut report)?;
        self.hooks.sync(&mut self.ebpf, &mut report)?;
        self.prune(&contents, applied.as_ref(), &mut report)?;
        if self.freed && !(self.shortages.is_empty() && self.left_out.is_empty()) {
            self.put(&contents, &contents, &mut report)?;
        }
        self.left_out.tell();
        self.superseded.remove()?;
        self.fronts.set(&contents, &self.tables);
        self.applied = Some(Applied {
            desired: desired.clone(),
            contents,
        });
        Ok(report)
    }

    /// Drops rows before a change that is an hour old where TCP connections have been evicted since: those that began after
    /// the change would be led to another task by them, and so be reset. `now_s`: seconds of the monotonic clock.
    /// [`Datapath::apply`] does this.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn settle(&mut self, now_s: u64, report: &mut Report) -> Result<(), Error> {
        let evicted_s = self.lrus.conns_evicted_s(now_s)?;
        let tables = &mut self.tables;
        let published = tables.published.copy().iter();
        let published: BTreeMap<_, _> = published
            .filter_map(|(key, old)| {
                let pool = rows::settled(&old.pool, evicted_s, now_s)?;
                Some((*key, Published { pool, ..*old }))
            })
            .collect();
        let vips = tables.vips.copy().iter();
        let vips: BTreeMap<_, _> = vips
            .filter_map(|(key, old)| Some((*key, rows::settled(old, evicted_s, now_s)?)))
            .collect();
        let pools = published.values().map(|published| &published.pool);
        self.settled
            .extend(pools.chain(vips.values()).map(|pool| pool.id));
        tables.published.put(&published, report)?;
        tables.vips.put(&vips, report)?;
        Ok(())
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        snapshot::read(&self.fronts, &self.tables)
    }

    /// Reads the load of the backends of a service, by its id, or of all services; nothing if it is unknown.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn loads(&self, service: Option<&str>) -> Result<Vec<BackendLoad>, Error> {
        let flows = Flows(&self.lrus.flows);
        snapshot::loads(service, &self.fronts, &self.tables, Some(&flows))
    }

    /// The same without open flows ([`BackendLoad::open`] is 0), which are found by reading the whole table of them.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn counters(&self, service: Option<&str>) -> Result<Vec<BackendLoad>, Error> {
        snapshot::loads(service, &self.fronts, &self.tables, None)
    }

    /// The sockets of tasks that talk to virtual addresses, as of now.
    ///
    /// # Errors
    /// When a map cannot be read or this process may open no more files.
    pub fn sockets(&self) -> Result<Sockets, Error> {
        let Some(Map::SkStorage(map)) = self.ebpf.map("SOCKETS") else {
            return Err(Error::Missing {
                kind: "map",
                name: "SOCKETS",
            });
        };
        let datagrams = self.lrus.datagrams()?;
        Sockets::new(map, datagrams.into_iter()).map_err(|source| Error::Netlink {
            action: "keep hold of the table of sockets".into(),
            source,
        })
    }

    /// The name of the service that has a virtual address (that of IPv4), if it is known.
    pub fn service_of(&self, vni: u32, address: IpAddr) -> Option<&str> {
        let front = self.fronts.vip(vni, compile::addr(address))?;
        Some(&front.name)
    }

    /// Reads the flows of this node's tasks that the packet path knows, those that have ended too.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn flows(&self) -> Result<Vec<Flow>, Error> {
        Flows(&self.lrus.flows).read(&self.fronts)
    }

    /// Reads how full the tables that programs write are, and what they evicted: a system call per entry.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn fill(&self) -> Result<Vec<Fill>, Error> {
        self.lrus.fill()
    }

    /// How full the tables are that [`Datapath::apply`] fills, and what has found no room in them, as of the last one.
    pub fn room(&self) -> Room {
        let line = size_of::<Line>() as u64;
        let (used, capacity) = self.rows.fill();
        let (short_rows, missing_rows, refused_rows) = self.shortages.rows();
        let backends = &self.tables.backends;
        Room {
            rows_bytes: u64::from(used) * line,
            rows_allocated_bytes: u64::from(self.tables.rows.allocated()) * line,
            rows_capacity_bytes: u64::from(capacity) * line,
            short_rows,
            missing_rows,
            refused_rows,
            backends: backends.used(),
            backends_capacity: backends.capacity(),
            backends_left_out: self.shortages.left_out(),
            full: self.left_out.tables(),
        }
    }

    /// Which programs the uplinks have, as of the last apply.
    ///
    /// # Errors
    /// When the kernel does not say what kind a link is.
    pub fn uplinks(&self) -> Result<Vec<Uplink>, Error> {
        let Some(applied) = &self.applied else {
            return Ok(Vec::new());
        };
        let kinds = uplink_kinds(&applied.desired)?;
        let uplinks = kinds.into_iter().map(|(ifindex, kind)| {
            let program = attach::UPLINK_XDP;
            let attachment = Attachment { program, ifindex };
            let mode = if self.attachments.has(attachment) {
                UplinkMode::Xdp
            } else if let Some(why) = self.attachments.refusal(attachment) {
                UplinkMode::Refused(why.to_owned())
            } else if self.config.xdp == XdpMode::Off {
                UplinkMode::Off
            } else {
                UplinkMode::Virtual(kind.unwrap_or_default())
            };
            Uplink { ifindex, mode }
        });
        Ok(uplinks.collect())
    }

    /// Whether virtual addresses are settled at the tasks' sockets; if not, the packet programs translate them.
    pub fn has_hooks(&self) -> bool {
        self.hooks.are_attached()
    }

    /// Removes every pin, attachment and device of the data plane at `config`, in the current network namespace.
    /// Nothing there is no error, and what another data plane has there stays.
    ///
    /// # Errors
    /// When a pin or the device cannot be removed; the rest is removed all the same.
    pub fn remove(config: &Config) -> Result<(), Error> {
        let versions = pins::entries(&config.pin_dir)?;
        for version in &versions {
            attach::detach_filters(version)?;
        }
        let pins = pins::remove_tree(&config.pin_dir);
        // An earlier version noted no owner.
        let device = netlink::remove_link(TUNNEL_DEVICE, &config.pin_dir, !versions.is_empty());
        pins.and(device)
    }

    /// First what others refer to: endpoints, backends and rows, then what refers to them. Looks at the fronts that are
    /// not those of `before`, and at those that lack something which there may be room for now.
    fn put(
        &mut self,
        contents: &Contents,
        before: &Contents,
        report: &mut Report,
    ) -> Result<(), Error> {
        let (tables, left_out) = (&mut self.tables, &mut self.left_out);
        tables.put_settings(contents.settings, report)?;
        left_out.note("own", tables.own.put(&contents.own, report)?);
        left_out.note("peers", tables.peers.put(&contents.peers, report)?);
        let endpoints = tables.endpoints.put(&contents.endpoints, report)?;
        left_out.note("endpoints", endpoints);
        left_out.note("links", tables.links.put(&contents.links, report)?);
        // What rows took that could not be written is free.
        let freed = self.rows.keep(tables.pools()) || self.freed;
        self.freed = false;
        let mut ids = Ids::of(&self.tables);
        let now_s = host::monotonic_seconds();
        let (mut room, mut left_out) = (self.tables.published.room(), 0);
        let mut published = BTreeMap::new();
        for (key, front) in &contents.published {
            let old = match self.tables.published.copy().get(key).map(|p| p.pool) {
                Some(old) => {
                    let lacks = freed && self.shortages.contains(old.id);
                    if before.has_port(key, Some(front)) && !lacks {
                        continue;
                    }
                    old
                }
                None if room.take(key) => ids.new_pool(),
                None => {
                    left_out += 1;
                    continue;
                }
            };
            let vni = contents.settings.ingress_vni;
            let value = Published {
                pool: self.pool(old, vni, front, now_s, report)?,
                target_be: front.target_be,
                direct: front.direct.into(),
                pad: [0; 5],
            };
            published.insert(*key, value);
        }
        self.left_out.note("ports", left_out);
        let (mut room, mut left_out) = (self.tables.vips.room(), 0);
        let mut vips = BTreeMap::new();
        for (key, front) in &contents.vips {
            let old = match self.tables.vips.copy().get(key) {
                Some(old) => {
                    let lacks = freed && self.shortages.contains(old.id);
                    if before.has_vip(key, Some(front)) && !lacks {
                        continue;
                    }
                    *old
                }
                None if room > 0 => {
                    room -= 1;
                    ids.new_pool()
                }
                None => {
                    left_out += 1;
                    continue;
                }
            };
            let pool = self.pool(old, key.vni, front, now_s, report)?;
            vips.insert(*key, pool);
        }
        self.left_out.note("vips", left_out);
        self.tables.published.put(&published, report)?;
        self.tables.vips.put(&vips, report)?;
        let namespaces = self.tables.namespaces.put(&contents.namespaces, report)?;
        self.left_out.note("namespaces", namespaces);
        self.tables.put_ports(&contents.ports, false, report)
    }

    /// The pool for a front, its backends and its row written.
    fn pool(
        &mut self,
        old: Pool,
        vni: u32,
        front: &Front,
        now_s: u64,
        report: &mut Report,
    ) -> Result<Pool, Error> {
        let old = Pool {
            affinity_s: front.affinity_s,
            ..old
        };
        let active = self.put_backends(old.id, vni, front, report)?;
        let mut update = self.rows.update(&old, &active, now_s);
        if let Some(write) = &update.write
            && let Err(error) = self.tables.write_row(old.id, write)
        {
            // What has been there is still there.
            update.pool = old;
            update.length = Length::Refused(error.chain());
        }
        let shortage = Shortage {
            left_out: front.active.len() - active.len(),
            length: update.length,
        };
        self.shortages.note(old.id, front, shortage);
        Ok(update.pool)
    }

    /// Writes the backends of a front, draining ones too. The active ones that there was room for.
    fn put_backends(
        &mut self,
        pool: u32,
        vni: u32,
        front: &Front,
        report: &mut Report,
    ) -> Result<Vec<Addr>, Error> {
        let active = front.active.iter().map(|a| (*a, BACKEND_ACTIVE));
        let draining = front.draining.iter().map(|a| (*a, BACKEND_DRAINING));
        let mut put = Vec::with_capacity(front.active.len());
        for (address, there) in active.chain(draining) {
            // Without one, because that table is full, it would only swallow flows.
            let endpoints = self.tables.endpoints.copy();
            if let Some(endpoint) = endpoints.get(&AddrKey { vni, address }).copied() {
                let backends = &mut self.tables.backends;
                let has_entry = backends.put(pool, address, endpoint, there, report)?;
                if has_entry && there == BACKEND_ACTIVE {
                    put.push(address);
                }
            }
        }
        Ok(put)
    }

    /// First what refers to others, then what nothing refers to any more.
    fn prune(
        &mut self,
        contents: &Contents,
        before: Option<&Applied>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut pools = match before {
            Some(before) => changed_pools(contents, before, &self.tables),
            None => self.tables.backends.pools(),
        };
        pools.append(&mut self.settled);
        let removed_before = report.removed;
        self.tables
            .namespaces
            .prune(|key| contents.namespaces.contains_key(key), report)?;
        let tables = &mut self.tables;
        tables
            .published
            .prune(|key| contents.published.contains_key(key), report)?;
        // After what the ports have, as only those in the bitmap are read at the start.
        tables.put_ports(&contents.ports, true, report)?;
        tables
            .vips
            .prune(|key| contents.vips.contains_key(key), report)?;
        self.freed |= self.rows.keep(tables.pools());
        let there: BTreeSet<u32> = tables.pools().map(|pool| pool.id).collect();
        self.shortages.retain(|pool| there.contains(&pool));
        let wanted = backends(contents, tables, &pools);
        let rows = &self.rows;
        self.freed |= tables.backends.prune(
            &pools,
            |pool, address| wanted.contains(&(pool, *address)),
            |pool, address| rows.refer_to(pool, address),
            report,
        )?;
        tables
            .links
            .prune(|key| contents.links.contains_key(key), report)?;
        let removed = report.removed;
        tables
            .endpoints
            .prune(|key| contents.endpoints.contains_key(key), report)?;
        report.departed = report.removed - removed;
        tables
            .peers
            .prune(|key| contents.peers.contains_key(key), report)?;
        tables
            .own
            .prune(|key| contents.own.contains_key(key), report)?;
        self.freed |= report.removed > removed_before;
        Ok(())
    }

    fn wanted_attachments(
        &self,
        desired: &Desired,
        kinds: &BTreeMap<u32, Option<String>>,
        tunnel: Option<u32>,
    ) -> BTreeSet<Attachment> {
        let mut wanted = BTreeSet::new();
        let mut want = |program, ifindex| wanted.insert(Attachment { program, ifindex });
        for (uplink, kind) in kinds {
            want(attach::UPLINK_TC, *uplink);
            let xdp = match self.config.xdp {
                XdpMode::Native => kind.as_deref() != Some("vlan"),
                XdpMode::Auto => kind.is_none(),
                XdpMode::Off => false,
            };
            if xdp {
                want(attach::UPLINK_XDP, *uplink);
            }
        }
        if let Some(tunnel) = tunnel {
            want(attach::TUNNEL_TC, tunnel);
            want(attach::PROBE_TC, tunnel);
            want(attach::LOOPBACK_TC, LOOPBACK);
        }
        let former = desired.former_cipher.as_ref();
        for cipher in desired.cipher.into_iter().chain(former.map(|f| f.device)) {
            want(attach::CIPHER_TC, cipher);
        }
        for (ifindex, link) in &desired.links {
            let program = match link {
                Link::Overlay { .. } => attach::OVERLAY_TC,
                Link::Gateway { .. } => attach::GATEWAY_TC,
            };
            want(program, *ifindex);
        }
        wanted
    }
}

/// What kind of link each uplink is; `None` for a physical one.
fn uplink_kinds(desired: &Desired) -> Result<BTreeMap<u32, Option<String>>, Error> {
    desired
        .uplinks
        .iter()
        .map(|uplink| Ok((*uplink, netlink::link_kind(*uplink)?)))
        .collect()
}

/// The pools whose fronts are not what they were.
fn changed_pools(contents: &Contents, before: &Applied, tables: &Tables) -> BTreeSet<u32> {
    let ports = tables.published.copy().iter();
    let ports = ports
        .filter(|(key, _)| !before.contents.has_port(key, contents.published.get(key)))
        .map(|(_, published)| published.pool.id);
    let addresses = tables.vips.copy().iter();
    let addresses = addresses
        .filter(|(key, _)| !before.contents.has_vip(key, contents.vips.get(key)))
        .map(|(_, pool)| pool.id);
    ports.chain(addresses).collect()
}

/// The backends of some pools, draining ones too.
fn backends(contents: &Contents, tables: &Tables, pools: &BTreeSet<u32>) -> BTreeSet<(u32, Addr)> {
    let published = tables.published.copy();
    let vips = tables.vips.copy();
    let ports = contents
        .published
        .iter()
        .filter_map(|(key, front)| Some((published.get(key)?.pool.id, front)));
    let addresses = contents
        .vips
        .iter()
        .filter_map(|(key, front)| Some((vips.get(key)?.id, front)));
    ports
        .chain(addresses)
        .filter(|(pool, _)| pools.contains(pool))
        .flat_map(|(pool, front)| {
            let all = front.active.iter().chain(&front.draining);
            all.map(move |address| (pool, *address))
        })
        .collect()
}

/// The maps that user space sizes, and their entries.
fn sizes(config: &Config) -> [(&'static str, u32); 5] {
    [
        ("CONNS", config.flow_entries),
        ("CONNS_ANY", config.flow_entries),
        ("FLOWS", config.flow_entries),
        ("BACKENDS", config.backend_slots),
        ("COUNTERS", config.backend_slots),
    ]
}

/// Hands out numbers for pools that no pool has.
struct Ids {
    used: BTreeSet<u32>,
    last: u32,
}

impl Ids {
    fn of(tables: &Tables) -> Self {
        let used = tables.pools().map(|pool| pool.id).collect();
        Self { used, last: 0 }
    }

    fn new_pool(&mut self) -> Pool {
        while !self.used.insert(self.last) {
            self.last += 1;
        }
        Pool {
            id: self.last,
            ..Pool::default()
        }
    }
}
