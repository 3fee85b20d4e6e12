//! The flags of `service create` and `service update` that say what is asked of the image's registry, and what
//! nodes are told to ask it with.

use anyhow::Result;
use mesh_api::{Client, engine::ServiceSpec};

use crate::flags::image;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct RegistryFlags {
    /// Send the registry's credentials to the nodes
    #[arg(long)]
    with_registry_auth: bool,
    /// Do not ask the registry for the image's digest
    #[arg(long)]
    no_resolve_image: bool,
}

impl RegistryFlags {
    /// Pins the image of a spec to the digest its registry answers. Gives a warning if it answers none.
    ///
    /// # Errors
    /// The agent cannot be asked.
    pub(super) async fn pin(
        &self,
        client: &Client,
        spec: &mut ServiceSpec,
    ) -> Result<Option<String>> {
        let task = spec.task_template.as_mut();
        let Some(image) = task
            .and_then(|task| task.container_spec.as_mut()?.image.as_mut())
            .filter(|_| !self.no_resolve_image)
        else {
            return Ok(None);
        };
        let auth = image::registry_auth(image);
        match image::pin(client, image, auth.as_deref()).await? {
            Some(pinned) => {
                *image = pinned;
                Ok(None)
            }
            None => Ok(Some(image::unpinned_warning(image))),
        }
    }

    /// The credentials to send with a spec: the value of X-Registry-Auth.
    pub(super) fn auth(&self, spec: &ServiceSpec) -> Option<String> {
        if !self.with_registry_auth {
            return None;
        }
        let container = spec.task_template.as_ref()?.container_spec.as_ref()?;
        image::registry_auth(container.image.as_deref()?)
    }
}
