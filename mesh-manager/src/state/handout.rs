//! Secrets and configs in the state.

use super::{EventAction, Meta, ObjectKind, Service, State, lookup::by_prefix};
use crate::ManagerError;
use mesh_api::{
    Sensitive, engine,
    handout::{Kind, TEMPLATE_DRIVER, references},
    moment,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A secret or a config. It is made by its parts: the Engine API's type would show the data in every log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handout {
    /// Id.
    pub id: String,
    /// Version and times.
    pub meta: Meta,
    /// Its name.
    pub name: String,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// What it holds; never changed.
    pub data: Sensitive,
    /// It is a Go template, which nodes fill in for each task; never changed.
    #[serde(default)]
    pub is_template: bool,
}

impl Handout {
    /// `GET /secrets/{id}` or `GET /configs/{id}`. Both have the shape of a config; a secret's data is never shown.
    pub fn to_engine(&self, kind: Kind) -> engine::Config {
        let data = match kind {
            Kind::Secret => None,
            // In JSON it is the text that the Engine API wants.
            Kind::Config => serde_json::to_value(&self.data).ok(),
        };
        engine::Config {
            id: Some(self.id.clone()),
            version: self.meta.version(),
            created_at: Some(moment::from_nanos(self.meta.created_at)),
            updated_at: Some(moment::from_nanos(self.meta.updated_at)),
            spec: Some(engine::ConfigSpec {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone().into_iter().collect()),
                data: data.and_then(|text| Some(text.as_str()?.to_owned())),
                templating: self.is_template.then(|| engine::Driver {
                    name: TEMPLATE_DRIVER.to_owned(),
                    options: None,
                }),
            }),
        }
    }
}

impl State {
    fn handout_map(&self, kind: Kind) -> &BTreeMap<String, Handout> {
        match kind {
            Kind::Secret => &self.secrets,
            Kind::Config => &self.configs,
        }
    }

    fn handout_map_mut(&mut self, kind: Kind) -> &mut BTreeMap<String, Handout> {
        match kind {
            Kind::Secret => &mut self.secrets,
            Kind::Config => &mut self.configs,
        }
    }

    /// Every secret, or every config, by id.
    pub fn handouts(&self, kind: Kind) -> impl Iterator<Item = &Handout> {
        self.handout_map(kind).values()
    }

    /// The one with this very id.
    pub fn handout(&self, kind: Kind, id: &str) -> Option<&Handout> {
        self.handout_map(kind).get(id)
    }

    /// The one with this very name.
    pub(crate) fn handout_named(&self, kind: Kind, name: &str) -> Option<&Handout> {
        self.handouts(kind).find(|handout| handout.name == name)
    }

    /// One by id, name or unique id prefix.
    ///
    /// # Errors
    /// Not found, or the prefix is that of several.
    pub fn find_handout(&self, kind: Kind, key: &str) -> Result<&Handout, ManagerError> {
        let exact = self.handout(kind, key);
        match exact.or_else(|| self.handout_named(kind, key)) {
            Some(handout) => Ok(handout),
            None => by_prefix(kind.noun(), self.handout_map(kind), key),
        }
    }

    /// The services whose tasks are handed the one with this id.
    pub(crate) fn services_handed<'a>(
        &'a self,
        kind: Kind,
        id: &'a str,
    ) -> impl Iterator<Item = &'a Service> {
        self.services().filter(move |service| {
            let template = service.spec.task_template.as_ref();
            let container = template.and_then(|template| template.container_spec.as_ref());
            let mut claims = container.into_iter().flat_map(references);
            claims.any(|claim| claim.kind == kind && claim.id == id)
        })
    }

    pub(crate) fn put_handout(&mut self, kind: Kind, handout: Handout) {
        let (id, name) = (handout.id.clone(), handout.name.clone());
        let map = self.handout_map_mut(kind);
        let action = EventAction::of(map.insert(id.clone(), handout).is_none());
        self.handout_event(kind, action, id, name);
    }

    pub(crate) fn remove_handout(&mut self, kind: Kind, id: &str) {
        if let Some(old) = self.handout_map_mut(kind).remove(id) {
            self.handout_event(kind, EventAction::Remove, old.id, old.name);
        }
    }

    fn handout_event(&mut self, kind: Kind, action: EventAction, id: String, name: String) {
        self.indexes.note_shared(self.index);
        let kind = match kind {
            Kind::Secret => ObjectKind::Secret,
            Kind::Config => ObjectKind::Config,
        };
        self.event(kind, action, id, name);
    }
}
