//! Under which addresses of other nodes this node may send: what is asked and tried each second, and what is known by the
//! answers. Pure: numbers are drawn by the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use super::message::Says;

/// Proofs in a row that must arrive before replies leave directly: a network that loses every other one is not taken.
const ENOUGH: u32 = 2;
/// Proofs in a row whose loss ends that.
const MOST_LOST: u32 = 3;

/// What is known of direct return under one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnPath {
    /// The node whose address it is: its tunnel end point.
    pub peer: Ipv4Addr,
    /// The address that clients ask and replies have to come from.
    pub address: IpAddr,
    /// Whether this node may send under it.
    pub state: ReturnState,
}

/// Whether replies leave directly, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnState {
    /// They do: what this node sends under the address arrives.
    Direct,
    /// Not yet: this is being tried.
    Trying,
    /// Nobody says whether anything arrives.
    Silent,
    /// What this node sends under the address is lost.
    Lost,
}

impl fmt::Display for ReturnState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "packets under this address arrive",
            Self::Trying => "not proved yet",
            Self::Silent => "the agent of the node that has the address does not answer",
            Self::Lost => {
                "the network loses packets that this node sends under that node's address"
            }
        })
    }
}

/// A packet to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToSend {
    pub(super) number: u64,
    pub(super) says: Says,
    /// A tunnel end point, with [`Says::Ask`]; with [`Says::Proof`], the address to send to and under.
    pub(super) to: IpAddr,
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Proofs(BTreeMap<Ipv4Addr, Peer>);

#[derive(Debug, Default)]
struct Peer {
    asked: Question,
    addresses: BTreeMap<IpAddr, Attempt>,
}

/// Something that is asked each second.
#[derive(Debug, Default)]
struct Question {
    /// What is not answered yet.
    open: Option<u64>,
    /// Without an answer in a row.
    lost: u32,
}

#[derive(Debug, Default)]
struct Attempt {
    question: Question,
    /// Proofs that have arrived in a row.
    arrived: u32,
    proved: bool,
}

