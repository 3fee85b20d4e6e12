//! Running a program on one packet, by the kernel's `BPF_PROG_TEST_RUN`. For tests and benches.

use std::time::Duration;

use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions};

use crate::{Datapath, Error, attach};

/// Does nothing, on the XDP hook.
pub const EMPTY_XDP: &str = "empty_xdp";
/// Does nothing, on the tc hook.
pub const EMPTY_TC: &str = "empty_tc";

/// `uplink_xdp` on one packet again and again.
pub(crate) const AGAIN_XDP: &str = "again_xdp";
/// What `again_xdp` does beside running `uplink_xdp`.
pub(crate) const UNDO_XDP: &str = "undo_xdp";
/// Programs of benches and tests only.
const ON_DEMAND: [&str; 4] = [EMPTY_XDP, EMPTY_TC, AGAIN_XDP, UNDO_XDP];

/// Offset and size of what is given of `xdp_md`: data, data_end, data_meta, ingress_ifindex.
const XDP_MD: usize = 16;
/// Size of what is given of `__sk_buff`: up to and with `ifindex`.
const SK_BUFF: usize = 44;
/// Longest growth of a packet.
const ROOM: usize = 256;

/// What a program made of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The program's answer in its hook's own numbers (`XDP_TX`, `TC_ACT_REDIRECT`, ...).
    pub action: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Time of one run.
    pub took: Duration,
}

impl Datapath {
    /// Runs `program` on `packet` (from its Ethernet header) as if it came in by `ifindex`, and acts on maps as
    /// in earnest; the packet itself goes nowhere.
    ///
    /// # Errors
    /// When there is no such program or the kernel refuses the packet.
    pub fn trial(
        &mut self,
        program: &'static str,
        packet: &[u8],
        ifindex: u32,
    ) -> Result<Trial, Error> {
        self.trials(program, packet, ifindex, 1)
    }

    /// As [`Datapath::trial`], `times` in a row, each on what the last one made of the packet. The time is the mean.
    ///
    /// # Errors
    /// When there is no such program or the kernel refuses the packet.
    pub fn trials(
        &mut self,
        program: &'static str,
        packet: &[u8],
        ifindex: u32,
        times: u32,
    ) -> Result<Trial, Error> {
        let refused = |source| Error::Program {
            program,
            source: Box::new(source),
        };
        if ON_DEMAND.contains(&program) && !self.is_loaded(program) {
            attach::load(&mut self.ebpf, program)?;
        }
        let mut out = vec![0; packet.len() + ROOM];
        let mut context = Vec::new();
        let found = self.ebpf.program(program);
        let result = match found.ok_or(Error::Missing {
            kind: "program",
            name: program,
        })? {
            Program::Xdp(xdp) => {
                context.resize(XDP_MD, 0);
                context[4..8].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
                context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
                xdp.test_run(options(packet, &mut out, &context, times))
                    .map_err(refused)?
            }
            Program::SchedClassifier(tc) => {
                context.resize(SK_BUFF, 0);
                context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
                tc.test_run(options(packet, &mut out, &context, times))
                    .map_err(refused)?
            }
            _ => return Err(refused(ProgramError::UnexpectedProgramType)),
        };
        out.truncate(result.data_size_out as usize);
        Ok(Trial {
            action: result.return_value,
            packet: out,
            took: result.duration,
        })
    }

    fn is_loaded(&self, program: &str) -> bool {
        self.ebpf
            .program(program)
            .is_some_and(|program| program.fd().is_ok())
    }
}

fn options<'a>(
    packet: &'a [u8],
    out: &'a mut [u8],
    context: &'a [u8],
    repeat: u32,
) -> TestRunOptions<'a> {
    TestRunOptions {
        data_in: Some(packet),
        data_out: Some(out),
        ctx_in: Some(context),
        repeat,
        ..TestRunOptions::default()
    }
}
