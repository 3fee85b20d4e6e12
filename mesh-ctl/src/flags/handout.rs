//! `--secret` and `--config`: `name`, or `source=name,target=file,uid=0,gid=0,mode=0444`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use mesh_api::{
    Client,
    engine::{
        TaskSpecContainerSpec, TaskSpecContainerSpecConfigs, TaskSpecContainerSpecFile,
        TaskSpecContainerSpecFile1, TaskSpecContainerSpecSecrets,
    },
    handout::{Kind, references},
};

use crate::view::text;

/// One argument, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handout {
    source: String,
    target: Option<String>,
    uid: String,
    gid: String,
    mode: u32,
}

/// Reads one argument.
pub(crate) fn parse(argument: &str) -> Result<Handout> {
    let mut read = Handout {
        source: String::new(),
        target: None,
        uid: "0".to_owned(),
        gid: "0".to_owned(),
        mode: 0o444,
    };
    if !argument.contains(['=', ',']) {
        argument.clone_into(&mut read.source);
    } else {
        for (key, value) in super::csv::fields(argument)? {
            let value = value.filter(|_| !key.is_empty()).with_context(|| {
                format!("invalid field '{key}' in {argument:?}: it must be a key=value pair")
            })?;
            match key.as_str() {
                "source" | "src" => read.source = value,
                "target" => read.target = Some(value),
                "uid" => read.uid = value,
                "gid" => read.gid = value,
                "mode" => read.mode = mode(&value)?,
                _ => bail!("invalid field '{key}' in {argument:?}"),
            }
        }
    }
    if read.source.is_empty() {
        bail!("source is required in {argument:?}");
    }
    read.target = read.target.filter(|target| !target.is_empty());
    Ok(read)
}

/// Permission bits as in Go: octal with a leading zero, hexadecimal with 0x, else decimal.
fn mode(value: &str) -> Result<u32> {
    let (digits, radix) = match value.split_at_checked(2) {
        Some(("0x" | "0X", digits)) => (digits, 16),
        Some(("0o" | "0O", digits)) => (digits, 8),
        Some(("0b" | "0B", digits)) => (digits, 2),
        _ if value.starts_with('0') => (value, 8),
        _ => (value, 10),
    };
    // Numbers may have a sign in Rust.
    let number = u32::from_str_radix(digits, radix).ok();
    number
        .filter(|_| !digits.starts_with('+'))
        .with_context(|| format!("invalid mode specified: {value:?}: write it in octal, as 0440"))
}

/// Adds the claims of some arguments to a container's.
pub(crate) async fn add(
    client: &Client,
    container: &mut TaskSpecContainerSpec,
    kind: Kind,
    arguments: &[String],
) -> Result<()> {
    for argument in arguments {
        let read = parse(argument)?;
        let found = client.handout(kind, &read.source).await?;
        let name = found.spec.and_then(|spec| spec.name);
        let target = read.target.or_else(|| name.clone());
        let (uid, gid, mode) = (Some(read.uid), Some(read.gid), Some(read.mode));
        match kind {
            Kind::Secret => {
                let claims = container.secrets.get_or_insert_default();
                claims.push(TaskSpecContainerSpecSecrets {
                    file: Some(TaskSpecContainerSpecFile {
                        name: target,
                        uid,
                        gid,
                        mode,
                    }),
                    secret_id: found.id,
                    secret_name: name,
                });
            }
            Kind::Config => {
                let claims = container.configs.get_or_insert_default();
                claims.push(TaskSpecContainerSpecConfigs {
                    file: Some(TaskSpecContainerSpecFile1 {
                        name: target,
                        uid,
                        gid,
                        mode,
                    }),
                    runtime: None,
                    config_id: found.id,
                    config_name: name,
                });
            }
        }
    }
    Ok(())
}

/// Takes the claims to these names, ids or unique prefixes of ids away from a container's.
pub(crate) fn remove(container: &mut TaskSpecContainerSpec, kind: Kind, names: &[String]) {
    let claims: BTreeSet<(String, String)> = references(container)
        .filter(|claim| claim.kind == kind)
        .map(|claim| (claim.id.to_owned(), claim.name.to_owned()))
        .collect();
    let gone: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| named(&claims, name))
        .collect();
    let stays = |id: &Option<String>| !gone.contains(text(id));
    if let Some(claims) = container.secrets.as_mut().filter(|_| kind == Kind::Secret) {
        claims.retain(|claim| stays(&claim.secret_id));
    }
    if let Some(claims) = container.configs.as_mut().filter(|_| kind == Kind::Config) {
        claims.retain(|claim| stays(&claim.config_id));
    }
}

/// The id that a word stands for, among these ids and names.
fn named<'a>(claims: &'a BTreeSet<(String, String)>, word: &str) -> Option<&'a str> {
    let is_exact = |(id, name): &&(String, String)| id == word || name == word;
    if let Some((id, _)) = claims.iter().find(is_exact) {
        return Some(id);
    }
    let mut begun = claims.iter().filter(|(id, _)| id.starts_with(word));
    match (begun.next(), begun.next()) {
        (Some((id, _)), None) if !word.is_empty() => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn notations() {
        let read = |text: &str| {
            let Handout {
                source,
                target,
                uid,
                gid,
                mode,
            } = parse(text).expect(text);
            (source, target.unwrap_or_default(), uid, gid, mode)
        };
        let row = |source: &str, target: &str, uid: &str, gid: &str, mode| {
            let [source, target, uid, gid] = [source, target, uid, gid].map(str::to_owned);
            (source, target, uid, gid, mode)
        };
        assert_eq!(read("key"), row("key", "", "0", "0", 0o444));
        assert_eq!(read("source=key"), row("key", "", "0", "0", 0o444));
        assert_eq!(
            read("src=key,target=/etc/k,uid=33,gid=44,mode=0440"),
            row("key", "/etc/k", "33", "44", 0o440)
        );
        for (text, bits) in [("288", 0o440), ("0x120", 0o440), ("0o440", 0o440), ("0", 0)] {
            assert_eq!(mode(text).expect(text), bits);
        }
        for text in [
            "",
            "target=x",
            "key,target=x",
            "source=key,what=1",
            "source=key,mode=rw",
            "source=key,mode=09",
            "source=key,mode=+1",
            "source=key,mode=",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn claims_go_by_whatever_names_them() {
        let claim = |id: &str, name: &str| json!({"SecretID": id, "SecretName": name});
        // One is claimed twice, and one is called as another's id begins.
        let claims = [
            ("11", "a"),
            ("21", "b"),
            ("31", "c"),
            ("32", "3"),
            ("21", "b"),
            ("41", "d"),
        ];
        let claims = claims.map(|(id, name)| claim(id, name));
        let given: TaskSpecContainerSpec =
            serde_json::from_value(json!({ "Secrets": claims })).expect("a container");
        let left = |kind, names: &[&str]| -> String {
            let mut container = given.clone();
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            remove(&mut container, kind, &names);
            let left = container.secrets.expect("claims");
            left.iter().map(|claim| text(&claim.secret_name)).collect()
        };
        for (names, expected) in [
            (&["a", "21"][..], "c3d"),
            (&["4", "nobody", ""], "abc3b"),
            (&["3"], "abcbd"),
            (&["2"], "ac3d"),
            (&["31"], "ab3bd"),
        ] {
            assert_eq!(left(Kind::Secret, names), expected, "{names:?}");
            assert_eq!(left(Kind::Config, names), "abc3bd");
        }
    }
}
