//! Calls about services and tasks.

use hyper::Method;

use super::{
    ByteStream, Client, ClientError, LogOptions, auth_header, byte_stream, empty_body,
    filter_query, read_json, transport::encode,
};
use crate::{
    Filters, ShownService,
    engine::{
        DistributionInspect, Service, ServiceCreateResponse, ServiceSpec, ServiceUpdateResponse,
        Task,
    },
};

impl Client {
    /// Services. With `status`, each tells how many of its tasks run.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn services(
        &self,
        filters: &Filters,
        status: bool,
    ) -> Result<Vec<Service>, ClientError> {
        let mut query = filter_query(filters);
        if status {
            query.push(("status", "true".to_owned()));
        }
        self.get("/services", &query).await
    }

    /// A service by id, name or unique prefix. With `defaults`, what the user left out is filled in.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn service(&self, reference: &str, defaults: bool) -> Result<Service, ClientError> {
        let query = [("insertDefaults", defaults.to_string())];
        self.get(&format!("/services/{}", encode(reference)), &query)
            .await
    }

    /// The same with the spec before the last update.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn shown_service(&self, reference: &str) -> Result<ShownService, ClientError> {
        self.get(&format!("/services/{}", encode(reference)), &[])
            .await
    }

    /// Makes a service. `auth` is the value of X-Registry-Auth.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn service_create(
        &self,
        spec: &ServiceSpec,
        auth: Option<&str>,
    ) -> Result<ServiceCreateResponse, ClientError> {
        self.post_with("/services/create", &[], spec, &auth_header(auth))
            .await
    }

    /// Changes a service's spec. `version` is the one that was read.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn service_update(
        &self,
        id: &str,
        version: u64,
        spec: &ServiceSpec,
        auth: Option<&str>,
    ) -> Result<ServiceUpdateResponse, ClientError> {
        let query = [
            ("version", version.to_string()),
            ("registryAuthFrom", "spec".to_owned()),
        ];
        let path = format!("/services/{}/update", encode(id));
        self.post_with(&path, &query, spec, &auth_header(auth))
            .await
    }

    /// Puts a service's previous spec back. `version` and `spec` are those that were read.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn service_rollback(
        &self,
        id: &str,
        version: u64,
        spec: &ServiceSpec,
    ) -> Result<ServiceUpdateResponse, ClientError> {
        let query = [
            ("version", version.to_string()),
            ("rollback", "previous".to_owned()),
        ];
        let path = format!("/services/{}/update", encode(id));
        self.post_with(&path, &query, spec, &[]).await
    }

    /// Removes a service and its tasks.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn service_remove(&self, reference: &str) -> Result<(), ClientError> {
        self.delete(&format!("/services/{}", encode(reference)), &[])
            .await
    }

    /// The log lines of a service's tasks, as [`Frame`](crate::frames::Frame)s (raw bytes with a terminal).
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn service_logs(
        &self,
        reference: &str,
        options: &LogOptions,
    ) -> Result<ByteStream, ClientError> {
        self.logs(&format!("/services/{}/logs", encode(reference)), options)
            .await
    }

    /// The log lines of one task.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn task_logs(
        &self,
        reference: &str,
        options: &LogOptions,
    ) -> Result<ByteStream, ClientError> {
        self.logs(&format!("/tasks/{}/logs", encode(reference)), options)
            .await
    }

    /// Tasks.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn tasks(&self, filters: &Filters) -> Result<Vec<Task>, ClientError> {
        self.get("/tasks", &filter_query(filters)).await
    }

    /// A task by id, name or unique prefix.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn task(&self, reference: &str) -> Result<Task, ClientError> {
        self.get(&format!("/tasks/{}", encode(reference)), &[])
            .await
    }

    /// What the registry has under an image's name.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn distribution(
        &self,
        image: &str,
        auth: Option<&str>,
    ) -> Result<DistributionInspect, ClientError> {
        let path = format!("/distribution/{}/json", encode(image));
        let response = self
            .request(Method::GET, &path, &[], empty_body(), &auth_header(auth))
            .await?;
        read_json(response).await
    }

    pub(super) async fn logs(
        &self,
        path: &str,
        options: &LogOptions,
    ) -> Result<ByteStream, ClientError> {
        let response = self
            .request(Method::GET, path, &options.query(), empty_body(), &[])
            .await?;
        Ok(byte_stream(response))
    }
}
