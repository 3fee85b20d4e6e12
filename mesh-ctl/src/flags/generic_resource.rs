//! `--generic-resource kind=number`

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use mesh_api::generic_resource::{self, Amount};

/// Reads the arguments of a flag: how many of each kind. Names are nodes' to have, and nobody's to ask for.
pub(crate) fn parse(arguments: &[String]) -> Result<BTreeMap<String, u64>> {
    if let Some(bad) = arguments.iter().find(|text| !text.contains('=')) {
        bail!("invalid generic-resource format `{bad}` expected `name=value`");
    }
    let resources = generic_resource::parse(arguments.iter().map(String::as_str))
        .map_err(|error| anyhow!("invalid generic resource specification: {error}"))?;
    let number = |(kind, amount)| match amount {
        Amount::Discrete(number) => Ok((kind, number)),
        Amount::Named(names) => {
            let name = names.into_iter().next().unwrap_or_default();
            bail!(
                "invalid generic-resource request `{kind}={name}`, Named Generic Resources is not supported for service create or update"
            )
        }
    };
    resources.into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_asked_for() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            parse(&words)
        };
        let wanted = read(&["ssd=1", "gpu=2"]).expect("numbers");
        let expected = [("gpu".to_owned(), 2), ("ssd".to_owned(), 1)];
        assert_eq!(wanted, expected.into());
        for (words, said) in [
            (&["gpu"][..], "invalid generic-resource format `gpu`"),
            (
                &["gpu=a"],
                "`gpu=a`, Named Generic Resources is not supported",
            ),
            (&["gpu=-1"], "cannot ask for negative resource gpu"),
            (&["gpu=1", "gpu=2"], "mixed discrete and named"),
        ] {
            let error = read(words).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
