//! What loading a program costs: the kernel's verifier follows every way through it.

use aya::programs::ProgramInfo;
use serde::Serialize;

use crate::{Datapath, Error, attach, hooks, twins};

/// Instructions that the kernel's verifier processes in a program before it refuses it.
pub const VERIFIER_LIMIT: u32 = 1_000_000;

/// The verifier's cost of a program, and what it made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifierCost {
    /// Program.
    pub program: &'static str,
    /// Instructions processed, each as often as a way led through it: at most [`VERIFIER_LIMIT`]. `None` before
    /// Linux 5.16, which does not tell.
    pub processed: Option<u32>,
    /// Instructions of the program.
    pub instructions: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
}

impl Datapath {
    /// What each of the programs cost to load, those of benches and tests left out.
    ///
    /// # Errors
    /// When the kernel does not describe a program.
    pub fn verifier_costs(&self) -> Result<Vec<VerifierCost>, Error> {
        programs()
            .map(|program| self.verifier_cost(program))
            .collect()
    }

    fn verifier_cost(&self, name: &'static str) -> Result<VerifierCost, Error> {
        let program = self.ebpf.program(name).ok_or(Error::Missing {
            kind: "program",
            name,
        })?;
        let info: ProgramInfo = program.info().map_err(|source| Error::Program {
            program: name,
            source: Box::new(source),
        })?;
        Ok(VerifierCost {
            program: name,
            processed: info.verified_instruction_count(),
            instructions: info.size_translated().unwrap_or(0) / 8,
            machine_code: info.size_jitted(),
        })
    }
}

/// All programs that a data plane loads.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    [attach::UPLINK_XDP]
        .into_iter()
        .chain(attach::TC_PROGRAMS)
        .chain(twins::programs())
        .chain(hooks::PROGRAMS)
}
