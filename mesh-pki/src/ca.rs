//! The root certificate authority and the signing of node certificates.

use crate::{PkiError, Role, root_digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// Life of a node certificate.
pub const DEFAULT_CERTIFICATE_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// Life of the root: long, because every token pins it.
const ROOT_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates begin this much in the past, for nodes whose clock is behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(3600);
/// Authorities that may stand between a root and a node: two that follow on it, see [`RootCa::vouch_for`].
pub(crate) const PATH_LENGTH: u8 = 2;

/// The cluster's root certificate and, on managers, its key.
#[derive(Clone)]
pub struct RootCa {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: Option<String>,
    /// See [`RootCa::with_chain`].
    chain_pem: String,
}

/// A fresh private key and the request to sign it.
pub struct KeyAndRequest {
    /// PKCS#8 PEM; stays on the node.
    pub key_pem: String,
    /// PKCS#10 PEM; goes to a manager.
    pub request_pem: String,
}

impl KeyAndRequest {
    /// The request for a key that was made before, PKCS#8 PEM.
    ///
    /// # Errors
    /// When it is no key.
    pub fn of_key(key_pem: &str) -> Result<Self, PkiError> {
        Ok(Self {
            request_pem: request_for(&KeyPair::from_pem(key_pem)?)?,
            key_pem: key_pem.to_owned(),
        })
    }
}

/// Makes a node key and its signing request. The subject is chosen by the manager that signs.
///
/// # Errors
/// When no key can be made.
pub fn new_key_and_request() -> Result<KeyAndRequest, PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(KeyAndRequest {
        key_pem: key.serialize_pem(),
        request_pem: request_for(&key)?,
    })
}

/// A request to sign a key.
pub(crate) fn request_for(key: &KeyPair) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.pem()?)
}

impl RootCa {
    /// A new root with a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "swarm-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(PATH_LENGTH));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - BACKDATE;
        params.not_after = now + ROOT_VALIDITY;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: Some(key.serialize_pem()),
            chain_pem: String::new(),
        })
    }

    /// The root of an existing cluster; `key_pem` only where certificates are to be signed.
    ///
    /// # Errors
    /// When the text is no certificate. The key is read when something is signed.
    pub fn from_pem(certificate_pem: &str, key_pem: Option<&str>) -> Result<Self, PkiError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| {
                PkiError::InvalidCertificate {
                    reason: e.to_string(),
                }
            })?;
        Ok(Self {
            certificate,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.map(str::to_owned),
            chain_pem: String::new(),
        })
    }

    /// What this root signs is followed by these certificates (PEM) from now on, by which former roots vouch for it, see
    /// [`RootCa::vouch_for`].
    #[must_use]
    pub fn with_chain(self, chain_pem: String) -> Self {
        Self { chain_pem, ..self }
    }

    /// The root certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The root's private key, PKCS#8 PEM, if it is here.
    pub fn key_pem(&self) -> Option<&str> {
        self.key_pem.as_deref()
    }

    /// The digest that join tokens carry.
    pub fn digest(&self) -> String {
        root_digest(&self.certificate)
    }

    /// Signs a node's request. Whatever subject it asks for is replaced by the given one.
    /// Returns the certificate and those that it has to be shown with, PEM.
    ///
    /// # Errors
    /// When this root has no key, or the request is none.
    pub fn sign(
        &self,
        request_pem: &str,
        node_id: &str,
        role: Role,
        cluster_id: &str,
        validity: Duration,
    ) -> Result<String, PkiError> {
        let now = SystemTime::now();
        let life = now - BACKDATE..now + validity;
        self.sign_during(request_pem, node_id, role, cluster_id, life)
    }

    /// The same, with a life that begins and ends at given times, to the second.
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn sign_during(
        &self,
        request_pem: &str,
        node_id: &str,
        role: Role,
        cluster_id: &str,
        life: Range<SystemTime>,
    ) -> Result<String, PkiError> {
        let issuer = self.issuer()?;
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;

        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, node_id);
        subject.push(DnType::OrganizationalUnitName, role.organizational_unit());
        subject.push(DnType::OrganizationName, cluster_id);
        let names = vec![role.organizational_unit().to_owned(), node_id.to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject;
        params.is_ca = IsCa::NoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = life.start.into();
        params.not_after = life.end.into();
        request.params = params;
        let certificate = request.signed_by(&issuer)?.pem();
        Ok(certificate + &self.chain_pem)
    }

    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key_pem = self.key_pem.as_deref().ok_or(PkiError::NoSigningKey)?;
        let key = KeyPair::from_pem(key_pem)?;
        Ok(Issuer::from_ca_cert_der(&self.certificate, key)?)
    }
}
