//! A line of a log, and where it comes from.

/// One line of a service's or a task's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// True for standard error.
    pub(crate) stderr: bool,
    /// The time stamp the node gave it, when it was asked for.
    pub(crate) timestamp: Option<String>,
    /// `com.docker.swarm.{node,service,task}.id` and the like, when asked for.
    pub(crate) details: Vec<(String, String)>,
    /// The line, its line feed included if it had one.
    pub(crate) message: Vec<u8>,
}

impl LogLine {
    /// Takes a frame's payload apart: `[timestamp ][key=value,.. ]message`.
    /// What was not asked for is not looked for.
    pub(crate) fn parse(stderr: bool, payload: &[u8], timestamps: bool, details: bool) -> Self {
        let mut rest = payload;
        let mut next = |wanted: bool| -> Option<String> {
            if !wanted {
                return None;
            }
            let end = rest.iter().position(|byte| *byte == b' ')?;
            let word = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            Some(word)
        };
        let timestamp = next(timestamps);
        let details = next(details)
            .map(|text| {
                text.split(',')
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect()
            })
            .unwrap_or_default();
        Self {
            stderr,
            timestamp,
            details,
            message: rest.to_vec(),
        }
    }

    /// The value of a detail.
    pub(crate) fn detail(&self, key: &str) -> Option<&str> {
        self.details
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_come_apart() {
        let line = LogLine::parse(
            false,
            b"2026-01-01T00:00:00.000000000Z com.docker.swarm.node.id=n,com.docker.swarm.task.id=t hello world\n",
            true,
            true,
        );
        assert_eq!(
            line.timestamp.as_deref(),
            Some("2026-01-01T00:00:00.000000000Z")
        );
        assert_eq!(line.detail("com.docker.swarm.task.id"), Some("t"));
        assert_eq!(line.message, b"hello world\n");
        assert_eq!(LogLine::parse(true, b"a b", false, false).message, b"a b");
    }
}
