//! What a snapshot looks like: the state as JSON. By rules that not every program knows, a line before it says which: programs
//! from before there was such a line cannot read it.

use crate::{command::UNTOLD, state::State};

/// What that line begins with. Its number follows, in decimal.
const LINE: &[u8] = b"rules ";

/// Why a snapshot is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    /// It is of rules that this manager does not know.
    #[error("it goes by rules {0}")]
    Later(u32),
    /// The line is not as it was written.
    #[error("it does not say by which rules it goes")]
    Line,
    /// The state is not.
    #[error(transparent)]
    State(#[from] serde_json::Error),
}

/// As it is kept and sent.
pub(super) fn write(state: &State) -> Result<Vec<u8>, serde_json::Error> {
    let mut data = Vec::new();
    if state.rules() > UNTOLD {
        data.extend(LINE);
        data.extend(state.rules().to_string().bytes());
        data.push(b'\n');
    }
    serde_json::to_writer(&mut data, state)?;
    Ok(data)
}

/// Reads a snapshot, if its rules are `known`.
pub(super) fn read(data: &[u8], known: u32) -> Result<State, SnapshotError> {
    let mut json = data;
    if let Some(line) = data.strip_prefix(LINE) {
        let mut parts = line.splitn(2, |byte| *byte == b'\n');
        let number = parts
            .next()
            .and_then(|number| std::str::from_utf8(number).ok());
        let rules = number.and_then(|number| number.parse().ok());
        let rules: u32 = rules.ok_or(SnapshotError::Line)?;
        if rules > known {
            return Err(SnapshotError::Later(rules));
        }
        json = parts.next().ok_or(SnapshotError::Line)?;
    }
    let mut state: State = serde_json::from_slice(json)?;
    state.rebuild_indexes();
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RULES, fixture::World};

    #[test]
    fn the_state_says_how_it_is_written() {
        let mut state = World::new(&["n1"]).state;
        state.go_by(RULES + 2);
        let written = write(&state).unwrap();
        let by_old: Result<State, _> = serde_json::from_slice(&written);
        assert!(by_old.is_err(), "programs from before stop");
        for (known, is_read) in [(RULES, false), (RULES + 1, false), (RULES + 2, true)] {
            match read(&written, known) {
                Ok(read) => assert!(is_read && read.rules() == RULES + 2),
                Err(SnapshotError::Later(rules)) => assert!(!is_read && rules == RULES + 2),
                Err(error) => panic!("{error}"),
            }
        }
        // While managers of those programs may be there, it is as they write it.
        let untold = State::default();
        let written = write(&untold).unwrap();
        assert_eq!(written, serde_json::to_vec(&untold).unwrap());
        assert!(!String::from_utf8_lossy(&written).contains("rules"));
        assert_eq!(read(&written, UNTOLD).unwrap().rules(), UNTOLD);
    }

    #[test]
    fn a_damaged_line_is_refused() {
        for bad in ["rules ", "rules 7", "rules seven\n{}", "rules -1\n{}"] {
            let refused = read(bad.as_bytes(), RULES);
            assert!(matches!(refused, Err(SnapshotError::Line)), "{bad}");
        }
    }
}
