//! Taking over from a build whose maps had another layout. Each [`mesh_common::ABI_VERSION`] has a folder of pins.
//!
//! A map that is still defined as it was moves over with what it holds, and so do the links, whose programs
//! [`crate::Datapath::apply`] then swaps one by one: until then packets go through the old programs. All other maps
//! are made anew and filled from the desired state; the old programs keep theirs.
//!
//! What cannot be filled that way are the flows (`CONNS`, `CONNS_ANY`, `FLOWS`, `SOCKETS`, `DATAGRAMS`), the rows that open flows
//! began under (`ENTRY_OF`, `SCTP_PORTS`, `PUBLISHED`, `VIPS`, `ROWS`, `BACKENDS`) and `COUNTERS`: who changes the layout of one of these
//! converts its contents here. Who changes only what the contents mean gives the map another name.
//!
//! From versions 3 and 4, whose rows are packed otherwise, `from_v4` copies rows, with what refers to them, into maps of
//! their own, so that the old programs go on with the old ones. Backends keep their indices, by which `CONNS` knows them:
//! open flows go on, those without an entry by the row that they began under. What a conversion is due to fill is made anew:
//! an earlier one may have been interrupted, and programs may go by what it wrote, if the older build came back since.
//!
//! Up to version 6 `CONNS` had the flows of all protocols. It moves over, and `from_v6` copies those that are not TCP's to
//! `CONNS_ANY`, until the older version's folder is removed: what the old programs add meanwhile is found by the same rows.

mod from_v4;
mod from_v6;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{EbpfError, maps::MapInfo};
use aya_obj::Object;

use crate::{
    Config, Error, attach,
    pins::{entries, remove_file, remove_tree},
};

/// Folders below a version's that hold what is attached.
const LINKS: [&str; 3] = [attach::LINKS, attach::FILTERS, "hooks"];

/// The folders of other versions, from which nothing is taken over any more.
#[derive(Debug, Default)]
pub(crate) struct Superseded {
    folders: Vec<PathBuf>,
    /// Pinned maps of some of them, the newest last, whose contents are still to be converted.
    rows: Vec<PathBuf>,
    /// Some had one table for the flows of all protocols.
    one_table: bool,
}

/// Moves what can be taken over to this version's folder. `sized` are the maps that user space sizes.
pub(crate) fn adopt(config: &Config, object: &[u8], sized: &[&str]) -> Result<Superseded, Error> {
    let own = config.versioned_pin_dir();
    let mut others = entries(&config.pin_dir)?;
    others.retain(|dir| *dir != own && version(dir).is_some());
    others.sort_by_key(|dir| version(dir));
    if others.is_empty() {
        return Ok(Superseded::default());
    }
    let object = Object::parse(object).map_err(|source| Error::Load {
        pin_dir: own.clone(),
        source: Box::new(EbpfError::from(source)),
    })?;
    let mut rows = Vec::new();
    for other in &others {
        let converts = from_v4::is_in(&other.join("maps"));
        if converts {
            rows.push(other.join("maps"));
        }
        for pin in entries(&other.join("maps"))? {
            let name = pin.file_name().unwrap_or_default().to_string_lossy();
            let definition = object.maps.get(&*name);
            if converts && from_v4::MAPS.contains(&&*name) {
                continue;
            }
            let same = definition.is_some_and(|new| {
                MapInfo::from_pin(&pin).is_ok_and(|old| {
                    old.map_type().is_ok_and(|old| old as u32 == new.map_type())
                        && old.key_size() == new.key_size()
                        && old.value_size() == new.value_size()
                        && (sized.contains(&&*name) || old.max_entries() == new.max_entries())
                })
            });
            if same {
                take_over(&pin, own.join("maps").join(&*name))?;
            } else {
                tracing::info!(map = %name, from = %other.display(), "defined anew, not taken over");
            }
        }
        for folder in LINKS {
            for pin in entries(&other.join(folder))? {
                let name = pin.file_name().unwrap_or_default();
                take_over(&pin, own.join(folder).join(name))?;
            }
        }
    }
    if !rows.is_empty() {
        for name in from_v4::MAPS {
            remove_file(&own.join("maps").join(name))?;
        }
    }
    let one_table = others
        .iter()
        .any(|dir| version(dir) <= Some(from_v6::VERSION));
    Ok(Superseded {
        folders: others,
        rows,
        one_table,
    })
}

impl Superseded {
    /// Fills this version's maps, which are pinned in `maps`, with what the newest other version's hold.
    pub(crate) fn convert(&mut self, maps: &Path) -> Result<(), Error> {
        if self.one_table {
            from_v6::convert(maps)?;
        }
        let Some(newest) = self.rows.pop() else {
            return Ok(());
        };
        for older in self.rows.drain(..) {
            from_v4::be_done(&older)?;
        }
        from_v4::convert(&newest, maps)?;
        from_v4::be_done(&newest)
    }

    /// Removes the folders with what was not taken over. Once the programs are swapped.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        while let Some(dir) = self.folders.last() {
            remove_tree(dir)?;
            self.folders.pop();
        }
        Ok(())
    }
}

/// The version whose folder this is, if it is named as [`Config::versioned_pin_dir`] names them.
fn version(dir: &Path) -> Option<u32> {
    let name = dir.file_name()?.to_str()?;
    name.strip_prefix('v')?.parse().ok()
}

/// Moves a pin, unless this version has one of that name already.
fn take_over(from: &Path, to: PathBuf) -> Result<(), Error> {
    if to.exists() {
        return Ok(());
    }
    let folder = to.parent().map_or(Ok(()), fs::create_dir_all);
    folder
        .and_then(|()| fs::rename(from, &to))
        .or_else(|source| match source.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(Error::Path {
                action: "take over a pin as",
                path: to,
                source,
            }),
        })
}
