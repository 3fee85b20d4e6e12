//! ICMP errors in earnest: what sockets are told through published ports, virtual addresses and tunnels.

mod common;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use common::{
    LAN_V6, Ns, OVERLAY_V6, PATIENCE,
    pair::{N1, N2, Pair, TARGET, VIP_FAR},
    six,
};
use mesh_datapath::XdpMode;

/// Sends datagrams of `length` bytes, not to be fragmented, until the socket is told of an error.
fn told(pair: &Pair, ns: &Ns, to: IpAddr, port: u16, length: usize) -> std::io::Error {
    ns.run(|| {
        let (any, level, option, value): (IpAddr, _, _, _) = if to.is_ipv4() {
            (
                Ipv4Addr::UNSPECIFIED.into(),
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_DO,
            )
        } else {
            (
                Ipv6Addr::UNSPECIFIED.into(),
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_DO,
            )
        };
        let socket = UdpSocket::bind((any, 0)).expect("bind");
        // SAFETY: the value outlives the call and its size is given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        assert_eq!(set, 0, "path MTU discovery");
        socket.connect(SocketAddr::new(to, port)).expect("connect");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a time-out");
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            // An error is told by whichever call comes next.
            if let Err(error) = socket.send(&vec![7; length]) {
                return error;
            }
            match socket.recv(&mut [0; 16]) {
                Err(error)
                    if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return error;
                }
                _ => {}
            }
        }
        pair.fail(&format!("{to}:{port}, {length} bytes"), "nothing was said")
    })
}

/// Nothing listens in the tasks.
fn check(xdp: XdpMode) {
    let pair = Pair::new(xdp);
    let v4 = [N1, N2, VIP_FAR].map(IpAddr::V4);
    let v6 = [six(LAN_V6, N1), six(LAN_V6, N2), six(OVERLAY_V6, VIP_FAR)].map(IpAddr::V6);
    // Datagrams of 1,500 bytes with their headers: more than a tunnel takes on this LAN.
    for ([n1, n2, vip], large) in [(v4, 1472), (v6, 1452)] {
        let (client, near) = (&pair.client, &pair.near.ns);
        for (what, ns, to, port) in [
            ("a client of the other node", client, n1, 81),
            ("a client of the task's node", client, n2, 81),
            ("a task's call of its node", near, n1, 81),
            ("a task's call of a virtual address", near, vip, TARGET),
        ] {
            let error = told(&pair, ns, to, port, 20);
            if error.kind() != ErrorKind::ConnectionRefused {
                pair.fail(what, &error.to_string());
            }
        }
        let error = told(&pair, client, n1, 81, large);
        if error.raw_os_error() != Some(libc::EMSGSIZE) {
            pair.fail("a large datagram", &error.to_string());
        }
    }
}

#[test]
fn errors_without_xdp() {
    check(XdpMode::Off);
}

#[test]
fn errors_with_xdp() {
    check(XdpMode::Native);
}
