//! How long programs have run, as far as the kernel counts it: `sysctl kernel.bpf_stats_enabled=1`.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
};

use aya::programs::{Program, ProgramError};

use crate::{Datapath, Error, verifier};

/// How often and how long a program has run since the kernel counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTime {
    /// Program.
    pub program: &'static str,
    /// Runs. A program that goes on in another one does not count as run.
    pub runs: u64,
    /// Their time, in nanoseconds.
    pub nanoseconds: u64,
}

impl Datapath {
    /// The programs that have run while the kernel counted; none if it does not.
    ///
    /// # Errors
    /// When the kernel does not describe a program.
    pub fn run_times(&self) -> Result<Vec<RunTime>, Error> {
        let all = verifier::programs().map(|program| self.run_time(program));
        let mut all = all.collect::<Result<Vec<_>, _>>()?;
        all.retain(|time| time.runs > 0);
        Ok(all)
    }

    fn run_time(&self, name: &'static str) -> Result<RunTime, Error> {
        let refused = |source| Error::Program {
            program: name,
            source: Box::new(source),
        };
        let fd = match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => program.fd(),
            Some(Program::SchedClassifier(program)) => program.fd(),
            Some(Program::CgroupSockAddr(program)) => program.fd(),
            Some(_) => Err(ProgramError::UnexpectedProgramType),
            None => {
                let kind = "program";
                return Err(Error::Missing { kind, name });
            }
        };
        let fd = fd.map_err(refused)?.as_fd().as_raw_fd();
        let path = PathBuf::from(format!("/proc/self/fdinfo/{fd}"));
        let text = fs::read_to_string(&path).map_err(|source| Error::Path {
            action: "read",
            path,
            source,
        })?;
        Ok(RunTime {
            program: name,
            runs: number(&text, "run_cnt:"),
            nanoseconds: number(&text, "run_time_ns:"),
        })
    }
}

/// The number behind a name; zero if the kernel does not tell it.
fn number(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_name() {
        let text = "pos:\t0\nprog_type:\t3\nrun_time_ns:\t1200\nrun_cnt:\t7\n";
        assert_eq!(number(text, "run_cnt:"), 7);
        assert_eq!(number(text, "run_time_ns:"), 1200);
        assert_eq!(number(text, "verified_insns:"), 0);
    }
}
