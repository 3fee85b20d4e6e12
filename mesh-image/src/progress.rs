//! What pull and load tell while they work, in the words of the Engine API's progress stream.

use std::sync::Arc;

/// One line of progress. The texts are those of Docker's stream, so an API server only has to
/// wrap them in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProgressEvent {
    /// What it is about: a layer's short digest, a tag; none for the closing lines.
    pub id: Option<String>,
    /// `Pulling fs layer`, `Downloading`, `Extracting`, `Pull complete`, ...
    pub status: String,
    /// Bytes done, while downloading or extracting.
    pub current: Option<u64>,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// Receives progress; must not block for long.
pub type ProgressFn = Arc<dyn Fn(ProgressEvent) + Send + Sync>;

impl ProgressEvent {
    /// A line about nothing in particular.
    pub fn line(status: impl Into<String>) -> Self {
        Self {
            status: status.into(),
            ..Self::default()
        }
    }

    /// A line about a layer or a tag.
    pub fn about(id: impl Into<String>, status: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            status: status.into(),
            ..Self::default()
        }
    }

    /// A line with a bar.
    pub fn bar(id: impl Into<String>, status: &str, current: u64, total: Option<u64>) -> Self {
        Self {
            id: Some(id.into()),
            status: status.into(),
            current: Some(current),
            total,
        }
    }
}

/// A receiver that drops everything.
pub fn silent() -> ProgressFn {
    Arc::new(|_| {})
}
