//! The network: requests between machines, and streams, which arrive late, not at all, or twice.
//!
//! It carries what gRPC puts into HTTP, and stands for TCP, TLS and HTTP/2 below that. So what gets lost shows as they show
//! it: late, because it was sent again, or as a connection that breaks. What comes twice are Raft's messages alone, as TCP
//! gives nothing twice; it is what a leader does that missed the answer.

use crate::{
    planted,
    sim::{Life, Sim},
    violation::Plant,
};
use axum::Router;
use bytes::Bytes;
use futures::future::{Either, pending};
use http_body_util::{BodyExt, Full, StreamBody};
use mesh_manager::{Line, LineError, Shown};
use rand::Rng;
use rustls::pki_types::CertificateDer;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    body::Body,
    codegen::http::{HeaderMap, Request, Response, request::Parts},
};
use tower::{BoxError, ServiceExt, service_fn};

/// Frames of a stream that may be on their way.
const WINDOW: usize = 32;
/// gRPC's path of the nodes' sessions.
const SESSION: &str = "/mesh.v1.Dispatcher/Session";
/// What the paths of Raft's messages begin with.
const RAFT: &str = "/mesh.v1.Raft/";
/// Those of two of them.
const APPEND: &str = "/mesh.v1.Raft/AppendEntries";
const PRE_VOTE: &str = "/mesh.v1.Raft/PreVote";
/// The machine whose manager gets other entries, if that is planted.
const ALTERED: usize = 2;

/// How the network is, for all alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Probability that a message is lost.
    pub(crate) loss: f64,
    /// Probability that one of Raft's comes twice.
    pub(crate) twice: f64,
    /// Longest time on the way, milliseconds.
    pub(crate) slowest: u64,
}

impl Weather {
    /// As a LAN on a good day.
    pub(crate) const FAIR: Self = Self {
        loss: 0.0,
        twice: 0.0,
        slowest: 2,
    };
}

#[derive(Clone)]
struct Server {
    router: Router,
    /// Whose it is.
    own: Caller,
}

#[derive(Default)]
struct State {
    servers: BTreeMap<String, Server>,
    /// (from, to) between which nothing passes.
    cut: BTreeSet<(usize, usize)>,
    weather: Option<Weather>,
}

/// The network.
#[derive(Default)]
pub(crate) struct Network(Mutex<State>);

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Network")
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) machine: usize,
    pub(crate) life: Life,
    /// Unset until it has one.
    pub(crate) certificate: Arc<OnceLock<CertificateDer<'static>>>,
}

/// The address of a machine's manager.
pub(crate) fn address(machine: usize) -> String {
    format!("10.1.0.{machine}:2377")
}

fn machine_at(address: &str) -> Option<usize> {
    let host = address.strip_prefix("10.1.0.")?.strip_suffix(":2377")?;
    host.parse().ok()
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn serve(&self, address: String, router: Router, own: Caller) {
        self.lock().servers.insert(address, Server { router, own });
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = Some(weather);
    }

    fn weather(&self) -> Weather {
        self.lock().weather.unwrap_or(Weather::FAIR)
    }

    /// Cuts these ways, and mends all others.
    pub(crate) fn cut(&self, ways: BTreeSet<(usize, usize)>) {
        self.lock().cut = ways;
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.lock().cut.contains(&(from, to))
    }

    /// Who answers at an address.
    fn server(&self, address: &str) -> Option<Server> {
        let state = self.lock();
        let server = state.servers.get(address)?;
        (!server.own.life.is_over()).then(|| server.clone())
    }

    /// A line to whoever answers at `address`, now or later.
    pub(crate) fn line(sim: &Arc<Sim>, caller: Caller, address: &str) -> Line {
        let (sim, address) = (sim.clone(), address.to_owned());
        Line::new(service_fn(move |request: Request<Body>| {
            let (sim, caller, address) = (sim.clone(), caller.clone(), address.clone());
            async move {
                let limit = time_limit(request.headers());
                let path = request.uri().path().to_owned();
                let exchange = async {
                    match path.as_str() {
                        SESSION => stream(&sim, &caller, &address, request).await,
                        _ => exchange(&sim, &caller, &address, &path, request).await,
                    }
                };
                let answer = tokio::select! {
                    biased;
                    () = caller.life.over() => Err("this machine is off".into()),
                    answer = exchange => answer,
                    () = limit => Err("no answer in time".into()),
                };
                answer.map_err(LineError::from)
            }
        }))
    }
}

/// What the caller gives a request, as gRPC says it.
fn time_limit(headers: &HeaderMap) -> impl Future<Output = ()> + use<> {
    let told = headers.get("grpc-timeout").and_then(|v| v.to_str().ok());
    let limit = told.and_then(|text| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: u64 = number.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(number * 3600),
            "M" => Duration::from_secs(number * 60),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            _ => Duration::from_nanos(number),
        })
    });
    match limit {
        Some(limit) => Either::Left(tokio::time::sleep(limit)),
        None => Either::Right(pending()),
    }
}

/// One way of a message. It may take long, and it may fail, which is noticed only later.
async fn pass(sim: &Sim, from: usize, to: usize) -> Result<(), BoxError> {
    let weather = sim.network.weather();
    tokio::time::sleep(sim.millis(0, weather.slowest)).await;
    let is_lost = weather.loss > 0.0 && sim.chance(weather.loss);
    if is_lost && sim.chance(0.5) {
        // It was sent again.
        tokio::time::sleep(sim.millis(200, 1000)).await;
    } else if is_lost || sim.network.is_cut(from, to) {
        tokio::time::sleep(sim.millis(500, 6000)).await;
        return Err("the connection broke".into());
    }
    Ok(())
}

