//! Connects to what other nodes publish for TCP, as any client would. Nothing is sent on the connections.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use mesh_api::proto::{PortAnswer, PortToAsk};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{timeout, timeout_at},
};

use super::PROBING;

/// Connections that are tried at the same time.
const AT_ONCE: usize = 64;
/// How long one may take: a first segment that is lost is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Asks them all from an address of this node, as far as time allows: those that are left are not in the answer.
pub(super) async fn ask(from: Option<IpAddr>, ports: &[PortToAsk]) -> Vec<PortAnswer> {
    let end = tokio::time::Instant::now() + PROBING;
    let mut answers = Vec::with_capacity(ports.len());
    let mut asked = stream::iter(ports.to_vec())
        .map(|to| ask_one(from, to))
        .buffer_unordered(AT_ONCE);
    while let Ok(Some(answer)) = timeout_at(end, asked.next()).await {
        answers.push(answer);
    }
    answers
}

async fn ask_one(from: Option<IpAddr>, to: PortToAsk) -> PortAnswer {
    let begun = Instant::now();
    let (client, error) = match connect(from, &to).await {
        Ok(client) => (client.to_string(), String::new()),
        Err(error) => (String::new(), error),
    };
    PortAnswer {
        address: to.address,
        port: to.port,
        client,
        error,
        took: begun.elapsed().as_nanos() as u64,
        protocol: to.protocol,
    }
}

async fn connect(from: Option<IpAddr>, to: &PortToAsk) -> Result<SocketAddr, String> {
    let address: IpAddr = to.address.parse().map_err(|_| "no address".to_owned())?;
    let port = u16::try_from(to.port).map_err(|_| "no port".to_owned())?;
    match timeout(PATIENCE, open(from, (address, port).into())).await {
        Ok(Ok(stream)) => stream.local_addr().map_err(|error| error.to_string()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err("the connection is refused".to_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", PATIENCE.as_millis())),
    }
}

async fn open(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
        socket.bind((from, 0).into())?;
    }
    socket.connect(to).await
}

#[cfg(test)]
mod tests {
    use super::*;

    use mesh_api::proto::Protocol;

    #[tokio::test]
    async fn who_answers_and_who_does_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = free.local_addr().unwrap().port();
        drop(free);
        let to = |port: u16| PortToAsk {
            address: "127.0.0.1".into(),
            port: port.into(),
            protocol: Protocol::Tcp.into(),
        };
        let mut answers = ask(None, &[to(open), to(closed)]).await;
        answers.sort_by_key(|answer| answer.error.clone());
        let (_, client) = listener.accept().await.unwrap();
        assert_eq!(answers[0].client, client.to_string());
        assert_eq!(answers[1].error, "the connection is refused");
    }
}
