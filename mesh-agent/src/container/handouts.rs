//! The files that a task is handed: its secrets and configs. Pure.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use mesh_api::{
    engine::TaskSpecContainerSpec,
    handout::{Kind, references},
};

use super::SpecError;

/// Permission bits where none are given.
const DEFAULT_MODE: u32 = 0o444;
/// All permission bits there are.
const ALL_BITS: u32 = 0o7777;

/// A file that a task is handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// What it shows.
    pub kind: Kind,
    /// Id of the secret or config.
    pub id: String,
    /// Absolute path in the task.
    pub target: PathBuf,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Where a relative path begins, as in Docker.
fn base(kind: Kind) -> &'static str {
    match kind {
        Kind::Secret => "/run/secrets",
        Kind::Config => "/",
    }
}

/// The files, in the order of the specification, secrets first.
///
/// # Errors
/// One that cannot be made, or two at one path.
pub fn handed(wanted: &TaskSpecContainerSpec) -> Result<Vec<Handed>, SpecError> {
    let mut targets = BTreeSet::new();
    let mut all = Vec::new();
    for claim in references(wanted) {
        let wrong = |cause: String| SpecError::Handout {
            noun: claim.kind.noun(),
            name: claim.name.to_owned(),
            cause,
        };
        let file = claim.file.ok_or_else(|| wrong("it has no target".into()))?;
        let number = |what: &str, text: &str| match text {
            "" => Ok(0),
            text => {
                let number = text.parse::<u32>();
                number.map_err(|_| wrong(format!("the {what} {text:?} is not a number")))
            }
        };
        let target = Path::new(base(claim.kind)).join(file.name);
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        let text = target.to_string_lossy();
        let is_file = !file.name.is_empty() && !text.ends_with('/') && !text.contains('\0');
        if !is_file || !target.components().all(is_plain) {
            return Err(wrong(format!(
                "the target {:?} is not the path of a file",
                file.name
            )));
        }
        if !targets.insert(target.clone()) {
            return Err(wrong(format!("something else is at {text} already")));
        }
        let mode = file.mode.unwrap_or(DEFAULT_MODE);
        if mode > ALL_BITS {
            return Err(wrong(format!("the mode {mode:o} has more than 07777")));
        }
        all.push(Handed {
            kind: claim.kind,
            id: claim.id.to_owned(),
            target,
            uid: number("uid", file.uid)?,
            gid: number("gid", file.gid)?,
            mode,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(container: Value) -> Result<Vec<(String, u32, u32, u32)>, String> {
        let wanted = serde_json::from_value(container).expect("a specification");
        let row = |file: &Handed| {
            let target = file.target.display().to_string();
            (target, file.uid, file.gid, file.mode)
        };
        match handed(&wanted) {
            Ok(files) => Ok(files.iter().map(row).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn secret(file: Value) -> Value {
        json!({"SecretID": "1", "SecretName": "key", "File": file})
    }

    #[test]
    fn where_they_are_and_whose() {
        let conf = json!({"Name": "etc/a.conf", "UID": "33", "GID": "44", "Mode": 0o640});
        let files = read(json!({
            "Secrets": [secret(json!({"Name": "key"})), secret(json!({"Name": "/etc/k", "UID": "0"}))],
            "Configs": [{"ConfigID": "2", "ConfigName": "conf", "File": conf},
                        {"ConfigID": "2", "ConfigName": "conf", "File": {"Name": "conf"}}],
        }));
        let expected = [
            ("/run/secrets/key", 0, 0, 0o444),
            ("/etc/k", 0, 0, 0o444),
            ("/etc/a.conf", 33, 44, 0o640),
            ("/conf", 0, 0, 0o444),
        ];
        let expected = expected.map(|(path, uid, gid, mode)| (path.to_owned(), uid, gid, mode));
        assert_eq!(files, Ok(expected.to_vec()));
        assert_eq!(read(json!({})), Ok(Vec::new()));
    }

    #[test]
    fn what_cannot_be() {
        for (files, told) in [
            (
                vec![json!({"Name": "../../etc/passwd"})],
                "not the path of a file",
            ),
            (vec![json!({"Name": "/"})], "not the path of a file"),
            (vec![json!({"Name": "a/"})], "not the path of a file"),
            (vec![json!({"Name": ""})], "not the path of a file"),
            (vec![json!({"Name": "a\u{0}b"})], "not the path of a file"),
            (vec![Value::Null], "it has no target"),
            (vec![json!({"Name": "a", "UID": "root"})], "uid \"root\""),
            (vec![json!({"Name": "a", "GID": "-1"})], "gid \"-1\""),
            (vec![json!({"Name": "a", "Mode": 0o10000})], "mode 10000"),
            (
                vec![json!({"Name": "a"}), json!({"Name": "/run/secrets/a"})],
                "at /run/secrets/a already",
            ),
        ] {
            let secrets: Vec<Value> = files.into_iter().map(secret).collect();
            let refused = read(json!({"Secrets": secrets})).expect_err("refused");
            assert!(refused.starts_with("invalid secret \"key\": "), "{refused}");
            assert!(refused.contains(told), "{refused} has no {told}");
        }
    }
}
