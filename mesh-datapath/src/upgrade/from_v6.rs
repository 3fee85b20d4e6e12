//! Flows as versions up to 6 had them: those of all protocols in one table.

use std::{io, path::Path};

use aya::maps::{HashMap, MapData, MapError, MapInfo};
use mesh_common::{Conn, FlowKey, wire::TCP};

use super::from_v4::hash;
use crate::{Error, tables::map_error};

/// The last version that had them so.
pub(super) const VERSION: u32 = 6;

const FROM: &str = "CONNS";
const TO: &str = "CONNS_ANY";

/// `BPF_NOEXIST`: only where there is no entry with the key.
const NEW: u64 = 1;

/// Copies the flows of other protocols than TCP to the table that is theirs, among the maps pinned in `maps`. What is there
/// is newer. The old programs still go by the originals, which make room for others once nobody asks for them.
///
/// # Errors
/// When a map cannot be read or written.
pub(super) fn convert(maps: &Path) -> Result<(), Error> {
    let from: HashMap<MapData, FlowKey, Conn> = hash(maps, FROM)?;
    let mut to: HashMap<MapData, FlowKey, Conn> = hash(maps, TO)?;
    let info = MapInfo::from_pin(maps.join(FROM)).map_err(|e| map_error(FROM, e))?;
    // A key that is evicted while the table is walked makes the kernel begin again.
    for entry in from.iter().take(2 * info.max_entries() as usize) {
        let (key, conn) = entry.map_err(|e| map_error(FROM, e))?;
        if key.protocol != TCP {
            there_is_fine(to.insert(key, conn, NEW)).map_err(|e| map_error(TO, e))?;
        }
    }
    Ok(())
}

fn there_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
        {
            Ok(())
        }
        other => other,
    }
}
