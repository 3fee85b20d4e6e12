//! Clients whose certificate has expired are let in by TLS; what they may ask for is judged elsewhere.

use super::unix;
use crate::PeerIdentity;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::sync::Arc;

/// A verifier that also takes a certificate which has expired, if it was good at the last moment of its life.
#[derive(Debug)]
pub(super) struct ExpiredToo(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ExpiredToo {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refusal = match self.0.verify_client_cert(leaf, rest, now) {
            Err(
                refusal @ Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                ),
            ) => refusal,
            judged => return judged,
        };
        // It may be an issuer's that has expired.
        match PeerIdentity::from_certificate(leaf).map(|peer| unix(peer.expires_at)) {
            Ok(end) if end < now => self.0.verify_client_cert(leaf, rest, end),
            _ => Err(refusal),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
