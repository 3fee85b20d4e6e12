//! The world outside the mesh, in the client's namespace: a web server and a name server.

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{client::http_get, image, netns::NetNs, rig::UP_LIMIT, wait::eventually};

/// A whoami that serves in a namespace until dropped.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts it on a port (HTTP and UDP; TCP echo on the next) and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(ns: &NetNs, port: u16) -> Result<Self> {
        let program = image::static_whoami()?;
        let child = ns
            .command(&program.to_string_lossy(), None)?
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start whoami")?;
        let server = Self(child);
        eventually("whoami to listen", UP_LIMIT, || {
            ns.enter(|| http_get(Ipv4Addr::LOCALHOST, port, "/").map(drop))
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A name that [`Names`] answers.
pub const OUTSIDE_NAME: &str = "outside.example.net";

/// The address it answers with.
pub const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// A name server that knows [`OUTSIDE_NAME`] and nothing else; ends when dropped.
#[derive(Debug)]
pub struct Names {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    /// Listens on port 53 in the namespace.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(ns: &NetNs) -> Result<Self> {
        let socket = ns.enter(|| {
            let socket =
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).context("cannot listen on port 53")?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        // The socket stays in its namespace, whatever thread uses it.
        let thread = thread::spawn(move || {
            let mut buffer = [0_u8; 1500];
            while !seen.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if let Some(reply) = reply(&buffer[..length]) {
                    let _ = socket.send_to(&reply, peer);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a question: the address for an A question of the known name, nothing for its other
/// types, NXDOMAIN for the rest.
fn reply(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut at = HEADER;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..=at + length)?).to_lowercase());
        at += 1 + length;
    }
    let end = at + 5;
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let known = labels.join(".") == OUTSIDE_NAME;
    let found = known && kind == 1;
    let mut reply = query.get(..2)?.to_vec();
    // Response, recursion desired and available; code 3 is NXDOMAIN.
    reply.extend([0x81, if known { 0x80 } else { 0x83 }]);
    reply.extend([0, 1, 0, u8::from(found), 0, 0, 0, 0]);
    reply.extend(query.get(HEADER..end)?);
    if found {
        // The question's name, A, IN, 30 s, 4 bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        reply.extend(OUTSIDE_ADDRESS.octets());
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(labels: &[&str], kind: u8) -> Vec<u8> {
        let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn only_one_name_is_known() {
        let found = reply(&ask(&["outside", "Example", "net"], 1)).unwrap();
        assert!(found.ends_with(&OUTSIDE_ADDRESS.octets()));
        assert_eq!(
            reply(&ask(&["outside", "example", "net"], 28)).unwrap()[3],
            0x80
        );
        assert_eq!(reply(&ask(&["web"], 1)).unwrap()[3], 0x83);
        assert_eq!(reply(&[0; 5]), None);
    }
}
