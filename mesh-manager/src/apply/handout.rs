//! Secrets and configs: create, update, remove, and whether those that a service claims are there.

use super::{Context, check_version};
use crate::{
    ErrorKind, ManagerError, Outcome, Response,
    state::{Handout, State},
};
use mesh_api::{
    Sensitive, engine,
    handout::{Kind, references},
};
use std::collections::BTreeMap;

pub(super) fn create(
    state: &mut State,
    cx: &mut Context,
    kind: Kind,
    name: &str,
    labels: &BTreeMap<String, String>,
    (data, is_template): (&Sensitive, bool),
) -> Outcome {
    if state.handout_named(kind, name).is_some() {
        return Err(ManagerError::new(
            ErrorKind::AlreadyExists,
            format!("{} {name} already exists", kind.noun()),
        ));
    }
    let id = cx.new_id();
    let handout = Handout {
        id: id.clone(),
        meta: cx.meta(),
        name: name.to_owned(),
        labels: labels.clone(),
        data: data.clone(),
        is_template,
    };
    state.put_handout(kind, handout);
    Ok(Response::Created {
        id,
        warnings: Vec::new(),
    })
}

/// The parts of an update request besides the name or id.
pub(super) struct Update<'a> {
    pub(super) version: u64,
    pub(super) name: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) data: Option<&'a Sensitive>,
}

pub(super) fn update(
    state: &mut State,
    cx: &Context,
    kind: Kind,
    key: &str,
    request: &Update<'_>,
) -> Outcome {
    let mut handout = state.find_handout(kind, key)?.clone();
    let same_data = request.data.is_none_or(|data| *data == handout.data);
    if request.name != handout.name || !same_data {
        return Err(ManagerError::invalid("only updates to Labels are allowed"));
    }
    check_version(&handout.meta, request.version)?;
    handout.labels.clone_from(request.labels);
    cx.touch(&mut handout.meta);
    state.put_handout(kind, handout);
    Ok(Response::Updated { version: cx.index })
}

pub(super) fn remove(state: &mut State, kind: Kind, key: &str) -> Outcome {
    let handout = state.find_handout(kind, key)?;
    let mut users: Vec<&str> = state
        .services_handed(kind, &handout.id)
        .map(|service| service.name())
        .collect();
    if !users.is_empty() {
        users.sort_unstable();
        let s = if users.len() == 1 { "" } else { "s" };
        return Err(ManagerError::new(
            ErrorKind::InvalidArgument,
            format!(
                "{} '{}' is in use by the following service{s}: {}",
                kind.noun(),
                handout.name,
                users.join(", ")
            ),
        ));
    }
    let id = handout.id.clone();
    state.remove_handout(kind, &id);
    Ok(Response::Removed)
}

/// Refuses a spec that claims what is not there.
pub(super) fn check(state: &State, spec: &engine::ServiceSpec) -> Result<(), ManagerError> {
    let template = spec.task_template.as_ref();
    let Some(container) = template.and_then(|template| template.container_spec.as_ref()) else {
        return Ok(());
    };
    for kind in [Kind::Secret, Kind::Config] {
        let missing: Vec<&str> = references(container)
            .filter(|claim| claim.kind == kind)
            .filter(|claim| {
                let found = state.handout(kind, claim.id);
                found.is_none_or(|handout| handout.name != claim.name)
            })
            .map(|claim| claim.name)
            .collect();
        if !missing.is_empty() {
            let s = if missing.len() == 1 { "" } else { "s" };
            return Err(ManagerError::invalid(format!(
                "{}{s} not found: {}",
                kind.noun(),
                missing.join(", ")
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "handout_tests.rs"]
mod tests;
