//! Asking the resolvers outside: over UDP or TCP as the task asked, several of them racing.

use std::{io, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

/// How long an upstream has before the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(300);
/// How long a question may take in all; resolvers in tasks give up or retry after 5 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// UDP answers larger than this are asked again over TCP by whoever needs them (RFC 9715 names 1400).
const MAX_UDP_ANSWER: usize = 4096;

/// Why no upstream answered.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The node's resolv.conf (or the service's `--dns`) names none.
    #[error("no upstream resolver is known")]
    None,
    /// All were asked in vain.
    #[error("no upstream resolver answered within {PATIENCE:?}")]
    Silent,
    /// Every one refused; the last error.
    #[error("no upstream resolver could be asked")]
    Failed(#[source] io::Error),
}

/// The resolvers outside, in order of preference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams {
    addresses: Vec<SocketAddr>,
}

impl Upstreams {
    /// From addresses with ports, the preferred one first.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
        }
    }

    /// The answer of the first upstream that gives one. A later one is asked when those before it
    /// have been silent for 300 ms or failed.
    ///
    /// # Errors
    /// When none is configured, reachable or answers in time.
    pub async fn ask(&self, query: Query, tcp: bool) -> Result<Message, UpstreamError> {
        if self.addresses.is_empty() {
            return Err(UpstreamError::None);
        }
        timeout(PATIENCE, self.race(&query, tcp))
            .await
            .unwrap_or(Err(UpstreamError::Silent))
    }

    async fn race(&self, query: &Query, tcp: bool) -> Result<Message, UpstreamError> {
        let mut waiting = self.addresses.iter();
        let mut running = FuturesUnordered::new();
        let mut failure = UpstreamError::Silent;
        loop {
            if running.is_empty() {
                let Some(&upstream) = waiting.next() else {
                    return Err(failure);
                };
                running.push(ask_one(upstream, query, tcp));
            }
            tokio::select! {
                Some(result) = running.next() => match result {
                    Ok(answer) => return Ok(answer),
                    Err(error) => failure = UpstreamError::Failed(error),
                },
                () = sleep(HEAD_START), if waiting.len() > 0 => {
                    if let Some(&upstream) = waiting.next() {
                        running.push(ask_one(upstream, query, tcp));
                    }
                }
            }
        }
    }
}

async fn ask_one(upstream: SocketAddr, query: &Query, tcp: bool) -> io::Result<Message> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let question = message.to_vec().map_err(io::Error::other)?;
    if tcp {
        over_tcp(upstream, &question, &message).await
    } else {
        over_udp(upstream, &question, &message).await
    }
}

async fn over_udp(upstream: SocketAddr, question: &[u8], asked: &Message) -> io::Result<Message> {
    let any: SocketAddr = if upstream.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MAX_UDP_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Late or forged datagrams are passed over: RFC 5452, section 9.
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answers(&answer, asked)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, question: &[u8], asked: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if answers(&answer, asked) {
        Ok(answer)
    } else {
        Err(io::Error::other("the answer is to another question"))
    }
}

fn answers(answer: &Message, asked: &Message) -> bool {
    answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && (answer.queries.is_empty() || answer.queries == asked.queries)
}
