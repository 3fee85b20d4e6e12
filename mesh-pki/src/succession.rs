//! One root CA follows on another: the one before vouches for the next by a certificate of its key, so that nodes that
//! trust either take one another's certificates.

use crate::{
    NodeIdentity, PkiError, Role, RootCa,
    ca::{BACKDATE, DEFAULT_CERTIFICATE_VALIDITY, PATH_LENGTH},
    new_key_and_request, tls,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, string,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::{
    der_parser::asn1_rs::{Oid, Tag},
    oid_registry::{
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
        OID_SIG_ED25519,
    },
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    time::ASN1Time,
    x509::{SubjectPublicKeyInfo, X509Name},
};

/// A root that comes from outside lives so much longer at least: as in Swarm.
const MIN_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Longest certificate of a root that comes from outside, bytes of DER: what nodes show holds its subject several times, and
/// has to go into one message of the handshake.
const MAX_LENGTH: usize = 4096;

/// Bits of the shortest RSA key that TLS takes.
const MIN_RSA: usize = 2048;

/// How the certificate of a root may be signed.
const SIGNATURES: [Oid<'static>; 7] = [
    OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512,
    OID_SIG_ED25519,
];

fn unfit(reason: impl Into<String>) -> PkiError {
    PkiError::UnfitRoot(reason.into())
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PkiError::InvalidCertificate {
            reason: "something follows it".to_owned(),
        }),
        Err(e) => Err(PkiError::InvalidCertificate {
            reason: e.to_string(),
        }),
    }
}

impl RootCa {
    /// A root that comes from outside, as it is at `now`.
    ///
    /// # Errors
    /// When the texts are no certificate and key, do not belong together, or are not fit for a root.
    pub fn from_outside(
        certificate_pem: &str,
        key_pem: &str,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let mut all = CertificateDer::pem_slice_iter(certificate_pem.as_bytes());
        let invalid = |reason: String| PkiError::InvalidCertificate { reason };
        let certificate = match (all.next(), all.next()) {
            (Some(first), None) => first.map_err(|e| invalid(e.to_string()))?,
            (None, _) => return Err(invalid("there is none in it".to_owned())),
            (Some(_), Some(_)) => {
                return Err(unfit(
                    "the desired CA certificate cannot contain multiple certificates",
                ));
            }
        };
        if certificate.len() > MAX_LENGTH {
            return Err(unfit(format!(
                "the CA certificate is too long: {} bytes, not {MAX_LENGTH} at most",
                certificate.len()
            )));
        }
        let read = parsed(&certificate)?;
        let is_ca = read.basic_constraints().ok().flatten();
        if !is_ca.is_some_and(|constraints| constraints.value.ca) {
            return Err(unfit("certificate not a CA"));
        }
        let usage = read.key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(unfit("the CA certificate's key may not sign certificates"));
        }
        if !SIGNATURES.contains(&read.signature_algorithm.algorithm) {
            return Err(unfit(format!(
                "the CA certificate is signed with an algorithm that is too weak, or not known: {}",
                read.signature_algorithm.algorithm
            )));
        }
        let at = |time: ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        if at(read.validity().not_before) > now + BACKDATE {
            return Err(unfit("CA certificate is not valid yet"));
        }
        if at(read.validity().not_after) < now + MIN_LIFE {
            return Err(unfit("CA certificate expires too soon"));
        }
        if let Ok(PublicKey::RSA(key)) = read.public_key().parsed()
            && key.key_size() < MIN_RSA
        {
            return Err(unfit(format!(
                "the CA certificate's key is too weak: RSA of {} bits, not {MIN_RSA} or more",
                key.key_size()
            )));
        }
        let key = key_of(read.public_key(), key_pem).map_err(|e| PkiError::InvalidKey {
            reason: format!(
                "{e}: it has to be unencrypted, and RSA, ECDSA P-256 or P-384, or Ed25519"
            ),
        })?;
        if read.public_key().raw != key.subject_public_key_info() {
            return Err(unfit("certificate key mismatch"));
        }
        Self::from_pem(&to_pem(&certificate), Some(&key.serialize_pem()))
    }

    /// The certificate, PEM, by which this root vouches for another one: whoever trusts this one takes what the other one
    /// signs, if it is shown with it.
    ///
    /// # Errors
    /// When this root has no key, both have the same one, or nodes would not take certificates of the other one.
    pub fn vouch_for(&self, next: &Self) -> Result<String, PkiError> {
        let read = parsed(&next.certificate)?;
        if parsed(&self.certificate)?.public_key().raw == read.public_key().raw {
            return Err(unfit("Cannot update to a cert with an identical key"));
        }
        let key = KeyPair::from_pem(next.key_pem().ok_or(PkiError::NoSigningKey)?)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(read.subject())?;
        // Also for nodes whose clock is behind, where the root was made a moment ago.
        let backdated = time::OffsetDateTime::now_utc() - BACKDATE;
        params.not_before = backdated.min(read.validity().not_before.to_datetime());
        params.not_after = read.validity().not_after.to_datetime();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(PATH_LENGTH - 1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let voucher = params.signed_by(&key, &self.issuer()?)?.pem();
        self.try_out(next, &voucher)?;
        Ok(voucher)
    }

    /// Has a node of either trust take a certificate by the next root: what a root's certificate may hold (constraints of
    /// names, curves, rare subjects) is judged by who will judge it.
    fn try_out(&self, next: &Self, voucher: &str) -> Result<(), PkiError> {
        let signer = next.clone().with_chain(voucher.to_owned());
        for role in [Role::Manager, Role::Worker] {
            let pair = new_key_and_request()?;
            let life = DEFAULT_CERTIFICATE_VALIDITY;
            let certificate = signer.sign(&pair.request_pem, "check", role, "check", life)?;
            for root in [self, next] {
                let taken =
                    tls::check_chain(root.certificate_pem(), &certificate, SystemTime::now());
                taken.map_err(|e| {
                    let cause = std::error::Error::source(&e).map(ToString::to_string);
                    let why = cause.unwrap_or_else(|| e.to_string());
                    unfit(format!(
                        "nodes would not take certificates of this CA: {why}"
                    ))
                })?;
            }
        }
        Ok(())
    }

    /// Whether this root's key has signed the certificate. It says nothing about its time.
    pub fn has_signed(&self, certificate: &CertificateDer<'_>) -> bool {
        let (Ok(own), Ok(other)) = (parsed(&self.certificate), parsed(certificate)) else {
            return false;
        };
        own.subject().as_raw() == other.issuer().as_raw()
            && other.verify_signature(Some(own.public_key())).is_ok()
    }

    /// Whether both are the same certificate.
    pub fn is_same(&self, other: &Self) -> bool {
        self.certificate == other.certificate
    }

    /// Its subject, DER.
    ///
    /// # Errors
    /// When it is no certificate.
    pub fn subject_der(&self) -> Result<Vec<u8>, PkiError> {
        Ok(parsed(&self.certificate)?.subject().as_raw().to_vec())
    }

    /// Its public key, DER (SubjectPublicKeyInfo of RFC 5280).
    ///
    /// # Errors
    /// When it is no certificate.
    pub fn public_key_der(&self) -> Result<Vec<u8>, PkiError> {
        Ok(parsed(&self.certificate)?.public_key().raw.to_vec())
    }
}

