//! The programs of `tests/`: demo, bench, and the test runs with their summary.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, ebpf, leftovers::Leftovers, setup, sh};

/// The folder of the crate whose tests run nodes.
const SCENARIOS: &str = "tests";

/// Shows a mesh at work.
pub(crate) fn demo(args: &[String]) -> Result<()> {
    prepare(false)?;
    replace(build::program("mesh-demo", false), args)
}

/// Asks a service while things happen to it.
pub(crate) fn drill(args: &[String]) -> Result<()> {
    prepare(false)?;
    replace(build::program("mesh-drill", false), args)
}

/// Measures with optimised programs.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    prepare(true)?;
    match args.split_first() {
        Some((first, rest)) if first == "control" => {
            replace(build::program("control-bench", true), rest)
        }
        _ => replace(build::program("mesh-bench", true), args),
    }
}

/// Random packets, from an optimised program, through the programs whose name contains `program`. Each program starts with the
/// same seed, given or taken from the clock.
pub(crate) fn fuzz(program: &str, packets: u64, seed: Option<u64>) -> Result<()> {
    setup::run()?;
    ebpf::build()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = seed.unwrap_or(now.as_secs());
    let mut tests = sh::cargo();
    tests
        .args(["test", "--release", "-p", "mesh-datapath", "--test"])
        .args(["root_packets", "--", "--nocapture"])
        .arg(format!("fuzz_{program}"))
        .env("MESH_FUZZ_PACKETS", packets.to_string())
        .env("MESH_FUZZ_SEED", seed.to_string());
    sh::run(&mut tests).context("a packet was not treated as it should be")
}

/// Simulates clusters: many seeds with an optimised program, a single one as the tests have it.
pub(crate) fn sim(args: &[String]) -> Result<()> {
    let is_single = args
        .iter()
        .any(|arg| arg.starts_with("--seed") && !arg.starts_with("--seeds"));
    let mut cargo = sh::cargo();
    cargo.args(["build", "--workspace", "--bin", "mesh-sim"]);
    if !is_single {
        cargo.arg("--release");
    }
    sh::run(&mut cargo)?;
    replace(build::program("mesh-sim", !is_single), args)
}

/// What each program costs the kernel's verifier: the table of the test that bounds it.
pub(crate) fn verifier() -> Result<()> {
    setup::run()?;
    ebpf::build()?;
    let mut test = sh::cargo();
    test.args(["test", "--workspace", "--test", "root_verifier"])
        .args(["--", "--nocapture"]);
    sh::run(&mut test).context("a program costs more than it may")
}

fn prepare(release: bool) -> Result<()> {
    setup::run()?;
    build::all(release)
}

fn replace(program: std::path::PathBuf, args: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let error = Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// What a run of `cargo test` counted.
#[derive(Default)]
pub(crate) struct Count {
    passed: usize,
    failed: usize,
    names: Vec<String>,
}

/// Every test, or those whose name has `filter` in it: first what needs no root, then the rest.
pub(crate) fn test(filter: Option<&str>, unit_only: bool) -> Result<()> {
    setup::run()?;
    let began = Instant::now();
    build::all(false)?;
    let leftovers = Leftovers::look();
    let mut count = Count::default();
    let mut ok = true;

    sh::say("unit tests (no root needed)");
    let mut unit = sh::cargo();
    unit.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    ok &= tally(&mut unit, filter, &[], &mut count)?;
    let mut examples = sh::cargo();
    examples.args(["test", "--workspace", "--no-fail-fast", "--doc", "--quiet"]);
    ok &= tally(&mut examples, filter, &[], &mut count)?;

    if !unit_only {
        sh::say("tests of single crates that need root");
        let mut root = sh::cargo();
        root.args(["test", "--workspace", "--no-fail-fast"]);
        root.args(tests_of(|folder| folder != SCENARIOS)?);
        ok &= tally(&mut root, filter, &[], &mut count)?;

        sh::say("end to end: nodes as network namespaces");
        let mut whole = sh::cargo();
        whole.args(["test", "--workspace", "--no-fail-fast"]);
        whole.args(tests_of(|folder| folder == SCENARIOS)?);
        // A rig is several agents and many tasks: two at a time suit two cores.
        ok &= tally(&mut whole, filter, &["--test-threads=2"], &mut count)?;
    }

    println!("{count} ({} s)", began.elapsed().as_secs());
    let cleared = leftovers.check();
    if count.failed > 0 || !ok {
        let left = cleared
            .err()
            .map(|left| format!("{left:#}\n"))
            .unwrap_or_default();
        bail!("{left}tests failed; run one again with `cargo xtask test <part of its name>`");
    }
    if count.passed == 0 {
        bail!("no test has {:?} in its name", filter.unwrap_or_default());
    }
    cleared
}

/// What makes cargo run the test programs of the crates in these folders. Choosing crates instead would resolve their
/// dependencies' features anew, and compile most of them a second time.
fn tests_of(is_wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut names: BTreeMap<String, bool> = BTreeMap::new();
    for folder in fs::read_dir(sh::root())? {
        let folder = folder?;
        let wanted = is_wanted(&folder.file_name().to_string_lossy());
        for test in fs::read_dir(folder.path().join("tests"))
            .into_iter()
            .flatten()
        {
            let test = test?.path();
            let is_source = test.extension().is_some_and(|extension| extension == "rs");
            if !is_source && !test.join("main.rs").exists() {
                continue;
            }
            let name = test.file_stem().unwrap_or_default().to_string_lossy();
            let of_both = *names.entry(name.to_string()).or_insert(wanted) != wanted;
            ensure!(!of_both, "tests of two kinds are called {name}");
        }
    }
    let wanted = names.into_iter().filter(|(_, wanted)| *wanted);
    Ok(wanted
        .flat_map(|(name, _)| ["--test".to_owned(), name])
        .collect())
}

/// Runs `cargo test`, passes its lines on and counts them.
fn tally(
    cargo: &mut Command,
    filter: Option<&str>,
    harness: &[&str],
    count: &mut Count,
) -> Result<bool> {
    cargo.arg("--").args(filter).args(harness);
    Leftovers::mark(cargo);
    println!("+ {}", sh::shown(cargo));
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let lines = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(lines).lines() {
        let line = line?;
        println!("{line}");
        count.read(&line);
    }
    Ok(child.wait()?.success())
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.names {
            writeln!(f, "failed: {name}")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

impl Count {
    /// Tests that passed.
    pub(crate) fn passed(&self) -> usize {
        self.passed
    }

    /// A line of the test harness.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                rest.split(['.', ';'])
                    .filter_map(|part| part.trim().strip_suffix(word))
                    .find_map(|part| part.trim().parse::<usize>().ok())
                    .unwrap_or(0)
            };
            self.passed += number("passed");
            self.failed += number("failed");
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some(name) = rest.strip_suffix(" ... FAILED")
        {
            self.names.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_test_are_summed() {
        let mut count = Count::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            count.read(line);
        }
        assert_eq!((count.passed, count.failed), (13, 1));
        assert_eq!(count.names, ["a::c"]);
    }
}
