//! `/secrets` and `/configs`. A secret's data comes in and never goes out.

use std::collections::{BTreeMap, HashMap};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query as QueryOf, State},
    http::StatusCode,
};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use mesh_api::{
    Filters, Sensitive,
    engine::{Config, Driver},
    handout::{Kind, TEMPLATE_DRIVER},
};
use mesh_manager::{Command, Response, state::Handout};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Api,
    args::{Query, json},
    errors::ApiError,
    services::unexpected,
};
use crate::container::check_payload;

const FILTERS: [&str; 4] = ["id", "label", "name", "names"];

/// Longest name.
const MAX_NAME: usize = 64;

/// Base64 as clients send it: some leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A spec as it comes in. The Engine API's type would show the data.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Spec {
    name: Option<String>,
    labels: Option<HashMap<String, String>>,
    data: Option<String>,
    driver: Option<Driver>,
    templating: Option<Driver>,
}

impl Spec {
    fn labels(&mut self) -> BTreeMap<String, String> {
        self.labels.take().unwrap_or_default().into_iter().collect()
    }

    fn data(&self) -> Result<Option<Sensitive>, ApiError> {
        let Some(text) = self.data.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        // Both alphabets are in use. The decoder's own words would show some of it.
        let standard = text.replace('-', "+").replace('_', "/");
        let bytes = BASE64.decode(standard);
        let bytes =
            bytes.map_err(|_| ApiError::bad_request("invalid JSON: illegal base64 data"))?;
        Ok(Some(bytes.into()))
    }

    /// What a new one is made of.
    fn checked(mut self, kind: Kind) -> Result<Command, ApiError> {
        let noun = kind.noun();
        let name = self.name.take().unwrap_or_default();
        check_name(&name)?;
        let named = |driver: &Option<Driver>| driver.clone().filter(|d| !d.name.is_empty());
        if named(&self.driver).is_some() {
            return Err(ApiError::not_implemented(format!(
                "a driver of a {noun} is not supported; leave it out"
            )));
        }
        let templating = named(&self.templating);
        if let Some(driver) = &templating {
            if driver.name != TEMPLATE_DRIVER {
                let cause = format!("unrecognized template type: {}", driver.name);
                return Err(ApiError::bad_request(cause));
            }
            if driver.options.as_ref().is_some_and(|all| !all.is_empty()) {
                return Err(ApiError::bad_request(format!(
                    "the template driver {TEMPLATE_DRIVER} has no options"
                )));
            }
        }
        let data = self.data()?.unwrap_or_default();
        if !(1..=kind.limit()).contains(&data.reveal().len()) {
            return Err(ApiError::bad_request(format!(
                "{noun} data must be larger than 0 and less than {} bytes",
                kind.limit() + 1
            )));
        }
        if templating.is_some() {
            let wrong = |cause| {
                ApiError::bad_request(format!("failed to expand templated {noun}: {cause}"))
            };
            check_payload(data.reveal()).map_err(wrong)?;
        }
        Ok(Command::CreateHandout {
            kind,
            name,
            labels: self.labels(),
            data,
            is_template: templating.is_some(),
        })
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::bad_request("name must be provided"));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric();
    let is_known = |c: char| is_plain(c) || matches!(c, '-' | '_' | '.');
    let is_valid = name.len() <= MAX_NAME
        && name.starts_with(is_plain)
        && name.ends_with(is_plain)
        && name.chars().all(is_known);
    if !is_valid {
        return Err(ApiError::bad_request(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be \
             [a-zA-Z0-9]",
        ));
    }
    Ok(())
}

#[derive(Serialize)]
pub(super) struct Created {
    #[serde(rename = "ID")]
    id: String,
}

