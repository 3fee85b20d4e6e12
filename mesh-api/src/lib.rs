//! The wire nouns: Engine API types, the client of the control socket, and the
//! node and manager protocols.

/// Engine API types (v1.51 shapes), as the control socket speaks them and as
/// the managers store them.
pub use bollard_stubs::models as engine;

/// The gRPC protocols of `proto/mesh.proto`.
pub mod proto {
    #![allow(missing_docs, clippy::all, unreachable_pub, reason = "generated code")]
    tonic::include_proto!("mesh.v1");
}
