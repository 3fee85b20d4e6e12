//! Generic resources: what a node has of kinds that only its users know, such as GPUs or licences; a number of them, or each
//! by its name. Services ask for numbers, whichever of the two a node has.

use crate::{engine, proto};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Begins the name of the variables by which a task is told what it was given.
const VARIABLE: &str = "DOCKER_RESOURCE_";

/// So much of each kind.
pub type GenericResources = BTreeMap<String, Amount>;

/// How much there is of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    /// So many, one as good as another.
    Discrete(u64),
    /// These.
    Named(BTreeSet<String>),
}

impl Amount {
    /// How many there are.
    pub fn count(&self) -> u64 {
        match self {
            Self::Discrete(number) => *number,
            Self::Named(names) => names.len() as u64,
        }
    }

    /// The number, or the names with commas between them.
    pub fn text(&self) -> String {
        match self {
            Self::Discrete(number) => number.to_string(),
            Self::Named(names) => names.iter().cloned().collect::<Vec<_>>().join(","),
        }
    }
}

/// Reads `kind=number`, or `kind=name` once for each name, as Docker's flags have them.
///
/// # Errors
/// What is wrong with which term; as Docker says it, but for names that could not be told apart afterwards.
pub fn parse<'a>(terms: impl IntoIterator<Item = &'a str>) -> Result<GenericResources, String> {
    let bad = |what: String| Err(format!("could not parse GenericResource: {what}"));
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for term in terms {
        let (kind, value) = match term.split_once('=') {
            Some((kind, value)) if !value.contains('=') => (kind.trim(), value.trim()),
            _ => ("", ""),
        };
        if kind.is_empty() || value.is_empty() || term.contains('\0') {
            return bad(format!(
                "incorrect term {term}, missing '=' or malformed expression"
            ));
        }
        values.entry(kind).or_default().push(value);
    }
    let mut resources = GenericResources::new();
    for (kind, values) in values {
        let numbers: Vec<i64> = values.iter().filter_map(|text| text.parse().ok()).collect();
        let amount = match (numbers.as_slice(), values.as_slice()) {
            ([number], [_]) => match u64::try_from(*number) {
                Ok(number) => Amount::Discrete(number),
                Err(_) => return bad(format!("cannot ask for negative resource {kind}")),
            },
            ([], names) => Amount::Named(names_of(kind, names)?),
            _ => {
                return bad(format!(
                    "mixed discrete and named resources in expression '{kind}=[{}]'",
                    values.join(" ")
                ));
            }
        };
        resources.insert(kind.to_owned(), amount);
    }
    Ok(resources)
}

/// Each name stands for one thing, and is told to tasks between commas.
fn names_of(kind: &str, names: &[&str]) -> Result<BTreeSet<String>, String> {
    let mut known = BTreeSet::new();
    for name in names {
        if name.contains(',') {
            return Err(format!(
                "generic resource {kind}={name} has a comma in its name: give one name at a time"
            ));
        }
        if !known.insert((*name).to_owned()) {
            return Err(format!("generic resource {kind}={name} is given twice"));
        }
    }
    Ok(known)
}

/// What a template reserves, by kind; kinds that are named several times add up. Names count for nothing: nobody can ask for
/// a certain one.
pub fn reserved(template: &engine::TaskSpec) -> BTreeMap<&str, u64> {
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for resource in reservations(template) {
        let Some(discrete) = &resource.discrete_resource_spec else {
            continue;
        };
        let kind = discrete.kind.as_deref().unwrap_or_default();
        let number = u64::try_from(discrete.value.unwrap_or(0)).unwrap_or(0);
        let sum = wanted.entry(kind).or_default();
        *sum = sum.saturating_add(number);
    }
    wanted
}

