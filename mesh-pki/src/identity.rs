//! A node's own identity on disk, and the identity that a peer's certificate shows.

use crate::{
    PkiError, Role, RootCa, UnlockKey,
    ca::{BACKDATE, DEFAULT_CERTIFICATE_VALIDITY},
    new_id, new_key_and_request,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime},
};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
};

const CERTIFICATE_FILE: &str = "node.crt";
const KEY_FILE: &str = "node.key";
const ROOT_FILE: &str = "root-ca.crt";

/// Around a private key that is encrypted, in base64, in the place of the key's own PEM.
const SEALED_BEGIN: &str = "-----BEGIN MESH ENCRYPTED PRIVATE KEY-----";
const SEALED_END: &str = "-----END MESH ENCRYPTED PRIVATE KEY-----";
/// What private keys are encrypted for.
const SEALED_PLACE: &[u8] = b"node-key";

/// Everything a node needs to prove who it is.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node's id.
    pub node_id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// What the certificate allows.
    pub role: Role,
    /// The node certificate, PEM, and those that it has to be shown with, see [`RootCa::with_chain`].
    pub certificate_pem: String,
    /// Its private key, PKCS#8 PEM; empty while it is not known, see [`has_key`](Self::has_key).
    pub key_pem: String,
    /// The root certificate, PEM.
    pub root_pem: String,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("node_id", &self.node_id)
            .field("cluster_id", &self.cluster_id)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Puts a key, the certificate signed for it and the root together; ids and role come from
    /// the certificate.
    ///
    /// # Errors
    /// When they are no certificate and key, or the certificate names no node and role.
    pub fn new(
        certificate_pem: String,
        key_pem: String,
        root_pem: String,
    ) -> Result<Self, PkiError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| {
                PkiError::InvalidCertificate {
                    reason: e.to_string(),
                }
            })?;
        let PeerIdentity {
            node_id,
            cluster_id,
            role,
            ..
        } = PeerIdentity::from_certificate(&certificate)?;
        Ok(Self {
            node_id,
            cluster_id,
            role,
            certificate_pem,
            key_pem,
            root_pem,
        })
    }

    /// The identity of a new cluster's first manager, signed by `root`.
    ///
    /// # Errors
    /// As [`RootCa::sign`].
    pub fn first_manager(root: &RootCa) -> Result<Self, PkiError> {
        Self::manager(
            root,
            root.certificate_pem(),
            &new_id(),
            DEFAULT_CERTIFICATE_VALIDITY,
        )
    }

    /// The identity of a new manager of this cluster, signed by `signer` for as long as `validity`, which trusts the root
    /// `root_pem`.
    ///
    /// # Errors
    /// As [`RootCa::sign`].
    pub fn manager(
        signer: &RootCa,
        root_pem: &str,
        cluster_id: &str,
        validity: Duration,
    ) -> Result<Self, PkiError> {
        let pair = new_key_and_request()?;
        let certificate = signer.sign(
            &pair.request_pem,
            &new_id(),
            Role::Manager,
            cluster_id,
            validity,
        )?;
        Self::new(certificate, pair.key_pem, root_pem.to_owned())
    }

    /// Digest of the root that this node trusts, as in join tokens.
    ///
    /// # Errors
    /// When that is no certificate.
    pub fn root_digest(&self) -> Result<String, PkiError> {
        Ok(RootCa::from_pem(&self.root_pem, None)?.digest())
    }

    /// Whether the private key is known. If not, it is encrypted, and what it was encrypted with was not given.
    pub fn has_key(&self) -> bool {
        !self.key_pem.is_empty()
    }

    /// What anyone may know of it.
    #[must_use]
    pub fn without_key(self) -> Self {
        Self {
            key_pem: String::new(),
            ..self
        }
    }

    /// Reads the identity from `directory`; `None` when there is none. A private key that is encrypted is decrypted with
    /// `lock`, and left out without.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, or the private key is encrypted with another key.
    pub fn load(directory: &Path, lock: Option<&UnlockKey>) -> Result<Option<Self>, PkiError> {
        let read = |name: &str| -> Result<Option<String>, PkiError> {
            let path = directory.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(PkiError::File {
                    action: "read",
                    path,
                    source,
                }),
            }
        };
        let (Some(bundle), Some(root)) = (read(KEY_FILE)?, read(ROOT_FILE)?) else {
            return Ok(None);
        };
        // The key file holds the certificates as well, so that the pair changes atomically;
        // `node.crt` is there for people.
        let Some(start) = bundle.find("-----BEGIN CERTIFICATE-----") else {
            return Err(PkiError::InvalidCertificate {
                reason: format!(
                    "{} holds no certificate",
                    directory.join(KEY_FILE).display()
                ),
            });
        };
        let (key, certificate) = bundle.split_at(start);
        let key = match (key.trim().strip_prefix(SEALED_BEGIN), lock) {
            (None, _) => key.to_owned(),
            (Some(_), None) => String::new(),
            (Some(sealed), Some(lock)) => opened(sealed, lock)?,
        };
        Self::new(certificate.to_owned(), key, root).map(Some)
    }

    /// Writes the identity into `directory` (made with mode 0700), each file with mode 0600,
    /// replaced atomically and synced; the private key is encrypted with `lock`, if that is given.
    ///
    /// # Errors
    /// When the disk refuses, or the private key is not known.
    pub fn save(&self, directory: &Path, lock: Option<&UnlockKey>) -> Result<(), PkiError> {
        if !self.has_key() {
            return Err(PkiError::MissingKey);
        }
        let failed = |path: &Path, source| PkiError::File {
            action: "write",
            path: path.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| failed(directory, e))?;
        let key = match lock {
            None => self.key_pem.trim_end().to_owned(),
            Some(lock) => {
                let sealed = STANDARD.encode(lock.seal(SEALED_PLACE, self.key_pem.as_bytes())?);
                format!("{SEALED_BEGIN}\n{sealed}\n{SEALED_END}")
            }
        };
        let key = format!("{key}\n{}", self.certificate_pem);
        for (name, text) in [
            (ROOT_FILE, &self.root_pem),
            (CERTIFICATE_FILE, &self.certificate_pem),
            (KEY_FILE, &key),
        ] {
            let path = directory.join(name);
            let scratch = directory.join(format!("{name}.new"));
            let write = || -> std::io::Result<()> {
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&scratch)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&scratch, &path)
            };
            write().map_err(|e| failed(&path, e))?;
        }
        fs::File::open(directory)
            .and_then(|d| d.sync_all())
            .map_err(|e| failed(directory, e))
    }

    /// First and last moment of the certificate's life.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn validity(&self) -> Result<(SystemTime, SystemTime), PkiError> {
        let invalid = |reason: String| PkiError::InvalidCertificate { reason };
        let der = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|e| invalid(e.to_string()))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|e| invalid(e.to_string()))?;
        let validity = certificate.validity();
        Ok((moment(validity.not_before), moment(validity.not_after)))
    }

    /// Whether the certificate is past `fraction` (0 to 1) of its life at `now`.
    ///
    /// # Errors
    /// As [`validity`](Self::validity).
    pub fn is_due_for_renewal(&self, now: SystemTime, fraction: f64) -> Result<bool, PkiError> {
        let (start, end) = self.validity()?;
        let life = end.duration_since(start).unwrap_or_default();
        Ok(now >= start + life.mul_f64(fraction.clamp(0.0, 1.0)))
    }
}

