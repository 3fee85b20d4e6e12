//! Our own terminal: its size, and its raw mode.

use std::{
    io::{self, Write},
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

nix::ioctl_read_bad!(get_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// Rows and columns of our terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is standard output's, and the kernel writes one `winsize` to `size`.
    unsafe { get_window_size(std::io::stdout().as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Our terminal in another mode; dropped, it is as before.
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    /// Passes every key on. `None`: standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        Self::with(cfmakeraw)
    }

    /// Shows nothing of what is typed. `None`: standard input is no terminal.
    fn silent() -> Option<Self> {
        Self::with(|mode| mode.local_flags.remove(LocalFlags::ECHO))
    }

    fn with(change: impl FnOnce(&mut Termios)) -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut mode = before.clone();
        change(&mut mode);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &mode).ok()?;
        Some(Self(before))
    }
}

/// A line of standard input; on a terminal it is asked for, and not shown.
pub(crate) fn read_hidden(prompt: &str) -> io::Result<String> {
    let silent = RawTerminal::silent();
    let mut shown = io::stderr();
    if silent.is_some() {
        write!(shown, "{prompt}")?;
        shown.flush()?;
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    if silent.is_some() {
        writeln!(shown)?;
    }
    Ok(line)
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Asks whether to go on, after a warning.
///
/// # Errors
/// When the answer is no, which is also what a closed standard input says.
pub(crate) fn confirm(command: &str, warning: &str) -> anyhow::Result<()> {
    crate::format::write(format!(
        "{warning}\nAre you sure you want to continue? [y/N] "
    ))?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    match line.trim() {
        "y" | "Y" => Ok(()),
        _ => anyhow::bail!("{command} has been cancelled"),
    }
}