fn arrived(parts: &Parts, caller: &Caller, body: axum::body::Body) -> Request<axum::body::Body> {
    let mut request = Request::from_parts(parts.clone(), body);
    if let Some(certificate) = caller.certificate.get() {
        let shown = Shown(certificate.clone());
        request.extensions_mut().insert(shown);
    }
    request
}

/// A request and its answer. Who has taken it goes on, whether or not the caller waits.
async fn exchange(
    sim: &Arc<Sim>,
    caller: &Caller,
    address: &str,
    path: &str,
    request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if path.starts_with(RAFT) {
        let shown = match sim.plant {
            Some(Plant::FalseCommits) => planted::of_another_leader(&body),
            _ => None,
        };
        sim.checks()
            .message(sim, path, shown.as_ref().unwrap_or(&body));
    }
    let to = machine_at(address).ok_or("nobody can be there")?;
    if sim.plant == Some(Plant::LoudCandidates) && path == PRE_VOTE {
        return planted::agreed();
    }
    sim.journal().message(path, caller.machine, to, &body);
    pass(sim, caller.machine, to).await?;
    let deliver = |to: Server| {
        let planted = match sim.plant {
            Some(Plant::StrayMessages) if path.starts_with(RAFT) => {
                planted::readdressed(&body, &to.own)
            }
            Some(Plant::AlteredEntries) if path == APPEND && to.own.machine == ALTERED => {
                planted::altered(&body)
            }
            _ => None,
        };
        let body = planted.unwrap_or_else(|| body.clone());
        let request = arrived(&parts, caller, Full::new(body).into_body());
        let (done, answer) = oneshot::channel();
        tokio::spawn(async move {
            let served = to.own.life.during(to.router.oneshot(request)).await;
            drop(done.send(served));
        });
        answer
    };
    let server = sim.network.server(address).ok_or("connection refused")?;
    let answer = deliver(server.clone());
    if path.starts_with(RAFT) && sim.chance(sim.network.weather().twice) {
        tokio::time::sleep(sim.millis(0, 50)).await;
        drop(deliver(server));
    }
    let answer = answer.await?.ok_or("the connection broke")?;
    let answer = answer.unwrap_or_else(|never| match never {});
    pass(sim, to, caller.machine).await?;
    let answer = answer.map(Body::new);
    match sim.plant {
        Some(Plant::OldPrograms) if path.starts_with(RAFT) => planted::knowing_all(answer).await,
        _ => Ok(answer),
    }
}

trait IntoBody {
    fn into_body(self) -> axum::body::Body;
}

impl IntoBody for Full<Bytes> {
    fn into_body(self) -> axum::body::Body {
        axum::body::Body::new(self)
    }
}

/// A request whose body and answer go on for long.
async fn stream(
    sim: &Arc<Sim>,
    caller: &Caller,
    address: &str,
    request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let (parts, body) = request.into_parts();
    let to = machine_at(address).ok_or("nobody can be there")?;
    pass(sim, caller.machine, to).await?;
    let server = sim.network.server(address).ok_or("connection refused")?;
    let Server { router, own } = server;
    let lives = [caller.life.clone(), own.life.clone()];
    let sent = relay(sim, body, caller.machine, to, lives.clone());
    let request = arrived(&parts, caller, axum::body::Body::new(sent));
    let served = own.life.during(router.oneshot(request)).await;
    let answer = served.ok_or("the connection broke")?;
    let answer = answer.unwrap_or_else(|never| match never {});
    pass(sim, to, caller.machine).await?;
    let (parts, body) = answer.into_parts();
    let body = relay(sim, Body::new(body), to, caller.machine, lives);
    Ok(Response::from_parts(parts, body))
}

/// One way of a stream: in order, until it ends or breaks.
fn relay(sim: &Arc<Sim>, mut body: Body, from: usize, to: usize, lives: [Life; 2]) -> Body {
    let (out, frames) = mpsc::channel(WINDOW);
    let sim = sim.clone();
    tokio::spawn(async move {
        let [one, other] = lives;
        let broke: BoxError = loop {
            let frame = tokio::select! {
                biased;
                () = one.over() => break "the connection broke".into(),
                () = other.over() => break "the connection broke".into(),
                () = out.closed() => return,
                frame = body.frame() => frame,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => break error.into(),
                None => return,
            };
            if let Err(broke) = pass(&sim, from, to).await {
                break broke;
            }
            if out.send(Ok(frame)).await.is_err() {
                return;
            }
        };
        drop(out.send(Err(broke)).await);
    });
    Body::new(StreamBody::new(ReceiverStream::new(frames)))
}

impl Weather {
    /// Some bad day.
    pub(crate) fn foul(sim: &Sim) -> Self {
        let mut dice = sim.dice();
        let losses = [0.0, 0.01, 0.05, 0.2];
        Self {
            loss: losses[dice.random_range(0..losses.len())],
            twice: [0.0, 0.05][dice.random_range(0..2)],
            slowest: [2, 10, 60, 250][dice.random_range(0..4)],
        }
    }
}
