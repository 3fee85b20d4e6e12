//! The lines of JSON by which a pull or a load tells how it is getting on.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressLine {
    /// What to show as it is; `image load` uses only this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// To which layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How far it is.
    #[serde(
        default,
        rename = "progressDetail",
        skip_serializing_if = "Option::is_none"
    )]
    pub detail: Option<ProgressDetail>,
    /// Why it failed. It is the last line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The same, in the shape newer clients read.
    #[serde(
        default,
        rename = "errorDetail",
        skip_serializing_if = "Option::is_none"
    )]
    pub error_detail: Option<ErrorDetail>,
}

/// Bytes done and to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressDetail {
    /// Bytes done.
    #[serde(default)]
    pub current: u64,
    /// Bytes in all; 0 when unknown.
    #[serde(default)]
    pub total: u64,
}

/// The message of a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The message.
    #[serde(default)]
    pub message: String,
}

impl ProgressLine {
    /// A line to show as it is.
    pub fn stream(text: impl Into<String>) -> Self {
        Self {
            stream: Some(text.into()),
            ..Self::default()
        }
    }

    /// A line of status.
    pub fn status(text: impl Into<String>) -> Self {
        Self {
            status: Some(text.into()),
            ..Self::default()
        }
    }

    /// The last line of a failure.
    pub fn error(text: impl Into<String>) -> Self {
        let message = text.into();
        Self {
            error: Some(message.clone()),
            error_detail: Some(ErrorDetail { message }),
            ..Self::default()
        }
    }

    /// The line as it travels, `\r\n` included.
    pub fn to_wire(&self) -> bytes::Bytes {
        let mut line = serde_json::to_vec(self).expect("text and numbers are JSON");
        line.extend_from_slice(b"\r\n");
        line.into()
    }
}
