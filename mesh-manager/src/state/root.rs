//! The root CA of the cluster, and its rotation: the root that is to take its place.
//!
//! While a rotation goes on, all nodes trust the old root, and what the new one signs is shown with a certificate by which
//! the old one vouches for it. So nodes take one another's certificates, whichever of the two has signed them. Once every
//! node has one of the new root, that is the one to trust. What it signs goes on being shown with the voucher, as some nodes
//! hear of the end late, perhaps as late as in the next rotation. That one does not end without them either, so nobody
//! trusts a root from before the last one.

use super::{Cluster, Node, State};
use crate::{ErrorKind, ManagerError};
use base64::{Engine, engine::general_purpose::STANDARD};
use mesh_api::{Sensitive, engine};
use mesh_pki::{JoinToken, PkiError, RootCa};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The root that is to be, and has signed certificates from its beginning on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRotation {
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PKCS#8 PEM.
    pub key_pem: Sensitive,
    /// The certificate by which the root vouches for it, PEM.
    pub voucher_pem: String,
    /// Its digest, as join tokens have it.
    pub digest: String,
}

impl RootRotation {
    /// From the root of a cluster to another one.
    ///
    /// # Errors
    /// As [`RootCa::vouch_for`].
    pub fn new(from: &RootCa, to: &RootCa) -> Result<Self, PkiError> {
        let key = to.key_pem().ok_or(PkiError::NoSigningKey)?;
        Ok(Self {
            voucher_pem: from.vouch_for(to)?,
            certificate_pem: to.certificate_pem().to_owned(),
            key_pem: key.as_bytes().to_vec().into(),
            digest: to.digest(),
        })
    }

    /// The root with its key.
    fn root(&self) -> Result<RootCa, PkiError> {
        let key = self.key_text()?;
        RootCa::from_pem(&self.certificate_pem, Some(key))
    }

    pub(crate) fn key_text(&self) -> Result<&str, PkiError> {
        std::str::from_utf8(self.key_pem.reveal()).map_err(|e| PkiError::InvalidKey {
            reason: e.to_string(),
        })
    }
}

/// How long certificates live by this specification.
pub(crate) fn certificate_validity(spec: &engine::SwarmSpec) -> Duration {
    spec.ca_config
        .as_ref()
        .and_then(|c| c.node_cert_expiry)
        .filter(|nanos| *nanos != 0)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map_or(mesh_pki::DEFAULT_CERTIFICATE_VALIDITY, Duration::from_nanos)
}

impl Cluster {
    /// How long certificates live.
    pub(crate) fn certificate_validity(&self) -> Duration {
        certificate_validity(&self.spec)
    }

    /// The root that is trusted, with its key.
    pub(crate) fn root(&self) -> Result<RootCa, PkiError> {
        RootCa::from_pem(&self.root_certificate_pem, Some(&self.root_key_pem))
    }

    /// What node certificates are signed with.
    pub(crate) fn signer(&self) -> Result<RootCa, PkiError> {
        let former = self.root_voucher_pem.as_deref().unwrap_or_default();
        Ok(match &self.root_rotation {
            None => self.root()?.with_chain(former.to_owned()),
            Some(rotation) => {
                let chain = format!("{}{former}", rotation.voucher_pem);
                rotation.root()?.with_chain(chain)
            }
        })
    }

    /// Digest of the root that is trusted.
    pub(crate) fn root_digest(&self) -> String {
        // Tokens name it.
        let token = self.worker_token.parse::<JoinToken>();
        token.map(|token| token.digest).unwrap_or_default()
    }

    /// Digest of the root that signs node certificates.
    pub(crate) fn signer_digest(&self) -> String {
        match &self.root_rotation {
            Some(rotation) => rotation.digest.clone(),
            None => self.root_digest(),
        }
    }

    /// Digest of the root that has signed this certificate; empty if it is none of those in use.
    pub(crate) fn issuer_of(&self, certificate: &CertificateDer<'_>) -> String {
        let rotation = self.root_rotation.as_ref();
        let roots = [rotation.map(RootRotation::root), Some(self.root())];
        let mut roots = roots.into_iter().flatten().flatten();
        let issuer = roots.find(|root| root.has_signed(certificate));
        issuer.map(|root| root.digest()).unwrap_or_default()
    }

    /// The roots in use as the Engine API shows them, each with its digest. The one that is trusted is the first.
    fn shown_roots(&self) -> Vec<(String, engine::TlsInfo)> {
        let rotation = self.root_rotation.as_ref();
        let pems = [
            Some(&self.root_certificate_pem),
            rotation.map(|r| &r.certificate_pem),
        ];
        let shown = |pem: &String| {
            let root = RootCa::from_pem(pem, None).ok()?;
            let info = engine::TlsInfo {
                trust_root: Some(pem.clone()),
                cert_issuer_subject: Some(STANDARD.encode(root.subject_der().ok()?)),
                cert_issuer_public_key: Some(STANDARD.encode(root.public_key_der().ok()?)),
            };
            Some((root.digest(), info))
        };
        pems.into_iter().flatten().filter_map(shown).collect()
    }

