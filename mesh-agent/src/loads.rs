//! How much goes from this node, or to its tasks, to the backends of a service.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh_api::proto::{BackendLoad, LoadAnswer, LoadQuestion, Rates, ReturnPath, ServiceLoad};
use mesh_datapath::{BackendLoad as Load, Datapath, ReturnState, Sockets};

use crate::{
    links::netns,
    node::{Node, NodeError},
    traffic,
};

/// What this node knows. Rates take the interval that is asked for.
pub(crate) async fn read(node: &Node, question: LoadQuestion) -> Result<LoadAnswer, NodeError> {
    let service = Some(question.service_id).filter(|id| !id.is_empty());
    let interval_ms = question.interval_ms;
    let mut earlier = None;
    if interval_ms > 0 {
        let counters = |datapath: &Datapath, service: Option<&str>| datapath.counters(service);
        earlier = reading(node, service.clone(), counters).await?;
        tokio::time::sleep(Duration::from_millis(interval_ms.into())).await;
    }
    let with_sockets = |datapath: &Datapath, service: Option<&str>| {
        Ok((datapath.loads(service)?, datapath.sockets()?))
    };
    let mut answer = LoadAnswer {
        interval_ms,
        ..LoadAnswer::default()
    };
    let Some(now) = reading(node, service.clone(), with_sockets).await? else {
        return Ok(answer);
    };
    let (mut loads, sockets) = now.read;
    if loads.is_empty() {
        return Ok(answer);
    }
    add_sockets(node, &mut loads, sockets).await;
    let rates = earlier.map(|earlier| rates(earlier.read, &loads, now.at - earlier.at));
    let rates = rates.unwrap_or_default();
    match service {
        Some(id) => {
            answer.backends = backends(&loads, &rates);
            answer.returns = returns(node, &id);
        }
        None => answer.services = sums(&loads, &rates),
    }
    Ok(answer)
}

/// What was read, and when.
struct Reading<T> {
    at: Instant,
    read: T,
}

