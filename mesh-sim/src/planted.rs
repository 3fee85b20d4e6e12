//! Messages between managers that are not what was sent, for plants.

use crate::{checks::PREFIX, network::Caller};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use mesh_api::proto::RaftMessage;
use mesh_manager::RULES;
use mesh_pki::PeerIdentity;
use prost::Message;
use tonic::{
    body::Body,
    codegen::http::{HeaderMap, HeaderValue, Response},
};
use tower::BoxError;

/// A message as gRPC has it, not compressed.
fn framed(message: &RaftMessage) -> Option<Bytes> {
    let length = u32::try_from(message.encoded_len()).ok()?;
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(message.encode_to_vec());
    Some(framed.into())
}

fn read(body: &Bytes) -> Option<RaftMessage> {
    RaftMessage::decode(body.get(PREFIX..)?).ok()
}

/// A message of Raft, as if it were for whoever gets it.
pub(crate) fn readdressed(body: &Bytes, own: &Caller) -> Option<Bytes> {
    let node = PeerIdentity::from_certificate(own.certificate.get()?).ok()?;
    framed(&RaftMessage {
        to: node.node_id,
        ..read(body)?
    })
}

/// A message whose entries were proposed decades later.
pub(crate) fn altered(body: &Bytes) -> Option<Bytes> {
    replaced(body, r#""time":1"#, r#""time":2"#)
}

/// A message by which the last committed entry was written in a later term; every other one.
pub(crate) fn of_another_leader(body: &Bytes) -> Option<Bytes> {
    const COMMIT: &str = r#""leader_commit":{"leader_id":{"term":"#;
    let is_told = body.len().is_multiple_of(2);
    is_told.then(|| replaced(body, COMMIT, &format!("{COMMIT}9")))?
}

/// A message with another text in the place of one.
fn replaced(body: &Bytes, old: &str, new: &str) -> Option<Bytes> {
    let message = read(body)?;
    let payload = String::from_utf8(message.payload.clone()).ok()?;
    framed(&RaftMessage {
        payload: payload.replace(old, new).into_bytes(),
        ..message
    })
}

/// An answer of a manager that would have an election.
pub(crate) fn agreed() -> Result<Response<Body>, BoxError> {
    let message = RaftMessage {
        payload: serde_json::to_vec(&Ok::<_, ()>(true))?,
        rules: RULES,
        ..RaftMessage::default()
    };
    let ends = HeaderMap::from_iter([("grpc-status".parse()?, HeaderValue::from_static("0"))]);
    let body = Full::new(framed(&message).ok_or("it is too long")?);
    let body = body.with_trailers(async { Some(Ok(ends)) });
    let mut answer = Response::new(Body::new(body));
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert("content-type", kind);
    Ok(answer)
}

/// An answer of a manager, as if it knew all rules.
pub(crate) async fn knowing_all(answer: Response<Body>) -> Result<Response<Body>, BoxError> {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?;
    let ends = body.trailers().cloned();
    let body = body.to_bytes();
    let planted = read(&body).and_then(|message| {
        framed(&RaftMessage {
            rules: RULES,
            ..message
        })
    });
    let body = Full::new(planted.unwrap_or(body));
    let body = body.with_trailers(async move { ends.map(Ok) });
    Ok(Response::from_parts(parts, Body::new(body)))
}
