//! Secrets and configs that are templates.

use std::{collections::BTreeMap, sync::Arc};

use mesh_api::{
    Sensitive,
    engine::TaskSpecContainerSpec,
    handout::{Kind, references},
    proto,
};

use super::{
    Names, Values, context, engine,
    functions::{Lookups, Targets},
};
use crate::{
    assignment::Handout,
    container::{Handed, SpecError},
};

/// Whether this can be a template: what it names is seen when it is filled in for a task.
///
/// # Errors
/// What is wrong with it.
pub fn check_payload(data: &[u8]) -> Result<(), String> {
    engine::check(text(data)?)
}

fn text(data: &[u8]) -> Result<&str, String> {
    str::from_utf8(data).map_err(|_| "a template has to be text in UTF-8".to_owned())
}

/// What each file of a task holds; templates are filled in, and may name all that the task is handed, as it is stored:
/// templates in templates stay what they are.
///
/// # Errors
/// One is not known, or cannot be filled in.
pub fn contents(
    task: &proto::Task,
    wanted: &TaskSpecContainerSpec,
    node: &Names,
    known: &BTreeMap<(Kind, String), Arc<Handout>>,
    files: Vec<Handed>,
) -> Result<Vec<(Handed, Arc<Sensitive>)>, SpecError> {
    let mut lookups = None;
    let mut all = Vec::new();
    for file in files {
        let wrong = |cause: String| SpecError::Payload {
            noun: file.kind.noun(),
            id: file.id.clone(),
            cause,
        };
        let key = (file.kind, file.id.clone());
        let handout = known.get(&key).ok_or_else(|| wrong("not known".into()))?;
        let data = if handout.is_template {
            let lookups = match &lookups {
                Some(lookups) => lookups,
                None => lookups.insert(find_all(Values { task, node }, wanted, known)?),
            };
            let template = text(handout.data.reveal()).map_err(wrong)?;
            let filled = engine::fill(template, || context(task, node), Some(lookups.clone()));
            Arc::new(filled.map_err(wrong)?.into_bytes().into())
        } else {
            Arc::clone(&handout.data)
        };
        all.push((file, data));
    }
    Ok(all)
}

/// What templates of the task may look up. Of two with one name it is the first.
fn find_all(
    values: Values<'_>,
    wanted: &TaskSpecContainerSpec,
    known: &BTreeMap<(Kind, String), Arc<Handout>>,
) -> Result<Lookups, SpecError> {
    let mut lookups = Lookups::default();
    for entry in wanted.env.iter().flatten() {
        if let Some((name, value)) = values.variable(entry)?.split_once('=') {
            lookups.env.push((name.to_owned(), value.to_owned()));
        }
    }
    for claim in references(wanted) {
        let handout = known.get(&(claim.kind, claim.id.to_owned()));
        if let (Some(handout), Some(file)) = (handout, claim.file) {
            let targets: &mut Targets = match claim.kind {
                Kind::Secret => &mut lookups.secrets,
                Kind::Config => &mut lookups.configs,
            };
            let target = targets.entry(file.name.to_owned());
            target.or_insert_with(|| Arc::clone(&handout.data));
        }
    }
    Ok(lookups)
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
