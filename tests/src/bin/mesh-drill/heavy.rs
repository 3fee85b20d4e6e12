//! Load beside the requests that are watched one by one, without pauses if not told otherwise: new connections over IPv4
//! and over IPv6, and long answers of which every byte is looked at, each by all nodes in turn.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use mesh_tests::{HttpReply, NetNs, http_get, lan, load::Over};

/// Bytes of a long answer: it takes longer than a task that is stopped at once would live.
const LONG: usize = 20_000_000;

/// Pause after a request that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Heavy {
    /// New connections that were answered.
    pub(crate) answered: usize,
    /// Long answers that came whole.
    pub(crate) long: usize,
    /// What failed, in words.
    pub(crate) failures: Vec<String>,
}

impl fmt::Display for Heavy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            answered,
            long,
            failures,
        } = self;
        let (failed, size) = (failures.len(), LONG / 1_000_000);
        write!(
            f,
            "beside these: {answered} requests and {long} answers of {size} MB came whole, {failed} failed"
        )?;
        for failure in failures {
            write!(f, "\n  failed: {failure}")?;
        }
        Ok(())
    }
}

/// Which bytes a request asks for.
enum Answer {
    Short,
    /// These, by `whoami`'s pattern.
    Long(Vec<u8>),
}

impl Answer {
    fn long() -> Self {
        Self::Long((0..LONG).map(|at| ((at % 65521) % 251) as u8).collect())
    }

    fn get(&self, node: IpAddr) -> Result<()> {
        let path = match self {
            Self::Short => "/".to_owned(),
            Self::Long(bytes) => format!("/bytes/{}", bytes.len()),
        };
        let HttpReply { status, body, .. } = http_get(node, 80, &path)?;
        ensure!(status == 200, "status {status}");
        if let Self::Long(bytes) = self {
            ensure!(body.len() == LONG, "{} of {LONG} bytes came", body.len());
            ensure!(body == *bytes, "a wrong byte");
        }
        Ok(())
    }
}

/// Loads the nodes while `act` runs.
///
/// # Errors
/// Those of `act`, or when the client's namespace cannot be entered.
pub(crate) fn under_load<T>(
    client: &NetNs,
    nodes: &[Ipv4Addr],
    pause: Duration,
    act: impl FnOnce() -> Result<T>,
) -> Result<(T, Heavy)> {
    let v4: Vec<_> = nodes.iter().copied().map(IpAddr::V4).collect();
    let v6: Vec<_> = nodes.iter().map(|node| lan::v6(*node).into()).collect();
    let (v4, v6) = (&v4, &v6);
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let askers = [
            (v4, Answer::Short),
            (v6, Answer::Short),
            (v4, Answer::long()),
        ]
        .map(|(nodes, what)| scope.spawn(move || ask(client, nodes, what, pause, over)));
        let done = {
            let _over = Over(over);
            act()
        };
        let mut sum = Heavy::default();
        for asker in askers {
            let heavy = asker.join().expect("no panic")?;
            sum.answered += heavy.answered;
            sum.long += heavy.long;
            sum.failures.extend(heavy.failures);
        }
        Ok((done?, sum))
    })
}

/// Asks the nodes in turn until it is over.
fn ask(
    client: &NetNs,
    nodes: &[IpAddr],
    what: Answer,
    pause: Duration,
    over: &AtomicBool,
) -> Result<Heavy> {
    client.enter(|| {
        let mut heavy = Heavy::default();
        for node in nodes.iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            match (what.get(*node), &what) {
                (Ok(()), Answer::Short) => heavy.answered += 1,
                (Ok(()), Answer::Long(_)) => heavy.long += 1,
                (Err(error), _) => {
                    heavy.failures.push(format!("{node}: {error:#}"));
                    // A refused connection takes no time.
                    thread::sleep(AFTER_FAILURE);
                }
            }
            thread::sleep(pause);
        }
        Ok(heavy)
    })
}
