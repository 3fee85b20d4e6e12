//! Names to IPv4 addresses by the first name server of /etc/resolv.conf: a static program has no NSS.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use crate::Error;

/// How long the name server may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The socket address that `HOST:PORT` names.
pub(crate) fn target(text: &str) -> Result<SocketAddr, Error> {
    let (host, port) = text.rsplit_once(':').ok_or("the target is HOST:PORT")?;
    Ok(SocketAddr::new(address(host)?, port.parse()?))
}

/// A UDP socket that can talk to `peer`: one of its family.
pub(crate) fn socket(peer: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    UdpSocket::bind((any, 0))
}

/// The address of a name or literal address.
pub(crate) fn address(host: &str) -> Result<IpAddr, Error> {
    if let Ok(literal) = host.trim_matches(['[', ']']).parse() {
        return Ok(literal);
    }
    if host == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server: IpAddr = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok())
        .ok_or("no nameserver in /etc/resolv.conf")?;
    let server = SocketAddr::new(server, 53);
    let socket = socket(server)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(server)?;
    let id = std::process::id().to_be_bytes();
    let id = [id[2], id[3]];
    socket.send(&query(id, host)?)?;
    let mut buffer = [0_u8; 1500];
    let length = socket
        .recv(&mut buffer)
        .map_err(|error| format!("name server {server} does not answer: {error}"))?;
    match first_address(&buffer[..length], id) {
        Some(address) => Ok(address.into()),
        None => Err(format!("could not resolve host: {host}").into()),
    }
}

/// A question for the A records of a name.
fn query(id: [u8; 2], host: &str) -> Result<Vec<u8>, Error> {
    // Recursion desired, one question.
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|&n| (1..64).contains(&n));
        message.push(length.ok_or_else(|| format!("{host:?} is no host name"))?);
        message.extend_from_slice(label.as_bytes());
    }
    // The root, type A, class IN.
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(message)
}

/// The first A record of an answer.
fn first_address(message: &[u8], id: [u8; 2]) -> Option<Ipv4Addr> {
    if message.get(..2)? != id || message.get(3)? & 15 != 0 {
        return None;
    }
    let word = |at: usize| {
        Some(u16::from_be_bytes([
            *message.get(at)?,
            *message.get(at + 1)?,
        ]))
    };
    let answers = word(6)?;
    let mut at = skip_name(message, 12)? + 4;
    for _ in 0..answers {
        at = skip_name(message, at)?;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if kind == 1 {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    None
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 192 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_its_address() {
        let mut message = query([7, 8], "web").unwrap();
        message[2] |= 128;
        message[7] = 1;
        message.extend_from_slice(&[192, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 16, 2]);
        assert_eq!(
            first_address(&message, [7, 8]),
            Some(Ipv4Addr::new(10, 0, 16, 2))
        );
        assert_eq!(first_address(&message, [7, 9]), None);
        message[3] = 3;
        assert_eq!(first_address(&message, [7, 8]), None);
    }

    #[test]
    fn bad_names_and_cut_answers_are_refused() {
        assert!(query([0, 0], "a..b").is_err());
        assert_eq!(first_address(&[7, 8, 128, 0, 0], [7, 8]), None);
    }
}