/// Reads the packet path of a service's ports and addresses, or all services', if it is open.
async fn reading<T: Send + 'static>(
    node: &Node,
    service: Option<String>,
    what: impl FnOnce(&Datapath, Option<&str>) -> Result<T, mesh_datapath::Error> + Send + 'static,
) -> Result<Option<Reading<T>>, NodeError> {
    let node = node.clone();
    let read = move || {
        node.read_datapath(|datapath| {
            let at = Instant::now();
            let read = what(datapath, service.as_deref())?;
            Ok(Reading { at, read })
        })
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(anyhow::Error::from)?
}

/// Counts the sockets of this node's tasks that virtual addresses led to these backends, but for those that their owners have
/// closed: the packet path's flows do not count as open either once the client has.
async fn add_sockets(node: &Node, loads: &mut [Load], sockets: Sockets) {
    let mut by_address: HashMap<(u32, IpAddr), &mut Load> = loads
        .iter_mut()
        .map(|load| ((load.vni, load.address), load))
        .collect();
    let sockets = traffic::open_sockets(node, sockets).await;
    for socket in sockets.into_iter().filter(|socket| !socket.fin_sent) {
        if let Some(load) = by_address.get_mut(&(socket.vni, socket.backend)) {
            load.open += 1;
        }
    }
}

/// What was added by the second, for each of `loads`. One that was not there earlier, or counts anew, has none yet.
fn rates(earlier: Vec<Load>, loads: &[Load], time: Duration) -> Vec<Rates> {
    let earlier: HashMap<(u32, IpAddr), Load> = earlier
        .into_iter()
        .map(|load| ((load.vni, load.address), load))
        .collect();
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / time.as_secs_f64();
    let rates = |load: &Load| {
        let before = earlier.get(&(load.vni, load.address));
        let before = before.filter(|before| before.service == load.service);
        before.map_or_else(Rates::default, |before| Rates {
            flows: rate(before.flows, load.flows),
            packets: rate(before.packets, load.packets),
            bytes: rate(before.bytes, load.bytes),
        })
    };
    loads.iter().map(rates).collect()
}

/// One by one, with rates if there are any.
fn backends(loads: &[Load], rates: &[Rates]) -> Vec<BackendLoad> {
    let backend = |(number, load): (usize, &Load)| BackendLoad {
        vni: load.vni,
        address: load.address.to_string(),
        open: load.open,
        flows: load.flows,
        packets: load.packets,
        bytes: load.bytes,
        rates: rates.get(number).copied(),
    };
    loads.iter().enumerate().map(backend).collect()
}

/// By service and network, with rates if there are any.
fn sums(loads: &[Load], rates: &[Rates]) -> Vec<ServiceLoad> {
    let mut sums: BTreeMap<(&str, u32), ServiceLoad> = BTreeMap::new();
    for (number, load) in loads.iter().enumerate() {
        let sum = sums.entry((&load.service, load.vni)).or_default();
        sum.open += load.open;
        sum.flows += load.flows;
        sum.packets += load.packets;
        sum.bytes += load.bytes;
        if let Some(rates) = rates.get(number) {
            let sum = sum.rates.get_or_insert_default();
            sum.flows += rates.flows;
            sum.packets += rates.packets;
            sum.bytes += rates.bytes;
        }
    }
    let named = sums.into_iter().map(|((service, vni), sum)| ServiceLoad {
        service_id: service.to_owned(),
        vni,
        ..sum
    });
    named.collect()
}

/// How replies of this node's tasks of a service go back; nothing if it has none.
fn returns(node: &Node, service_id: &str) -> Vec<ReturnPath> {
    let has_task = node.tasks().iter().any(|task| {
        task.task.service_id == service_id
            && netns::exists(&node.config().netns_path(&task.task.id))
    });
    if !has_task {
        return Vec::new();
    }
    let paths = node.returns();
    let told = paths.iter().map(|path| ReturnPath {
        peer: path.peer.to_string(),
        address: path.address.to_string(),
        direct: path.state == ReturnState::Direct,
        why: path.state.to_string(),
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(service: &str, last: u8, flows: u64, bytes: u64) -> Load {
        Load {
            service: service.into(),
            vni: 4096,
            address: [10, 0, 0, last].into(),
            open: 1,
            flows,
            packets: 0,
            bytes,
        }
    }

    #[test]
    fn rates_are_by_the_second_and_of_what_was_there_before() {
        let earlier = vec![
            load("web", 5, 10, 1000),
            load("web", 6, 99, 99_000),
            // Whose address another service's task has now.
            load("db", 7, 1, 1),
            load("gone", 8, 1, 1),
        ];
        let loads = [
            load("web", 5, 15, 4000),
            load("web", 6, 3, 300),
            load("web", 7, 50, 5000),
            load("web", 9, 7, 700),
        ];
        let rates = rates(earlier, &loads, Duration::from_millis(2500));
        let none = Rates::default();
        let first = Rates {
            flows: 2.0,
            packets: 0.0,
            bytes: 1200.0,
        };
        assert_eq!(rates, [first, none, none, none]);
        let told = backends(&loads, &rates);
        assert_eq!(told[0].rates, Some(first));
        let sums = sums(&loads, &rates);
        let sum = ServiceLoad {
            service_id: "web".into(),
            vni: 4096,
            open: 4,
            flows: 75,
            packets: 0,
            bytes: 10_000,
            rates: Some(first),
        };
        assert_eq!(sums, [sum]);
        assert_eq!(backends(&loads, &[])[0].rates, None);
    }

    #[test]
    fn sums_are_by_service_and_network() {
        let other = Load {
            vni: 4097,
            ..load("web", 5, 1, 1)
        };
        let loads = [load("db", 7, 1, 1), load("web", 5, 2, 2), other];
        let sums = sums(&loads, &[]);
        let keys: Vec<_> = sums
            .iter()
            .map(|sum| (&*sum.service_id, sum.vni, sum.flows, sum.rates))
            .collect();
        let wanted = [
            ("db", 4096, 1, None),
            ("web", 4096, 2, None),
            ("web", 4097, 1, None),
        ];
        assert_eq!(keys, wanted);
    }
}
