//! The server on real loopback sockets, with a real (small) upstream behind it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use mesh_dns::{Server, TTL_SECONDS, Upstreams, Zone};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::watch,
};

/// Answers every question with 192.0.2.7, and reports the names it was asked for.
async fn upstream() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let address = socket.local_addr().expect("address");
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).expect("a question");
            let query = question.queries[0].clone();
            let _ = sender.send(query.name().to_ascii());
            let mut answer =
                Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
            answer.answers = vec![Record::from_rdata(
                query.name().clone(),
                60,
                RData::A(A::new(192, 0, 2, 7)),
            )];
            answer.add_query(query);
            let _ = socket
                .send_to(&answer.to_vec().expect("encodes"), from)
                .await;
        }
    });
    (address, receiver)
}

struct World {
    server: SocketAddr,
    _running: Server,
    _zone: watch::Sender<Arc<Zone>>,
}

fn start(zone: Zone, upstreams: Upstreams) -> World {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let server = tcp.local_addr().expect("address");
    let udp = std::net::UdpSocket::bind(server).expect("bind");
    let (sender, receiver) = watch::channel(Arc::new(zone));
    World {
        server,
        _running: Server::start(udp, tcp, receiver, vec!["n1".into()], upstreams).expect("start"),
        _zone: sender,
    }
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.edns = payload.map(|size| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns
    });
    message
}

async fn over_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let bytes = message.to_vec().expect("encodes");
    socket.send_to(&bytes, server).await.expect("send");
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).await.expect("receive");
    Message::from_vec(&buffer[..length]).expect("an answer")
}

async fn over_tcp(server: SocketAddr, message: &Message) -> Message {
    let bytes = message.to_vec().expect("encodes");
    let mut stream = TcpStream::connect(server).await.expect("connect");
    let length = u16::try_from(bytes.len()).expect("short");
    stream.write_u16(length).await.expect("send");
    stream.write_all(&bytes).await.expect("send");
    let length = stream.read_u16().await.expect("receive");
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.expect("receive");
    Message::from_vec(&buffer).expect("an answer")
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = message
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect();
    all.sort();
    all
}

fn web_zone(tasks: u8) -> Zone {
    let mut zone = Zone::default();
    zone.add_network("n1", "front", [("10.0.16.0".parse().expect("ip"), 20)]);
    zone.add_name("n1", "web", "10.0.16.2".parse().expect("ip"));
    zone.add_name("n2", "secret", "10.0.32.2".parse().expect("ip"));
    for task in 0..tasks {
        zone.add_name("n1", "tasks.web", IpAddr::from([10, 0, 17, task]));
    }
    zone.add_reverse("n1", "10.0.17.0".parse().expect("ip"), "web.1.id");
    zone
}

#[tokio::test]
async fn own_names_are_answered_and_never_leak() {
    let (upstream, mut asked) = upstream().await;
    let world = start(web_zone(3), Upstreams::new([upstream]));
    for (name, kind, code, count) in [
        ("web.", RecordType::A, ResponseCode::NoError, 1),
        ("WeB.", RecordType::A, ResponseCode::NoError, 1),
        ("web.", RecordType::AAAA, ResponseCode::NoError, 0),
        ("web.", RecordType::MX, ResponseCode::NoError, 0),
        ("tasks.web.", RecordType::A, ResponseCode::NoError, 3),
        ("tasks.nobody.", RecordType::A, ResponseCode::NXDomain, 0),
        ("secret.", RecordType::A, ResponseCode::NXDomain, 0),
        (
            "0.17.0.10.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::NoError,
            1,
        ),
        (
            "9.17.0.10.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::NXDomain,
            0,
        ),
    ] {
        let answer = over_udp(world.server, &question(name, kind, None)).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert_eq!(answer.answers.len(), count, "{name} {kind}");
        assert!(answer.metadata.authoritative, "{name} {kind}");
        assert!(
            answer
                .answers
                .iter()
                .all(|record| record.ttl <= TTL_SECONDS)
        );
    }
    assert!(
        asked.try_recv().is_err(),
        "an own name reached the upstream"
    );
}

#[tokio::test]
async fn foreign_names_are_forwarded() {
    let (live, mut asked) = upstream().await;
    // The first upstream is silent: the second is asked all the same.
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let silent_address = silent.local_addr().expect("address");
    let world = start(web_zone(0), Upstreams::new([silent_address, live]));
    let answer = over_udp(world.server, &question("example.org.", RecordType::A, None)).await;
    assert_eq!(addresses(&answer), [IpAddr::from([192, 0, 2, 7])]);
    assert!(!answer.metadata.authoritative);
    assert_eq!(asked.recv().await.as_deref(), Some("example.org."));
}

#[tokio::test]
async fn without_upstreams() {
    let world = start(web_zone(0), Upstreams::default());
    for (name, code) in [
        ("nobody.", ResponseCode::NXDomain),
        ("example.org.", ResponseCode::ServFail),
    ] {
        let answer = over_udp(world.server, &question(name, RecordType::A, None)).await;
        assert_eq!(answer.metadata.response_code, code, "{name}");
    }
}

#[tokio::test]
async fn large_answers_are_truncated_over_udp_and_whole_over_tcp() {
    let world = start(web_zone(200), Upstreams::default());
    let name = "tasks.web.";
    let short = over_udp(world.server, &question(name, RecordType::A, None)).await;
    assert!(short.metadata.truncation);
    let roomy = over_udp(world.server, &question(name, RecordType::A, Some(8192))).await;
    assert_eq!(addresses(&roomy).len(), 200);
    let tcp = over_tcp(world.server, &question(name, RecordType::A, None)).await;
    assert!(!tcp.metadata.truncation);
    assert_eq!(addresses(&tcp).len(), 200);
}
