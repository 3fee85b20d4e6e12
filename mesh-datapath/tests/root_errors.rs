//! ICMP errors in earnest: what sockets are told through published ports, virtual addresses and tunnels.

mod common;

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Instant,
};

use common::{
    Ns, PATIENCE,
    pair::{N1, N2, Pair, TARGET, VIP_FAR},
};
use mesh_datapath::XdpMode;

/// Sends datagrams of `length` bytes, not to be fragmented, until the socket is told of an error.
fn told(pair: &Pair, ns: &Ns, to: Ipv4Addr, port: u16, length: usize) -> std::io::Error {
    ns.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
        let (option, value) = (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
        // SAFETY: the value outlives the call and its size is given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        assert_eq!(set, 0, "IP_MTU_DISCOVER");
        socket
            .connect(SocketAddr::new(to.into(), port))
            .expect("connect");
        socket
            .set_read_timeout(Some(PATIENCE / 50))
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
    let (client, near) = (&pair.client, &pair.near.ns);
    for (what, ns, to, port) in [
        ("a client of the other node", client, N1, 81),
        ("a client of the task's node", client, N2, 81),
        ("a task's call of its node", near, N1, 81),
        ("a task's call of a virtual address", near, VIP_FAR, TARGET),
    ] {
        let error = told(&pair, ns, to, port, 20);
        if error.kind() != ErrorKind::ConnectionRefused {
            pair.fail(what, &error.to_string());
        }
    }
    // 1,500 bytes with its headers: more than a tunnel takes on this LAN.
    let error = told(&pair, client, N1, 81, 1472);
    if error.raw_os_error() != Some(libc::EMSGSIZE) {
        pair.fail("a large datagram", &error.to_string());
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
