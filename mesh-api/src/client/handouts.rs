//! Calls about secrets and configs.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Client, ClientError, filter_query, transport::encode};
use crate::{
    Filters, Sensitive,
    engine::{Config, Driver},
    handout::Kind,
};

/// What a new one is made of.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Spec<'a> {
    name: &'a str,
    labels: &'a HashMap<String, String>,
    data: &'a Sensitive,
    #[serde(skip_serializing_if = "Option::is_none")]
    templating: Option<Driver>,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

// A secret is shown as a config without data.
impl Client {
    /// The secrets, or configs, that match.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn handouts(
        &self,
        kind: Kind,
        filters: &Filters,
    ) -> Result<Vec<Config>, ClientError> {
        let path = format!("/{}s", kind.noun());
        self.get(&path, &filter_query(filters)).await
    }

    /// One of them, by id, name or unique prefix of the id.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn handout(&self, kind: Kind, reference: &str) -> Result<Config, ClientError> {
        self.get(&path(kind, reference), &[]).await
    }

    /// Makes one, of a template if a driver for it is named; gives its id.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn handout_create(
        &self,
        kind: Kind,
        name: &str,
        labels: &HashMap<String, String>,
        data: &Sensitive,
        template_driver: Option<String>,
    ) -> Result<String, ClientError> {
        let spec = Spec {
            name,
            labels,
            data,
            templating: template_driver.map(|name| Driver {
                name,
                options: None,
            }),
        };
        let path = format!("/{}s/create", kind.noun());
        let made: Created = self.post(&path, &[], &spec).await?;
        Ok(made.id)
    }

    /// Removes one.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn handout_remove(&self, kind: Kind, reference: &str) -> Result<(), ClientError> {
        self.delete(&path(kind, reference), &[]).await
    }
}

fn path(kind: Kind, reference: &str) -> String {
    format!("/{}s/{}", kind.noun(), encode(reference))
}
