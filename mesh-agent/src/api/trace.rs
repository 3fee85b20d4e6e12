//! `/mesh/trace`: what becomes of packets, asked of all nodes and told in order of time, as lines of JSON.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use axum::{
    extract::{Query as QueryOf, State},
    response::Response,
};
use mesh_api::{
    mesh::{TraceLine, TracedPacket},
    proto::{TraceAnswer, TraceEvent, TraceQuestion, query::Question, report},
};
use mesh_datapath::TraceFilter;
use mesh_manager::{Following, state::State as ClusterState};
use tokio::time::{Instant, timeout_at};

use super::{Answer, Api, args::Query, errors::ApiError, stream::json_lines};
use crate::{doctor, protocol};

/// How long the nodes may take to begin.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a packet waits for earlier ones of slower nodes.
const HOLD: Duration = Duration::from_millis(500);
/// Longest trace, in seconds.
pub(super) const LONGEST: u64 = 3600;
/// Where not said, in seconds.
pub(super) const USUAL: u64 = 10;

pub(super) async fn follow(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Response> {
    let manager = api.manager()?;
    let seconds = query.number("seconds")?.unwrap_or(USUAL);
    if !(1..=LONGEST).contains(&seconds) {
        return Err(ApiError::bad_argument("seconds", &seconds.to_string()));
    }
    let (question, names, addresses) = {
        let view = manager.view();
        let (question, addresses) = question(&view, &query, seconds)?;
        (question, Names::of(&view), addresses)
    };
    let asked = doctor::now();
    let following = manager.follow(Question::Trace(question), PATIENCE)?;
    let source = Source {
        following,
        names,
        addresses,
        asked,
        clocks: HashMap::new(),
        lost: HashMap::new(),
        held: BTreeMap::new(),
        number: 0,
        ready: Vec::new(),
        begun: false,
        begin_by: Instant::now() + PATIENCE,
        end: Instant::now() + Duration::from_secs(seconds) + HOLD,
    };
    Ok(json_lines(futures::stream::unfold(
        source,
        |mut source| async move {
            let line = source.next().await?;
            Some((line, source))
        },
    )))
}

/// What the nodes are asked, and the addresses that one end of a packet has to have; none: any.
fn question(
    view: &ClusterState,
    query: &Query,
    seconds: u64,
) -> Answer<(TraceQuestion, Vec<String>)> {
    let mut question = TraceQuestion {
        time_ms: u32::try_from(seconds * 1000).unwrap_or(u32::MAX),
        ..TraceQuestion::default()
    };
    if let Some(client) = query.get("client") {
        let address: std::net::IpAddr = client
            .parse()
            .map_err(|_| ApiError::bad_argument("client", client))?;
        question.client = address.to_string();
    }
    question.protocol = match query.get("protocol") {
        None => 0,
        Some(name) => protocol::by_name(name)
            .ok_or_else(|| ApiError::bad_argument("protocol", name))?
            .into(),
    };
    let asked: Option<u16> = query.number("port")?;
    let mut addresses = Vec::new();
    match query.get("service") {
        Some(name) => {
            let service = view.find_service(name)?;
            let ports = service.ports.iter();
            let ports = ports.filter(|port| asked.is_none_or(|asked| asked == port.published));
            // At its node the packet has the task's port.
            question.ports = ports
                .flat_map(|port| [u32::from(port.published), u32::from(port.target)])
                .collect();
            addresses.extend(service.vips.iter().map(|vip| vip.address.to_string()));
            let tasks = view.tasks_of_service(&service.id);
            let held = tasks.flat_map(|task| &task.attachments);
            addresses.extend(held.map(|held| held.address.to_string()));
            addresses.extend(
                view.nodes()
                    .map(|node| node.description.data_path_address.clone()),
            );
            if let (true, Some(port)) = (question.ports.is_empty(), asked) {
                question.ports.push(port.into());
            }
        }
        None => {
            let services = view.services().flat_map(|service| &service.ports);
            let published = services.filter(|port| asked == Some(port.published));
            question.ports.extend(asked.map(u32::from));
            question
                .ports
                .extend(published.map(|port| u32::from(port.target)));
        }
    }
    question.ports.sort_unstable();
    question.ports.dedup();
    if question.ports.len() > TraceFilter::MOST_PORTS {
        return Err(ApiError::bad_request(
            "the service publishes too many ports to follow at once; name one with port",
        ));
    }
    if question.client.is_empty() && question.ports.is_empty() && addresses.is_empty() {
        return Err(ApiError::bad_request(
            "every packet would be followed; name a client, a service or a port",
        ));
    }
    Ok((question, addresses))
}

/// What goes on between two lines.
struct Source {
    following: Following,
    names: Names,
    addresses: Vec<String>,
    /// The manager's clock when the question was sent.
    asked: i64,
    /// By node id.
    clocks: HashMap<String, Clock>,
    lost: HashMap<String, u64>,
    /// Packets that wait for earlier ones, by time and number of arrival.
    held: BTreeMap<(i64, u64), TracedPacket>,
    number: u64,
    /// Lines to be given out, the last one first.
    ready: Vec<TraceLine>,
    begun: bool,
    begin_by: Instant,
    end: Instant,
}

impl Source {
    async fn next(&mut self) -> Option<TraceLine> {
        loop {
            if let Some(line) = self.ready.pop() {
                return Some(line);
            }
            self.release();
            if !self.ready.is_empty() {
                continue;
            }
            let now = Instant::now();
            if now >= self.end {
                return None;
            }
            if !self.begun && (self.all_began() || now >= self.begin_by) {
                self.begun = true;
                return Some(self.beginning());
            }
            let look = self.end.min(now + HOLD / 5);
            if let Ok(Some((node, report::Answer::Trace(answer)))) =
                timeout_at(look, self.following.next()).await
            {
                self.take(&node, answer);
            }
        }
    }

    fn all_began(&self) -> bool {
        let mut nodes = self.following.nodes.iter();
        nodes.all(|node| self.clocks.contains_key(node))
    }

    /// The line that says that packets are followed from now on, and by whom not.
    fn beginning(&self) -> TraceLine {
        let missing = self.names.nodes.iter();
        let missing = missing.filter(|(id, _)| !self.clocks.contains_key(*id));
        TraceLine::Begun {
            silent: missing.map(|(_, name)| name.clone()).collect(),
        }
    }

    fn take(&mut self, node: &str, answer: TraceAnswer) {
        let now = doctor::now();
        let name = self.names.node(node);
        if !answer.error.is_empty() {
            self.following.nodes.remove(node);
            let message = format!("{name}: {}", answer.error);
            self.ready.push(TraceLine::Trouble { message });
            return;
        }
        let asked = self.asked;
        let clock = self.clocks.entry(node.to_owned());
        let clock = clock.or_insert_with(|| Clock::new(answer.clock - asked));
        clock.at_least(answer.clock - now);
        let ahead = clock.ahead();
        let lost = self.lost.entry(node.to_owned()).or_default();
        if answer.lost > *lost {
            let message = format!(
                "{name}: {} packets could not be told of",
                answer.lost - *lost
            );
            *lost = answer.lost;
            self.ready.push(TraceLine::Trouble { message });
        }
        for event in answer.events {
            let by_address = |end: &str| {
                let address = host_of(end);
                self.addresses.iter().any(|known| known == address)
            };
            if !self.addresses.is_empty()
                && !by_address(&event.source)
                && !by_address(&event.destination)
            {
                continue;
            }
            self.number += 1;
            let packet = self.names.packet(&name, event, ahead);
            self.held.insert((packet.time, self.number), packet);
        }
    }

    /// Gives out what has waited long enough.
    fn release(&mut self) {
        if !self.begun {
            return;
        }
        let until = if Instant::now() >= self.end {
            i64::MAX
        } else {
            doctor::now() - HOLD.as_nanos() as i64
        };
        let later = self.held.split_off(&(until, 0));
        let due = std::mem::replace(&mut self.held, later);
        self.ready
            .extend(due.into_values().rev().map(Box::new).map(TraceLine::Packet));
    }
}

/// How far a node's clock is ahead of the manager's, in nanoseconds: as far as is known, as it cannot have answered
/// before it was asked, nor after the answer came.
#[derive(Debug, Clone, Copy)]
struct Clock {
    least: i64,
    most: i64,
}

impl Clock {
    fn new(most: i64) -> Self {
        Self {
            least: i64::MIN,
            most,
        }
    }

    fn at_least(&mut self, least: i64) {
        self.least = self.least.max(least).min(self.most);
    }

    /// Clocks that may agree are taken to: nodes have theirs set more closely than messages can tell.
    fn ahead(self) -> i64 {
        0.clamp(self.least, self.most)
    }
}

/// What addresses and ids are called.
struct Names {
    /// Nodes' names by id.
    nodes: BTreeMap<String, String>,
    /// Nodes' names by tunnel end point.
    peers: HashMap<String, String>,
    /// Tasks' names by address.
    tasks: HashMap<String, String>,
}

impl Names {
    fn of(view: &ClusterState) -> Self {
        let name = |node: &mesh_manager::state::Node| node.description.hostname.clone();
        let address = |node: &mesh_manager::state::Node| node.description.data_path_address.clone();
        let tasks = view.tasks().filter(|task| task.is_endpoint());
        Self {
            nodes: view.nodes().map(|n| (n.id.clone(), name(n))).collect(),
            peers: view.nodes().map(|n| (address(n), name(n))).collect(),
            tasks: tasks
                .flat_map(|t| t.attachments.iter().map(move |held| (held.address, t)))
                .map(|(address, t)| (address.to_string(), t.short_name()))
                .collect(),
        }
    }

    fn node(&self, id: &str) -> String {
        self.nodes.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    /// `ahead`: what the node's clock shows more than this one's.
    fn packet(&self, node: &str, event: TraceEvent, ahead: i64) -> TracedPacket {
        let task = |end: &str| self.tasks.get(host_of(end)).cloned();
        let task = task(&event.destination).or_else(|| task(&event.source));
        let tunnel = self.peers.get(&event.peer).cloned();
        TracedPacket {
            time: event.time - ahead,
            node: node.to_owned(),
            program: event.place,
            interface: event.interface,
            protocol: protocol::name(event.protocol.try_into().unwrap_or(0)),
            flags: flags(event.flags),
            source: event.source,
            destination: event.destination,
            verdict: event.outcome,
            dropped: event.dropped,
            tunnel: tunnel.unwrap_or(event.peer),
            task: task.unwrap_or_default(),
            bytes: event.bytes,
        }
    }
}

/// The address of `address:port`.
fn host_of(end: &str) -> &str {
    let host = end.rsplit_once(':').map_or(end, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// TCP's flags as tcpdump writes them.
fn flags(bits: u32) -> String {
    let known = [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (16, '.')];
    let set = known.into_iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, letter)| letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_corrected_by_what_is_proven() {
        let mut clock = Clock::new(5);
        clock.at_least(-3);
        assert_eq!(clock.ahead(), 0);
        clock.at_least(2);
        assert_eq!(clock.ahead(), 2);
        let mut behind = Clock::new(-7);
        behind.at_least(-9);
        assert_eq!(behind.ahead(), -7);
        // A clock that was set meanwhile.
        behind.at_least(100);
        assert_eq!(behind.ahead(), -7);
    }

    #[test]
    fn ends_and_flags() {
        assert_eq!(host_of("192.0.2.1:80"), "192.0.2.1");
        assert_eq!(host_of("[2001:db8::1]:80"), "2001:db8::1");
        assert_eq!(flags(0x02), "S");
        assert_eq!(flags(0x12), "S.");
        assert_eq!(flags(0), "");
    }
}
