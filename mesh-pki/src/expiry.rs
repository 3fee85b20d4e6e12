//! Node certificates that have expired: a node has its own renewed by managers that know its key; managers alone may prolong
//! their own, as there may be nobody left whom they could ask.

use crate::{
    NodeIdentity, PkiError, RootCa,
    ca::{DEFAULT_CERTIFICATE_VALIDITY, request_for},
    tls,
};
use chrono::{DateTime, SecondsFormat, Utc};
use rcgen::KeyPair;
use std::time::SystemTime;

impl NodeIdentity {
    /// Whether the certificate has expired at `now`.
    ///
    /// # Errors
    /// As [`validity`](Self::validity).
    pub fn has_expired(&self, now: SystemTime) -> Result<bool, PkiError> {
        Ok(self.validity()?.1 < now)
    }

    /// Whether the certificate is good at `now`, by its life alone: it has begun, and has not expired.
    ///
    /// # Errors
    /// As [`validity`](Self::validity).
    pub fn is_good_at(&self, now: SystemTime) -> Result<bool, PkiError> {
        let (start, end) = self.validity()?;
        Ok(start <= now && now <= end)
    }

    /// A request to sign the key that this node has, PEM.
    ///
    /// # Errors
    /// When the private key is not known.
    pub fn request(&self) -> Result<String, PkiError> {
        if !self.has_key() {
            return Err(PkiError::MissingKey);
        }
        request_for(&KeyPair::from_pem(&self.key_pem)?)
    }

    /// The same certificate with a later end: of the same key, node and role, and of the same beginning, so that it is as old
    /// as before to those who ask when it was signed. Where it has not begun yet, as it was signed by a clock that was ahead, it
    /// begins [a whole life](DEFAULT_CERTIFICATE_VALIDITY) ago, since who was demoted in that time must gain nothing by it. It
    /// has to be good at `now` to those that trust the same root as this node.
    ///
    /// # Errors
    /// The private key is not known, `signer` cannot sign, or those would not take what it signs.
    pub fn prolonged(
        &self,
        signer: &RootCa,
        now: SystemTime,
        end: SystemTime,
    ) -> Result<Self, PkiError> {
        let start = match self.validity()?.0 {
            early if early <= now => early,
            _ => now - DEFAULT_CERTIFICATE_VALIDITY,
        };
        let certificate_pem = signer.sign_during(
            &self.request()?,
            &self.node_id,
            self.role,
            &self.cluster_id,
            start..end,
        )?;
        tls::check_chain(&self.root_pem, &certificate_pem, now)?;
        Ok(Self {
            certificate_pem,
            ..self.clone()
        })
    }
}

/// A time for people, in UTC, to the second (RFC 3339).
pub fn utc(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}
