//! The process that encrypts in user space: started by an agent, and found by the next one.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::Ipv4Addr,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::prctl,
    unistd::{ForkResult, fork, setsid},
};

use crate::{
    Request, Status,
    cipher::Cipher,
    key::{NotAKey, PublicKey},
};

/// What the helper says on its standard output once it listens; anything else is why it does not.
pub(crate) const READY: &str = "ready";
/// How long who connects may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// How unlikely the kernel is to choose the helper when memory runs out, from 1000 to -1000 for never.
const OOM_SCORE: &str = "-900";

/// How the helper is to be.
pub(crate) struct Order {
    socket: PathBuf,
    /// The node's tunnel end point.
    pub(crate) address: Ipv4Addr,
    /// UDP port, host byte order.
    pub(crate) port: u16,
    /// Of its first key.
    pub(crate) epoch: u64,
    /// Why the kernel does not encrypt.
    pub(crate) why: String,
}

/// Runs the helper. Call it first thing in `main`, before any thread exists, when the first argument is `wireguard`;
/// `args` are the arguments after that word.
pub fn helper_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(order) = parse(args) else {
        eprintln!(
            "usage: wireguard SOCKET ADDRESS PORT EPOCH WHY (started by the agent, not by hand)"
        );
        return ExitCode::FAILURE;
    };
    // SAFETY: helper_main is documented to run before any thread starts, so the child of fork may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(error) => {
            announce(&format!("fork: {error}"));
            return ExitCode::FAILURE;
        }
    }
    match open(&order) {
        Ok((cipher, listener)) => {
            announce(READY);
            serve(&cipher, &listener)
        }
        Err(why) => {
            announce(&why);
            ExitCode::FAILURE
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Order> {
    let mut args = args.into_iter();
    let order = Order {
        socket: PathBuf::from(args.next()?),
        address: args.next()?.to_str()?.parse().ok()?,
        port: args.next()?.to_str()?.parse().ok()?,
        epoch: args.next()?.to_str()?.parse().ok()?,
        why: args.next()?.to_string_lossy().into_owned(),
    };
    args.next().is_none().then_some(order)
}

fn open(order: &Order) -> Result<(Arc<Cipher>, UnixListener), String> {
    detach().map_err(|error| format!("detach from the agent: {error}"))?;
    // A thread that ends alone would leave a node that answers the agent and encrypts nothing.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(101);
    }));
    let cipher = Cipher::open(order)?;
    let listener = listen(&order.socket)
        .map_err(|error| format!("listen on {}: {error}", order.socket.display()))?;
    cipher
        .start()
        .map_err(|error| format!("start threads: {error}"))?;
    Ok((cipher, listener))
}

/// Leaves the agent's session and drops what it left open; and keeps the keys out of core dumps and of other processes.
fn detach() -> io::Result<()> {
    setsid()?;
    // SAFETY: takes numbers; nothing has been opened by us yet.
    unsafe { libc::close_range(3, u32::MAX, 0) };
    prctl::set_dumpable(false)?;
    // Only for those who list processes.
    let _ = prctl::set_name(c"mesh-wireguard");
    // Without it the node's encrypted networks stand still, and any task is a better choice. Where that is not allowed it
    // keeps the agent's.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    Ok(())
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Tells the agent, which reads our standard output to its end, and lets go of it.
fn announce(text: &str) {
    // The agent may have died meanwhile; the next one asks over the socket.
    let _ = writeln!(io::stdout(), "{text}");
    let _ = io::stdout().flush();
    if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}

/// Answers until it is killed.
fn serve(cipher: &Cipher, listener: &UnixListener) -> ! {
    loop {
        // Too many open files, or the other end is gone already: the next one will do.
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if let Err(error) = answer(cipher, &stream) {
            eprintln!("a request was not answered: {error}");
        }
    }
}

/// Answers one request.
fn answer(cipher: &Cipher, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Ok(());
    }
    let reply: Result<Status, String> = match serde_json::from_str(&line) {
        Ok(request) => act(cipher, &request).map(|()| cipher.status()),
        Err(error) => Err(format!("a request that is none: {error}")),
    };
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    (&*stream).write_all(&bytes)
}

fn act(cipher: &Cipher, request: &Request) -> Result<(), String> {
    match request {
        Request::Status => Ok(()),
        Request::Set { mtu, peers } => {
            let peers: Result<BTreeMap<Ipv4Addr, (PublicKey, u16)>, NotAKey> = peers
                .iter()
                .map(|(address, peer)| Ok((*address, (peer.key.parse()?, peer.port))))
                .collect();
            cipher.set(*mtu, &peers.map_err(|error| error.to_string())?)
        }
        Request::Rotate { epoch } => cipher.rotate(*epoch),
    }
}