impl NodeIdentity {
    /// This node with another root to trust, if those that trust that one take its certificate.
    ///
    /// # Errors
    /// They do not.
    pub fn trusting(&self, root_pem: &str) -> Result<Self, PkiError> {
        tls::check_chain(root_pem, &self.certificate_pem, SystemTime::now())?;
        Ok(Self {
            root_pem: root_pem.to_owned(),
            ..self.clone()
        })
    }
}

/// The private key in a file, for this public key. It may be PKCS#8, or as older tools write them: SEC1 (RFC 5915) or PKCS#1
/// (RFC 8017), which is what is inside PKCS#8, without the algorithm.
fn key_of(public: &SubjectPublicKeyInfo<'_>, pem: &str) -> Result<KeyPair, String> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
    let inside = match &key {
        PrivateKeyDer::Sec1(key) => key.secret_sec1_der(),
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        pkcs8 => return KeyPair::try_from(pkcs8.secret_der()).map_err(|e| e.to_string()),
    };
    let algorithm = yasna::parse_der(public.raw, |reader| {
        reader.read_sequence(|parts| {
            let algorithm = parts.next().read_der()?;
            parts.next().read_der()?;
            Ok(algorithm)
        })
    });
    let algorithm = algorithm.map_err(|e| e.to_string())?;
    let pkcs8 = yasna::construct_der(|writer| {
        writer.write_sequence(|parts| {
            parts.next().write_u8(0);
            parts.next().write_der(&algorithm);
            parts.next().write_bytes(inside);
        });
    });
    KeyPair::try_from(pkcs8.as_slice()).map_err(|e| e.to_string())
}

/// A certificate alone, whatever stood around it in a file.
fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}

/// A name with its parts as they are; TLS compares names byte by byte.
fn name(name: &X509Name<'_>) -> Result<DistinguishedName, PkiError> {
    let odd = || unfit("the CA certificate's subject has parts that are not known here");
    let twice = || {
        unfit(
            "the CA certificate's subject has several values for one of its parts, which is not supported",
        )
    };
    let mut copy = DistinguishedName::new();
    if name.iter().any(|part| part.iter().count() > 1) {
        return Err(twice());
    }
    for part in name.iter_attributes() {
        let id: Vec<u64> = part.attr_type().iter().ok_or_else(odd)?.collect();
        let value = part.attr_value();
        let text = || std::str::from_utf8(value.data).map_err(|_| odd());
        let value = match value.header.tag() {
            Tag::Utf8String => DnValue::Utf8String(text()?.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text()?.try_into()?),
            Tag::Ia5String => DnValue::Ia5String(text()?.try_into()?),
            Tag::T61String => DnValue::TeletexString(text()?.try_into()?),
            Tag::BmpString => {
                DnValue::BmpString(string::BmpString::from_utf16be(value.data.to_vec())?)
            }
            _ => return Err(odd()),
        };
        let what = DnType::from_oid(&id);
        if copy.get(&what).is_some() {
            return Err(twice());
        }
        copy.push(what, value);
    }
    Ok(copy)
}

#[cfg(test)]
mod tests;
