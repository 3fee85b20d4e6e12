//! The programs for IPv6, which those on the interfaces go on in: entries of two pinned arrays.

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError},
};
use mesh_common::{V6_GATEWAY, V6_LOOPBACK, V6_OVERLAY, V6_TUNNEL, V6_UPLINK};

use crate::{Error, attach, tables};

const XDP: &str = "XDP_V6";
const TC: &str = "TC_V6";

/// Array, index in it, program.
const TWINS: [(&str, u32, &str); 6] = [
    (XDP, V6_UPLINK, "uplink_xdp_v6"),
    (TC, V6_UPLINK, "uplink_tc_v6"),
    (TC, V6_TUNNEL, "tunnel_tc_v6"),
    (TC, V6_OVERLAY, "overlay_tc_v6"),
    (TC, V6_GATEWAY, "gateway_tc_v6"),
    (TC, V6_LOOPBACK, "loopback_tc_v6"),
];

/// The arrays, and whether they hold this process's programs.
pub(crate) struct Twins {
    xdp: ProgramArray<MapData>,
    tc: ProgramArray<MapData>,
    current: bool,
}

impl Twins {
    /// Loads the programs; until [`Twins::sync`] packets go on through an earlier process's.
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        for (_, _, program) in TWINS {
            attach::load(ebpf, program)?;
        }
        Ok(Self {
            xdp: array(ebpf, XDP)?,
            tc: array(ebpf, TC)?,
            current: false,
        })
    }

    /// Puts the programs in, each in one step. Once per process.
    pub(crate) fn sync(&mut self, ebpf: &Ebpf) -> Result<(), Error> {
        if self.current {
            return Ok(());
        }
        for (array, index, name) in TWINS {
            let refused = |source| Error::Program {
                program: name,
                source: Box::new(source),
            };
            let program = ebpf.program(name).ok_or(Error::Missing {
                kind: "program",
                name,
            })?;
            let fd = match program {
                Program::Xdp(xdp) => xdp.fd(),
                Program::SchedClassifier(tc) => tc.fd(),
                _ => Err(ProgramError::UnexpectedProgramType),
            };
            let fd = fd.map_err(refused)?;
            let entries = if array == XDP {
                &mut self.xdp
            } else {
                &mut self.tc
            };
            entries
                .set(index, fd, 0)
                .map_err(|e| tables::map_error(array, e))?;
        }
        self.current = true;
        Ok(())
    }
}

fn array(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramArray<MapData>, Error> {
    ProgramArray::try_from(tables::take(ebpf, name)?).map_err(|e| tables::map_error(name, e))
}
