//! Traces, which last longer than leaders: the manager that was asked hands on the leader's lines, and asks the next leader for
//! the rest of the time.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{Query as QueryOf, Request, State},
    http::{Uri, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures::StreamExt;
use mesh_api::mesh::TraceLine;
use mesh_manager::{CallError, Lead, ManagerError, ManagerHandle};
use tokio::time::{Instant, sleep};

use super::{
    Api,
    args::Query,
    errors::ApiError,
    leader::{self, READ_PATIENCE},
    stream::json_line,
    trace::{LONGEST, USUAL},
};

/// Pause before another leader is asked.
const PAUSE: Duration = Duration::from_millis(100);
/// With less time left, a trace is over: it is asked for in whole seconds.
const LEAST: Duration = Duration::from_millis(500);

/// Has the leader answer, and the next one what is left then.
pub(super) async fn goes_on(State(api): State<Api>, request: Request, next: Next) -> Response {
    let deadline = Instant::now() + READ_PATIENCE;
    // Nodes that are no managers, or not in time, refuse by themselves.
    let Ok(manager) = api.ready_manager(deadline).await else {
        return next.run(request).await;
    };
    let (mut parts, _) = request.into_parts();
    leader::forget_connection(&mut parts.headers);
    let end = Instant::now() + Duration::from_secs(seconds(&parts.uri));
    let relay = Relay {
        manager,
        parts,
        next,
        end,
    };
    let (lead, answer) = match relay.ask(relay.parts.uri.clone(), deadline).await {
        Ok(answered) => answered,
        Err(error) => return ApiError::from(error).into_response(),
    };
    if !answer.status().is_success() {
        return answer;
    }
    let (head, body) = answer.into_parts();
    let lines = Lines {
        relay,
        lead,
        body: body.into_data_stream(),
        begun: BytesMut::new(),
    };
    let pieces = futures::stream::unfold(lines, async |mut lines| {
        let piece = lines.next().await?;
        Some((Ok::<_, Infallible>(piece), lines))
    });
    Response::from_parts(head, Body::from_stream(pieces))
}

/// For how long is asked. What cannot be read, or is too long, is refused by whoever answers.
fn seconds(uri: &Uri) -> u64 {
    let query = QueryOf::<Query>::try_from_uri(uri);
    let number = query.ok().and_then(|query| query.number("seconds").ok());
    number.flatten().unwrap_or(USUAL).min(LONGEST)
}

/// The same question for this many seconds.
fn with_seconds(uri: &Uri, seconds: u64) -> Uri {
    let query = uri.query().unwrap_or_default();
    let others = query
        .split('&')
        .filter(|pair| !pair.is_empty() && pair.split('=').next() != Some("seconds"));
    let query = others
        .chain([&*format!("seconds={seconds}")])
        .collect::<Vec<_>>()
        .join("&");
    // What was a query is one with a number in it.
    format!("{}?{query}", uri.path())
        .parse()
        .unwrap_or_else(|_| uri.clone())
}

/// A question that is asked again and again.
struct Relay {
    manager: ManagerHandle,
    parts: Parts,
    next: Next,
    /// When the time that was asked for is over.
    end: Instant,
}

impl Relay {
    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Has whoever leads answer.
    async fn ask(&self, uri: Uri, deadline: Instant) -> Result<(Lead, Response), ManagerError> {
        loop {
            let lead = self.manager.lead(deadline).await?;
            let mut parts = self.parts.clone();
            parts.uri = uri.clone();
            let request = Request::from_parts(parts, Body::empty());
            let refusal = match &lead {
                Lead::Here => {
                    let answer = self.next.clone().run(request).await;
                    return Ok((lead, answer));
                }
                Lead::There(remote) => {
                    let request = request.map(tonic::body::Body::new);
                    match remote.call(request, deadline).await {
                        Ok(answer) => return Ok((lead, answer.map(Body::new))),
                        Err(CallError::Lost(error) | CallError::NotTaken(error)) => error,
                    }
                }
            };
            if Instant::now() > deadline {
                return Err(refusal);
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks the next leader for the time that is left; `None` when none answers before it is over.
    async fn ask_again(&self) -> Option<(Lead, Response)> {
        while self.left() >= LEAST {
            let seconds = self.left().as_secs_f64().round() as u64;
            let uri = with_seconds(&self.parts.uri, seconds.max(1));
            match self.ask(uri, self.end).await {
                Ok((lead, answer)) if answer.status().is_success() => return Some((lead, answer)),
                Ok((_, refusal)) => tracing::debug!(status = %refusal.status(), "a trace waits"),
                Err(error) => tracing::debug!(%error, "a trace waits for a leader"),
            }
            sleep(PAUSE).await;
        }
        None
    }
}

/// The answers, one after the other.
struct Lines {
    relay: Relay,
    lead: Lead,
    body: BodyDataStream,
    /// A line whose end has not come.
    begun: BytesMut,
}

impl Lines {
    /// Some whole lines.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = tokio::select! {
                piece = self.body.next() => piece,
                () = self.relay.manager.until_lost(&self.lead) => None,
            };
            if let Some(Ok(piece)) = piece {
                self.begun.extend_from_slice(&piece);
                let end = self.begun.iter().rposition(|byte| *byte == b'\n');
                match end {
                    Some(end) => return Some(self.begun.split_to(end + 1).freeze()),
                    None => continue,
                }
            }
            self.begun.clear();
            let (lead, answer) = self.relay.ask_again().await?;
            (self.lead, self.body) = (lead, answer.into_body().into_data_stream());
            let message = "another manager leads: packets of the moments before are missing";
            return Some(json_line(&TraceLine::Trouble {
                message: message.to_owned(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_time_is_asked_for() {
        for (uri, asked, rest) in [
            ("/mesh/trace", USUAL, "/mesh/trace?seconds=7"),
            (
                "/mesh/trace?seconds=60&client=a%26b&port=80",
                60,
                "/mesh/trace?client=a%26b&port=80&seconds=7",
            ),
            (
                "/mesh/trace?seconds=18446744073709551615",
                LONGEST,
                "/mesh/trace?seconds=7",
            ),
            (
                "/mesh/trace?port=80&seconds=x",
                USUAL,
                "/mesh/trace?port=80&seconds=7",
            ),
        ] {
            let uri: Uri = uri.parse().expect("a path");
            assert_eq!(seconds(&uri), asked);
            assert_eq!(with_seconds(&uri, 7).to_string(), rest);
        }
    }
}
