//! The Engine API for managers that do not lead: who may ask, and whether this manager is the one to answer.

use super::auth;
use crate::{core::Core, leader::NOT_LEADING};
use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;
use std::sync::Arc;

/// Lets managers' requests pass while this one leads and its state is up to date.
pub(super) async fn guard(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let mut caller = tonic::Request::new(());
    *caller.extensions_mut() = request.extensions().clone();
    if let Err(status) = auth::may_be_manager(&core, &caller) {
        return refusal(&status);
    }
    // Asked before the rest: the state may be too old to know the caller.
    if !core.leads_now().await {
        return NOT_LEADING.into_response();
    }
    match auth::manager(&core, &caller) {
        Ok(_) => next.run(request).await,
        Err(status) => refusal(&status),
    }
}

/// As the Engine API refuses.
fn refusal(status: &tonic::Status) -> Response {
    let body = json!({"message": status.message()}).to_string();
    let json = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::FORBIDDEN, json, body).into_response()
}
