//! The secrets and configs that a spec claims, as users name them: by id, name or unique id prefix. Stored are ids and
//! names.

use mesh_api::{engine::ServiceSpec, handout::Kind};
use mesh_manager::{ManagerError, state::State};

/// Puts ids and names in the place of whatever stands for them.
///
/// # Errors
/// One that is not there, or stands for several.
pub(super) fn resolve(view: &State, spec: &mut ServiceSpec) -> Result<(), ManagerError> {
    let template = spec.task_template.as_mut();
    let Some(container) = template.and_then(|template| template.container_spec.as_mut()) else {
        return Ok(());
    };
    for claim in container.secrets.iter_mut().flatten() {
        find(
            view,
            Kind::Secret,
            &mut claim.secret_id,
            &mut claim.secret_name,
        )?;
    }
    for claim in container.configs.iter_mut().flatten() {
        find(
            view,
            Kind::Config,
            &mut claim.config_id,
            &mut claim.config_name,
        )?;
    }
    Ok(())
}

fn find(
    view: &State,
    kind: Kind,
    id: &mut Option<String>,
    name: &mut Option<String>,
) -> Result<(), ManagerError> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let Some(key) = given(id).or_else(|| given(name)) else {
        // Refused as what it is: malformed.
        return Ok(());
    };
    let found = view.find_handout(kind, &key)?;
    // Where both are given in full, both have to be right: that is checked when the change is made.
    if given(name).is_none() || found.id != key {
        *name = Some(found.name.clone());
    }
    *id = Some(found.id.clone());
    Ok(())
}
