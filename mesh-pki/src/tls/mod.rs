//! TLS 1.3 configurations of nodes and managers, on rustls with the ring provider.
//!
//! Servers show their certificate, those by which former roots vouch for its issuer, and the root, so that a node that only
//! has a join token can find the pinned root in the chain. HTTP/2 is negotiated by ALPN.

mod expired;

use crate::{NodeIdentity, PeerIdentity, PkiError, Role, root_digest};
use expired::ExpiredToo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// The DNS name that every manager's certificate carries and every client asks for: it keeps a
/// worker's certificate from posing as a manager.
pub const MANAGER_NAME: &str = "swarm-manager";

const ALPN_H2: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| PkiError::InvalidCertificate {
            reason: e.to_string(),
        })
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::InvalidKey {
        reason: e.to_string(),
    })
}

fn roots(pem: &str) -> Result<Arc<RootCertStore>, PkiError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate)?;
    }
    Ok(Arc::new(store))
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The managers' server side. Client certificates are verified where shown and asked for, not
/// demanded: a joining node has none yet. One that has expired is taken as well if it was good until then, so that its node
/// can have it renewed. Services check the peer themselves, [its time](PeerIdentity::expires_at) included.
///
/// # Errors
/// When the certificate or the key does not suit TLS.
pub fn server_config(identity: &NodeIdentity) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(&identity.root_pem)?, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| PkiError::Verifier {
                reason: e.to_string(),
            })?;
    let mut chain = certificates(&identity.certificate_pem)?;
    chain.extend(certificates(&identity.root_pem)?);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ExpiredToo(verifier)))
        .with_single_cert(chain, key(&identity.key_pem)?)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// A node's client side: proves the node, demands a manager of the same cluster.
/// Connect with the server name [`MANAGER_NAME`].
///
/// # Errors
/// As [`server_config`].
pub fn client_config(identity: &NodeIdentity) -> Result<Arc<ClientConfig>, PkiError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(&identity.root_pem)?)
        .with_client_auth_cert(
            certificates(&identity.certificate_pem)?,
            key(&identity.key_pem)?,
        )?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// Whether those that trust this root take the certificates (both PEM) of a node at `now`, as a client's and, of a manager, as
/// a server's.
///
/// # Errors
/// What TLS has against them.
pub fn check_chain(root_pem: &str, certificate_pem: &str, now: SystemTime) -> Result<(), PkiError> {
    let chain = certificates(certificate_pem)?;
    let Some((leaf, rest)) = chain.split_first() else {
        return Err(PkiError::InvalidCertificate {
            reason: "there is none".to_owned(),
        });
    };
    let unfit = |e: rustls::server::VerifierBuilderError| PkiError::Verifier {
        reason: e.to_string(),
    };
    let now = unix(now);
    WebPkiClientVerifier::builder_with_provider(roots(root_pem)?, provider())
        .build()
        .map_err(unfit)?
        .verify_client_cert(leaf, rest, now)?;
    if PeerIdentity::from_certificate(leaf)?.role == Role::Manager {
        let name = ServerName::try_from(MANAGER_NAME)
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        WebPkiServerVerifier::builder_with_provider(roots(root_pem)?, provider())
            .build()
            .map_err(unfit)?
            .verify_server_cert(leaf, rest, &name, &[], now)?;
    }
    Ok(())
}

/// The client side of a node that has only a join token: the manager's certificate has to be
/// signed by the root with this digest (see [`crate::JoinToken::digest`]), which the manager shows
/// in its chain. Connect with the server name [`MANAGER_NAME`].
///
/// # Errors
/// When the digest is none.
pub fn pinned_client_config(digest: &str) -> Result<Arc<ClientConfig>, PkiError> {
    let verifier = PinnedRoot {
        digest: digest.to_owned(),
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// Verifies a chain against the one root with the right digest.
#[derive(Debug)]
struct PinnedRoot {
    digest: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(root) = intermediates.iter().find(|c| root_digest(c) == self.digest) else {
            let actual = intermediates
                .last()
                .map_or_else(|| "none".to_owned(), root_digest);
            return Err(rustls::Error::General(
                PkiError::WrongRoot {
                    expected: self.digest.clone(),
                    actual,
                }
                .to_string(),
            ));
        };
        let mut store = RootCertStore::empty();
        store.add(root.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), self.provider.clone())
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod tests;
