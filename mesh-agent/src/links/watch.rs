//! Tells when interfaces, addresses or routes of the node change.

use std::sync::Arc;

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;

use super::LinkError;

/// Calls `changed` on every change from now on, until the returned task is aborted.
///
/// # Errors
/// When no netlink socket can be opened.
pub fn watch(changed: Arc<Notify>) -> Result<tokio::task::JoinHandle<()>, LinkError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(LinkError::io("watch interfaces"))?;
    Ok(tokio::spawn(async move {
        // The handle must live, else the connection ends.
        let _handle = _handle;
        let connection = tokio::spawn(connection);
        while messages.next().await.is_some() {
            changed.notify_one();
        }
        connection.abort();
    }))
}
