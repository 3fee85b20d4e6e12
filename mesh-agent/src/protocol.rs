//! Names and IP protocol numbers of what services speak.

use mesh_api::proto::Protocol;

const KNOWN: [(u8, &str); 3] = [(6, "tcp"), (17, "udp"), (132, "sctp")];

/// The name of a protocol that services use, else its number.
pub(crate) fn name(number: u8) -> String {
    let known = KNOWN.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The number of a protocol that services use.
pub(crate) fn by_name(name: &str) -> Option<u8> {
    let known = KNOWN.iter().find(|(_, known)| *known == name);
    known.map(|(number, _)| *number)
}

/// The number of a port's protocol.
pub(crate) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
