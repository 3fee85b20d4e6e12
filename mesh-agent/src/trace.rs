//! Follows packets through this node, for a manager that asks.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_api::proto::{Report, TraceAnswer, TraceEvent, TraceQuestion, report::Answer};
use mesh_datapath::{Trace, TraceFilter, TracedPacket};
use tokio::{sync::mpsc, time::Instant};

use crate::{doctor, node::Node};

/// How often the node looks for packets that it was told of.
const PERIOD: Duration = Duration::from_millis(50);
/// Longest trace.
const LONGEST: Duration = Duration::from_secs(3600);
/// Packets in one answer.
const BATCH: usize = 1024;

/// Sends what becomes of the packets that were asked for, until the time is over or this is dropped.
pub(crate) async fn run(
    node: Node,
    question: TraceQuestion,
    id: String,
    reports: mpsc::Sender<Report>,
) {
    let send = async |answer: TraceAnswer| {
        let report = Report {
            query_id: id.clone(),
            answer: Some(Answer::Trace(answer)),
        };
        reports.send(report).await.is_ok()
    };
    let time = Duration::from_millis(question.time_ms.into()).min(LONGEST);
    let end = Instant::now() + time;
    let refuse = async |error: &str| {
        send(TraceAnswer {
            clock: doctor::now(),
            error: error.to_owned(),
            ..TraceAnswer::default()
        })
        .await
    };
    let mut waits = false;
    let (switch, mut trace) = loop {
        let begun = filter(&question).and_then(|filter| Switch::turn_on(&node, &filter));
        match begun {
            Ok(Some(begun)) => break begun,
            // The node has just started.
            Ok(None) if Instant::now() < end => {
                if !waits && !refuse("the packet path is not open yet").await {
                    return;
                }
                waits = true;
                tokio::time::sleep(PERIOD).await;
            }
            Ok(None) => return,
            Err(error) => {
                refuse(&format!("{error:#}")).await;
                return;
            }
        }
    };
    let mut told = true;
    while Instant::now() < end {
        let events = take(&mut trace);
        // The first answer says that the trace has begun.
        if told || !events.is_empty() {
            let answer = TraceAnswer {
                clock: doctor::now(),
                events,
                lost: trace.lost().unwrap_or(0),
                error: String::new(),
            };
            if !send(answer).await {
                break;
            }
        }
        told = false;
        tokio::time::sleep(PERIOD).await;
    }
    drop(switch);
}

/// The last word to who followed packets before somebody else does.
pub(crate) fn replaced() -> Answer {
    Answer::Trace(TraceAnswer {
        clock: doctor::now(),
        error: "another trace has taken this one's place".to_owned(),
        ..TraceAnswer::default()
    })
}

fn filter(question: &TraceQuestion) -> Result<TraceFilter> {
    let client = match question.client.as_str() {
        "" => None,
        text => Some(text.parse().context("the client's address")?),
    };
    anyhow::ensure!(
        question.ports.len() <= TraceFilter::MOST_PORTS,
        "more than {} ports cannot be told apart",
        TraceFilter::MOST_PORTS
    );
    let ports: Result<Vec<u16>, _> = question
        .ports
        .iter()
        .map(|port| (*port).try_into())
        .collect();
    let protocol = u8::try_from(question.protocol).context("the protocol")?;
    Ok(TraceFilter {
        client,
        ports: ports.context("a port")?,
        protocol: (protocol != 0).then_some(protocol),
    })
}

/// The programs tell of packets as long as this lives.
struct Switch(Node);

impl Switch {
    /// `None`: the packet path is not open.
    fn turn_on(node: &Node, filter: &TraceFilter) -> Result<Option<(Self, Trace)>> {
        let trace = node.switch_datapath(|datapath| datapath.trace(filter))?;
        Ok(trace.map(|trace| (Self(node.clone()), trace)))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = self.0.switch_datapath(|datapath| datapath.end_trace()) {
            tracing::warn!(%error, "packets are traced until the next change of the packet path");
        }
    }
}

fn take(trace: &mut Trace) -> Vec<TraceEvent> {
    // What the two clocks show at one moment; they differ by what the wall clock is set to.
    let ahead = doctor::now() - mesh_datapath::boot_nanoseconds() as i64;
    let packets = std::iter::from_fn(|| trace.next_packet());
    packets
        .take(BATCH)
        .map(|packet| event(&packet, ahead))
        .collect()
}

fn event(packet: &TracedPacket, ahead: i64) -> TraceEvent {
    let interface = mesh_datapath::interface_or_index(packet.ifindex);
    TraceEvent {
        time: packet.time_ns as i64 + ahead,
        place: packet.place.to_owned(),
        outcome: packet.outcome.to_owned(),
        dropped: packet.dropped,
        interface,
        source: packet.src.to_string(),
        destination: packet.dst.to_string(),
        peer: packet.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        protocol: packet.protocol.into(),
        flags: packet.flags.into(),
        bytes: packet.length,
    }
}
