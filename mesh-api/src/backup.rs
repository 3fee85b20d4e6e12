//! What a backup of a swarm begins with: [`MAGIC`], the format's number (one byte), and whether the rest is locked (one byte:
//! [`CLEAR`] or [`LOCKED`]). What follows is the managers' own.

/// The first bytes.
pub const MAGIC: &[u8; 17] = b"mesh-swarm-backup";

/// Readable by whoever has the file.
pub const CLEAR: u8 = 0;

/// Encrypted with the swarm's unlock key.
pub const LOCKED: u8 = 1;

/// Bytes at the beginning that tell whether it is locked.
pub const HEAD: usize = MAGIC.len() + 2;

/// Whether a file that begins with this is a backup that takes the unlock key to read.
pub fn is_locked(file: &[u8]) -> bool {
    file.starts_with(MAGIC) && file.get(MAGIC.len() + 1) == Some(&LOCKED)
}
