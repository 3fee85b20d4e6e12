//! Readers, one beside each manager: what a manager says is up to date holds all that was acknowledged to anybody, or read by
//! anybody, before it was asked. One that was the leader, and has not heard of the next one, must not say so.

use crate::{
    load::count_of,
    machine::Host,
    sim::{Life, Sim},
    violation::{Plant, Violation},
};
use mesh_manager::{Lead, state::State};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest pause between two reads, milliseconds.
const PAUSE: u64 = 600;

/// What is known of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    /// It has this change, or a later one.
    Changed(u64),
    /// It was asked to be removed: it may be there or not.
    Doomed,
    /// It is gone for good.
    Removed,
}

/// What was acknowledged to the clients, or read: facts by the service's name. A name is used once, and each change of a
/// service is greater than those before it.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<String, Fact>>);

impl Ledger {
    fn facts(&self) -> MutexGuard<'_, BTreeMap<String, Fact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change was acknowledged.
    pub(crate) fn changed(&self, service: &str, count: u64) {
        let mut facts = self.facts();
        let fact = facts.entry(service.to_owned());
        let fact = fact.or_insert(Fact::Changed(count));
        if let Fact::Changed(known) = fact {
            *known = count.max(*known);
        }
    }

    /// It is about to be removed.
    pub(crate) fn doom(&self, service: &str) {
        self.facts().insert(service.to_owned(), Fact::Doomed);
    }

    /// It was not removed, and will not be.
    pub(crate) fn spare(&self, service: &str, count: u64) {
        let mut facts = self.facts();
        facts.insert(service.to_owned(), Fact::Changed(count));
    }

    /// Its removal was acknowledged.
    pub(crate) fn removed(&self, service: &str) {
        self.facts().insert(service.to_owned(), Fact::Removed);
    }

    /// Compares what was read with what was known before; nobody reads anything older from now on.
    fn compare(&self, sim: &Sim, host: usize, before: &BTreeMap<String, Fact>, state: &State) {
        for (name, fact) in before {
            let read = state.find_service(name).ok().map(count_of);
            match (fact, read) {
                (Fact::Changed(known), Some(count)) if count >= *known => {}
                // Somebody has asked for that meanwhile.
                (Fact::Changed(_), None) if !self.is_there(name) => {}
                (Fact::Doomed, _) | (Fact::Removed, None) => {}
                _ => sim.violated(Violation::StaleRead, format_args!(
                    "manager {host} gave for up to date what it had of service {name}: change {read:?}, after {fact:?}"
                )),
            }
        }
        for service in state.services() {
            self.changed(service.name(), count_of(service));
        }
    }

    fn is_there(&self, service: &str) -> bool {
        matches!(self.facts().get(service), Some(Fact::Changed(_)))
    }
}

/// Who reads of one manager.
pub(crate) struct Reader {
    pub(crate) sim: Arc<Sim>,
    pub(crate) host: Arc<Host>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Reader {
    /// Reads again and again; how often it was answered.
    pub(crate) async fn run(self, stop: Life) -> u64 {
        let mut reads = 0;
        while !stop.is_over() {
            reads += u64::from(self.read().await);
            tokio::time::sleep(self.sim.millis(0, PAUSE)).await;
        }
        reads
    }

    /// Reads once, in either way that managers have for it; whether it was answered.
    async fn read(&self) -> bool {
        let Some((manager, life)) = self.host.manager() else {
            return false;
        };
        let before = self.ledger.facts().clone();
        let deadline = Instant::now() + PATIENCE;
        let is_leader_asked = self.sim.chance(0.5);
        let asked = life.during(async {
            match is_leader_asked {
                _ if self.sim.plant == Some(Plant::HastyReaders) => true,
                true => matches!(manager.lead(deadline).await, Ok(Lead::Here)),
                false => manager.catch_up(deadline).await.is_ok(),
            }
        });
        let is_up_to_date = asked.await == Some(true) && !life.is_over();
        if is_up_to_date {
            let view = manager.view();
            self.ledger
                .compare(&self.sim, self.host.number, &before, &view);
        }
        is_up_to_date
    }
}
