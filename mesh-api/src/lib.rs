//! The wire nouns: Engine API types, the client of the control socket, and the
//! node and manager protocols.

pub mod backup;
pub mod client;
pub mod deadline;
pub mod filters;
pub mod frames;
pub mod generic_resource;
pub mod handout;
pub mod human;
pub mod mesh;
pub mod moment;
pub mod progress;
mod quorum;
mod sensitive;
mod service;
pub mod spelling;

pub use client::{Client, ClientError, Rotate};
pub use filters::Filters;
pub use quorum::even_managers;
pub use sensitive::Sensitive;
pub use service::ShownService;

/// Engine API types (v1.51 shapes), as the control socket speaks them and as
/// the managers store them.
pub use bollard_stubs::models as engine;

/// The newest Engine API version spoken here.
pub const API_VERSION: &str = "1.51";

/// The oldest Engine API version still answered.
pub const MIN_API_VERSION: &str = "1.24";

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mesh/mesh.sock";

/// Header with the unlock key of a backup that is restored.
pub const UNLOCK_KEY: &str = "x-mesh-unlock-key";

/// The gRPC protocols of `proto/mesh.proto`.
pub mod proto {
    #![expect(
        missing_docs,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("mesh.v1");

    impl std::fmt::Debug for Handout {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Handout")
                .field("id", &self.id)
                .finish_non_exhaustive()
        }
    }
}
