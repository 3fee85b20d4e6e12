//! `ROWS` as user space sees it: lines, in maps that are added as they are needed. Memory once added stays.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, Map, MapData, MapError},
};
use mesh_common::{CHUNK_LINES, CHUNKS, LINE_WORDS, Line, Row};

use crate::{
    Error,
    tables::{map_error, take},
};

pub(crate) const ROWS: &str = "ROWS";

/// The table.
pub(crate) struct Lines {
    map: ArrayOfMaps<MapData, Array<MapData, Line>>,
    /// Maps there are: all before the first that is missing.
    chunks: u32,
}

impl Lines {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Self::new(ArrayOfMaps::try_from(take(ebpf, ROWS)?)).map_err(|e| map_error(ROWS, e))
    }

    /// The table that is pinned in a folder.
    pub(crate) fn pinned(maps: &Path) -> Result<Self, Error> {
        let map = MapData::from_pin(maps.join(ROWS)).and_then(Map::from_map_data);
        Self::new(map.and_then(ArrayOfMaps::try_from)).map_err(|e| map_error(ROWS, e))
    }

    fn new(
        map: Result<ArrayOfMaps<MapData, Array<MapData, Line>>, MapError>,
    ) -> Result<Self, MapError> {
        let map = map?;
        let mut chunks = 0;
        while chunks < CHUNKS {
            match map.get(&chunks, 0) {
                Ok(_) => chunks += 1,
                Err(MapError::KeyNotFound) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { map, chunks })
    }

    /// Lines there is memory for.
    pub(crate) fn allocated(&self) -> u32 {
        self.chunks * CHUNK_LINES
    }

    /// Writes a row whose list is `list`, indices in `BACKENDS`; `slots` are numbers in it.
    ///
    /// # Errors
    /// When the kernel has no memory for it, or this process may open no more files. Some of it may be written then.
    pub(crate) fn write(&mut self, row: &Row, slots: &[u16], list: &[u32]) -> Result<(), Error> {
        let words = (slots.len() << row.wide).div_ceil(4);
        let mut packed = vec![0; words];
        for (slot, number) in (0..).zip(slots) {
            let (word, bit) = Row::place(slot, row.wide);
            packed[word as usize] |= u32::from(*number) << bit;
        }
        self.write_words(row.slots_at, &packed)
            .and_then(|()| self.write_words(row.list_at, list))
            .map_err(|e| map_error(ROWS, e))
    }

    /// The slots of a row, and its list.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn read(&self, row: &Row) -> Result<(Vec<u16>, Vec<u32>), Error> {
        let words = ((row.slots as usize) << row.wide).div_ceil(4);
        let packed = self.read_words(row.slots_at, words)?;
        let slots = (0..row.slots).map(|slot| {
            let (word, bit) = Row::place(slot, row.wide);
            ((packed[word as usize] >> bit) & Row::mask(row.wide)) as u16
        });
        let slots: Vec<u16> = slots.collect();
        // Each backend has a slot.
        let most = slots.iter().max().map_or(0, |most| usize::from(*most) + 1);
        Ok((slots, self.read_words(row.list_at, most)?))
    }

    fn write_words(&mut self, first: u32, words: &[u32]) -> Result<(), MapError> {
        let mut open: Option<(u32, Array<MapData, Line>)> = None;
        for (number, part) in (first..).zip(words.chunks(LINE_WORDS as usize)) {
            let mut line = Line::default();
            line.words[..part.len()].copy_from_slice(part);
            let (chunk, within) = (number / CHUNK_LINES, number % CHUNK_LINES);
            if open.as_ref().is_none_or(|(at, _)| *at != chunk) {
                open = Some((chunk, self.chunk(chunk)?));
            }
            if let Some((_, array)) = &mut open {
                array.set(within, line, 0)?;
            }
        }
        Ok(())
    }

    fn read_words(&self, first: u32, count: usize) -> Result<Vec<u32>, Error> {
        let read = || {
            let mut words = Vec::with_capacity(count.next_multiple_of(LINE_WORDS as usize));
            let mut open: Option<(u32, Array<MapData, Line>)> = None;
            for number in (first..).take(count.div_ceil(LINE_WORDS as usize)) {
                let (chunk, within) = (number / CHUNK_LINES, number % CHUNK_LINES);
                if open.as_ref().is_none_or(|(at, _)| *at != chunk) {
                    open = Some((chunk, self.map.get(&chunk, 0)?));
                }
                if let Some((_, array)) = &open {
                    words.extend(array.get(&within, 0)?.words);
                }
            }
            words.truncate(count);
            Ok(words)
        };
        read().map_err(|e: MapError| map_error(ROWS, e))
    }

    /// A map of lines; those up to it are added if they are missing.
    fn chunk(&mut self, number: u32) -> Result<Array<MapData, Line>, MapError> {
        while self.chunks <= number {
            let added = Array::create(CHUNK_LINES, 0)?;
            self.map.set(self.chunks, &added, 0)?;
            self.chunks += 1;
        }
        self.map.get(&number, 0)
    }
}
