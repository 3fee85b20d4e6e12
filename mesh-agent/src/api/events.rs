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
use mesh_manager::{
    ManagerHandle,
    state::{Event, EventAction, ObjectKind},
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{Answer, Api, args::Query, stream::json_lines};

const FILTERS: [&str; 8] = [
    "event",
    "label",
    "network",
    "node",
    "scope",
    "service",
    "type",
    "container",
];

/// What goes on between two events.
struct Source {
    manager: ManagerHandle,
    events: Receiver<Event>,
    filters: Filters,
    until: Option<tokio::time::Instant>,
}

pub(super) async fn stream(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Response> {
    let manager = api.manager()?;
    let filters = query.filters(&FILTERS)?;
    let until = query.time("until")?.map(|until| {
        let left = until - Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
        tokio::time::Instant::now() + Duration::from_nanos(u64::try_from(left).unwrap_or(0))
    });
    let source = Source {
        events: manager.subscribe(),
        manager,
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
            let received = match self.until {
                Some(until) => tokio::time::timeout_at(until, self.events.recv())
                    .await
                    .ok()?,
                None => self.events.recv().await,
            };
            match received {
                Ok(event) => {
                    if let Some(message) = self.message(&event) {
                        return Some(message);
                    }
                }
                // What was missed is missed; the client sees the next ones.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn message(&self, event: &Event) -> Option<EventMessage> {
        let view = self.manager.view();
        let (typ, word, name) = match event.kind {
            ObjectKind::Node => (
                EventMessageTypeEnum::NODE,
                "node",
                view.node(&event.id)
                    .map(|node| node.description.hostname.clone()),
            ),
            ObjectKind::Service => (
                EventMessageTypeEnum::SERVICE,
                "service",
                view.service(&event.id)
                    .map(|service| service.name().to_owned()),
            ),
            ObjectKind::Network => (
                EventMessageTypeEnum::NETWORK,
                "network",
                view.network(&event.id)
                    .map(|network| network.name().to_owned()),
            ),
            // Docker tells of neither.
            ObjectKind::Cluster | ObjectKind::Task => return None,
        };
        let action = match event.action {
            EventAction::Create => "create",
            EventAction::Update => "update",
            EventAction::Remove => "remove",
        };
        let name = name.unwrap_or_default();
        let filters = &self.filters;
        let wanted = filters.exact("type", word)
            && filters.exact("event", action)
            && filters.exact("scope", "swarm")
            && ["node", "service", "network", "container"]
                .iter()
                .all(|key| {
                    filters.matches(key, |value| {
                        *key == word && (value == event.id || value == name)
                    })
                });
        if !wanted {
            return None;
        }
        let now = Utc::now();
        Some(EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(event.id.clone()),
                attributes: Some([("name".to_owned(), name)].into()),
            }),
            scope: Some(EventMessageScopeEnum::SWARM),
            time: Some(now.timestamp()),
            time_nano: now.timestamp_nanos_opt(),
        })
    }
}
