//! What a socket says of whom it talks to: as an application sees a virtual address.
//!
//! ```text
//! whoami peer tcp HOST:PORT          connect, and print the peer's address
//! whoami peer connected HOST:PORT    the same for a UDP socket, and where an answer came from
//! whoami peer udp HOST:PORT          send without connecting, and print where the answer came from
//! ```

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{Error, resolve};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Prints one address a line.
pub(crate) fn run(args: &[String]) -> Result<(), Error> {
    let [kind, target] = args else {
        return Err("usage: whoami peer tcp|connected|udp HOST:PORT".into());
    };
    let target = resolve::target(target)?;
    match kind.as_str() {
        "tcp" => {
            let stream = TcpStream::connect_timeout(&target, LIMIT)?;
            println!("{}", stream.peer_addr()?);
        }
        "connected" => {
            let socket = resolve::socket(target)?;
            socket.connect(target)?;
            println!("{}", socket.peer_addr()?);
            socket.send(b"hello")?;
            println!("{}", answer(&socket)?);
        }
        "udp" => {
            let socket = resolve::socket(target)?;
            socket.send_to(b"hello", target)?;
            println!("{}", answer(&socket)?);
        }
        other => return Err(format!("unknown kind {other:?}: tcp, connected or udp").into()),
    }
    Ok(())
}

fn answer(socket: &UdpSocket) -> Result<SocketAddr, Error> {
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket.recv_from(&mut [0; 1500])?.1)
}
