//! Container images: pull, load, verification, storage and overlayfs layers.
//!
//! [`ImageStore`] is the whole surface most callers need. An image comes in through
//! [`ImageStore::pull`] (a registry) or [`ImageStore::load`] (an archive), is verified by digest
//! and by diff id, unpacked once per layer chain, and goes out as an overlayfs mount by
//! [`ImageStore::mount_rootfs`].
//!
//! What lives here: references, digests, registries, archives, unpacking, the store on disk and
//! root file systems, and what volumes begin with. What does not: containers, networks and the Engine API's JSON.
//!
//! Nothing in an image is trusted: every blob is checked against its digest, every layer against
//! its diff id, and no entry of a layer is ever resolved outside the directory it is unpacked to.

pub mod build;
mod copy;
mod digest;
mod error;
mod keyed;
mod load;
mod progress;
mod record;
mod reference;
mod registry;
mod spec;
mod store;
mod unpack;

pub use copy::{Content, publish};
pub use digest::Digest;
pub use error::{ErrorKind, ImageError, Result};
pub use progress::{ProgressEvent, ProgressFn, silent};
pub use record::{Healthcheck, ImageConfig, ImageRecord};
pub use reference::Reference;
pub use registry::{Credentials, Distribution, Platform, PullOptions, RegistryOptions};
pub use store::{ImageStore, LoadedImage, Pruned, Removed, remove_tree};
