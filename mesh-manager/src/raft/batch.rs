//! An entry of the log, as it is written: by rules that managers of any program know as a list of proposals, by later ones as
//! an object that says which. Programs from before that cannot read an object; later ones read what it says, and stop where it
//! is more than they know.

use crate::{Proposal, command::UNTOLD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser::{Error as _, SerializeStruct},
};
use std::fmt;

/// Proposals that were made at the same time: they share one write and one fsync.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// The latest rules of its proposals.
    rules: u32,
    /// None where they are of rules that this program does not know.
    proposals: Option<Vec<Proposal>>,
}

impl Batch {
    pub(crate) fn new(proposals: Vec<Proposal>) -> Self {
        let rules = proposals.iter().map(|proposal| proposal.rules).max();
        Self {
            rules: rules.unwrap_or_default(),
            proposals: Some(proposals),
        }
    }

    /// The latest rules of its proposals, which a manager has to know to apply it.
    pub(crate) fn rules(&self) -> u32 {
        self.rules
    }

    /// Its proposals. Nobody asks who does not know its rules.
    pub(crate) fn proposals(&self) -> &[Proposal] {
        self.proposals.as_deref().unwrap_or_default()
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(proposals) = &self.proposals else {
            return Err(S::Error::custom(format_args!(
                "an entry by rules {} was not read, and cannot be written",
                self.rules
            )));
        };
        if self.rules <= UNTOLD {
            return proposals.serialize(serializer);
        }
        let mut object = serializer.serialize_struct("Batch", 2)?;
        // First, as what follows can be read or not by what this says.
        object.serialize_field("rules", &self.rules)?;
        object.serialize_field("proposals", proposals)?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Batch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("proposals, or rules and proposals")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Batch, A::Error> {
        let mut proposals = Vec::new();
        while let Some(mut proposal) = list.next_element::<Proposal>()? {
            // Whatever it says: who wrote a list applies it by no later ones.
            proposal.rules = proposal.rules.min(UNTOLD);
            proposals.push(proposal);
        }
        Ok(Batch::new(proposals))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Batch, A::Error> {
        let rules = match object.next_entry::<String, u32>()? {
            Some((key, rules)) if key == "rules" => rules,
            _ => return Err(A::Error::missing_field("rules")),
        };
        let mut proposals = None;
        while let Some(key) = object.next_key::<String>()? {
            if key == "proposals" && rules <= crate::RULES {
                proposals = Some(object.next_value()?);
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        match (rules <= crate::RULES, &proposals) {
            (true, None) => Err(A::Error::missing_field("proposals")),
            _ => Ok(Batch { rules, proposals }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Operation, RULES};

    fn batch(rules: &[u32]) -> Batch {
        let proposal = |rules: &u32| Proposal {
            rules: *rules,
            ..Proposal::new(Operation::Reconcile(Vec::new()), 7)
        };
        Batch::new(rules.iter().map(proposal).collect())
    }

    #[test]
    fn the_latest_rules_decide_how_it_is_written() {
        for (rules, latest, is_list) in [
            (&[][..], 0, true),
            (&[0, 3], 3, true),
            (&[UNTOLD], UNTOLD, true),
            (&[UNTOLD, UNTOLD + 1], UNTOLD + 1, false),
            (&[RULES], RULES, false),
        ] {
            let batch = batch(rules);
            let written = serde_json::to_value(&batch).unwrap();
            assert_eq!(batch.rules(), latest);
            assert_eq!(written.is_array(), is_list, "{written}");
            let text = serde_json::to_vec(&batch).unwrap();
            let read: Batch = serde_json::from_slice(&text).unwrap();
            assert_eq!(read.rules(), latest);
            assert_eq!(serde_json::to_value(&read).unwrap(), written);
            // As it is read by programs that knew the list alone.
            let by_old: Result<Vec<Proposal>, _> = serde_json::from_slice(&text);
            assert_eq!(by_old.is_ok(), is_list);
        }
    }

    #[test]
    fn a_list_is_of_rules_that_all_know() {
        let later = Proposal {
            rules: RULES,
            ..Proposal::new(Operation::Reconcile(Vec::new()), 7)
        };
        let text = serde_json::to_vec(&[later]).unwrap();
        let read: Batch = serde_json::from_slice(&text).unwrap();
        assert_eq!(read.rules(), UNTOLD);
        assert_eq!(read.proposals()[0].rules, UNTOLD);
        let made = Proposal::new(Operation::Reconcile(Vec::new()), 7);
        assert_eq!(made.rules, UNTOLD, "an old leader writes it as it is");
    }

    #[test]
    fn of_later_rules_only_their_number_is_read() {
        let rules = RULES + 1;
        let later = format!(
            r#"{{"rules": {rules}, "proposals": [{{"operation": "unheard of"}}], "more": 1}}"#
        );
        let read: Batch = serde_json::from_str(&later).unwrap();
        assert_eq!(read.rules(), RULES + 1);
        assert!(read.proposals().is_empty());
        assert!(serde_json::to_string(&read).is_err(), "it would be lost");
    }

    #[test]
    fn half_an_entry_is_none() {
        for bad in [
            "{}",
            r#"{"proposals": []}"#,
            r#"{"rules": 7}"#,
            r#"{"rules": 7, "proposals": [{"operation": "unheard of"}]}"#,
            r#"{"proposals": [], "rules": 7}"#,
        ] {
            let read: Result<Batch, _> = serde_json::from_str(bad);
            assert!(read.is_err(), "{bad}");
        }
    }
}