    /// The root that nodes trust, and the one that their certificates are to be of.
    pub(super) fn tls_info(&self) -> engine::TlsInfo {
        let mut roots = self.shown_roots();
        let issuer = roots.pop().map(|(_, info)| info).unwrap_or_default();
        engine::TlsInfo {
            trust_root: Some(self.root_certificate_pem.clone()),
            ..issuer
        }
    }
}

/// Which root nodes trust, and which has signed their certificates, as the Engine API shows it.
#[derive(Debug, Default)]
pub struct NodeRoots(Vec<(String, engine::TlsInfo)>);

impl NodeRoots {
    /// What is shown of a node. Of roots that are none of those in use, nothing is.
    pub(super) fn of(&self, node: &Node) -> Option<engine::TlsInfo> {
        let find = |digest: &str| {
            let found = self.0.iter().find(|(known, _)| known == digest);
            found.map(|(_, info)| info.clone())
        };
        let trusted = find(&node.description.trusted_root);
        let issuer = find(&node.description.issuer);
        (trusted.is_some() || issuer.is_some()).then(|| engine::TlsInfo {
            trust_root: trusted.and_then(|info| info.trust_root),
            ..issuer.unwrap_or_default()
        })
    }
}

impl State {
    /// What [`Node::to_engine`] needs to know of the roots in use.
    pub fn node_roots(&self) -> NodeRoots {
        NodeRoots(self.cluster().map(Cluster::shown_roots).unwrap_or_default())
    }

    /// The rotation that can end: every node has a certificate of the new root.
    pub(crate) fn rotation_to_end(&self) -> Option<&RootRotation> {
        let rotation = self.cluster()?.root_rotation.as_ref()?;
        let is_done = |node: &Node| node.description.issuer == rotation.digest;
        self.nodes().all(is_done).then_some(rotation)
    }
}

/// Refuses what takes a CA elsewhere.
///
/// # Errors
/// External CAs are asked for.
pub fn refuse_external(ca: &engine::SwarmSpecCaConfig) -> Result<(), ManagerError> {
    match ca.external_cas.as_deref() {
        None | Some([]) => Ok(()),
        Some(_) => Err(ManagerError::new(
            ErrorKind::Unimplemented,
            "external CAs are not supported: managers sign certificates themselves. To have them do so by a root of yours, \
             give its certificate and key to `swarm ca --rotate`",
        )),
    }
}

/// What is to become of the root of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootChange {
    /// Another one is to take its place; a rotation that goes on is given up.
    Rotate(RootRotation),
    /// It stays: a rotation that goes on is given up.
    Keep,
}

impl RootChange {
    /// What an update of the cluster means for its root at `now`. The new root's key and certificate are taken out of the
    /// spec, where nobody is to find them.
    ///
    /// # Errors
    /// What is wrong with the root that is given.
    pub(crate) fn of(
        cluster: &Cluster,
        spec: &mut engine::SwarmSpec,
        now: std::time::SystemTime,
    ) -> Result<Option<Self>, ManagerError> {
        let Some(wanted) = spec.ca_config.as_mut() else {
            return Ok(None);
        };
        refuse_external(wanted)?;
        let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let certificate = given(wanted.signing_ca_cert.take());
        let key = given(wanted.signing_ca_key.take()).map(|key| Sensitive::from(key.into_bytes()));
        let invalid = |e: PkiError| {
            let cause = std::error::Error::source(&e);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            ManagerError::invalid(format!("{e}{cause}"))
        };
        let unreadable = |e: PkiError| ManagerError::internal("cannot read the swarm's root CA", e);
        let old = cluster.root().map_err(unreadable)?;
        let next = match (certificate, key) {
            (None, Some(_)) => {
                return Err(ManagerError::invalid(
                    "if a signing CA key is provided, the signing CA cert must also be provided",
                ));
            }
            (Some(_), None) => {
                return Err(ManagerError::invalid(
                    "a signing CA cert needs its key: external CAs are not supported",
                ));
            }
            (Some(certificate), Some(key)) => {
                let key = std::str::from_utf8(key.reveal())
                    .map_err(|_| ManagerError::invalid("the signing CA key is no text"))?;
                RootCa::from_outside(&certificate, key, now).map_err(invalid)?
            }
            (None, None) => {
                let last = cluster.spec.ca_config.as_ref();
                let last = last.and_then(|ca| ca.force_rotate).unwrap_or(0);
                if wanted.force_rotate.unwrap_or(last) == last {
                    return Ok(None);
                }
                RootCa::create().map_err(|e| ManagerError::internal("cannot make a root CA", e))?
            }
        };
        let rotation = cluster.root_rotation.as_ref();
        if next.is_same(&old) {
            return Ok(rotation.map(|_| Self::Keep));
        }
        if rotation.is_some_and(|rotation| rotation.digest == next.digest()) {
            return Ok(None);
        }
        let rotation = RootRotation::new(&old, &next).map_err(invalid)?;
        Ok(Some(Self::Rotate(rotation)))
    }
}
