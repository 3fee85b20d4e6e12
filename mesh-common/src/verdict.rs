//! How a packet can end, and where. One number per outcome: part of its counter's index, label of its metric, word on the command line.

/// A packet that went on.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: on to the kernel's stack.
    Pass = 0,
    /// From XDP to the tc program, which can do what XDP cannot.
    Handover = 1,
    /// Encapsulated and sent to another node.
    Forwarded = 2,
    /// Into a task of this node.
    Delivered = 3,
    /// A reply, back to the client.
    Returned = 4,
    /// Answered in place: ARP, neighbour discovery, echo to a virtual address.
    Answered = 5,
}

/// A packet that did not.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// A header is cut short.
    Malformed = 6,
    /// Neither IPv4, nor IPv6 on a network that has it.
    NotIp = 7,
    /// Broadcast or multicast on an overlay link.
    NotUnicast = 8,
    /// Source address or MAC is not the task's own.
    Spoofed = 9,
    /// Tunnel packet from an address that is no node.
    UnknownPeer = 10,
    /// No task has the destination address on this network.
    NoEndpoint = 11,
    /// The service has no backend.
    NoBackend = 12,
    /// A later fragment whose first has not come before it.
    Fragment = 13,
    /// A protocol that virtual addresses do not carry.
    Protocol = 14,
    /// The kernel refused to change or redirect the packet.
    Kernel = 15,
    /// Interface without an entry in the link table.
    UnknownLink = 16,
    /// Tunnel packet on the ingress network for a port that is not published.
    NotPublished = 17,
    /// A client's port is taken at its task by another flow, and so are the substitutes.
    PortsTaken = 18,
    /// Larger than the tunnel takes, and not to be answered: a later fragment, or an error itself.
    TooBig = 19,
    /// Unencrypted on an encrypted network, or the other way round; or there is nothing yet to encrypt with.
    Unencrypted = 20,
}

/// Number of verdicts and drop reasons together.
pub const COUNTS: u32 = 21;

/// The program that gave a verdict.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// XDP, on an uplink.
    UplinkXdp = 0,
    /// tc, on an uplink.
    UplinkTc = 1,
    /// tc, on the tunnel device.
    Tunnel = 2,
    /// tc, on a task's overlay link.
    Overlay = 3,
    /// tc, on a task's gateway link.
    Gateway = 4,
    /// tc, on the loopback interface.
    Loopback = 5,
}

impl Place {
    /// All of them, in order of their number.
    pub const ALL: [Self; 6] = [
        Self::UplinkXdp,
        Self::UplinkTc,
        Self::Tunnel,
        Self::Overlay,
        Self::Gateway,
        Self::Loopback,
    ];

    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UplinkXdp => "uplink-xdp",
            Self::UplinkTc => "uplink-tc",
            Self::Tunnel => "tunnel",
            Self::Overlay => "overlay",
            Self::Gateway => "gateway",
            Self::Loopback => "loopback",
        }
    }

    /// Index of the counter of an outcome (the number of a [`Verdict`] or [`DropReason`]) at this place.
    pub const fn counter(self, outcome: u32) -> u32 {
        self as u32 * COUNTS + outcome
    }
}

impl Verdict {
    /// All of them, in order of their number.
    pub const ALL: [Self; 6] = [
        Self::Pass,
        Self::Handover,
        Self::Forwarded,
        Self::Delivered,
        Self::Returned,
        Self::Answered,
    ];

    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Handover => "handover",
            Self::Forwarded => "forwarded",
            Self::Delivered => "delivered",
            Self::Returned => "returned",
            Self::Answered => "answered",
        }
    }
}

impl DropReason {
    /// All of them, in order of their number.
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::NotIp,
        Self::NotUnicast,
        Self::Spoofed,
        Self::UnknownPeer,
        Self::NoEndpoint,
        Self::NoBackend,
        Self::Fragment,
        Self::Protocol,
        Self::Kernel,
        Self::UnknownLink,
        Self::NotPublished,
        Self::PortsTaken,
        Self::TooBig,
        Self::Unencrypted,
    ];

    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotIp => "not-ip",
            Self::NotUnicast => "not-unicast",
            Self::Spoofed => "spoofed",
            Self::UnknownPeer => "unknown-peer",
            Self::NoEndpoint => "no-endpoint",
            Self::NoBackend => "no-backend",
            Self::Fragment => "fragment",
            Self::Protocol => "protocol",
            Self::Kernel => "kernel",
            Self::UnknownLink => "unknown-link",
            Self::NotPublished => "not-published",
            Self::PortsTaken => "ports-taken",
            Self::TooBig => "too-big",
            Self::Unencrypted => "unencrypted",
        }
    }
}

/// Stable name of an outcome: the number of a [`Verdict`] or a [`DropReason`].
pub fn outcome_name(outcome: u32) -> Option<&'static str> {
    let verdict = Verdict::ALL.iter().find(|v| **v as u32 == outcome);
    let reason = || DropReason::ALL.iter().find(|r| **r as u32 == outcome);
    verdict
        .map(|v| v.name())
        .or_else(|| reason().map(|r| r.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_unique() {
        let numbers = Verdict::ALL
            .iter()
            .map(|v| *v as u32)
            .chain(DropReason::ALL.iter().map(|r| *r as u32));
        assert!(numbers.eq(0..COUNTS));
        assert!(Place::ALL.iter().map(|p| *p as u32).eq(0..6));
        assert_eq!(Place::Loopback.counter(COUNTS - 1), 6 * COUNTS - 1);
        assert_eq!(outcome_name(0), Some("pass"));
        assert_eq!(outcome_name(COUNTS - 1), Some("unencrypted"));
        assert_eq!(outcome_name(COUNTS), None);
    }
}
