//! What a run of `mesh-ctl` answered.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// What a run of `mesh-ctl` answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Of a command that ended.
    pub fn of(line: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        let code = status.code();
        Self {
            line,
            code: code.unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a command that had to succeed.
    ///
    /// # Errors
    /// When it failed; the message holds what it complained of.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!(
                "`{}` ended with {}: {}",
                self.line,
                self.code,
                self.err.trim()
            );
        }
        Ok(self.out)
    }

    /// The complaint of a command that had to fail with exit code 1.
    ///
    /// # Errors
    /// When it did anything else.
    pub fn refused(self) -> Result<String> {
        if self.code != 1 || self.err.trim().is_empty() {
            bail!(
                "`{}` should be refused with code 1 and a reason, but gave {}: {}{}",
                self.line,
                self.code,
                self.out,
                self.err
            );
        }
        Ok(self.err)
    }
}

/// Runs a command with these arguments and a line on standard input, say a key.
///
/// # Errors
/// It cannot be started. A refusal is an [`Answer`].
pub fn with_line(mut command: Command, args: &[&str], line: &str) -> Result<Answer> {
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a standard input")?;
    // One that is refused at once does not read it.
    let _ = writeln!(stdin, "{line}");
    drop(stdin);
    let output = child.wait_with_output()?;
    Ok(Answer::of(args.join(" "), &output))
}
