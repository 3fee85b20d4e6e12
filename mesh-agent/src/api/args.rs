//! Reads bodies, queries and headers, as forgivingly as Docker does.

use std::collections::HashMap;

use axum::{
    body::{Body, Bytes},
    http::HeaderMap,
};
use http_body_util::{BodyExt, Limited};
use mesh_api::{Filters, spelling};
use serde::de::DeserializeOwned;

use super::{errors::ApiError, routes::MAX_BODY};

/// The arguments of a query.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Query(HashMap<String, String>);

impl Query {
    /// An argument; empty is the same as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// A truth value in any of Docker's spellings; false when absent.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| {
            !matches!(
                text.to_ascii_lowercase().as_str(),
                "0" | "no" | "false" | "none"
            )
        })
    }

    /// A number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.get(name)
            .map(|text| text.parse().map_err(|_| ApiError::bad_argument(name, text)))
            .transpose()
    }

    /// The version that an update has seen; it has to be there.
    pub(super) fn version(&self) -> Result<u64, ApiError> {
        self.number("version")?.ok_or_else(|| {
            ApiError::bad_request("invalid swarm object version: version is missing")
        })
    }

    /// The filters, which may only have these keys.
    pub(super) fn filters(&self, known: &[&str]) -> Result<Filters, ApiError> {
        let filters = Filters::parse(self.get("filters").unwrap_or_default())?;
        filters.validate(known)?;
        Ok(filters)
    }

    /// A time as `seconds[.nanoseconds]` since the epoch, in nanoseconds.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let bad = || ApiError::bad_argument(name, text);
        let seconds: i64 = seconds.parse().map_err(|_| bad())?;
        let nanos: i64 = match fraction {
            "" => 0,
            digits if digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                format!("{digits:0<9}").parse().map_err(|_| bad())?
            }
            _ => return Err(bad()),
        };
        seconds
            .checked_mul(1_000_000_000)
            .and_then(|total| total.checked_add(nanos))
            .map(Some)
            .ok_or_else(bad)
    }
}

/// The body as JSON, whatever its content type says.
pub(super) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let bytes = bytes(body).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request(
            "invalid JSON: got EOF while reading request body",
        ));
    }
    spelling::from_slice(&bytes).map_err(|error| ApiError::bad_body(&error))
}

/// The body, if it is not too long.
pub(super) async fn bytes(body: Body) -> Result<Bytes, ApiError> {
    let collected = Limited::new(body, MAX_BODY).collect().await;
    Ok(collected.map_err(ApiError::unreadable_body)?.to_bytes())
}

/// The value of `X-Registry-Auth`, or nothing.
pub(super) fn registry_auth(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-registry-auth")?.to_str().ok()?;
    Some(value.to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Query {
        Query(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn arguments() {
        let query = query(&[
            ("a", "1"),
            ("b", "false"),
            ("c", ""),
            ("n", "7"),
            ("x", "y"),
        ]);
        assert!(query.flag("a") && !query.flag("b") && !query.flag("c") && !query.flag("absent"));
        assert_eq!(query.number::<u64>("n"), Ok(Some(7)));
        assert!(query.number::<u64>("x").is_err());
        assert!(query.version().is_err());
    }

    #[test]
    fn times() {
        let query = query(&[
            ("s", "12"),
            ("f", "12.5"),
            ("bad", "x"),
            ("long", "1.0123456789"),
        ]);
        assert_eq!(query.time("s"), Ok(Some(12_000_000_000)));
        assert_eq!(query.time("f"), Ok(Some(12_500_000_000)));
        assert_eq!(query.time("none"), Ok(None));
        assert!(query.time("bad").is_err() && query.time("long").is_err());
    }

    #[test]
    fn unknown_filters_are_refused() {
        let query = query(&[("filters", r#"{"colour":{"red":true}}"#)]);
        assert_eq!(
            query.filters(&["id"]).expect_err("unknown").message(),
            "invalid filter 'colour'"
        );
    }
}
