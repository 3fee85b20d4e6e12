//! One agent a network namespace: uplinks, the tunnel device and the managers' port are there once.

use std::{
    io::ErrorKind,
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
        sockopt::PeerCredentials,
    },
};

/// An abstract name, which is the network namespace's and goes with the process.
const NAME: &[u8] = b"mesh-agent";

/// Takes the agent's place in this network namespace, for as long as this process runs.
///
/// # Errors
/// When another agent has it; the message tells which process. Whoever is not root keeps no agent from starting.
pub fn claim() -> Result<()> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    let listener = match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let Some(pid) =
                agent_at(&UnixAddr::new_abstract(NAME)?).context("ask who else is here")?
            else {
                tracing::warn!("another program has the abstract socket mesh-agent");
                return Ok(());
            };
            bail!(
                "another mesh-agent, process {pid}, runs in this network namespace: give each one its own \
                 (`ip netns add`, `ip netns exec`)"
            );
        }
        bound => bound.context("take the abstract socket mesh-agent")?,
    };
    // Who asks only wants to know whose it is; not taken, a hundred of them would make the next one wait.
    thread::Builder::new()
        .name("alone".to_owned())
        .spawn(move || listener.incoming().for_each(drop))?;
    Ok(())
}

/// The process that listens there, if root's.
fn agent_at(address: &UnixAddr) -> nix::Result<Option<i32>> {
    // Whoever lets nobody in shall not keep this one waiting.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asked = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(asked.as_raw_fd(), address) {
        // It does not listen, has ended, or takes no more: an agent takes all.
        Err(Errno::ECONNREFUSED | Errno::EAGAIN) => return Ok(None),
        connected => connected?,
    }
    let peer = getsockopt(&asked, PeerCredentials)?;
    Ok((peer.uid() == 0).then(|| peer.pid()))
}
