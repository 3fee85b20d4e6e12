//! A named network namespace, as `ip netns` makes them, and ways to run things inside.

use std::{
    ffi::CString,
    fs::File,
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::sethostname,
};

/// A named network namespace; deleted when dropped.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    /// Whether dropping leaves it be, as `demo --keep` wants.
    kept: bool,
}

impl NetNs {
    /// Makes the namespace and brings its loopback up.
    ///
    /// # Errors
    /// When the name is taken or we are not root.
    pub fn new(name: &str) -> Result<Self> {
        run("ip", &["netns", "add", name]).context("network namespaces need root")?;
        let ns = Self {
            name: name.to_owned(),
            kept: false,
        };
        ns.sh(&["ip", "link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same namespace once more; dropping that value leaves it be.
    pub fn borrowed(&self) -> Self {
        Self {
            name: self.name.clone(),
            kept: true,
        }
    }

    /// Dropping the value leaves the namespace.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    fn open(&self) -> Result<File> {
        let path = format!("/run/netns/{}", self.name);
        File::open(&path).with_context(|| format!("cannot open {path}"))
    }

    /// A command that will run inside, under a host name of its own when one is given.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn command(&self, program: &str, hostname: Option<&str>) -> Result<Command> {
        let ns = self.open()?;
        let hostname = hostname.map(CString::new).transpose()?;
        let mut command = Command::new(program);
        let enter = move || {
            setns(ns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            if let Some(name) = &hostname {
                unshare(CloneFlags::CLONE_NEWUTS)?;
                sethostname(std::ffi::OsStr::new(name.to_str().unwrap_or("node")))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made, on a descriptor and a
        // string that were allocated before.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs a command inside and gives what it printed, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        let (program, args) = argv.split_first().context("no command given")?;
        self.command(program, None)?
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {program} in {}", self.name))
    }

    /// Runs a command inside that has to succeed; gives its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the message holds what it complained of.
    pub fn sh(&self, argv: &[&str]) -> Result<String> {
        text_of(self.output(argv)?, argv).with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs a closure on a thread of its own inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or with the closure's own error.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let ns = self.open()?;
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(ns.as_fd(), CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("cannot enter {}", self.name))?;
                    act()
                })
                .join()
                .map_err(|_| anyhow!("a thread in the namespace panicked"))?
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = run("ip", &["netns", "del", &self.name])
        {
            eprintln!("rig: {error:#}");
        }
    }
}

/// Runs a command on the machine itself that has to succeed.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let mut argv = vec![program];
    argv.extend(args);
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}: `cargo xtask setup` installs it"))?;
    text_of(output, &argv)
}

fn text_of(output: Output, argv: &[&str]) -> Result<String> {
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            argv.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
