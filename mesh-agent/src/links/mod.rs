//! Links of the node and its tasks: namespaces, veth pairs, addresses, routes, egress.
//!
//! What shall be there is worked out by [`plan`], purely; the rest brings it about, each call
//! idempotent. Only the apply step of the reconciler calls the parts that write.

pub mod egress;
mod features;
pub mod forwarding;
pub mod host;
pub mod local_pool;
mod netlink;
pub mod netns;
pub mod plan;
pub mod sysctl;
pub mod task;
pub mod watch;

/// A failure to read or change links.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused a netlink request.
    #[error("{what}: {source}")]
    Netlink {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A file, a namespace or a mount.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// `nft` refused a rule set.
    #[error("nft refused the egress rules: {0}; is the nftables package installed?")]
    Nft(String),
}

impl LinkError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Netlink { what, source }
    }
}

/// Kernel error number of a netlink refusal, positive; 0 if it is something else.
pub(crate) fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.raw_code().abs(),
        _ => 0,
    }
}