/// What a template says that it reserves, word for word.
pub fn reservations(template: &engine::TaskSpec) -> &[engine::GenericResourcesInner] {
    let resources = template.resources.as_ref();
    let reserved = resources.and_then(|resources| resources.reservations.as_ref());
    let list = reserved.and_then(|reserved| reserved.generic_resources.as_deref());
    list.unwrap_or_default()
}

/// As the Engine API has them: a number in one piece, each name by itself. `None` if there are none.
pub fn to_engine(resources: &GenericResources) -> Option<engine::GenericResources> {
    let mut list = engine::GenericResources::new();
    for (kind, amount) in resources {
        match amount {
            Amount::Discrete(number) => list.push(discrete(kind, *number)),
            Amount::Named(names) => list.extend(names.iter().map(|name| named(kind, name))),
        }
    }
    (!list.is_empty()).then_some(list)
}

/// So many of a kind, as the Engine API has it.
pub fn discrete(kind: &str, number: u64) -> engine::GenericResourcesInner {
    engine::GenericResourcesInner {
        discrete_resource_spec: Some(engine::GenericResourcesInnerDiscreteResourceSpec {
            kind: Some(kind.to_owned()),
            value: Some(i64::try_from(number).unwrap_or(i64::MAX)),
        }),
        named_resource_spec: None,
    }
}

fn named(kind: &str, name: &str) -> engine::GenericResourcesInner {
    engine::GenericResourcesInner {
        named_resource_spec: Some(engine::GenericResourcesInnerNamedResourceSpec {
            kind: Some(kind.to_owned()),
            value: Some(name.to_owned()),
        }),
        discrete_resource_spec: None,
    }
}

/// What the Engine API has, by kind: the text of each as [`Amount::text`].
pub fn texts(list: &[engine::GenericResourcesInner]) -> BTreeMap<&str, String> {
    let mut texts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for resource in list {
        let (kind, text) = match (
            &resource.named_resource_spec,
            &resource.discrete_resource_spec,
        ) {
            (Some(named), _) => (&named.kind, named.value.clone().unwrap_or_default()),
            (None, Some(discrete)) => (&discrete.kind, discrete.value.unwrap_or(0).to_string()),
            (None, None) => continue,
        };
        let kind = kind.as_deref().unwrap_or_default();
        texts.entry(kind).or_default().push(text);
    }
    texts
        .into_iter()
        .map(|(kind, texts)| (kind, texts.join(",")))
        .collect()
}

/// The variables by which a task is told what it was given, each `DOCKER_RESOURCE_<KIND>` with the number or the names.
pub fn variables(resources: &GenericResources) -> Vec<(String, String)> {
    let variable = |(kind, amount): (&String, &Amount)| {
        (format!("{VARIABLE}{}", kind.to_uppercase()), amount.text())
    };
    resources.iter().map(variable).collect()
}

/// As nodes and managers tell them one another.
pub fn to_proto(resources: &GenericResources) -> Vec<proto::GenericResource> {
    let told = |(kind, amount): (&String, &Amount)| proto::GenericResource {
        kind: kind.clone(),
        amount: Some(match amount {
            Amount::Discrete(number) => proto::generic_resource::Amount::Number(*number),
            Amount::Named(names) => {
                proto::generic_resource::Amount::Names(proto::generic_resource::Names {
                    names: names.iter().cloned().collect(),
                })
            }
        }),
    };
    resources.iter().map(told).collect()
}

