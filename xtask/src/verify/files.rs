//! The rules of a file: it opens with `//!`, and it stays readable.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Lines in a file of Rust. Past it the check fails: nobody reads such a file.
const MOST_LINES: usize = 800;

/// Macros that stand for code not written.
const UNWRITTEN: [&str; 2] = ["todo", "unimplemented"];

/// Looks at every file of Rust that git knows or would add.
pub(crate) fn check() -> Result<()> {
    let mut faults = Vec::new();
    let files = sources()?;
    for file in &files {
        let text = fs::read_to_string(sh::root().join(file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        faults.extend(faults_of(file, &text));
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults in {} files", faults.len(), files.len());
    }
    println!("{} files", files.len());
    Ok(())
}

fn sources() -> Result<Vec<PathBuf>> {
    let listed = sh::output(
        "git",
        &[
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ],
    );
    match listed {
        Some(text) => Ok(text
            .lines()
            .map(PathBuf::from)
            .filter(|file| sh::root().join(file).exists())
            .collect()),
        None => {
            let mut found = Vec::new();
            walk(&sh::root(), &mut found)?;
            Ok(found)
        }
    }
}

/// For a source tree that is no clone.
fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "target" && name != ".git" {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path.strip_prefix(sh::root()).unwrap_or(&path).to_path_buf());
        }
    }
    Ok(())
}

fn faults_of(file: &Path, text: &str) -> Vec<String> {
    let name = file.display();
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!(
            "{name}:1: must open with `//!`: what lives here and what does not"
        ));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        faults.push(format!(
            "{name}: {lines} lines, more than {MOST_LINES}: split it"
        ));
    }
    // Each test of a folder uses another part of what they share: an expectation would hold in some only.
    let shared_by_tests = file.to_string_lossy().contains("/tests/common/");
    for (number, line) in text.lines().enumerate() {
        for word in UNWRITTEN {
            if line.contains(&format!("{word}!(")) {
                faults.push(format!("{name}:{}: `{word}!`: write it", number + 1));
            }
        }
        let line = line.trim_start();
        let allows = line.starts_with("#[allow(") || line.starts_with("#![allow(");
        if allows && !shared_by_tests {
            faults.push(format!(
                "{name}:{}: use #[expect(.., reason = \"..\")] in place of allow",
                number + 1
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        faults_of(Path::new("a.rs"), text).len()
    }

    #[test]
    fn a_file_needs_a_header_and_an_end() {
        assert_eq!(faults("//! What it is.\nfn a() {}\n"), 0);
        assert_eq!(faults("fn a() {}\n"), 1);
        assert_eq!(faults(&format!("//! x\n{}", "\n".repeat(MOST_LINES))), 1);
    }

    #[test]
    fn unwritten_code_and_allow_are_faults() {
        let unwritten = format!("//! x\nfn a() {{ {}!() }}\n", UNWRITTEN[0]);
        assert_eq!(faults(&unwritten), 1);
        assert_eq!(faults("//! x\n#[allow(dead_code)]\nfn a() {}\n"), 1);
    }
}
