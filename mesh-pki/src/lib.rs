//! The cluster's identity: root CA, join tokens, node certificates, TLS configurations and ids.
//!
//! Everything made here is ECDSA P-256; a root may come from outside. A node certificate names the
//! node (CN), its role (OU) and its cluster (O); see [`PeerIdentity`]. A join token pins the root CA
//! by digest, so that a node can trust a manager before it owns a certificate.

mod ca;
mod error;
mod expiry;
mod id;
mod identity;
mod role;
mod succession;
pub mod tls;
mod token;
mod unlock;

pub use ca::{DEFAULT_CERTIFICATE_VALIDITY, KeyAndRequest, RootCa, new_key_and_request};
pub use error::PkiError;
pub use expiry::utc;
pub use id::{base36, id_from_bytes, new_id};
pub use identity::{NodeIdentity, PeerIdentity};
pub use role::Role;
pub use token::{JoinToken, root_digest};
pub use unlock::UnlockKey;
