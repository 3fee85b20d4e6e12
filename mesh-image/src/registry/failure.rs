//! A registry's errors in the words that users of Docker know.

use oci_client::errors::{OciDistributionError, OciErrorCode};

use crate::error::ImageError;
use crate::reference::Reference;

/// What was asked of whom.
pub(super) struct Asked<'a> {
    /// `host[:port]`
    pub(super) host: &'a str,
    pub(super) reference: &'a Reference,
}

impl Asked<'_> {
    /// The registry's error in the words Docker's users know.
    pub(super) fn explain(&self, error: OciDistributionError) -> ImageError {
        let denied = |reason: String| ImageError::PullDenied {
            repository: self.reference.repository(),
            reason,
        };
        let unknown = |reason: String| ImageError::ManifestUnknown {
            reference: self.reference.to_string(),
            reason,
        };
        match error {
            OciDistributionError::UnauthorizedError { .. } => {
                denied("unauthorized: authentication required".into())
            }
            OciDistributionError::AuthenticationFailure(reason) => {
                let reason: String = reason.trim().chars().take(300).collect();
                denied(format!("unauthorized: {reason}"))
            }
            OciDistributionError::ImageManifestNotFoundError(reason) => unknown(reason),
            OciDistributionError::RegistryError { envelope, .. } => {
                let first = envelope.errors.first();
                let message = first
                    .map(|e| e.message.trim().to_owned())
                    .unwrap_or_default();
                match first.map(|e| &e.code) {
                    Some(OciErrorCode::ManifestUnknown | OciErrorCode::NotFound) => {
                        unknown(message)
                    }
                    Some(OciErrorCode::NameUnknown) => denied(message),
                    Some(OciErrorCode::Denied | OciErrorCode::Unauthorized) => denied(message),
                    _ => self.failed(envelope.to_string()),
                }
            }
            OciDistributionError::ServerError {
                code: 401 | 403,
                message,
                ..
            } => denied(if message.is_empty() {
                "denied".into()
            } else {
                message
            }),
            OciDistributionError::ServerError { code: 404, .. } => unknown("not found".into()),
            OciDistributionError::ServerError { code, message, .. } => {
                let message: String = message.trim().chars().take(300).collect();
                self.failed(format!("it answered {code}: {message}"))
            }
            OciDistributionError::RequestError(e) if is_certificate_problem(&e) => {
                self.failed(format!(
                    "its certificate is not trusted, put its CA into {}/ca.crt of the registry \
                     certificates directory: {}",
                    self.host,
                    chain(&e)
                ))
            }
            // The outermost text is the URL, which says less than the reference does.
            OciDistributionError::RequestError(e) => match std::error::Error::source(&e) {
                Some(cause) => self.failed(chain(cause)),
                None => self.failed(chain(&e)),
            },
            OciDistributionError::DigestError(e) => self.failed(e.to_string()),
            other => self.failed(other.to_string()),
        }
    }

    fn failed(&self, reason: String) -> ImageError {
        ImageError::Registry {
            registry: self.host.to_owned(),
            reason,
        }
    }
}

/// The error of the scheme tried second, with the first one's behind it.
pub(super) fn join(first: Option<ImageError>, second: ImageError) -> ImageError {
    match (first, second) {
        (
            Some(ImageError::Registry { reason: first, .. }),
            ImageError::Registry { registry, reason },
        ) if first != reason => ImageError::Registry {
            registry,
            reason: format!("{reason} (by TLS: {first})"),
        },
        (_, second) => second,
    }
}

/// Whether the other side speaks TLS but with a certificate that does not convince.
pub(super) fn is_certificate_problem(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // What an I/O error wraps is not its source but stands beside it.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(|e| e.get_ref());
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

/// An error with its causes, once each.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
