//! `/services`

mod defaults;
mod handouts;
mod labels;
pub(super) mod logs;
mod names;
mod ports;
mod refused;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query as QueryOf, State},
    http::{HeaderMap, StatusCode},
};
use mesh_api::{
    Filters, ShownService,
    engine::{Service, ServiceCreateResponse, ServiceSpec, ServiceUpdateResponse},
};
use mesh_manager::{
    Command, Response,
    state::{ServiceMode, service_status},
};

use super::{
    Answer, Api, Shown,
    args::{Query, json, registry_auth},
    errors::ApiError,
};

const FILTERS: [&str; 5] = ["id", "label", "mode", "name", "runtime"];

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Shown<Vec<ShownService>>> {
    let manager = api.manager()?;
    let filters = query.filters(&FILTERS)?;
    let view = manager.view();
    let services = view
        .services()
        .filter(|service| matches(&filters, &service.id, &service.spec))
        .map(|service| {
            let mut shown = service.to_engine(&view);
            if query.flag("status") {
                shown.service_status = Some(service_status(&view, service));
            }
            with_previous(service, shown)
        })
        .collect();
    Ok(Shown(services))
}

fn matches(filters: &Filters, id: &str, spec: &ServiceSpec) -> bool {
    let labels = spec.labels.as_ref();
    let runtime = spec
        .task_template
        .as_ref()
        .and_then(|task| task.runtime.as_deref())
        .filter(|runtime| !runtime.is_empty())
        .unwrap_or("container");
    filters.prefix("id", id)
        && filters.prefix("name", spec.name.as_deref().unwrap_or_default())
        && filters.exact("mode", ServiceMode::of(spec).as_str())
        && filters.exact("runtime", runtime)
        && filters.labels("label", |name| labels?.get(name).map(String::as_str))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Shown<ShownService>> {
    let manager = api.manager()?;
    let view = manager.view();
    let service = view.find_service(&id)?;
    let mut shown = service.to_engine(&view);
    if query.flag("insertDefaults")
        && let Some(spec) = &mut shown.spec
    {
        defaults::insert(spec);
    }
    Ok(Shown(with_previous(service, shown)))
}

fn with_previous(known: &mesh_manager::state::Service, service: Service) -> ShownService {
    ShownService {
        service,
        previous_spec: known.previous_spec.as_deref().cloned(),
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> Answer<(StatusCode, Json<ServiceCreateResponse>)> {
    let manager = api.manager()?;
    let mut spec = spec_in(body).await?;
    if spec.name.as_deref().unwrap_or_default().is_empty() {
        let view = manager.view();
        spec.name = Some(names::make_up(|name| view.find_service(name).is_ok()));
    }
    labels::check(None, &spec)?;
    refused::by_rules(&spec, manager.view().rules())?;
    handouts::resolve(&manager.view(), &mut spec)?;
    ports::check(&manager.view(), None, &spec)?;
    let command = Command::CreateService {
        spec: Box::new(spec),
        registry_auth: registry_auth(&headers).unwrap_or_default(),
    };
    match manager.call(command).await? {
        Response::Created { id, warnings } => {
            let answer = ServiceCreateResponse {
                id: Some(id),
                warnings: (!warnings.is_empty()).then_some(warnings),
            };
            Ok((StatusCode::CREATED, Json(answer)))
        }
        other => Err(unexpected(&other)),
    }
}

/// The spec in a body.
async fn spec_in(body: Body) -> Result<ServiceSpec, ApiError> {
    let spec: ServiceSpec = json(body).await?;
    // Templates may take a while.
    let checked = tokio::task::spawn_blocking(move || refused::check(&spec).map(|()| spec)).await;
    let mut spec = checked.map_err(ApiError::internal)??;
    defaults::mode(&mut spec);
    Ok(spec)
}

/// The manager answered with something else than the command asks for: a fault of ours.
pub(super) fn unexpected(response: &Response) -> ApiError {
    ApiError::internal(format!(
        "the manager gave an unexpected answer: {response:?}"
    ))
}

pub(super) async fn update(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<ServiceUpdateResponse>> {
    let manager = api.manager()?;
    let rollback = match query.get("rollback") {
        None => false,
        Some("previous") => true,
        Some(other) => return Err(ApiError::bad_argument("rollback", other)),
    };
    let mut spec = spec_in(body).await?;
    {
        let view = manager.view();
        let old = view.find_service(&id).ok();
        if !rollback {
            labels::check(old.map(|old| &old.spec), &spec)?;
            refused::by_rules(&spec, view.rules())?;
            handouts::resolve(&view, &mut spec)?;
            ports::check(&view, old, &spec)?;
        } else if let Some(previous) = old.and_then(|old| old.previous_spec.as_deref()) {
            ports::check(&view, old, previous)?;
        }
    }
    let command = Command::UpdateService {
        id,
        version: query.version()?,
        spec: Box::new(spec),
        registry_auth: registry_auth(&headers),
        rollback,
    };
    manager.call(command).await?;
    Ok(Json(ServiceUpdateResponse { warnings: None }))
}

pub(super) async fn remove(State(api): State<Api>, Path(id): Path<String>) -> Answer<()> {
    let manager = api.manager()?;
    manager.call(Command::RemoveService { id }).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let spec: ServiceSpec = serde_json::from_value(serde_json::json!({
            "Name": "web", "Labels": {"a": "1"}, "Mode": {"Global": {}}
        }))
        .expect("spec");
        for (key, value, expected) in [
            ("id", "ab", true),
            ("id", "b", false),
            ("name", "we", true),
            ("mode", "global", true),
            ("mode", "replicated", false),
            ("label", "a=1", true),
            ("label", "b", false),
            ("runtime", "container", true),
        ] {
            let filters = Filters::new().with(key, value);
            assert_eq!(matches(&filters, "abc", &spec), expected, "{key}={value}");
        }
    }
}
