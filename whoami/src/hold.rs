//! A flow that is kept open until something cuts it: what an application is told then.
//!
//! ```text
//! whoami hold tcp HOST:PORT    ask whoami for a late answer, go on sending, and print the error that ends it
//! whoami hold udp HOST:PORT    connect a UDP socket, be answered once, and print the error that comes after that
//! ```

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{Error, resolve};

/// How long connecting and the first answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a flow may stay open before the command gives up.
const OPEN: Duration = Duration::from_secs(60);

/// Between two bytes of an open connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints the kind of the error: `ConnectionReset`.
pub(crate) fn run(args: &[String]) -> Result<(), Error> {
    let [kind, target] = args else {
        return Err("usage: whoami hold tcp|udp HOST:PORT".into());
    };
    let target = resolve::target(target)?;
    let cut = match kind.as_str() {
        "tcp" => connection(target)?,
        "udp" => datagrams(target)?,
        other => return Err(format!("unknown kind {other:?}: tcp or udp").into()),
    };
    println!("{cut:?}");
    Ok(())
}

fn connection(target: SocketAddr) -> Result<ErrorKind, Error> {
    let mut stream = TcpStream::connect_timeout(&target, LIMIT)?;
    stream.set_read_timeout(Some(PAUSE))?;
    let late = OPEN.as_millis();
    write!(
        stream,
        "GET /sleep/{late} HTTP/1.1\r\nHost: {target}\r\n\r\n"
    )?;
    for _ in 0..OPEN.as_millis() / PAUSE.as_millis() {
        // Nobody reads it: a server that is killed resets the connection then.
        let step = stream.write(b"x").and_then(|_| stream.read(&mut [0; 1500]));
        match step {
            Ok(0) => return Err("the other side has closed the connection".into()),
            Ok(_) => return Err("there was an answer".into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Ok(error.kind()),
        }
    }
    Err("the connection is still open".into())
}

fn datagrams(target: SocketAddr) -> Result<ErrorKind, Error> {
    let socket = resolve::socket(target)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(b"hello")?;
    socket.recv(&mut [0; 1500])?;
    // From here on it is silent: only this machine can end it.
    socket.set_read_timeout(Some(OPEN))?;
    match socket.recv(&mut [0; 1500]) {
        Ok(_) => Err("there was another answer".into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err("the socket is still open".into())
        }
        Err(error) => Ok(error.kind()),
    }
}