/// Reads what [`to_proto`] has made; a kind without an amount is left out.
pub fn from_proto(told: Vec<proto::GenericResource>) -> GenericResources {
    let read = |resource: proto::GenericResource| {
        let amount = match resource.amount? {
            proto::generic_resource::Amount::Number(number) => Amount::Discrete(number),
            proto::generic_resource::Amount::Names(told) => {
                Amount::Named(told.names.into_iter().collect())
            }
        };
        Some((resource.kind, amount))
    };
    told.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(names: &[&str]) -> Amount {
        Amount::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn terms_are_read_as_docker_reads_them() {
        for (terms, expected) in [
            (&[][..], &[][..]),
            (&["ssd=4"], &[("ssd", Amount::Discrete(4))]),
            (&["ssd=0"], &[("ssd", Amount::Discrete(0))]),
            (&["gpu=b", "gpu=a"], &[("gpu", names(&["a", "b"]))]),
            (
                &["gpu=GPU-1", " ssd = 2 "],
                &[("gpu", names(&["GPU-1"])), ("ssd", Amount::Discrete(2))],
            ),
            (&["gpu=1x"], &[("gpu", names(&["1x"]))]),
        ] {
            let expected = expected.iter().cloned();
            let expected = expected.map(|(kind, amount)| (kind.to_owned(), amount));
            assert_eq!(
                parse(terms.iter().copied()),
                Ok(expected.collect()),
                "{terms:?}"
            );
        }
        for (terms, said) in [
            (&["gpu"][..], "incorrect term gpu, missing '='"),
            (&["gpu=a=b"], "incorrect term gpu=a=b"),
            (&["=a"], "incorrect term =a"),
            (&["gpu="], "incorrect term gpu="),
            (&["gpu=a\0"], "incorrect term gpu=a"),
            (&["gpu=-1"], "cannot ask for negative resource gpu"),
            (&["gpu=1", "gpu=a"], "mixed discrete and named resources"),
            (&["gpu=1", "gpu=2"], "in expression 'gpu=[1 2]'"),
            (&["gpu=a,b"], "has a comma in its name"),
            (&["gpu=a", "gpu=a"], "gpu=a is given twice"),
        ] {
            let error = parse(terms.iter().copied()).expect_err(said);
            assert!(error.contains(said), "{terms:?}: {error}");
        }
    }

    #[test]
    fn they_are_shown_told_and_read_back() {
        let resources = parse(["gpu=b", "gpu=a", "ssd=4", "none=0"]).expect("resources");
        assert_eq!(from_proto(to_proto(&resources)), resources);
        let shown = to_engine(&resources).expect("some");
        assert_eq!(
            serde_json::to_value(&shown).expect("JSON"),
            json!([
                {"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}},
                {"NamedResourceSpec": {"Kind": "gpu", "Value": "b"}},
                {"DiscreteResourceSpec": {"Kind": "none", "Value": 0}},
                {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 4}},
            ])
        );
        let shown = texts(&shown);
        let shown: Vec<_> = shown
            .iter()
            .map(|(kind, text)| (*kind, text.as_str()))
            .collect();
        assert_eq!(shown, [("gpu", "a,b"), ("none", "0"), ("ssd", "4")]);
        assert_eq!(to_engine(&GenericResources::new()), None);
        let told = variables(&resources);
        assert_eq!(told[0], ("DOCKER_RESOURCE_GPU".into(), "a,b".into()));
        assert_eq!(told[2], ("DOCKER_RESOURCE_SSD".into(), "4".into()));
    }

    #[test]
    fn what_is_reserved_adds_up() {
        let reserve = |list: serde_json::Value| -> engine::TaskSpec {
            let reserved = json!({"Resources": {"Reservations": {"GenericResources": list}}});
            serde_json::from_value(reserved).expect("a template")
        };
        let gpu = |number: i64| json!({"DiscreteResourceSpec": {"Kind": "gpu", "Value": number}});
        let named = json!({"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}});
        for (list, expected) in [
            (json!([]), None),
            (json!([gpu(0)]), Some(0)),
            (json!([gpu(1), gpu(2)]), Some(3)),
            (
                json!([gpu(i64::MAX), gpu(i64::MAX), gpu(2)]),
                Some(u64::MAX),
            ),
            (json!([gpu(-1)]), Some(0)),
            (json!([named]), None),
        ] {
            let template = reserve(list.clone());
            assert_eq!(reserved(&template).get("gpu").copied(), expected, "{list}");
        }
        assert!(reserved(&engine::TaskSpec::default()).is_empty());
    }
}
