//! `/events`: changes of the cluster's objects as they are applied.

use std::time::Duration;

use axum::{
    extract::{Query as QueryOf, State},
    response::Response,
};
use chrono::Utc;
use mesh_api::{
    Filters,
    engine::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum},
};
use mesh_manager::state::{Event, EventAction, ObjectKind};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{Answer, Api, args::Query, stream::json_lines};

const FILTERS: [&str; 10] = [
    "config",
    "event",
    "label",
    "network",
    "node",
    "scope",
    "secret",
    "service",
    "type",
    "container",
];

/// What goes on between two events.
struct Source {
    past: std::vec::IntoIter<Event>,
    events: Receiver<Event>,
    filters: Filters,
    /// Nanoseconds since the epoch.
    until: Option<i64>,
}

pub(super) async fn stream(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Response> {
    let manager = api.manager()?;
    let filters = query.filters(&FILTERS)?;
    let until = query.time("until")?.filter(|until| *until > 0);
    let (past, events) = match query.time("since")?.filter(|since| *since > 0) {
        Some(since) => manager.subscribe_since(since),
        None => (Vec::new(), manager.subscribe()),
    };
    let source = Source {
        past: past.into_iter(),
        events,
        filters,
        until,
    };
    Ok(json_lines(futures::stream::unfold(
        source,
        |mut source| async move {
            let event = source.next().await?;
            Some((event, source))
        },
    )))
}

impl Source {
    async fn next(&mut self) -> Option<EventMessage> {
        loop {
            let event = match self.past.next() {
                Some(event) => event,
                None => self.live().await?,
            };
            if self.until.is_some_and(|until| event.time > until) {
                return None;
            }
            if let Some(message) = self.message(&event) {
                return Some(message);
            }
        }
    }

    /// The next one that happens, if it does in time.
    async fn live(&mut self) -> Option<Event> {
        let left = self.until.map_or(Duration::MAX, |until| {
            let left = until - Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
            Duration::from_nanos(u64::try_from(left).unwrap_or(0))
        });
        loop {
            match tokio::time::timeout(left, self.events.recv()).await.ok()? {
                Ok(event) => return Some(event),
                // What was missed is missed; the client sees the next ones.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn message(&self, event: &Event) -> Option<EventMessage> {
        let (typ, word) = match event.kind {
            ObjectKind::Node => (EventMessageTypeEnum::NODE, "node"),
            ObjectKind::Service => (EventMessageTypeEnum::SERVICE, "service"),
            ObjectKind::Network => (EventMessageTypeEnum::NETWORK, "network"),
            ObjectKind::Secret => (EventMessageTypeEnum::SECRET, "secret"),
            ObjectKind::Config => (EventMessageTypeEnum::CONFIG, "config"),
            // Docker tells of neither.
            ObjectKind::Cluster | ObjectKind::Task => return None,
        };
        let action = match event.action {
            EventAction::Create => "create",
            EventAction::Update => "update",
            EventAction::Remove => "remove",
        };
        let name = &event.name;
        let filters = &self.filters;
        let wanted = filters.exact("type", word)
            && filters.exact("event", action)
            && filters.exact("scope", "swarm")
            && [
                "node",
                "service",
                "network",
                "container",
                "secret",
                "config",
            ]
            .iter()
            .all(|key| {
                filters.matches(key, |value| {
                    *key == word && (value == event.id || value == name)
                })
            });
        if !wanted {
            return None;
        }
        Some(EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(event.id.clone()),
                attributes: Some([("name".to_owned(), name.clone())].into()),
            }),
            scope: Some(EventMessageScopeEnum::SWARM),
            time: Some(event.time / 1_000_000_000),
            time_nano: Some(event.time),
        })
    }
}
