//! `/events`: changes of the cluster's objects, and of its tasks' health, as they are applied.

use std::{collections::HashMap, time::Duration};

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
            ObjectKind::Task if event.container.is_some() => {
                (EventMessageTypeEnum::CONTAINER, "container")
            }
            // Docker tells of neither.
            ObjectKind::Cluster | ObjectKind::Task => return None,
        };
        let action = match event.action {
            EventAction::Create => "create",
            EventAction::Update => "update",
            EventAction::Remove => "remove",
            EventAction::Healthy => "health_status: healthy",
            EventAction::Unhealthy => "health_status: unhealthy",
        };
        let name = &event.name;
        let mut attributes = HashMap::from([("name".to_owned(), name.clone())]);
        // To Docker, containers are each node's own affair.
        let (id, scope, scope_word) = match &event.container {
            Some(container) => {
                attributes.extend(container.labels.clone());
                attributes.insert("image".to_owned(), container.image.clone());
                (&container.id, EventMessageScopeEnum::LOCAL, "local")
            }
            None => (&event.id, EventMessageScopeEnum::SWARM, "swarm"),
        };
        let (noun, _) = action.split_once(':').unwrap_or((action, ""));
        let filters = &self.filters;
        let wanted = filters.exact("type", word)
            && filters.matches("event", |value| value == action || value == noun)
            && filters.exact("scope", scope_word)
            && filters.labels("label", |key| attributes.get(key).map(String::as_str))
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
                    let is_short = word == "container" && id.starts_with(value);
                    *key == word && (value == id || value == name || is_short)
                })
            });
        if !wanted {
            return None;
        }
        Some(EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(id.clone()),
                attributes: Some(attributes),
            }),
            scope: Some(scope),
            time: Some(event.time / 1_000_000_000),
            time_nano: Some(event.time),
        })
    }
}

#[cfg(test)]
mod tests {
    use mesh_manager::state::TaskContainer;

    use super::*;

    fn shown(filters: &str, event: &Event) -> Option<EventMessage> {
        let source = Source {
            past: Vec::new().into_iter(),
            events: tokio::sync::broadcast::channel(1).1,
            filters: Filters::parse(filters).expect("filters"),
            until: None,
        };
        source.message(event)
    }

    #[test]
    fn health_is_told_as_the_containers() {
        let container = TaskContainer {
            id: "0123456789ab".to_owned(),
            image: "nginx".to_owned(),
            labels: HashMap::from([("a".to_owned(), "b".to_owned())]),
        };
        let event = |action, container| Event {
            index: 1,
            time: 1_500_000_000,
            kind: ObjectKind::Task,
            action,
            id: "task".to_owned(),
            name: "web.1.task".to_owned(),
            service_id: None,
            container,
        };
        let of_health = event(EventAction::Unhealthy, Some(Box::new(container)));
        let told = shown("", &of_health).expect("it is told");
        let json = serde_json::to_value(&told).expect("json");
        let expected = serde_json::json!({
            "Type": "container", "Action": "health_status: unhealthy", "scope": "local",
            "Actor": {
                "ID": "0123456789ab",
                "Attributes": {"name": "web.1.task", "image": "nginx", "a": "b"},
            },
            "time": 1, "timeNano": 1_500_000_000,
        });
        assert_eq!(json, expected);
        for (filters, is_told) in [
            (r#"{"event":["health_status"]}"#, true),
            (r#"{"event":["health_status: unhealthy"]}"#, true),
            (r#"{"event":["health_status: healthy"]}"#, false),
            (r#"{"event":["health"]}"#, false),
            (r#"{"type":["container"],"scope":["local"]}"#, true),
            (r#"{"scope":["swarm"]}"#, false),
            (r#"{"container":["0123"]}"#, true),
            (r#"{"container":["web.1.task"]}"#, true),
            (r#"{"container":["123"]}"#, false),
            (r#"{"service":["web.1.task"]}"#, false),
            (r#"{"label":["a=b"]}"#, true),
            (r#"{"label":["a=c"]}"#, false),
        ] {
            assert_eq!(shown(filters, &of_health).is_some(), is_told, "{filters}");
        }
        assert_eq!(shown("", &event(EventAction::Update, None)), None);
    }
}