impl Question {
    fn ask(&mut self, number: u64) {
        if self.open.replace(number).is_some() {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Whether it is the answer.
    fn answered(&mut self, number: u64) -> bool {
        let answered = self.open == Some(number);
        if answered {
            *self = Self::default();
        }
        answered
    }

    fn is_lost(&self) -> bool {
        self.lost >= MOST_LOST
    }
}

impl Proofs {
    /// A second is over: what to send in the next one.
    pub(super) fn round(
        &mut self,
        peers: &BTreeSet<Ipv4Addr>,
        mut draw: impl FnMut() -> u64,
    ) -> Vec<ToSend> {
        self.0.retain(|peer, _| peers.contains(peer));
        let mut sent = Vec::new();
        for address in peers {
            let peer = self.0.entry(*address).or_default();
            let mut send = |question: &mut Question, says, to| {
                let number = draw();
                question.ask(number);
                sent.push(ToSend { number, says, to });
            };
            send(&mut peer.asked, Says::Ask, (*address).into());
            for (address, attempt) in &mut peer.addresses {
                send(&mut attempt.question, Says::Proof, *address);
                if attempt.question.lost > 0 {
                    attempt.arrived = 0;
                }
                attempt.proved &= !attempt.question.is_lost();
            }
        }
        sent
    }

    /// A peer has said which addresses it has.
    pub(super) fn told(&mut self, from: Ipv4Addr, number: u64, addresses: &[IpAddr]) {
        let Some(peer) = self
            .0
            .get_mut(&from)
            .filter(|p| p.asked.open == Some(number))
        else {
            return;
        };
        peer.asked.answered(number);
        peer.addresses.retain(|known, _| addresses.contains(known));
        for address in addresses {
            peer.addresses.entry(*address).or_default();
        }
    }

    /// A peer has seen a proof.
    pub(super) fn seen(&mut self, from: Ipv4Addr, number: u64) {
        let attempts = self.0.get_mut(&from).into_iter();
        for attempt in attempts.flat_map(|peer| peer.addresses.values_mut()) {
            if attempt.question.answered(number) {
                attempt.arrived = attempt.arrived.saturating_add(1);
                attempt.proved |= attempt.arrived >= ENOUGH;
            }
        }
    }

    /// What is known. A peer that has not said its addresses is there with its tunnel end point.
    pub(super) fn paths(&self) -> Vec<ReturnPath> {
        let mut paths = Vec::new();
        for (peer, known) in &self.0 {
            let silent = known.asked.is_lost();
            let mut tell = |address, state| {
                paths.push(ReturnPath {
                    peer: *peer,
                    address,
                    state,
                });
            };
            if known.addresses.is_empty() {
                let state = if silent {
                    ReturnState::Silent
                } else {
                    ReturnState::Trying
                };
                tell((*peer).into(), state);
            }
            for (address, attempt) in &known.addresses {
                let state = if attempt.proved {
                    ReturnState::Direct
                } else if silent {
                    ReturnState::Silent
                } else if attempt.question.is_lost() {
                    ReturnState::Lost
                } else {
                    ReturnState::Trying
                };
                tell(*address, state);
            }
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ADDRESSES: [IpAddr; 2] = [
        IpAddr::V4(PEER),
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    ];

    /// What comes back of a round: answers to questions, and the proofs under these addresses.
    struct Case {
        proofs: Proofs,
        drawn: u64,
    }

    impl Case {
        fn new() -> Self {
            Self {
                proofs: Proofs::default(),
                drawn: 0,
            }
        }

        fn round(&mut self, answers: bool, arrive: &[IpAddr]) -> Vec<ReturnState> {
            let sent = self.proofs.round(&[PEER].into(), || {
                self.drawn += 1;
                self.drawn
            });
            for ToSend { number, says, to } in sent {
                match says {
                    Says::Ask if answers => self.proofs.told(PEER, number, &ADDRESSES),
                    Says::Proof if arrive.contains(&to) => self.proofs.seen(PEER, number),
                    _ => {}
                }
            }
            let paths = self.proofs.paths();
            paths.into_iter().map(|path| path.state).collect()
        }
    }

    use ReturnState::{Direct, Lost, Silent, Trying};

    #[test]
    fn a_path_is_taken_once_it_is_proved_and_left_once_it_is_lost() {
        let mut case = Case::new();
        assert_eq!(case.round(true, &ADDRESSES), [Trying, Trying]);
        assert_eq!(case.round(true, &ADDRESSES), [Trying, Trying]);
        assert_eq!(case.round(true, &ADDRESSES), [Direct, Direct]);
        // Each address for itself; two losses in a row are forgiven.
        for _ in 0..MOST_LOST {
            assert_eq!(case.round(true, &ADDRESSES[1..]), [Direct, Direct]);
        }
        assert_eq!(case.round(true, &ADDRESSES[1..]), [Lost, Direct]);
        assert_eq!(case.round(true, &ADDRESSES), [Trying, Direct]);
        assert_eq!(case.round(true, &ADDRESSES), [Direct, Direct]);
    }

    #[test]
    fn every_other_proof_is_not_enough() {
        let mut case = Case::new();
        for _ in 0..10 {
            assert_eq!(case.round(true, &ADDRESSES), [Trying, Trying]);
            case.round(true, &[]);
        }
    }

    #[test]
    fn who_does_not_answer_is_not_taken_for_a_filter() {
        let mut case = Case::new();
        for _ in 0..MOST_LOST {
            assert_eq!(case.round(false, &[]), [Trying]);
        }
        assert_eq!(case.round(false, &[]), [Silent]);
        let mut case = Case::new();
        case.round(true, &[]);
        for _ in 0..=MOST_LOST {
            case.round(false, &[]);
        }
        assert_eq!(case.round(false, &[]), [Silent, Silent]);
    }

    #[test]
    fn numbers_of_others_and_of_earlier_rounds_prove_nothing() {
        let mut case = Case::new();
        case.round(true, &[]);
        let mut proofs = case.proofs;
        let sent = proofs.round(&[PEER].into(), || 1000);
        let proof = sent.iter().find(|sent| sent.says == Says::Proof).unwrap();
        for _ in 0..ENOUGH {
            proofs.seen(Ipv4Addr::new(192, 0, 2, 9), proof.number);
            proofs.seen(PEER, 999);
        }
        assert!(proofs.paths().iter().all(|path| path.state == Trying));
        // An answer counts once.
        for _ in 0..ENOUGH {
            proofs.seen(PEER, proof.number);
        }
        assert!(proofs.paths().iter().all(|path| path.state == Trying));
    }

    #[test]
    fn addresses_that_a_peer_has_no_more_are_forgotten() {
        let mut case = Case::new();
        for _ in 0..3 {
            case.round(true, &ADDRESSES);
        }
        let sent = case.proofs.round(&[PEER].into(), || 77);
        let ask = sent.iter().find(|sent| sent.says == Says::Ask).unwrap();
        case.proofs.told(PEER, ask.number, &ADDRESSES[..1]);
        let paths = case.proofs.paths();
        assert_eq!(paths.len(), 1);
        assert_eq!(paths[0].state, Direct);
        case.proofs.round(&BTreeSet::new(), || 78);
        assert!(case.proofs.paths().is_empty());
    }
}