pub(super) async fn list(
    State(api): State<Api>,
    Extension(kind): Extension<Kind>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<Config>>> {
    let manager = api.manager()?;
    let filters = query.filters(&FILTERS)?;
    let view = manager.view();
    let all = view.handouts(kind);
    let shown = all.filter(|handout| matches(&filters, handout));
    Ok(Json(shown.map(|handout| handout.to_engine(kind)).collect()))
}

fn matches(filters: &Filters, handout: &Handout) -> bool {
    filters.prefix("id", &handout.id)
        && filters.prefix("name", &handout.name)
        && filters.exact("names", &handout.name)
        && filters.labels("label", |name| handout.labels.get(name).map(String::as_str))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Extension(kind): Extension<Kind>,
    Path(id): Path<String>,
) -> Answer<Json<Config>> {
    let manager = api.manager()?;
    let view = manager.view();
    Ok(Json(view.find_handout(kind, &id)?.to_engine(kind)))
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(kind): Extension<Kind>,
    body: Body,
) -> Answer<(StatusCode, Json<Created>)> {
    let manager = api.manager()?;
    let spec: Spec = json(body).await?;
    // A large template takes a while.
    let checked = tokio::task::spawn_blocking(move || spec.checked(kind)).await;
    match manager.call(checked.map_err(ApiError::internal)??).await? {
        Response::Created { id, .. } => Ok((StatusCode::CREATED, Json(Created { id }))),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn update(
    State(api): State<Api>,
    Extension(kind): Extension<Kind>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
    body: Body,
) -> Answer<()> {
    let manager = api.manager()?;
    let mut spec: Spec = json(body).await?;
    let command = Command::UpdateHandout {
        kind,
        id,
        version: query.version()?,
        data: spec.data()?,
        labels: spec.labels(),
        name: spec.name.unwrap_or_default(),
    };
    manager.call(command).await?;
    Ok(())
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(kind): Extension<Kind>,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let manager = api.manager()?;
    manager.call(Command::RemoveHandout { kind, id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(kind: Kind, spec: Value) -> Result<Vec<u8>, String> {
        let spec: Spec = serde_json::from_value(spec).expect("a spec");
        match spec.checked(kind) {
            Ok(Command::CreateHandout { data, .. }) => Ok(data.reveal().to_vec()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    fn of_size(kind: Kind, bytes: usize) -> Result<usize, String> {
        let data = BASE64.encode(vec![7; bytes]);
        read(kind, json!({"Name": "a", "Data": data})).map(|data| data.len())
    }

    #[test]
    fn data() {
        // "\xfb\xff~" in both alphabets, with padding and without.
        for (text, bytes) in [
            ("+/9+", &b"\xfb\xff~"[..]),
            ("-_9-", b"\xfb\xff~"),
            ("YQ==", b"a"),
            ("YQ", b"a"),
        ] {
            let read = read(Kind::Secret, json!({"Name": "a", "Data": text}));
            assert_eq!(read.as_deref(), Ok(bytes), "{text}");
        }
        let refused = read(Kind::Secret, json!({"Name": "a", "Data": "YQ~="})).unwrap_err();
        assert_eq!(refused, "invalid JSON: illegal base64 data");
        for kind in [Kind::Secret, Kind::Config] {
            let limit = kind.limit();
            assert_eq!(of_size(kind, limit), Ok(limit));
            for bytes in [0, limit + 1] {
                let told = of_size(kind, bytes).unwrap_err();
                let start = format!("{} data must be larger than 0 and less than ", kind.noun());
                assert!(told.starts_with(&start), "{told}");
            }
        }
        assert_eq!(
            (Kind::Secret.limit(), Kind::Config.limit()),
            (512_000, 1_024_000)
        );
    }

    #[test]
    fn names_and_drivers() {
        let named = |name: &str| read(Kind::Config, json!({"Name": name, "Data": "YQ=="}));
        for name in ["a", "A-b_c.9", &"x".repeat(64)] {
            assert!(named(name).is_ok(), "{name}");
        }
        assert_eq!(named("").unwrap_err(), "name must be provided");
        for name in ["-a", "a.", "a b", "ä", "a/b", &"x".repeat(65)] {
            let told = named(name).unwrap_err();
            assert!(told.starts_with("invalid name, only 64 "), "{name}: {told}");
        }
        let with = |field: &str, driver: Value, text: &str| {
            let data = BASE64.encode(text);
            read(
                Kind::Secret,
                json!({"Name": "a", "Data": data, field: driver}),
            )
        };
        for field in ["Driver", "Templating"] {
            assert!(with(field, json!({"Name": ""}), "{{").is_ok());
        }
        let golang = json!({"Name": "golang"});
        let told = with("Driver", golang.clone(), "a").unwrap_err();
        assert_eq!(told, "a driver of a secret is not supported; leave it out");
        let fine = "{{.Nobody}} {{env \"a\"}} {{secret \"b\"}} {{config \"c\"}}";
        assert!(with("Templating", golang.clone(), fine).is_ok());
        for (driver, text, words) in [
            (
                json!({"Name": "jinja"}),
                fine,
                "unrecognized template type: jinja",
            ),
            (
                json!({"Name": "golang", "Options": {"a": "b"}}),
                fine,
                "the template driver golang has no options",
            ),
            (
                golang,
                "{{nothing}}",
                "failed to expand templated secret: template: expansion: function nothing not defined",
            ),
        ] {
            assert_eq!(with("Templating", driver, text).unwrap_err(), words);
        }
    }

    #[test]
    fn filters() {
        let handout = Handout {
            id: "abc".to_owned(),
            meta: Default::default(),
            name: "key".to_owned(),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            data: Sensitive::default(),
            is_template: false,
        };
        for (key, value, expected) in [
            ("id", "ab", true),
            ("id", "b", false),
            ("name", "ke", true),
            ("names", "ke", false),
            ("names", "key", true),
            ("label", "a=1", true),
            ("label", "b", false),
        ] {
            let filters = Filters::new().with(key, value);
            assert_eq!(matches(&filters, &handout), expected, "{key}={value}");
        }
    }
}
