//! What can go wrong with keys, certificates and tokens.

use std::path::PathBuf;

/// A failure of the cluster's public key infrastructure.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key or certificate could not be made or signed.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// Bytes that should be a certificate are not.
    #[error("not a valid certificate: {reason}; expected PEM of an X.509 certificate")]
    InvalidCertificate {
        /// What the parser met.
        reason: String,
    },
    /// A private key could not be read.
    #[error("not a valid private key: {reason}; expected PEM")]
    InvalidKey {
        /// What the parser met.
        reason: String,
    },
    /// A certificate's subject lacks a part.
    #[error("certificate has no {part} in its subject; it was not issued by a mesh manager")]
    MissingSubject {
        /// The missing part, as `common name`.
        part: &'static str,
    },
    /// A join token that does not parse.
    #[error(
        "invalid join token: expected SWMTKN-1-<50 base36 characters>-<25 base36 characters>; \
         run `swarm join-token worker` on a manager to see it"
    )]
    InvalidToken,
    /// The remote root CA is not the one that the join token names.
    #[error(
        "remote CA does not match fingerprint. Expected: {expected}, got {actual}; \
         the token is of another cluster, or from before this one's root CA was rotated"
    )]
    WrongRoot {
        /// Digest in the token.
        expected: String,
        /// Digest of the root that the manager showed.
        actual: String,
    },
    /// An unlock key that does not parse; Docker's text.
    #[error("invalid key string")]
    InvalidUnlockKey,
    /// The private key is encrypted on disk, and what it was encrypted with is not known.
    #[error("the node's private key is locked")]
    MissingKey,
    /// An unlock key that does not open what it is given for, or something that was changed since it was sealed.
    #[error("the unlock key does not fit, or what it is for is damaged")]
    WrongUnlockKey,
    /// The root CA's private key is not on this node.
    #[error("the root CA key is not available; only managers can sign certificates")]
    NoSigningKey,
    /// A certificate that is to be the root cannot be.
    #[error("{0}")]
    UnfitRoot(String),
    /// A TLS configuration was refused.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// A certificate verifier could not be built.
    #[error("cannot verify certificates with this root CA: {reason}")]
    Verifier {
        /// What the verifier's builder said.
        reason: String,
    },
    /// A file of the identity could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The metadata file beside the certificate is damaged.
    #[error("cannot parse {}; remove the directory and join again", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        source: serde_json::Error,
    },
}
