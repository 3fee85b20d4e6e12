//! One question in, one answer out.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::sync::watch;
use tracing::debug;

use crate::{Answer, TTL_SECONDS, Upstreams, Zone};

/// Answers for one task.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) zone: watch::Receiver<Arc<Zone>>,
    /// Ids of the task's networks.
    pub(crate) networks: Vec<String>,
    pub(crate) upstreams: Upstreams,
}

/// An answer before it has a header.
#[derive(Debug)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self::own(code, Vec::new())
    }

    fn own(code: ResponseCode, answers: Vec<Record>) -> Self {
        Self {
            code,
            authoritative: true,
            truncated: false,
            answers,
            authorities: Vec::new(),
        }
    }

    fn forwarded(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: false,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authorities: message.authorities,
        }
    }
}

impl Handler {
    async fn answer(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return Reply::code(ResponseCode::FormErr);
        };
        let query = info.query.original();
        let own = if query.query_class() == DNSClass::IN {
            self.own(query, request.metadata.id)
        } else {
            None
        };
        match own {
            Some(reply) => reply,
            None => {
                self.forward(query, request.protocol() != Protocol::Udp)
                    .await
            }
        }
    }

    /// What the zone says; none when the name is not the mesh's.
    fn own(&self, query: &Query, turn: u16) -> Option<Reply> {
        let name = query.name();
        let zone = self.zone.borrow();
        if query.query_type() == RecordType::PTR
            && let Ok(net) = name.parse_arpa_name()
        {
            return match zone.reverse(&self.networks, net.addr()) {
                Answer::Known(host) => {
                    let host = Name::from_ascii(host + ".").ok()?;
                    let record = record(name, RData::PTR(PTR(host)));
                    Some(Reply::own(ResponseCode::NoError, vec![record]))
                }
                Answer::Unknown => Some(Reply::code(ResponseCode::NXDomain)),
                Answer::Foreign => None,
            };
        }
        match zone.resolve(&self.networks, &name.to_ascii()) {
            Answer::Known(addresses) => {
                let mut records: Vec<Record> = addresses
                    .into_iter()
                    .filter_map(|address| match (address, query.query_type()) {
                        (IpAddr::V4(v4), RecordType::A | RecordType::ANY) => {
                            Some(record(name, RData::A(A(v4))))
                        }
                        (IpAddr::V6(v6), RecordType::AAAA | RecordType::ANY) => {
                            Some(record(name, RData::AAAA(AAAA(v6))))
                        }
                        _ => None,
                    })
                    .collect();
                // Another one first each time, for clients that only look at the first.
                if !records.is_empty() {
                    let first = usize::from(turn) % records.len();
                    records.rotate_left(first);
                }
                Some(Reply::own(ResponseCode::NoError, records))
            }
            Answer::Unknown => Some(Reply::code(ResponseCode::NXDomain)),
            Answer::Foreign => None,
        }
    }

    async fn forward(&self, query: &Query, tcp: bool) -> Reply {
        match self.upstreams.ask(query.clone(), tcp).await {
            Ok(message) => Reply::forwarded(message),
            Err(error) => {
                debug!(name = %query.name(), %error, "not forwarded");
                // A single label can only be a name of the mesh or of a search list; without
                // upstreams, nobody else knows it.
                Reply::code(if query.name().num_labels() <= 1 {
                    ResponseCode::NXDomain
                } else {
                    ResponseCode::ServFail
                })
            }
        }
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECONDS, data)
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let reply = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = true;

        // The answer may be as large as the asker said it can take (RFC 6891, section 6.2.3).
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().max(512));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &reply.answers, &reply.authorities, [], []);
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, "an answer could not be sent");
                hickory_proto::op::Header {
                    metadata,
                    counts: Default::default(),
                }
                .into()
            }
        }
    }
}