fn moment(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn key_digest(key: &[u8]) -> String {
    let digest = Sha256::digest(key);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The private key that was sealed; `sealed` is what follows [`SEALED_BEGIN`].
fn opened(sealed: &str, lock: &UnlockKey) -> Result<String, PkiError> {
    let text = sealed.strip_suffix(SEALED_END);
    let bytes = text.and_then(|text| STANDARD.decode(text.trim()).ok());
    let key = lock.open(SEALED_PLACE, &bytes.ok_or(PkiError::WrongUnlockKey)?)?;
    String::from_utf8(key).map_err(|_| PkiError::WrongUnlockKey)
}

/// Who a verified peer certificate says its owner is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The node's id (CN).
    pub node_id: String,
    /// The cluster's id (O).
    pub cluster_id: String,
    /// The role (OU).
    pub role: Role,
    /// When the certificate was signed, to the second, by the clock of the manager that did it.
    pub issued_at: SystemTime,
    /// The last moment of its life.
    pub expires_at: SystemTime,
    /// Digest of its public key, by which the key is known again: lower-case hexadecimal of the SHA-256 of its DER
    /// (SubjectPublicKeyInfo of RFC 5280).
    pub key_digest: String,
}

impl PeerIdentity {
    /// Reads the subject of a certificate. It proves nothing by itself: TLS has to have verified
    /// the certificate.
    ///
    /// # Errors
    /// When it names no node, role and cluster.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|e| PkiError::InvalidCertificate {
                reason: e.to_string(),
            })?;
        let subject = parsed.subject();
        let node_id = subject
            .iter_common_name()
            .find_map(|a| a.as_str().ok())
            .ok_or(PkiError::MissingSubject {
                part: "common name",
            })?
            .to_owned();
        let cluster_id = subject
            .iter_organization()
            .find_map(|a| a.as_str().ok())
            .ok_or(PkiError::MissingSubject {
                part: "organization",
            })?
            .to_owned();
        let role = subject
            .iter_organizational_unit()
            .find_map(|a| a.as_str().ok().and_then(Role::from_organizational_unit))
            .ok_or(PkiError::MissingSubject {
                part: "organizational unit",
            })?;
        let validity = parsed.validity();
        Ok(Self {
            node_id,
            cluster_id,
            role,
            issued_at: moment(validity.not_before) + BACKDATE,
            expires_at: moment(validity.not_after),
            key_digest: key_digest(parsed.public_key().raw),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_survives_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("certificates");
        assert!(NodeIdentity::load(&path, None).unwrap().is_none());
        let identity = NodeIdentity::first_manager(&RootCa::create().unwrap()).unwrap();
        identity.save(&path, None).unwrap();
        let loaded = NodeIdentity::load(&path, None).unwrap().unwrap();
        assert!(loaded.has_key());
        assert_eq!(loaded.node_id, identity.node_id);
        assert_eq!(loaded.role, Role::Manager);
        assert_eq!(loaded.certificate_pem, identity.certificate_pem);
        let mode = fs::metadata(path.join(KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_private_key_that_is_encrypted_is_nowhere_in_clear() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("certificates");
        let identity = NodeIdentity::first_manager(&RootCa::create().unwrap()).unwrap();
        let lock = UnlockKey::generate();
        identity.save(&path, None).unwrap();
        identity.save(&path, Some(&lock)).unwrap();
        let secret = identity.key_pem.lines().nth(1).unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!text.contains(secret), "{text}");
        }
        let loaded = NodeIdentity::load(&path, Some(&lock)).unwrap().unwrap();
        assert!(loaded == identity);
        let without = NodeIdentity::load(&path, None).unwrap().unwrap();
        assert!(without == identity.clone().without_key() && !without.has_key());
        assert!(matches!(
            without.save(&path, None),
            Err(PkiError::MissingKey)
        ));
        let other = UnlockKey::generate();
        let refused = |key| {
            let loaded = NodeIdentity::load(&path, Some(key));
            matches!(loaded, Err(PkiError::WrongUnlockKey))
        };
        assert!(refused(&other));

        let file = path.join(KEY_FILE);
        let text = fs::read_to_string(&file).unwrap();
        let at = text.find('\n').unwrap() + 30;
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        fs::write(&file, changed).unwrap();
        assert!(refused(&lock), "changed");
        fs::write(&file, text.replacen("-----END MESH", "-----END", 1)).unwrap();
        assert!(refused(&lock), "cut");

        identity.save(&path, None).unwrap();
        let loaded = NodeIdentity::load(&path, Some(&lock)).unwrap().unwrap();
        assert!(loaded == identity, "in clear again");
    }

    #[test]
    fn certificates_are_backdated_and_due_in_time() {
        let identity = NodeIdentity::first_manager(&RootCa::create().unwrap()).unwrap();
        let (start, end) = identity.validity().unwrap();
        let now = SystemTime::now();
        assert!(start < now - Duration::from_secs(3000));
        assert!(end > now + Duration::from_secs(89 * 24 * 3600));
        assert!(!identity.is_due_for_renewal(now, 0.5).unwrap());
        assert!(
            identity
                .is_due_for_renewal(end - Duration::from_secs(1), 0.8)
                .unwrap()
        );
    }
}
