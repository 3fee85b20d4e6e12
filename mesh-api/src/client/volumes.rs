//! Calls about the node's volumes.

use super::{Client, ClientError, filter_query, transport::encode};
use crate::{
    Filters,
    engine::{Volume, VolumeCreateOptions, VolumeListResponse, VolumePruneResponse},
};

impl Client {
    /// The node's volumes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn volumes(&self, filters: &Filters) -> Result<Vec<Volume>, ClientError> {
        let answer: VolumeListResponse = self.get("/volumes", &filter_query(filters)).await?;
        Ok(answer.volumes.unwrap_or_default())
    }

    /// Makes a volume; one that is there is given.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn volume_create(
        &self,
        options: &VolumeCreateOptions,
    ) -> Result<Volume, ClientError> {
        self.post("/volumes/create", &[], options).await
    }

    /// Removes a volume that no container uses; `force` takes one that is not there for removed.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<(), ClientError> {
        let query = match force {
            true => vec![("force", "1".to_owned())],
            false => Vec::new(),
        };
        self.delete(&format!("/volumes/{}", encode(name)), &query)
            .await
    }

    /// Removes the volumes that no container uses: those without a name, or with the filter `all` every one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn volumes_prune(
        &self,
        filters: &Filters,
    ) -> Result<VolumePruneResponse, ClientError> {
        self.post("/volumes/prune", &filter_query(filters), &())
            .await
    }
}
