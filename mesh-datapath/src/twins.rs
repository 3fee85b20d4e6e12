//! The programs that those on the interfaces go on in, for IPv6 and for what is rare: entries of pinned arrays.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError},
};
use mesh_common::{
    MORE_GATEWAY_ERROR, MORE_OVERLAY_ERROR, MORE_REFUSED, MORE_TOO_BIG, MORE_TRACE,
    MORE_TUNNEL_ERROR, MORE_UPLINK_ERROR, MORE_V4, MORE_V6, V6_GATEWAY, V6_LOOPBACK, V6_OVERLAY,
    V6_TUNNEL, V6_UPLINK, XDP_TRACE,
};

use crate::{Error, tables};

const XDP: &str = "XDP_V6";
const TC: &str = "TC_V6";
const MORE: &str = "TC_MORE";

/// Array, index in it, program.
const TWINS: [(&str, u32, &str); 20] = [
    (XDP, V6_UPLINK, "uplink_xdp_v6"),
    (TC, V6_UPLINK, "uplink_tc_v6"),
    (TC, V6_TUNNEL, "tunnel_tc_v6"),
    (TC, V6_OVERLAY, "overlay_tc_v6"),
    (TC, V6_GATEWAY, "gateway_tc_v6"),
    (TC, V6_LOOPBACK, "loopback_tc_v6"),
    (MORE, MORE_V4 + MORE_UPLINK_ERROR, "uplink_error"),
    (MORE, MORE_V6 + MORE_UPLINK_ERROR, "uplink_error_v6"),
    (MORE, MORE_V4 + MORE_TUNNEL_ERROR, "tunnel_error"),
    (MORE, MORE_V6 + MORE_TUNNEL_ERROR, "tunnel_error_v6"),
    (MORE, MORE_V4 + MORE_OVERLAY_ERROR, "overlay_error"),
    (MORE, MORE_V6 + MORE_OVERLAY_ERROR, "overlay_error_v6"),
    (MORE, MORE_V4 + MORE_GATEWAY_ERROR, "gateway_error"),
    (MORE, MORE_V6 + MORE_GATEWAY_ERROR, "gateway_error_v6"),
    (MORE, MORE_V4 + MORE_TOO_BIG, "too_big"),
    (MORE, MORE_V6 + MORE_TOO_BIG, "too_big_v6"),
    (MORE, MORE_V4 + MORE_REFUSED, "refused"),
    (MORE, MORE_V6 + MORE_REFUSED, "refused_v6"),
    (MORE, MORE_TRACE, "trace_tc"),
    (XDP, XDP_TRACE, "trace_xdp"),
];

/// All of them.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    TWINS.into_iter().map(|(_, _, program)| program)
}

/// The arrays, and whether they hold this process's programs.
pub(crate) struct Twins {
    arrays: BTreeMap<&'static str, ProgramArray<MapData>>,
    current: bool,
}

impl Twins {
    /// Until [`Twins::sync`] packets go on through an earlier process's.
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut arrays = BTreeMap::new();
        for name in [XDP, TC, MORE] {
            arrays.insert(name, array(ebpf, name)?);
        }
        Ok(Self {
            arrays,
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
            let entries = self.arrays.get_mut(array).ok_or(Error::Missing {
                kind: "map",
                name: array,
            })?;
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
