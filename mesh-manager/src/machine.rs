//! The machine that a manager runs on: this one, or a simulated one. All that a manager has of the outside passes here:
//! connections, the port that it serves on, the file of the log, threads that may block, and the time of day.
//!
//! What is simulated follows a seed, so that a failure can be had again. Timers and [`std::time::Instant`] need no place
//! here: a simulation has a process and one thread of its own, whose clock and random numbers it makes.

use crate::{ManagerError, RULES, client};
use axum::Router;
use futures::future::BoxFuture;
use redb::{Database, DatabaseError};
use rustls::pki_types::CertificateDer;
use std::{
    fmt, io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};

/// Bytes of the log that are kept in memory; the kernel's cache has the rest. By itself, redb keeps up to 1 GiB.
const CACHE: usize = 8 << 20;

/// A connection to a manager: takes HTTP requests, many at a time.
pub type Line = BoxCloneSyncService<Request<Body>, Response<Body>, LineError>;

/// Why a [`Line`] got no answer.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LineError(#[from] BoxError);

/// The certificate of the caller, with a request that came over a simulated network.
#[derive(Debug, Clone)]
pub struct Shown(pub CertificateDer<'static>);

/// Where a manager runs.
#[derive(Clone, Default)]
pub enum Machine {
    /// Here.
    #[default]
    Own,
    /// In a simulation.
    Simulated(Arc<dyn Simulated>),
}

/// A simulated machine, on which one manager runs. It has an end of its own: a manager that is started again gets another
/// one, with what is left on the disk.
pub trait Simulated: Send + Sync {
    /// A line to the manager at `address`, "address:port", whether anybody answers there or not.
    fn line(&self, address: &str) -> Line;

    /// Serves on `address` from now on.
    fn serve(&self, address: SocketAddr, service: Router);

    /// Opens the log.
    ///
    /// # Errors
    /// The disk refuses, or the log is not there and is not to be made.
    fn database(&self, path: &Path, create: bool) -> Result<Database, DatabaseError>;

    /// Does work with the disk, which takes its time.
    fn work(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// The time of day, nanoseconds since the epoch.
    fn now(&self) -> i64;

    /// The rules that the program on it knows, no more than [`RULES`]: an older one knows fewer.
    fn rules(&self) -> u32;
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Simulated(_) => "Simulated",
        })
    }
}

/// The managers' port.
pub(crate) enum Port {
    /// Bound.
    Bound(TcpListener),
    /// To be served on.
    Simulated(Arc<dyn Simulated>, SocketAddr),
}

impl Machine {
    /// Nanoseconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        match self {
            Self::Own => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
            }
            Self::Simulated(machine) => machine.now(),
        }
    }

    /// The rules that this program knows.
    pub(crate) fn rules(&self) -> u32 {
        match self {
            Self::Own => RULES,
            Self::Simulated(machine) => machine.rules(),
        }
    }

    /// Takes the managers' port.
    pub(crate) async fn bind(&self, address: SocketAddr) -> io::Result<Port> {
        Ok(match self {
            Self::Own => Port::Bound(TcpListener::bind(address).await?),
            Self::Simulated(machine) => Port::Simulated(machine.clone(), address),
        })
    }

    /// As [`client::connect`].
    pub(crate) async fn connect(
        &self,
        address: &str,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Line, client::ClientError> {
        Ok(match self {
            Self::Own => line(client::connect(address, tls).await?),
            Self::Simulated(machine) => machine.line(address),
        })
    }

    /// As [`client::connect_lazy`].
    pub(crate) fn connect_lazy(
        &self,
        address: &str,
        tls: impl Fn() -> Arc<rustls::ClientConfig> + Send + Sync + 'static,
    ) -> Result<Line, client::ClientError> {
        Ok(match self {
            Self::Own => line(client::connect_lazy(address, tls)?),
            Self::Simulated(machine) => machine.line(address),
        })
    }

    /// Opens the log's file, or makes it.
    pub(crate) fn database(&self, path: &Path, create: bool) -> Result<Database, DatabaseError> {
        match self {
            Self::Own => {
                let mut builder = Database::builder();
                builder.set_cache_size(CACHE);
                if create {
                    builder.create(path)
                } else {
                    builder.open(path)
                }
            }
            Self::Simulated(machine) => machine.database(path, create),
        }
    }

    /// Does work that may block, where it holds up nobody.
    ///
    /// # Errors
    /// It panicked, or the machine ended before it was done.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ManagerError> {
        let ended = |e: &dyn fmt::Display| ManagerError::internal("the disk's work ended early", e);
        match self {
            Self::Own => tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| ended(&e)),
            Self::Simulated(machine) => {
                let (done, result) = oneshot::channel();
                let work = move || drop(done.send(work()));
                machine.work(Box::new(work)).await;
                result.await.map_err(|e| ended(&e))
            }
        }
    }
}

fn line(channel: tonic::transport::Channel) -> Line {
    Line::new(channel.map_err(|error| LineError(error.into())))
}
