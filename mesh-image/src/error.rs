//! The one error type of this crate and what a caller may conclude from it.

use std::io;
use std::path::{Path, PathBuf};

/// Result with [`ImageError`].
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// What kind of answer an error is, for callers that translate to HTTP or to task states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for does not exist (HTTP 404).
    NotFound,
    /// The caller's input is wrong (HTTP 400).
    Invalid,
    /// It exists but is in use or ambiguous (HTTP 409).
    Conflict,
    /// The registry wants (other) credentials (HTTP 401 at the registry).
    Unauthorized,
    /// The registry cannot be reached or failed; trying again may help (HTTP 502/503).
    Unavailable,
    /// Anything else: this machine's disk, kernel or a fault of ours (HTTP 500).
    Internal,
}

/// Everything that can go wrong with images. Each text says the whole cause, so there is no chain
/// of sources that a caller would print once more.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A reference such as `nginx:1.27` cannot be parsed.
    #[error("invalid reference format: \"{reference}\": {reason}")]
    InvalidReference {
        /// What was given.
        reference: String,
        /// Why it is not a reference.
        reason: &'static str,
    },
    /// A digest is not `sha256:<64 hex digits>`.
    #[error("invalid digest \"{digest}\": expected sha256:<64 hexadecimal digits>")]
    InvalidDigest {
        /// What was given.
        digest: String,
    },
    /// The header that carries registry credentials cannot be read.
    #[error("invalid X-Registry-Auth header: {reason}")]
    InvalidCredentials {
        /// What is wrong with it.
        reason: String,
    },
    /// No image of that name or id is in the store.
    #[error("no such image: {reference}")]
    NoSuchImage {
        /// What was asked for.
        reference: String,
    },
    /// A short id fits more than one image.
    #[error(
        "image id prefix \"{prefix}\" is ambiguous: it matches {matches} images, give more digits"
    )]
    AmbiguousId {
        /// The prefix given.
        prefix: String,
        /// How many images it fits.
        matches: usize,
    },
    /// The registry has the repository but not this tag or digest.
    #[error("manifest for {reference} not found: manifest unknown: {reason}")]
    ManifestUnknown {
        /// What was asked for.
        reference: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry refused.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'login': {reason}"
    )]
    PullDenied {
        /// Repository asked for, familiar form.
        repository: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry could not be reached or answered with an error.
    #[error("registry {registry}: {reason}")]
    Registry {
        /// `host[:port]` of the registry.
        registry: String,
        /// What went wrong, causes included.
        reason: String,
    },
    /// The image exists, but not for this platform.
    #[error("no matching manifest for {platform} in the manifest list of {reference}")]
    NoPlatform {
        /// What was asked for.
        reference: String,
        /// `os/architecture[/variant]`.
        platform: String,
    },
    /// Content does not have the digest it was named by.
    #[error(
        "{what}: content has digest {actual}, expected {expected}: it was corrupted or altered"
    )]
    DigestMismatch {
        /// What was read: a blob, a layer.
        what: String,
        /// The digest it is named by.
        expected: String,
        /// The digest of what arrived.
        actual: String,
    },
    /// An archive given to `load` is not an image archive.
    #[error("malformed image archive: {reason}")]
    MalformedArchive {
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest or a configuration cannot be understood.
    #[error("malformed image {what}: {reason}")]
    MalformedImage {
        /// Which document: manifest, config, layer.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of a layer would do something no image may do.
    #[error("layer entry \"{path}\" refused: {reason}")]
    UnsafeEntry {
        /// The entry's name as written in the archive.
        path: String,
        /// What it would have done.
        reason: String,
    },
    /// A bound on untrusted input was exceeded.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The bound, with its unit.
        limit: String,
    },
    /// The image is needed by a container.
    #[error(
        "conflict: unable to delete {reference} (cannot be forced): image is being used by container {container}"
    )]
    InUse {
        /// What was to be removed.
        reference: String,
        /// A container whose root file system comes from it.
        container: String,
    },
    /// The image has several tags and was named by its id.
    #[error(
        "conflict: unable to delete {id} (must be forced): image is referenced in multiple repositories"
    )]
    SeveralTags {
        /// Short image id.
        id: String,
    },
    /// A container id is not usable as a directory name.
    #[error(
        "invalid container id \"{id}\": use 1 to 128 of [a-zA-Z0-9_.-], not starting with a dot"
    )]
    InvalidContainerId {
        /// What was given.
        id: String,
    },
    /// Another process has this store open.
    #[error("image store {} is in use by another process: stop it or choose another data directory", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// This machine has no CA certificates, so no registry can be spoken to.
    #[error("no CA certificates found on this machine: install the ca-certificates package")]
    NoRootCertificates,
    /// The kernel refused a mount.
    #[error("cannot mount overlay for {container}: {cause}{}", overlay_hint(cause))]
    Mount {
        /// Whose root file system.
        container: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was being done: `read`, `create`, `rename` ...
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// A volume is to be mounted where the image has a file.
    #[error("cannot mount volume over existing file, file exists {}", path.display())]
    NotADirectory {
        /// Where, as the container sees it.
        path: PathBuf,
    },
    /// A background thread of ours ended early.
    #[error("image work was interrupted: {reason}")]
    Interrupted {
        /// How it ended.
        reason: String,
    },
}

impl ImageError {
    /// What a caller may conclude from this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. }
            | Self::InvalidDigest { .. }
            | Self::InvalidCredentials { .. }
            | Self::MalformedArchive { .. }
            | Self::InvalidContainerId { .. }
            | Self::UnsafeEntry { .. }
            | Self::NotADirectory { .. }
            | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::NoSuchImage { .. } | Self::ManifestUnknown { .. } | Self::NoPlatform { .. } => {
                ErrorKind::NotFound
            }
            Self::PullDenied { .. } => ErrorKind::Unauthorized,
            Self::AmbiguousId { .. } | Self::InUse { .. } | Self::SeveralTags { .. } => {
                ErrorKind::Conflict
            }
            Self::Registry { .. } | Self::DigestMismatch { .. } | Self::NoRootCertificates => {
                ErrorKind::Unavailable
            }
            Self::MalformedImage { .. }
            | Self::Locked { .. }
            | Self::Mount { .. }
            | Self::Io { .. }
            | Self::Interrupted { .. } => ErrorKind::Internal,
        }
    }

    /// Wraps an I/O error with what was being done to which path.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, cause: io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_path_buf(),
            cause,
        }
    }

    /// A malformed archive.
    pub(crate) fn archive(reason: impl Into<String>) -> Self {
        Self::MalformedArchive {
            reason: reason.into(),
        }
    }
}

/// Remedy for the mount errors people meet.
fn overlay_hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EINVAL) => {
            " (the data directory may itself be on overlayfs: put it on ext4, xfs, btrfs or tmpfs)"
        }
        Some(libc::ENODEV) => " (the kernel has no overlayfs: load the module `overlay`)",
        Some(libc::EPERM) => " (run as root)",
        _ => "",
    }
}
